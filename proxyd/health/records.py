"""Writes the checker's history and current state in batches. A locked database delays both. If the queue of the history is
full, the oldest rows are dropped and counted. The current state is one row for each route, and is never dropped.

A status that changes is written at once. What else the current state says (when the last check was, how long it took) is written less
often the more routes there are.
"""

from __future__ import annotations

import logging
from collections.abc import Container
from typing import Any

from peewee import chunked

from proxyd.base import clock
from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.base.trouble import Trouble
from proxyd.config.sections import HealthSettings
from proxyd.health.probe import Result, Target
from proxyd.health.runs import Batch, Runs
from proxyd.health.thresholds import UNKNOWN, Standing
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.observed import HealthResult, HealthStatus
from proxyd.store.sql.query import among, rows_of
from proxyd.store.sql.upsert import change, insert, upsert

log = logging.getLogger("proxyd.health")

_PERIOD = 0.1
#: Current rows in a transaction; for how many of them one second between two writings is enough, and the longest time between two.
_BATCH, _A_SECOND, _LONGEST = 2000, 200, 60.0
#: What changes of a row of the history as it grows, and by which columns it is found.
_GROWS = ("checks", "last_checked_at", "response_time_ms", "response_time_ms_min", "response_time_ms_max")
_FOUND_BY = ("route_id", "checked_at")
#: Seconds that the database thread waits for another process's lock, and then the pause. Others need the thread, too.
_PATIENCE = 0.25
_PAUSE_WHILE_LOCKED = 0.5


class HealthRecords:
    """Rows that wait to be written, and the job that writes them. `resumes`: what the last master has found holds until something else
    is found."""

    def __init__(self, store: Store, settings: HealthSettings, keeps: bool = True, resumes: bool = True) -> None:
        #: Whether rows are written; else the current state is known here alone.
        self._keeps, self._resumes = keeps, resumes
        self._store = store
        self._runs = Runs(settings.queue, settings.results_per_second)
        self._current: dict[str, dict[str, Any]] = {}
        #: Routes whose rows are written next, those whose rows can wait, and when these were last taken.
        self._dirty: set[str] = set()
        self._aging: set[str] = set()
        self._aged_at = 0.0
        self._forgotten: set[str] = set()
        self._known: dict[str, dict[str, Any]] = {}
        self.job = Job("health-records", _PERIOD, self._write_some, log, trouble="health results could not be written")
        self._trouble = Trouble(log, "health results wait for the database")

    def start(self) -> None:
        """Begin to write ten times a second."""
        self.job.start()

    def stop(self) -> None:
        """Write what is left."""
        self.job.stop()
        self._dirty |= self._aging
        self._aging.clear()
        while self._flush(self._runs.last()) and (self._runs.left() or self._dirty):
            pass

    def load(self) -> None:
        """Read the status that the last master left."""
        try:
            self._known = self._store.read(_known)
        except StoreError as error:
            log.warning("the last health status can't be read: %s", error)

    def adopt(self, route_id: str, target: Target) -> None:
        """Continue a route's row from the last master, if it is about the same target."""
        known = self._known.pop(route_id, None)
        if known is not None and known["url"] == target.url:
            self._current[route_id] = known

    def standing(self, route_id: str, target: Target, window: int) -> Standing:
        """The standing of a target when its check begins: as the last master left it, if that holds here, or unknown."""
        standing = Standing(target.rise, target.fall, window)
        row = self._current.get(route_id)
        if self._resumes and row is not None and row["url"] == target.url and row["status"] != UNKNOWN:
            rate = row["success_rate_percent"]
            standing.restore(row["status"], row["reason"], row["consecutive_failures"], row["consecutive_successes"],
                             rate / 100 if rate is not None else None, row["checks"])
        return standing

    def result(self, route_id: str, result: Result, now: float, planned: bool = False) -> None:
        """Add a check to the history. `planned`: the route is in maintenance, or drains."""
        if self._keeps:
            self._runs.take(route_id, result, now, planned)

    def current(self, route_id: str, target: Target, standing: Standing, result: Result | None, now: float,
                changed: bool = False) -> None:
        """The state of a route now; without a result, its check has just begun."""
        at = rfc3339(clock.shown(now))
        row = self._current.get(route_id)
        if row is None or row["url"] != target.url:
            row = self._current[route_id] = {
                "route_id": route_id, "url": target.url, "status": standing.status, "reason": standing.reason, "since": at,
                "last_check": None, "last_success": None, "last_error": None, "response_time_ms": None,
                "success_rate_percent": None, "consecutive_failures": 0, "consecutive_successes": 0, "checks": 0}
        rate = standing.rate()
        row.update(url=target.url, status=standing.status, reason=standing.reason, consecutive_failures=standing.failures,
                   consecutive_successes=standing.successes,
                   success_rate_percent=round(rate * 100, 2) if rate is not None else row["success_rate_percent"])
        if changed:
            row["since"] = at
        if result is not None:
            row.update(last_check=at, response_time_ms=_milliseconds(result), checks=row["checks"] + 1)
            row["last_success" if result.ok else "last_error"] = at if result.ok else result.error
        (self._dirty if changed or result is None else self._aging).add(route_id)
        self._forgotten.discard(route_id)

    def forget(self, route_id: str) -> None:
        """Forget a route that is no longer checked."""
        self._runs.forget(route_id)
        if self._current.pop(route_id, None) is not None:
            self._dirty.discard(route_id)
            self._aging.discard(route_id)
            if self._keeps:
                self._forgotten.add(route_id)

    def now(self, route_id: str) -> dict[str, Any] | None:
        """The current row of a route that is checked, or None."""
        return self._current.get(route_id)

    @property
    def waiting(self) -> int:
        """The number of results that are not written yet."""
        return self._runs.waiting()

    @property
    def dropped(self) -> int:
        """The number of checks that no row was kept of."""
        return self._runs.dropped

    def forget_others(self, checked: Container[str]) -> None:
        """Drop rows that the last master left of routes without a check."""
        self._forgotten.update(route_id for route_id in self._known if route_id not in checked)
        self._known.clear()

    def _write_some(self) -> float | None:
        return None if self.flush() else _PAUSE_WHILE_LOCKED

    def flush(self) -> bool:
        """Write a batch of what waits. What can't be written keeps waiting. Returns whether it was written."""
        return self._flush(self._runs.batch(clock.now()))

    def _flush(self, history: Batch) -> bool:
        self._age(clock.now())
        if not (history or self._dirty or self._forgotten):
            return True
        dirty = {self._dirty.pop() for _ in range(min(_BATCH, len(self._dirty)))}
        gone, self._forgotten = self._forgotten, set()
        current = [dict(self._current[route_id]) for route_id in dirty if route_id in self._current]
        try:
            self._store.call(_write, [run.row() for run in history.new], [run.row() for run in history.grown], current, sorted(gone),
                             patience=_PATIENCE, history=True)
        except Exception as error:
            self._dirty |= dirty
            self._forgotten |= gone - set(self._current)
            if not isinstance(error, StoreError):
                # Rows that no database accepts must not be tried again and again.
                self._runs.lost(history.new)
                raise
            self._runs.back(history)
            self._trouble.goes_on(error)
            return False
        self._trouble.is_over(f"; {self.dropped} of the oldest were dropped so far")
        return True

    def _age(self, now: float) -> None:
        """Rows that nothing hurries are written now and then."""
        if self._aging and now - self._aged_at >= min(len(self._current) / _A_SECOND, _LONGEST):
            self._dirty |= self._aging
            self._aging.clear()
            self._aged_at = now


def _milliseconds(result: Result) -> float | None:
    """The target's response time, or None if it did not answer."""
    return round(result.seconds * 1000, 3) if result.ok or result.status_code is not None else None


def _known() -> dict[str, dict[str, Any]]:
    return {row["route_id"]: row for row in rows_of(HealthStatus)}


def _write(new: list[dict[str, Any]], grown: list[dict[str, Any]], current: list[dict[str, Any]], gone: list[str]) -> None:
    insert(HealthResult, new)
    change(HealthResult, _FOUND_BY, _GROWS, [tuple(row[name] for name in (*_FOUND_BY, *_GROWS)) for row in grown])
    for ids in chunked(gone, 400):
        HealthStatus.delete().where(HealthStatus.route_id.in_(ids)).execute()
    # A route may have been removed while its result waited.
    alive = {row[0] for row in among("SELECT route_id FROM routes WHERE route_id IN", [row["route_id"] for row in current])}
    upsert(HealthStatus, [row for row in current if row["route_id"] in alive])
