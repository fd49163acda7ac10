"""The HTTP clients: threads that ask for the routes of all services, over kept and over new connections, and note what came."""

from __future__ import annotations

import contextlib
import http.client
import random
import threading
import time
from collections.abc import Sequence

from tests.chaos.judge import Sample
from tests.chaos.services import Door

#: Longest wait (seconds) for a piece of an answer.
PATIENCE = 30.0


class Client(threading.Thread):
    """One client. It sends about `rate` requests a second, one after the other, to the doors by turns."""

    def __init__(self, doors: Sequence[Door], services: Sequence[str], rate: float, chance: random.Random, ending: threading.Event) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.connections = 0
        self._doors = doors
        self._services = services
        self._pause = 1.0 / rate
        self._chance = chance
        self.ending = ending
        #: The connection to each door that is open.
        self._kept: dict[Door, http.client.HTTPConnection] = {}

    def run(self) -> None:
        """Ask until told to end."""
        chance = self._chance
        while not self.ending.wait(chance.uniform(0.0, 2 * self._pause)):
            service, extra = chance.choice(self._services), chance.random() < 0.25
            # A request with a body may not be sent twice, so a kept connection, which may be closed at any time, is none for it.
            body = b"x" * chance.randrange(20_000) if chance.random() < 0.1 else None
            kept = body is None and chance.random() < 0.8
            door = chance.choice(self._doors) if len(self._doors) > 1 else self._doors[0]
            self.samples.append(self._sample(door, service, extra, body, kept))
        for door in self._doors:
            self._close(door)

    def _sample(self, door: Door, service: str, extra: bool, body: bytes | None, kept: bool) -> Sample:
        if not kept:
            self._close(door)
        begin = time.monotonic()
        error: Exception | None = None
        for _ in range(2):
            reused, begun = door in self._kept, False
            try:
                answer = self._ask(door, service, extra, body)
                begun = True
                text = answer.read().decode("latin-1")
            except (OSError, http.client.HTTPException) as failure:
                error = failure
                self._close(door)
                # A server may close a connection that nothing is asked on, and a client asks again (RFC 9110 9.2.2).
                if reused and not begun and isinstance(failure, ConnectionError):
                    continue
                break
            if answer.will_close:
                self._close(door)
            return Sample(service, extra, begin, time.monotonic(), answer.status, answer.getheader("X-Proxyd-Reason", ""),
                          text if len(text) < 200 else text[:200], answer.getheader("X-Config", ""), host=door.host)
        return Sample(service, extra, begin, time.monotonic(), error=repr(error), host=door.host)

    def _ask(self, door: Door, service: str, extra: bool, body: bytes | None) -> http.client.HTTPResponse:
        if door not in self._kept:
            self._kept[door] = http.client.HTTPConnection(door.address, door.port, timeout=PATIENCE)
            self.connections += 1
        host = f"extra.{service}.test" if extra else f"{service}.test"
        self._kept[door].request("GET" if body is None else "POST", "/", body, {"Host": host})
        return self._kept[door].getresponse()

    def _close(self, door: Door) -> None:
        if connection := self._kept.pop(door, None):
            with contextlib.suppress(OSError):
                connection.close()
