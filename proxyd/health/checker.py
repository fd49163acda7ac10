"""The health checker: follows the routes, checks each target on its own schedule, and turns results into status, rows, events
and moves of circuits."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gevent

from proxyd.base import clock
from proxyd.base.jobs import Job
from proxyd.base.text import route_number
from proxyd.config.sections import HealthSettings
from proxyd.events.bus import EventBus
from proxyd.health.drive import CheckedRoute, drive, join, release, watch
from proxyd.health.history import HealthHistory
from proxyd.health.probe import Probe, Result, Target
from proxyd.health.records import HealthRecords
from proxyd.health.schedule import Schedule, Turn
from proxyd.health.targets import target_of
from proxyd.health.thresholds import DOWN, Standing
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.snapshot import RouteRecord, load_snapshot, record_of

log = logging.getLogger("proxyd.health")

_FIRST_WITHIN = 0.5
#: After a start with thousands of routes, checks of about this many new targets begin each second.
_BEGUN_A_SECOND = 2000
#: Routes that are taken in before the master's other greenlets may run.
_TAKEN_AT_ONCE = 200
#: And the seconds that they have then. The thread of the database needs the interpreter, too.
_TAKE_PAUSE = 0.001
#: Seconds between two looks for what has changed.
_GAP = 0.02
_RELOAD_PAUSE = 0.5
#: Seconds between two checks of a target that is down while requests may wait for it (option hold_when_down).
_AWAITED = 0.5


@dataclass(eq=False, slots=True)
class Check:
    """A target, the routes that ask for it, and its standing. `returning`: the next success ends `down`."""

    probe: Probe
    standing: Standing
    turn: Turn
    routes: dict[str, CheckedRoute] = field(default_factory=dict)
    returning: bool = False

    @property
    def target(self) -> Target:
        """The target that is checked."""
        return self.probe.target


class Checker:
    """Checks the targets of all routes. Start it once. `changed` tells it of a new config version. `keeps`: it writes what it finds; else
    it drives the circuits of its host alone. `led_before`: the host that led last, if it is known: where each host checks by its own way,
    what another one has found opens no circuits here. `rows`: all routes as the registry of the master that leads has them, and their
    version; without it all of them are read from the database at first."""

    def __init__(self, settings: HealthSettings, store: Store, bus: EventBus, circuits: CircuitBoard, keeps: bool = True,
                 led_before: str = "", rows: Callable[[], tuple[int, list[dict[str, Any]]]] | None = None) -> None:
        self._keeps = keeps
        self._told: dict[str, Any] = {"host": circuits.host} if settings.from_ == "each" and store.path is None else {}
        self._settings = settings
        self._store = store
        self._rows = rows
        self._bus = bus
        self._circuits = circuits
        self._records = HealthRecords(store, settings, keeps,
                                      resumes=settings.from_ == "leader" or led_before in ("", circuits.host))
        self._schedule = Schedule(settings.pool, settings.jitter)
        self._checks: dict[Target, Check] = {}
        self._by_route: dict[str, Check] = {}
        self._version = -1
        self._following = Job("health-routes", None, self._follow, log, gap=_GAP, retry=_RELOAD_PAUSE, expected=StoreError,
                              trouble="the checked routes can't be read")
        self._history = HealthHistory(store)
        self._outages = self._history.outages
        self.jobs = (self._following, *((self._records.job, self._history.job) if keeps else ()))

    def start(self) -> None:
        """Begin to follow and to check."""
        if self._keeps:
            self._records.start()
            self._history.job.start()
        self._schedule.start()
        self._following.start()

    def alive(self) -> bool:
        """Whether the checker runs."""
        return self._following.alive() and self._schedule.alive()

    def stop(self) -> None:
        """Stop checking, and write the results that wait."""
        self._following.stop()
        self._schedule.stop()
        if self._keeps:
            self._records.stop()
            self._history.stop()

    def current(self, route_id: str) -> dict[str, Any] | None:
        """The current row of a checked route for table health_status. It may not have been written yet. None without a check."""
        return self._records.now(route_id)

    def numbers(self) -> dict[str, float]:
        """Numbers for the metrics: checked targets, delay of checks in seconds, results that wait to be written, and results that
        the history has lost."""
        return {"targets": len(self._checks), "lag": self._schedule.lag, "waiting": self._records.waiting,
                "dropped": self._records.dropped}

    def changed(self, version: int) -> None:
        """There is a new config version. Another greenlet reads the routes."""
        self._following.wake()

    def look_again(self) -> None:
        """What routes ask for may be something else, although no route has changed. Another greenlet reads all of them."""
        self._version = min(self._version, 0)
        self._following.wake()

    def _follow(self) -> None:
        if self._version < 0 and self._keeps:
            self._records.load()
            self._history.load()
        if self._version <= 0 and self._rows is not None:
            version, rows = self._rows()
            self._take_up(len(rows), map(record_of, rows), set(self._by_route).difference([row["route_id"] for row in rows]), True)
        else:
            snapshot = self._store.read(load_snapshot, max(self._version, 0))
            gone = set(self._by_route) - {record.route_id for record in snapshot.routes} if snapshot.full else snapshot.removed
            self._take_up(len(snapshot.routes), snapshot.routes, gone, snapshot.full)
            version = snapshot.version
        self._version = version

    def _take_up(self, count: int, routes: Iterable[RouteRecord], gone: Iterable[str], full: bool) -> None:
        """Take in what has changed: so many routes, and those that are gone. `full`: these are all routes."""
        for route_id in gone:
            self._drop(route_id)
            self._records.forget(route_id)
            # An outage goes on if a new route of the same endpoint comes with this change: it is looked at when all are taken.
            self._outages.gone(route_id)
        within = max(min(_FIRST_WITHIN, self._settings.jitter), count / _BEGUN_A_SECOND)
        for number, record in enumerate(routes):
            self._take(record, within)
            if number % _TAKEN_AT_ONCE == _TAKEN_AT_ONCE - 1:
                gevent.sleep(_TAKE_PAUSE)
        if full:
            self._records.forget_others(self._by_route)
        self._settle(clock.now())

    def _settle(self, now: float) -> None:
        self._outages.settle(now)
        if not self._keeps:
            self._outages.changed = {}

    def _take(self, record: RouteRecord, within: float) -> None:
        """Add, change or remove the check of one route. A new check begins within `within` seconds."""
        if not route_number(record.route_id):
            return
        found = target_of(record, self._settings)
        known = self._by_route.get(record.route_id)
        now = clock.now()
        if found is None or not self._settings.drive_circuits:
            release(self._circuits, record, now)
        if found is None:
            if known is not None:
                self._drop(record.route_id)
                self._records.forget(record.route_id)
                self._outages.gone(record.route_id)
            return
        target, options = found
        watched = watch(record, options)
        before = known.routes[record.route_id] if known is not None else watched
        if known is None or known.target != target:
            self._join(watched, target, known, within, now)
        else:
            known.routes[record.route_id] = watched
        check = self._by_route[record.route_id]
        self._outages.take(record, check.standing.status, check.standing.reason, now)
        if watched.live and not before.live and check.standing.status == DOWN:
            # The service says that it is back, so it should not have to wait for its next regular checks.
            check.returning = True
            self._schedule.hurry(check.turn)
        elif self._settings.drive_circuits and check is not known:
            join(self._circuits, watched, check.standing, now)

    def _join(self, watched: CheckedRoute, target: Target, known: Check | None, within: float, now: float) -> None:
        """Add a route to the check of its target. `known`: the check that the route had until now."""
        route_id = watched.route_id
        if known is not None:
            self._drop(route_id)
        self._records.adopt(route_id, target)
        check = self._checks.get(target)
        if check is None:
            if known is not None and known.target.url == target.url:
                standing = known.standing.under(target.rise, target.fall)
            else:
                standing = self._records.standing(route_id, target, self._settings.window)
            check = self._checks[target] = Check(Probe(target, self._settings.max_body), standing, Turn(target.interval))
            check.turn.work = partial(self._check, check)
            self._schedule.add(check.turn, min(within, target.interval))
        check.routes[route_id] = watched
        self._by_route[route_id] = check
        self._records.current(route_id, target, check.standing, None, now)

    def _drop(self, route_id: str) -> None:
        check = self._by_route.pop(route_id, None)
        if check is None:
            return
        del check.routes[route_id]
        if not check.routes:
            self._schedule.end(check.turn)
            check.probe.close()
            self._checks.pop(check.target, None)

    def _check(self, check: Check) -> None:
        returning, check.returning = check.returning, False
        result = check.probe.check()
        if check.turn.ended:
            check.probe.close()
            return
        if check.returning and not result.ok:
            # The service said that it is back after this check began. The next one comes at once.
            return
        if returning or check.returning:
            # Also where it began before, and is good: else the circuit would open until the next one.
            check.standing.one_will_do()
        self._judge(check, result, clock.now())

    def _judge(self, check: Check, result: Result, now: float) -> None:
        """Count a result for every route that asked for the check."""
        standing = check.standing
        before = standing.status
        check.turn.interval = check.target.interval
        changed = settles = standing.take(result.ok, result.error)
        for watched in list(check.routes.values()):
            self._records.result(watched.route_id, result, now, self._outages.is_planned(watched.route_id))
            self._records.current(watched.route_id, check.target, standing, result, now, changed)
            settles |= self._outages.judged(watched.route_id, result.ok, standing.status, standing.reason, now, result.seconds)
            if self._settings.drive_circuits:
                drive(self._circuits, watched, standing, result.ok, now)
            if changed:
                self._bus.publish("backend_health_changed", {
                    "healthy": standing.status != DOWN, "status": standing.status, "previous": before, "reason": standing.reason,
                    "url": check.target.url, **self._told}, watched.route_id, at=clock.shown(now))
        if settles:
            self._settle(now)
        if standing.status == DOWN and any(watched.options.hold_when_down for watched in check.routes.values()):
            check.turn.interval = min(_AWAITED, check.target.interval)
        if changed:
            log.log(logging.WARNING if standing.status == DOWN else logging.INFO, "%s is %s (was %s): %s", check.target.url,
                    standing.status, before, standing.reason)
