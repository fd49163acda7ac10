"""Sessions that come and go, with routes that are asked for: whatever a process keeps of a route must go with it."""

from __future__ import annotations

import random
import threading

from tests.support.registry import RegistryClient
from tests.support.system import System


class Churn(threading.Thread):
    """Registers, applies, asks, changes, and leaves in one of three ways, until told to end."""

    def __init__(self, system: System, url: str, chance: random.Random) -> None:
        super().__init__(daemon=True)
        self.sessions = 0
        self.trouble = ""
        self.ending = threading.Event()
        self._system, self._url, self._chance = system, url, chance

    def run(self) -> None:
        """One session after the other."""
        try:
            while not self.ending.is_set():
                self._session()
                self.sessions += 1
        except (OSError, AssertionError) as error:
            self.trouble = repr(error)

    def _session(self) -> None:
        number, chance = self.sessions, self._chance
        # Names come back: each instance takes the place of an older session, or is new.
        client = RegistryClient(self._system.registry_port).register("churn", f"i{number % 20}", '{"version":"1"}')
        host = f"c{number}.churn.test"
        for path in ("/", "/a", "/b"):
            route_id = client.route(host, self._url, path, apply=False)
        client.ok(f"HEALTH_SET|SID|{route_id}|/healthz|200ms|1s")
        client.ok("RATELIMIT_SET|SID|ALL|1000|1m")
        client.ok("CIRCUIT_BREAKER_SET|SID|ALL|5|1s|1")
        client.ok("HEADERS_SET|SID|ALL|X-Churn|yes")
        client.ok("SUBSCRIBE|SID|all")
        client.send("CONFIG_APPLY|SID")
        self._read_until_ok(client)
        for path in ("/", "/a", "/b", "/", "/a", "/b"):
            answer = self._system.get(path, host)
            assert answer.status == 200, f"{host}{path}: {answer.status} {answer.text}"
        if chance.random() < 0.3:
            client.send("CLIENT_SHUTDOWN|SID")
        client.close()

    @staticmethod
    def _read_until_ok(client: RegistryClient) -> None:
        while (line := client.line()) != "OK":
            assert line.startswith("EVENT|"), line
