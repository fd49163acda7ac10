"""Whether this host is well: the routes' findings, and those about the master's own parts, put together for everybody who asks."""

from __future__ import annotations

import time
from bisect import insort
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import gevent
from gevent.lock import BoundedSemaphore

from proxyd.base import clock
from proxyd.base.findings import STARTING, Finding, how_bad
from proxyd.base.lean import uncollected
from proxyd.base.text import rfc3339
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.unwell import route_findings

_KEPT_SECONDS = 0.5
#: A look rests for so many times what it took, so that very many routes don't keep the master busy.
_REST = 20
_DATABASE_SECONDS = 2.0
#: Workers begin within this time after the master.
_START_SECONDS = 10.0
_STALE_SECONDS = 5.0
#: A worker takes a new version within milliseconds: only one that stays behind is worth a word.
_BEHIND_SECONDS, _TICK = 0.2, 0.02
_EXPIRING_SECONDS = 7 * 86400.0


class _Look(NamedTuple):
    """What was found about routes, worst first, and the ids of those that are unwell."""

    found: list[Finding]
    ids: tuple[str, ...] = ()


def _look(circuits: CircuitBoard) -> _Look:
    """Runs in the database thread, so that others are served meanwhile however much there is to sort."""
    with uncollected():
        found = sorted(route_findings(circuits), key=how_bad)
    return _Look(found, tuple(dict.fromkeys(route_id for item in found if item.severity != STARTING for route_id in item.route_ids)))


class Wellness:
    """Looks when asked, at most twice a second. `problems`, `certificates` and `health_alive` are those of the master's state;
    `started`: an instant of `base.clock`; `hosts`: what is unwell about other hosts."""

    def __init__(self, store: Store, board: Board, circuits: CircuitBoard, started: float, problems: Callable[[], list[str]],
                 certificates: Callable[[], list[dict[str, Any]]], health_alive: Callable[[], bool] | None,
                 hosts: Callable[[], list[Finding]] = list) -> None:
        self._store, self._board, self._circuits = store, board, circuits
        self.started = started
        self.problems, self.certificates, self._health_alive = problems, certificates, health_alive
        self._hosts = hosts
        self._lock = BoundedSemaphore(1)
        self._routes = _Look([])
        self._routes_until = 0.0
        #: When each finding about the master's own parts was seen first, by kind and subject.
        self._seen: dict[tuple[str, str], float] = {}

    def forget(self) -> None:
        """Look anew: something was changed."""
        self._routes_until = 0.0

    def findings(self) -> list[Finding]:
        """All that is unwell, worst first."""
        found = list(self._of_routes().found)
        # Those of routes, of which there may be very many, are in order.
        for item in self._own():
            insort(found, item, key=how_bad)
        return found

    def routes(self) -> tuple[str, ...]:
        """The ids of the routes that are unwell, worst first."""
        return self._of_routes().ids

    def _of_routes(self) -> _Look:
        with self._lock:
            if time.monotonic() >= self._routes_until:
                began = time.monotonic()
                try:
                    with gevent.Timeout(_DATABASE_SECONDS):
                        self._routes = self._store.read(_look, self._circuits)
                except StoreError as error:
                    self._routes = _Look([Finding("database", "database", "the database can't be read", str(error))])
                except gevent.Timeout:
                    self._routes = _Look([Finding("database", "database", f"the database did not answer within {_DATABASE_SECONDS:g} s")])
                now = time.monotonic()
                self._routes_until = now + max(_KEPT_SECONDS, _REST * (now - began))
            return self._routes

    def _own(self) -> list[Finding]:
        now = clock.now()
        found = [*self._of_workers(now), *self._hosts(), *self._of_certificates(),
                 *(Finding("problem", said, said) for said in self.problems())]
        if self._health_alive is not None and not self._health_alive():
            found.append(Finding("health_checker", "health checker", "the health checker is not running"))
        known, self._seen = self._seen, {}
        for item in found:
            self._seen[item.kind, item.subject] = known.get((item.kind, item.subject), now)
        return [item if item.since else Finding(item.kind, item.subject, item.what, item.why, rfc3339(clock.shown(
            self._seen[item.kind, item.subject]))) for item in found]

    def _of_workers(self, now: float) -> Iterable[Finding]:
        workers, version = self._board.workers(), self._board.version
        if not workers:
            starts = now - self.started < _START_SECONDS
            yield Finding("starting", "workers", "proxyd is starting", "no worker is running yet") if starts else Finding(
                "no_worker", "workers", "no worker is running", "nobody answers requests")
        until = time.monotonic() + _BEHIND_SECONDS
        while (behind := {worker.pid for worker in self._board.behind(version)}) and time.monotonic() < until:
            gevent.sleep(_TICK)
        for worker in workers:
            away = now - worker.heartbeat
            if away > _STALE_SECONDS:
                yield Finding("worker_stale", f"worker {worker.pid}", f"worker {worker.pid} gives no sign of life",
                              "it is stopped or stuck", rfc3339(clock.shown(worker.heartbeat)))
            elif worker.pid in behind:
                yield Finding("worker_behind", f"worker {worker.pid}",
                              f"worker {worker.pid} routes by config version {worker.version}, current is {version}")

    def _of_certificates(self) -> Iterable[Finding]:
        for item in self.certificates():
            left, names = float(item["expires"]) - time.time(), ", ".join(item["names"])
            said = f"the certificate {item['path']} for {names}"
            if left <= 0:
                yield Finding("certificate_expired", str(item["path"]), f"{said} expired on {rfc3339(item['expires'])}",
                              since=rfc3339(item["expires"]))
            elif left < _EXPIRING_SECONDS:
                yield Finding("certificate_expiring", str(item["path"]), f"{said} expires on {rfc3339(item['expires'])}")
