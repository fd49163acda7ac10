"""The HTTP clients: threads that ask for the routes of all services, over kept and over new connections, and note what came."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Sequence

from tests.chaos.judge import Sample

#: Longest wait (seconds) for a piece of an answer.
PATIENCE = 30.0


class Client(threading.Thread):
    """One client. It sends about `rate` requests a second, one after the other."""

    def __init__(self, port: int, services: Sequence[str], rate: float, chance: random.Random, ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.connections = 0
        self._port = port
        self._services = services
        self._pause = 1.0 / rate
        self._chance = chance
        self.ending = ending
        self._kept: http.client.HTTPConnection | None = None

    def run(self) -> None:
        """Ask until told to end."""
        chance = self._chance
        while not self.ending.wait(chance.uniform(0.0, 2 * self._pause)):
            service, extra = chance.choice(self._services), chance.random() < 0.25
            # A request with a body may not be sent twice, so a kept connection, which may be closed at any time, is none for it.
            body = b"x" * chance.randrange(20_000) if chance.random() < 0.1 else None
            self.samples.append(self._sample(service, extra, body, kept=body is None and chance.random() < 0.8))
        self._close()

    def _sample(self, service: str, extra: bool, body: bytes | None, kept: bool) -> Sample:
        if not kept:
            self._close()
        begin = time.monotonic()
        error: Exception | None = None
        for _ in range(2):
            reused, begun = self._kept is not None, False
            try:
                answer = self._ask(service, extra, body)
                begun = True
                text = answer.read().decode("latin-1")
            except (OSError, http.client.HTTPException) as failure:
                error = failure
                self._close()
                # A server may close a connection that nothing is asked on, and a client asks again (RFC 9110 9.2.2).
                if reused and not begun and isinstance(failure, ConnectionError):
                    continue
                break
            if answer.will_close:
                self._close()
            return Sample(service, extra, begin, time.monotonic(), answer.status, answer.getheader("X-Proxyd-Reason", ""),
                          text if len(text) < 200 else text[:200], answer.getheader("X-Config", ""))
        return Sample(service, extra, begin, time.monotonic(), error=repr(error))

    def _ask(self, service: str, extra: bool, body: bytes | None) -> http.client.HTTPResponse:
        if self._kept is None:
            self._kept = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
            self.connections += 1
        host = f"extra.{service}.test" if extra else f"{service}.test"
        self._kept.request("GET" if body is None else "POST", "/", body, {"Host": host})
        return self._kept.getresponse()

    def _close(self) -> None:
        if self._kept is not None:
            with contextlib.suppress(OSError):
                self._kept.close()
            self._kept = None
