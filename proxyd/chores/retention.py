"""Old rows go, a few hundred at a time, so that no other process ever waits long for the database."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gevent
from peewee import OP, SQL, Expression

from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.config.settings import DatabaseSettings
from proxyd.store.sql.database import Store, StoreError, database
from proxyd.store.sql.models import (
    CircuitTransition,
    EventRow,
    HealthResult,
    RateLimitRejection,
    Route,
    RouteLatency,
    RouteMinute,
    RouteStats,
    RouteStatusCode,
    Session,
    SlowRequest,
    StoredTable,
    WebSocketConnection,
)

log = logging.getLogger("proxyd.retention")

_FIRST = 20.0
_PERIOD = 60.0
_PATIENCE = 0.25
_BATCH = 500
#: An ended session takes what it declared along (ON DELETE CASCADE), so fewer go at once.
_SESSION_BATCH = 50
#: Between two batches, so that whoever waits for the lock gets it.
_PAUSE = 0.02
#: The route id of requests that matched no route (see proxyd.admin.metrics); it is never a route, and stays.
_NO_ROUTE = "-"


@dataclass(frozen=True, slots=True)
class Rule:
    """Rows of `model` for which `old` (a peewee expression) is true go, `batch` a transaction."""

    model: type[StoredTable]
    old: Any
    batch: int = _BATCH


class Retention:
    """A job that prunes once a minute."""

    def __init__(self, settings: DatabaseSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        self._job = Job("retention", _PERIOD, self._round, log, first=_FIRST, retry=_PERIOD, expected=StoreError,
                        trouble="pruning waits for the next round")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin; the first look is some seconds later, when the start's work is done."""
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def _round(self) -> None:
        gone = self.prune(time.time())
        if gone:
            log.info("pruned %s", ", ".join(f"{count} {table}" for table, count in gone.items()))

    def prune(self, now: float) -> dict[str, int]:
        """Delete what is too old at `now` (Unix seconds); rows gone by table. Raises StoreError, with what it did done."""
        gone: dict[str, int] = {}
        for rule in self._rules(now):
            while count := self._store.call(_delete, rule, patience=_PATIENCE):
                name = rule.model._meta.table_name
                gone[name] = gone.get(name, 0) + count
                gevent.sleep(_PAUSE)
                if count < rule.batch:
                    break
        return gone

    def _rules(self, now: float) -> Iterator[Rule]:
        settings = self._settings
        stats = rfc3339(now - settings.retain_stats)
        events = rfc3339(now - settings.retain_events)
        slow = rfc3339(now - settings.retain_slow)
        yield Rule(HealthResult, HealthResult.checked_at < rfc3339(now - settings.retain_health))
        yield Rule(RouteMinute, RouteMinute.minute < stats)
        yield Rule(RateLimitRejection, RateLimitRejection.minute < stats)
        yield Rule(EventRow, EventRow.at < events)
        yield Rule(CircuitTransition, CircuitTransition.at < events)
        yield Rule(SlowRequest, SlowRequest.at < slow)
        # A WebSocket may have been open for weeks: its age counts from its end.
        yield Rule(WebSocketConnection, (WebSocketConnection.opened_at < slow) & (WebSocketConnection.closed_at < slow))
        yield Rule(Session, (Session.state == "ended") & (Session.ended_at < rfc3339(now - settings.retain_sessions)),
                   _SESSION_BATCH)
        # route_stats is last, because by it the other two know how old they are.
        unused = RouteStats.route_id.not_in(Route.select(Route.route_id)) & (RouteStats.route_id != _NO_ROUTE)
        forgotten = unused & (RouteStats.updated_at < stats)
        for model in (RouteStatusCode, RouteLatency):
            yield Rule(model, model.route_id.in_(RouteStats.select(RouteStats.route_id).where(forgotten)))
        yield Rule(RouteStats, forgotten)


def _delete(rule: Rule) -> int:
    """Delete one batch, in no order; how many. Runs in the database thread."""
    # Tables here have all kinds of keys; what every row has is the place where it lies.
    place = SQL("rowid" if type(database.obj).__name__.startswith("Sqlite") else "ctid")
    batch = rule.model.select(place).where(rule.old).limit(rule.batch)
    count: int = rule.model.delete().where(Expression(place, OP.IN, batch)).execute()
    return count
