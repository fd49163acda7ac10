"""The health checker: follows the routes, checks each target on its own schedule, and turns results into status, rows,
events and circuits."""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import time
from dataclasses import dataclass, field

import gevent
from gevent.event import Event as Signal
from gevent.pool import Pool

from proxyd.health.probe import Result, Target, probe
from proxyd.health.records import HealthRecords
from proxyd.health.targets import target_of
from proxyd.health.thresholds import DOWN, Standing
from proxyd.options import RouteOptions
from proxyd.settings import HealthSettings
from proxyd.store.bus import EventBus
from proxyd.store.circuits import CircuitBoard
from proxyd.store.database import Store, StoreError
from proxyd.store.snapshot import RouteRecord, load_snapshot
from proxyd.store.transitions import CLOSED, OPEN

log = logging.getLogger("proxyd.health")

_FIRST_WITHIN = 0.5
#: Of very many new targets, as after a start with thousands of routes, about this many are begun a second.
_BEGUN_A_SECOND = 2000
_RELOAD_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class Watched:
    """A route whose target is checked."""

    route_id: str
    slot: int
    options: RouteOptions

    @property
    def number(self) -> int:
        """The number in the route id, by which the shared memory knows it."""
        return int(self.route_id[1:])


@dataclass(eq=False, slots=True)
class Check:
    """A target, who asks for it, and where it stands. `grid`: monotonic instant of the next check before jitter."""

    target: Target
    standing: Standing
    grid: float
    routes: dict[str, Watched] = field(default_factory=dict)
    gone: bool = False
    spread: bool = False


class Checker:
    """Start it once; `changed` tells it of a new config version."""

    def __init__(self, settings: HealthSettings, store: Store, bus: EventBus, circuits: CircuitBoard) -> None:
        self._settings = settings
        self._store = store
        self._bus = bus
        self._circuits = circuits
        self._records = HealthRecords(store, settings.queue)
        self._checks: dict[Target, Check] = {}
        self._by_route: dict[str, Check] = {}
        self._heap: list[tuple[float, int, Check]] = []
        self._count = itertools.count()
        self._pool = Pool(settings.pool)
        self._version = -1
        self._wanted = 0
        self._news = Signal()
        self._due = Signal()
        self._greenlets: list[gevent.Greenlet] = []
        self.lag = 0.0

    def start(self) -> None:
        """Begin to follow and to check."""
        self._records.start()
        self._greenlets = [gevent.spawn(self._follow), gevent.spawn(self._run)]

    def alive(self) -> bool:
        """Whether it follows and checks."""
        return bool(self._greenlets) and not any(greenlet.dead for greenlet in self._greenlets)

    def stop(self) -> None:
        """Check no more, write what is known."""
        for greenlet in self._greenlets:
            greenlet.kill()
        self._pool.kill(timeout=1)
        self._records.stop()

    def changed(self, version: int) -> None:
        """There is a new config version; the routes are read by another greenlet."""
        self._wanted = version
        self._news.set()

    def _follow(self) -> None:
        while True:
            self._news.wait()
            self._news.clear()
            try:
                snapshot = self._store.read(load_snapshot, max(self._version, 0))
            except StoreError as error:
                log.warning("the checked routes can't be read: %s", error)
                gevent.sleep(_RELOAD_PAUSE)
                self._news.set()
                continue
            if self._version < 0:
                self._records.load()
            self._version = snapshot.version
            gone = set(self._by_route) - {record.route_id for record in snapshot.routes} if snapshot.full else snapshot.removed
            for route_id in gone:
                self._drop(route_id)
                self._records.forget(route_id)
            within = max(min(_FIRST_WITHIN, self._settings.jitter), len(snapshot.routes) / _BEGUN_A_SECOND)
            for record in snapshot.routes:
                self._take(record, within)
            if snapshot.full:
                self._records.forget_others(self._by_route)

    def _take(self, record: RouteRecord, within: float) -> None:
        """Register, change or unregister the check of one route; a new check begins `within` seconds."""
        found = target_of(record, self._settings)
        known = self._by_route.get(record.route_id)
        if found is None or not self._settings.drive_circuits:
            self._release(record)
        if found is None:
            if known is not None:
                self._drop(record.route_id)
                self._records.forget(record.route_id)
            return
        target, options = found
        watched = Watched(record.route_id, record.slot, options)
        if known is not None and known.target == target:
            known.routes[record.route_id] = watched
            return
        if known is not None:
            self._drop(record.route_id)
        check = self._checks.get(target)
        if check is None:
            if known is not None and known.target.url == target.url:
                standing = known.standing.under(target.rise, target.fall)
            else:
                standing = self._records.standing(record.route_id, target, self._settings.window)
            check = Check(target, standing, time.monotonic() + random.uniform(0, min(within, target.interval)))
            self._checks[target] = check
            self._push(check, check.grid)
        check.routes[record.route_id] = watched
        self._by_route[record.route_id] = check
        now = time.time()
        self._records.current(record.route_id, target, check.standing, None, now)
        if self._settings.drive_circuits and check.standing.status == DOWN:
            self._drive(watched, check.standing, False, now)

    def _drop(self, route_id: str) -> None:
        check = self._by_route.pop(route_id, None)
        if check is None:
            return
        del check.routes[route_id]
        if not check.routes:
            check.gone = True
            self._checks.pop(check.target, None)

    def _release(self, record: RouteRecord) -> None:
        """No check drives the route's circuit any more: what a check held open must not stay so."""
        number = int(record.route_id[1:])
        if self._circuits.read(record.slot, number).by_health:
            self._circuits.move(record.slot, number, "check_removed", time.time())

    def _push(self, check: Check, due: float) -> None:
        heapq.heappush(self._heap, (due, next(self._count), check))
        self._due.set()

    def _run(self) -> None:
        """Start each check when it is due; the pool bounds how many are under way."""
        while True:
            wait = self._heap[0][0] - time.monotonic() if self._heap else None
            if wait is None or wait > 0:
                self._due.clear()
                self._due.wait(wait)
                continue
            due, _, check = heapq.heappop(self._heap)
            if check.gone:
                continue
            self.lag = max(0.0, time.monotonic() - due)
            self._pool.spawn(self._check, check)

    def _check(self, check: Check) -> None:
        try:
            result = probe(check.target, self._settings.max_body)
            if not check.gone:
                self._judge(check, result, time.time())
        except Exception:
            log.exception("health check of %s", check.target.url)
        finally:
            if not check.gone:
                self._schedule(check)

    def _schedule(self, check: Check) -> None:
        """The next point of the target's grid, shifted by chance: neither drift nor everybody at once."""
        interval = check.target.interval
        now = time.monotonic()
        if not check.spread:
            # Routes that came together are not checked together for ever.
            check.spread = True
            check.grid = now - random.uniform(0, interval)
        check.grid += interval
        if check.grid < now:
            check.grid += interval * ((now - check.grid) // interval + 1)
        self._push(check, check.grid + random.uniform(0, min(self._settings.jitter, interval / 4)))

    def _judge(self, check: Check, result: Result, now: float) -> None:
        """Count a result for every route that asked for the check."""
        standing = check.standing
        before = standing.status
        changed = standing.take(result.ok, result.error)
        for watched in list(check.routes.values()):
            self._records.result(watched.route_id, result, now)
            self._records.current(watched.route_id, check.target, standing, result, now, changed)
            if self._settings.drive_circuits:
                self._drive(watched, standing, result.ok, now)
            if changed:
                self._bus.publish("backend_health_changed", {
                    "healthy": standing.status != DOWN, "status": standing.status, "previous": before, "reason": standing.reason,
                    "url": check.target.url}, watched.route_id, at=now)
        if changed:
            log.log(logging.WARNING if standing.status == DOWN else logging.INFO, "%s is %s (was %s): %s", check.target.url,
                    standing.status, before, standing.reason)

    def _drive(self, watched: Watched, standing: Standing, ok: bool, now: float) -> None:
        """What a result means for the circuit: down opens it, recovery half-opens it, and lasting health closes it even
        where no user's request comes to prove it."""
        circuits, slot, number = self._circuits, watched.slot, watched.number
        state = circuits.state(slot, number)
        if standing.status == DOWN:
            if state != OPEN or not circuits.read(slot, number).by_health:
                circuits.move(slot, number, "health_down", now)
            return
        if not ok or state == CLOSED:
            return
        circuit = circuits.read(slot, number)
        if state == OPEN:
            if circuit.by_health:
                circuits.move(slot, number, "health_recovered", now)
            elif now >= circuit.next_attempt:
                circuits.move(slot, number, "health_check_passed", now)
            return
        options = watched.options
        rise = options.health_rise
        long_enough = now - circuit.changed_at >= 2 * rise * options.health_check_interval
        circuit.forget_lost_trials(options.connect_timeout + options.timeout, now)
        if standing.successes >= 2 * rise and long_enough and not circuit.trials:
            circuits.move(slot, number, "health_checks_passed", now)
