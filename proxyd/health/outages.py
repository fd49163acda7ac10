"""Turns the standing of checked routes into incidents, of endpoints and of services, and into seconds up, down and in maintenance.

A service is a place (domain and path) with all instances that serve it: it is down when none of them is up, which is what users
see. While all routes of a place are in maintenance or drain, an outage is planned. Nothing here knows the database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.health.thresholds import DOWN, UNKNOWN
from proxyd.store.sql.snapshot import RouteRecord

ENDPOINT, SERVICE = "endpoint", "service"
#: How incidents end.
RECOVERED, REMOVED, MAINTENANCE = "recovered", "removed", "maintenance"
#: Kind, service, instance (empty for a service), domain and path.
Key = tuple[str, str, str, str, str]
#: Seconds between two additions to the sums, above which nobody has watched: the process was stopped.
_LONGEST_STEP = 60.0


@dataclass(slots=True)
class _Route:
    """What is known of a route. `failing`: the instant of the first failed check of the present row of failures, 0.0 without one.
    `awaited`: it was down when its maintenance ended, and the next check tells whether it still is: until then nobody knows."""

    keys: tuple[Key, Key]
    planned: bool
    status: str = UNKNOWN
    reason: str = ""
    failing: float = 0.0
    awaited: bool = False


@dataclass(slots=True)
class Sums:
    """What happened at an endpoint since the last batch: seconds by state, and checks: those in maintenance or a drain are neither good nor
    bad. `route_id`: one of its routes. `response_us_sum` and so on: how long good checks took in microseconds, None where there was
    none."""

    route_id: str
    up_seconds: float = 0.0
    down_seconds: float = 0.0
    maintenance_seconds: float = 0.0
    good: int = 0
    bad: int = 0
    response_us_sum: int = 0
    response_us_min: int | None = None
    response_us_max: int | None = None
    in_maintenance: int = 0

    def passed(self, seconds: float) -> None:
        """A check was good, and took so long."""
        took = round(seconds * 1_000_000)
        self.good += 1
        self.response_us_sum += took
        self.response_us_min = took if self.response_us_min is None else min(took, self.response_us_min)
        self.response_us_max = took if self.response_us_max is None else max(took, self.response_us_max)

    def plus(self, other: Sums) -> Sums:
        """Both together."""
        least = [took for took in (self.response_us_min, other.response_us_min) if took is not None]
        most = [took for took in (self.response_us_max, other.response_us_max) if took is not None]
        return Sums(self.route_id, self.up_seconds + other.up_seconds, self.down_seconds + other.down_seconds,
                    self.maintenance_seconds + other.maintenance_seconds, self.good + other.good, self.bad + other.bad,
                    self.response_us_sum + other.response_us_sum, min(least, default=None), max(most, default=None),
                    self.in_maintenance + other.in_maintenance)


@dataclass(slots=True)
class ServiceSums:
    """Seconds by state of a service at a place since the last batch."""

    key: Key
    up_seconds: float = 0.0
    down_seconds: float = 0.0
    maintenance_seconds: float = 0.0


def keys_of(record: RouteRecord) -> tuple[Key, Key]:
    """The endpoint and the service of a route; its first domain stands for all of them."""
    domain = record.domains[0]
    return (ENDPOINT, record.service, record.instance, domain, record.path), (SERVICE, record.service, "", domain, record.path)


@dataclass(slots=True)
class Outages:
    """The routes that are checked, the incidents that go on, and what changed since it was last taken."""

    next_id: int = 1
    #: Incidents that began or ended, by number; whoever writes them takes them away.
    changed: dict[int, dict[str, Any]] = field(default_factory=dict)
    _routes: dict[str, _Route] = field(default_factory=dict)
    _places: dict[Key, dict[str, _Route]] = field(default_factory=dict)
    _open: dict[Key, dict[str, Any]] = field(default_factory=dict)
    _touched: set[Key] = field(default_factory=set)
    _sums: dict[Key, Sums] = field(default_factory=dict)
    _services: dict[Key, ServiceSums] = field(default_factory=dict)
    #: Up to which instant the time of each endpoint and service is added up, and when anybody last looked.
    _counted: dict[Key, float] = field(default_factory=dict)
    _looked_at: float = 0.0

    def resume(self, next_id: int, rows: Iterable[dict[str, Any]]) -> None:
        """Go on with the incidents that the last master left open. Call it before the first `settle`."""
        self.next_id = next_id
        for row in rows:
            key = (row["kind"], row["service_name"], row["instance_name"], row["domain"], row["path"])
            self._open[key] = row
            self._touched.add(key)

    def take(self, record: RouteRecord, status: str, reason: str, since: float) -> None:
        """A route is checked, or changed. `since`: when a status that is `down` began."""
        keys = keys_of(record)
        known = self._routes.get(record.route_id)
        if known is not None and known.keys != keys:
            self.gone(record.route_id)
            known = None
        planned = bool(record.maintenance_since or record.drain_started_at)
        if known is None:
            self._add_up(keys, clock.now())
            known = self._routes[record.route_id] = _Route(keys, planned, failing=since if status == DOWN else 0.0)
            for key in keys:
                self._places.setdefault(key, {})[record.route_id] = known
        known.awaited = not planned and status == DOWN and (known.awaited or known.planned)
        if known.awaited:
            status = UNKNOWN
        if known.planned != planned or known.status != status:
            self._add_up(keys, clock.now())
        known.planned, known.status, known.reason = planned, status, reason
        self._touched.update(keys)

    def gone(self, route_id: str) -> None:
        """A route is no longer there, or no longer checked."""
        known = self._routes.pop(route_id, None)
        if known is None:
            return
        self._add_up(known.keys, clock.now())
        for key in known.keys:
            routes = self._places[key]
            del routes[route_id]
            if not routes:
                del self._places[key]
                self._counted.pop(key, None)
        self._touched.update(known.keys)

    def judged(self, route_id: str, ok: bool, status: str, reason: str, now: float, seconds: float) -> bool:
        """A check was made, which took so many seconds, and after which the route has this status. Returns whether it has another one than
        was known here: call `settle` then."""
        known = self._routes.get(route_id)
        if known is None:
            return False
        sums = self._sums_of(known.keys[0], route_id)
        if known.planned:
            sums.in_maintenance += 1
        elif ok:
            sums.passed(seconds)
        else:
            sums.bad += 1
        if not ok:
            known.failing = known.failing or now
        other = known.status != status
        if known.awaited:
            # What failed in the maintenance is of no interest any more.
            known.awaited, known.failing = False, 0.0 if ok else now
        if other:
            self._add_up(known.keys, now)
            known.status, known.reason = status, reason
            self._touched.update(known.keys)
        if ok and status != DOWN:
            known.failing = 0.0
        return other

    def is_planned(self, route_id: str) -> bool:
        """Whether a route is in maintenance, or drains."""
        known = self._routes.get(route_id)
        return known is not None and known.planned

    def settle(self, now: float) -> None:
        """Begin and end incidents, where something changed."""
        touched, self._touched = self._touched, set()
        for key in touched:
            self._settle(key, now)

    def _settle(self, key: Key, now: float) -> None:
        routes = self._places.get(key, {})
        going_on = self._open.get(key)
        if not routes:
            if going_on is not None:
                self._end(key, REMOVED, now)
            return
        active = {route_id: route for route_id, route in routes.items() if not route.planned}
        if going_on is not None and bool(going_on["planned"]) is bool(active):
            self._end(key, MAINTENANCE, now)
            going_on = None
        asked = active or routes
        if any(route.status not in (DOWN, UNKNOWN) for route in asked.values()):
            if going_on is not None:
                self._end(key, RECOVERED, now)
            return
        down = [(route_id, route) for route_id, route in asked.items() if route.status == DOWN]
        if down and going_on is None:
            self._begin(key, *min(down, key=lambda item: item[1].failing or now), not active, now)

    def _begin(self, key: Key, route_id: str, route: _Route, planned: bool, now: float) -> None:
        at = rfc3339(clock.shown(now))
        row: dict[str, Any] = {
            "incident_id": self.next_id, "kind": key[0], "service_name": key[1], "instance_name": key[2], "domain": key[3],
            "path": key[4], "route_id": route_id, "planned": planned, "started_at": at,
            "first_failed_at": rfc3339(clock.shown(route.failing)) if route.failing else at, "ended_at": None, "ended_how": None,
            "cause": route.reason}
        self.changed[self.next_id] = row
        self.next_id += 1
        self._open[key] = row

    def _end(self, key: Key, how: str, now: float) -> None:
        row = self._open.pop(key)
        row.update(ended_at=rfc3339(clock.shown(now)), ended_how=how)
        self.changed[row["incident_id"]] = row

    def _sums_of(self, key: Key, route_id: str) -> Sums:
        sums = self._sums.get(key)
        if sums is None:
            sums = self._sums[key] = Sums(route_id)
        return sums

    def _add_up(self, keys: Iterable[Key], now: float) -> None:
        """Add the time of endpoints and services since the last call to the state in which they were."""
        self._look(now)
        for key in keys:
            begun = self._counted.get(key)
            if begun is None or now > begun:
                self._counted[key] = now
                self._count(key, now - (now if begun is None else begun))

    def _look(self, now: float) -> None:
        """Somebody watches. Where nobody did for long, that time counts for nobody."""
        last, self._looked_at = self._looked_at, now
        if now - last >= _LONGEST_STEP:
            for key, begun in self._counted.items():
                self._count(key, last - begun)
            self._counted = dict.fromkeys(self._counted, now)

    def _count(self, key: Key, passed: float) -> None:
        routes = self._places.get(key)
        if passed <= 0 or not routes:
            return
        statuses = {route.status for route in routes.values() if not route.planned}
        if statuses == {UNKNOWN}:
            return
        sums: Sums | ServiceSums = (self._sums_of(key, next(iter(routes))) if key[0] == ENDPOINT
                                    else self._services.setdefault(key, ServiceSums(key)))
        if not statuses:
            sums.maintenance_seconds += passed
        elif statuses <= {DOWN, UNKNOWN}:
            sums.down_seconds += passed
        else:
            sums.up_seconds += passed

    def sums(self, now: float, last: bool = False) -> list[Sums]:
        """What happened since the last call, by endpoint. Time counts up to the last whole second: most sums are whole numbers then, which
        take a database a byte or two. In the `last` ones the rest counts, too."""
        self._add_up([key for key in self._counted if key[0] == ENDPOINT], now if last else float(int(now)))
        taken, self._sums = self._sums, {}
        return list(taken.values())

    def service_sums(self, now: float, last: bool = False) -> list[ServiceSums]:
        """What happened since the last call, by service and place; `last` as for `sums`."""
        self._add_up([key for key in self._counted if key[0] == SERVICE], now if last else float(int(now)))
        taken, self._services = self._services, {}
        return list(taken.values())

    def give_back(self, rows: dict[int, dict[str, Any]]) -> None:
        """Take incidents back that could not be written."""
        self.changed = {**rows, **self.changed}
