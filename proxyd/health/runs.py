"""Rows of single checks, and who shares one.

Up to `[health] results_per_second` rows a second, each check has a row of its own. Where more are made, checks of a route in a row that
had the same outcome share one: when the first and the last of them were, how many, and their shortest, mean and longest time. How long a
row goes on follows from how many routes there are, so what the history costs does not grow with them. Another outcome begins another row
at once, and so do the beginning and the end of planned maintenance. A row is written with its first check, so a failure is there as soon as
it was found, and again as it grows. Nothing here knows the database.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.health.probe import Result

#: Over how many seconds the rate of checks is taken, the longest that a row goes on, and how often one that grows is written.
_WINDOW, _LONGEST, _SHOWN = 10.0, 3600.0, 60.0
#: Rows that are written at once.
_BATCH = 2000
#: Places in which the rows of different routes end one after the other.
_PLACES = 1009


@dataclass(slots=True, eq=False)
class Run:
    """Checks of a route in a row with the same outcome. `planned`: made in maintenance or a drain. `until`: from then on a check begins
    another. `written`: its row is there."""

    route_id: str
    ok: bool
    status_code: int | None
    error: str
    planned: bool
    first: float
    until: float
    last: float = 0.0
    checks: int = 0
    total_ms: float = 0.0
    least_ms: float = 0.0
    most_ms: float = 0.0
    written: bool = False
    #: How the instant of the first check is written: the row is found by it, also when the time of day was set meanwhile.
    at: str = ""

    def takes(self, result: Result, planned: bool, now: float) -> bool:
        """Whether a check goes on with this run."""
        return (now < self.until and result.ok == self.ok and result.status_code == self.status_code and result.error == self.error
                and planned == self.planned)

    def add(self, result: Result, now: float) -> None:
        """Count a check."""
        took = result.seconds * 1000
        self.least_ms = min(self.least_ms, took) if self.checks else took
        self.most_ms = max(self.most_ms, took)
        self.total_ms += took
        self.checks += 1
        self.last = now

    def row(self) -> dict[str, Any]:
        """The row of table health_results."""
        self.at = self.at or rfc3339(clock.shown(self.first))
        answered, several = self.ok or self.status_code is not None, self.checks > 1
        return {
            "route_id": self.route_id, "checked_at": self.at, "ok": self.ok, "status_code": self.status_code,
            "response_time_ms": round(self.total_ms / self.checks, 3) if answered else None, "error": self.error or None,
            "planned": self.planned,
            "checks": self.checks, "last_checked_at": rfc3339(clock.shown(self.last)) if several else None,
            "response_time_ms_min": round(self.least_ms, 3) if answered and several else None,
            "response_time_ms_max": round(self.most_ms, 3) if answered and several else None}


@dataclass(slots=True)
class Batch:
    """What is written at once: rows that are not there yet, and others that have grown."""

    new: list[Run]
    grown: list[Run]

    def __bool__(self) -> bool:
        return bool(self.new or self.grown)


class Runs:
    """The runs that go on, and the rows that wait to be written. `queue`: most new rows that wait; `rate`: rows a second up to which each
    check has its own."""

    def __init__(self, queue: int, rate: int) -> None:
        self._queue, self._rate = queue, rate
        self._open: dict[str, Run] = {}
        self._new: deque[Run] = deque()
        #: Runs that grow behind their rows, those of them that are written next, and runs that are over.
        self._growing: set[Run] = set()
        self._due: list[Run] = []
        self._over: list[Run] = []
        self._shown_at = 0.0
        self._span = 0.0
        self._counted, self._since = 0, 0.0
        #: Checks that no row was kept of.
        self.dropped = 0

    def take(self, route_id: str, result: Result, now: float, planned: bool = False) -> None:
        """A check was made. `planned`: the route is in maintenance, or drains."""
        self._measure(now)
        run = self._open.get(route_id)
        if run is None or not run.takes(result, planned, now):
            if run is not None:
                self._end(run)
            run = self._open[route_id] = Run(route_id, result.ok, result.status_code, result.error, planned, now,
                                             self._until(route_id, now))
            if len(self._new) >= self._queue:
                self._drop(self._new.popleft())
            self._new.append(run)
        elif run.written:
            self._growing.add(run)
        run.add(result, now)

    def forget(self, route_id: str) -> None:
        """A route is no longer checked."""
        run = self._open.pop(route_id, None)
        if run is not None:
            self._end(run)

    def waiting(self) -> int:
        """How many new rows are not written yet."""
        return len(self._new)

    def left(self) -> bool:
        """Whether anything is not written as it is."""
        return bool(self._new or self._over or self._due or self._growing)

    def batch(self, now: float) -> Batch:
        """Take what is to be written now; give it to `written`, or to `back`."""
        if not self._due and now - self._shown_at >= _SHOWN:
            self._due, self._shown_at = list(self._growing), now
            self._growing.clear()
        found = Batch([self._new.popleft() for _ in range(min(_BATCH, len(self._new)))], self._over[:_BATCH])
        del self._over[:_BATCH]
        left = _BATCH - len(found.grown)
        if left and self._due:
            found.grown += self._due[-left:]
            del self._due[-left:]
        # Checks may come while this is written.
        for run in found.new:
            run.written = True
        return found

    def last(self) -> Batch:
        """What is to be written in the end: as `batch`, with all that has grown."""
        self._over += [*self._due, *self._growing]
        self._due = []
        self._growing.clear()
        return self.batch(self._shown_at)

    def back(self, batch: Batch) -> None:
        """Keep what could not be written; the oldest new rows go if they are too many."""
        for run in batch.new:
            run.written = False
            self._growing.discard(run)
        self._new.extendleft(reversed(batch.new))
        while len(self._new) > self._queue:
            self._drop(self._new.popleft())
        self._over += batch.grown
        excess = len(self._over) - self._queue
        if excess > 0:
            # Their rows tell of fewer checks than there were.
            del self._over[:excess]

    def lost(self, runs: Iterable[Run]) -> None:
        """Rows that no database accepts are not kept."""
        for run in runs:
            self._drop(run)

    def _drop(self, run: Run) -> None:
        self.dropped += run.checks
        self._growing.discard(run)
        if self._open.get(run.route_id) is run:
            del self._open[run.route_id]

    def _end(self, run: Run) -> None:
        if run in self._growing:
            self._growing.discard(run)
            self._over.append(run)

    def _measure(self, now: float) -> None:
        """Find out how long rows go on, by how many checks were made."""
        self._counted += 1
        passed = now - self._since
        if passed >= _WINDOW:
            shares = self._since and self._counted / passed > self._rate
            self._span = min(len(self._open) / self._rate, _LONGEST) if shares else 0.0
            self._counted, self._since = 0, now

    def _until(self, route_id: str, now: float) -> float:
        """When a run that begins now is over at the latest: each route has its own place in the span, so that not all end at once."""
        if not self._span:
            return now
        return now + self._span - (now + hash(route_id) % _PLACES / _PLACES * self._span) % self._span
