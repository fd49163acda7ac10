"""The registry's clients: each is a service that registers, applies version after version, leaves, comes back, and notes all of it."""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.chaos.history import Config, History, Window
from tests.chaos.judge import Judge, Sample
from tests.support.registry import RegistryClient
from tests.support.waiting import patience


@dataclass(frozen=True, slots=True)
class Door:
    """Where a host is reached by clients; `host` is its name, where there are several."""

    port: int
    address: str = "127.0.0.1"
    host: str = ""


#: Longest wait (seconds) for the answer to a command; on a busy machine more.
PATIENCE = 15.0


class Lost(Exception):
    """The connection ended, or no answer came."""


class Refused(Exception):
    """A command was answered with an error, which has been noted."""


class Service(threading.Thread):
    """One service with a main route and, in some versions, an extra one. `backends` are the urls by name. `doors`:
    the registry of each host; one that can't be used is followed by the next. `limited`: its routes have a rate limit that nobody
    reaches."""

    def __init__(self, name: str, doors: Sequence[Door], backends: dict[str, str], judge: Judge, chance: random.Random, rate: float,
                 limited: bool = False) -> None:
        super().__init__(daemon=True)
        self.history = History(name)
        self.applied = 0
        self.commands = 0
        self.reconnects = 0
        #: The time an apply took (seconds), of those that were acknowledged.
        self.waits: list[float] = []
        self.ending = threading.Event()
        self.trouble: Exception | None = None
        self._service = name
        self._doors = doors
        self._door, self._host = 0, ""
        #: Whether the connection has got the session.
        self._entered = False
        self._limited = limited
        self._backends = backends
        self._judge = judge
        self._chance = chance
        self._pause = 1.0 / rate
        self._version = 0
        self._wire: RegistryClient | None = None
        self._session = ""
        self._routes: dict[str, str] = {}
        self._away: Window | None = None
        self._gone: Window | None = None
        self._leaving = False
        self._staged = False
        self._heard = 0.0
        #: When a command of the session was last done: then it was there.
        self._known = 0.0

    def run(self) -> None:
        """One thing after the other until told to end; the session stays, for the end to look at."""
        try:
            steps = {self.apply: 60, self.compare: 8, self.roll_back: 6, self.reconnect: 8, self.register_again: 4, self.shut_down: 2}
            while not self.ending.wait(self._chance.uniform(0.0, 2 * self._pause)):
                self.attempt(self._chance.choices(list(steps), list(steps.values()))[0])
        except Exception as error:
            self.trouble = error

    def attempt(self, step: Callable[[], None]) -> bool:
        """Do something; whether it could be done. What is lost is taken up again at the next attempt."""
        try:
            if self._wire is None:
                self._take_up()
            if self._staged:
                self._drop_staged()
            step()
        except Refused:
            return False
        except (Lost, OSError) as error:
            self._judge_loss(error)
            return False
        return True

    def close(self) -> None:
        """End the connection."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def judge_samples(self, samples: Sequence[Sample]) -> None:
        """Have what was asked of this service judged."""
        self._judge.samples([sample for sample in samples if sample.service == self._service])

    # -- steps

    def apply(self) -> None:
        """Declare and apply the next version."""
        version = self._version = self._version + 1
        config = Config(version, self._chance.choice(sorted(self._backends)), self._chance.random() < 0.5)
        self.history.declare(config)
        self._stage(config)
        begin = time.monotonic()
        attempt = self.history.send(version, begin)
        try:
            self._ask(f"CONFIG_APPLY|{self._session}")
        except Refused:
            attempt.end("refused", time.monotonic())
            raise
        now = time.monotonic()
        attempt.end("ok", now)
        self.waits.append(now - begin)
        self.applied += 1
        self._staged = False
        if not config.extra:
            self._routes.pop("extra", None)
        if self._gone is not None:
            self._gone.end, self._gone = now, None
            self._back(now)

    def _stage(self, config: Config) -> None:
        self._staged = True
        for route in ("main", "extra"):
            known = self._routes.get(route)
            if not config.has(route == "extra"):
                if known:
                    self._ask(f"ROUTE_REMOVE|{self._session}|{known}")
                continue
            url = f"{self._backends[config.backend]}/{self._service}/v{config.version}/{route}"
            if known:
                self._ask(f"ROUTE_UPDATE|{self._session}|{known}|backend_url|{url}")
            else:
                host = f"extra.{self._service}.test" if route == "extra" else f"{self._service}.test"
                self._routes[route] = self._ask(f"ROUTE_ADD|{self._session}|{host}|/|{url}|0").split("|")[1]
        self._ask(f"HEADERS_SET|{self._session}|ALL|X-Config|v{config.version}")
        if self._limited:
            self._ask(f"RATELIMIT_SET|{self._session}|ALL|1000000|1m")

    def compare(self) -> None:
        """Hold what the registry says is active against what was acknowledged."""
        begin = time.monotonic()
        listed = self._routes_listed()
        legal = self.history.legal(begin, time.monotonic())
        urls = [route["backend"] for route in listed if route["status"] != "staged"]
        found = {int(url.split("/")[4].removeprefix("v")) for url in urls}
        if self._gone is None and not found <= legal | {0}:
            self._judge.breach("durable", begin, f"{self._service}: active is {sorted(found)}; legal: {sorted(legal)}")
        elif self._gone is None and not found and not any(not self.history.configs[version].backend for version in legal):
            self._judge.breach("durable", begin, f"{self._service}: nothing is active; legal: {sorted(legal)}")

    def roll_back(self) -> None:
        """Stage something, and drop it: it must never be seen."""
        self._version += 1
        config = Config(self._version, self._chance.choice(sorted(self._backends)), "extra" in self._routes)
        self.history.declare(config)
        self._stage(config)
        self._drop_staged()

    def reconnect(self) -> None:
        """Stage something, go away without a word, come back: it is still there, and so are the routes."""
        self._ask(f"HEADERS_SET|{self._session}|ALL|X-Staged|{self._version}")
        self._staged = True
        self._leave()
        time.sleep(self._chance.choice((0.0, 0.05, 0.5)))
        begin = time.monotonic()
        self._take_up(drop=False)
        if self._gone is None and not json.loads(self._ask(f"CONFIG_DIFF|{self._session}").partition("|")[2])["headers"]["added"]:
            self._judge.breach("durable", begin, f"{self._service}: the staged header is gone after RECONNECT")
        self._drop_staged()

    def register_again(self) -> None:
        """A new process of the service takes the place of the one before."""
        self._leave()
        time.sleep(self._chance.choice((0.0, 0.1)))
        self._session = ""
        self._take_up()

    def shut_down(self) -> None:
        """Take the routes out, and begin anew."""
        version = self._version = self._version + 1
        self.history.declare(Config(version))
        attempt = self.history.send(version, time.monotonic())
        self._leaving = True
        try:
            self._ask(f"CLIENT_SHUTDOWN|{self._session}")
        except Refused:
            self._leaving = False
            attempt.end("refused", time.monotonic())
            raise
        attempt.end("ok", time.monotonic())
        self._session = ""
        self._leave()

    # -- the connection

    def _ask(self, line: str) -> str:
        wire = self._wire
        assert wire is not None
        begin = time.monotonic()
        self.commands += 1
        try:
            answer = wire.command(line)
        except OSError as error:
            raise Lost(f"{_named(line)}: {error!r}") from error
        if answer in ("", "SHUTDOWN"):
            raise Lost(f"{_named(line)}: the connection ended")
        self._heard = time.monotonic()
        if answer.startswith("ERROR"):
            self._judge.refused(self._service, begin, time.monotonic(), _named(line), answer, self._host)
            raise Refused(answer)
        self._known = begin
        return answer

    def _take_up(self, drop: bool = True) -> None:
        """Connect, and RECONNECT or REGISTER."""
        door = self._doors[self._door]
        self._host, self._entered = door.host, False
        try:
            self._wire = RegistryClient(door.port, patience(PATIENCE), door.address)
            self._enter(drop)
        except (Refused, Lost, OSError) as error:
            if isinstance(error, Refused) and self._entered:
                self._leave()
            elif isinstance(error, Refused):
                # A connection without a session is of no use; the next attempt makes another.
                self.close()
            self._door = (self._door + 1) % len(self._doors)
            raise

    def _enter(self, drop: bool) -> None:
        if self._session:
            known = self._known
            answer = self._ask(f"RECONNECT|{self._session}")
            if answer == "OK":
                self._entered = True
                self.reconnects += 1
                self._leaving = False
                if self._gone is None:
                    self._back(time.monotonic())
                if drop:
                    self._drop_staged()
                return
            if not self._leaving:
                self._judge.forgotten(self._service, known, time.monotonic())
            self._leaving = False
            self._session = ""
        self._routes.clear()
        self._staged = False
        if self._gone is None:
            self._gone = Window(time.monotonic())
            self.history.gone.append(self._gone)
        self._session = self._ask(f"REGISTER|{self._service}|i1|0|null").split("|")[1]

    def _drop_staged(self) -> None:
        """Roll back, and learn which routes there are: an answer may have been lost."""
        self._ask(f"CONFIG_ROLLBACK|{self._session}")
        self._staged = False
        listed = self._routes_listed()
        self._routes = {"extra" if route["domains"][0].startswith("extra.") else "main": route["route_id"] for route in listed}

    def _routes_listed(self) -> list[dict[str, Any]]:
        listed: list[dict[str, Any]] = json.loads(self._ask(f"ROUTE_LIST|{self._session}").partition("|")[2])
        return listed

    def _leave(self) -> None:
        """Close the connection; from now on the routes may be refused."""
        if self._away is None:
            self._away = Window(time.monotonic())
            self.history.away.append(self._away)
        if self._wire is not None:
            self._wire.close()
            self._wire = None

    def _back(self, now: float) -> None:
        if self._away is not None:
            self._away.end, self._away = now, None

    def _judge_loss(self, error: Exception) -> None:
        self._judge.lost(self._service, self._heard, time.monotonic(), str(error), self._host)
        if isinstance(error.__cause__, TimeoutError):
            # We end the connection, not the master: it may take the routes out.
            self._leave()
        elif self._wire is not None:
            self._wire.close()
            self._wire = None


def _named(line: str) -> str:
    """A command without its session id, which is a secret and says nothing."""
    return re.sub(r"\|[0-9a-zA-Z_-]{20,}", "|SID", line)[:120]
