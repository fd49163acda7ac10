"""What the metrics are made of: everything that the database says of routes and services, and their circuits.

Where that would make more series than [admin] max_series, those that say least are left out, and how many is told.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxyd.admin import views
from proxyd.admin.families import LE
from proxyd.base.counters import COUNTERS
from proxyd.base.text import route_number
from proxyd.health.thresholds import HEALTHY, STATUSES
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, STATE_NAMES
from proxyd.store.sql.models import Route
from proxyd.store.sql.observed import HealthStatus
from proxyd.store.sql.query import dicts, tuples
from proxyd.store.sql.refusals import refusal_counts
from proxyd.store.sql.servicesums import NOWHERE, Place, ServiceLatency, ServiceStats, ServiceStatusCode
from proxyd.store.sql.traffic import open_requests

#: Series of a route: drain, maintenance and circuit; and those that a health check brings.
_OF_ROUTE, _OF_CHECK = 2 + len(STATE_NAMES), 1 + len(STATUSES)
_COUNTED = sum(1 for counter in COUNTERS if counter.metric)


class RouteRow(NamedTuple):
    """A route, as far as it is told. `domains`: as its row has them."""

    route_id: str
    service: str
    instance: str
    domains: str
    path: str
    slot: int
    drain_started_at: str | None
    drain_clock: str | None
    drain_seconds: float | None
    maintenance_since: str | None


@dataclass(slots=True)
class Readings:
    """What the database says, and the circuits of its routes. `open_now`: place, and what is open there. `total`: how many routes there
    are; `left_out`: how many `routes` and `services` have no series."""

    routes: list[RouteRow] = field(default_factory=list)
    sums: dict[Place, dict[str, Any]] = field(default_factory=dict)
    codes: list[tuple[Any, ...]] = field(default_factory=list)
    latencies: list[tuple[Any, ...]] = field(default_factory=list)
    open_now: list[tuple[Any, ...]] = field(default_factory=list)
    health: dict[str, str] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    circuits: dict[str, str] = field(default_factory=dict)
    refusals: dict[str, int] = field(default_factory=dict)
    total: int = 0
    left_out: dict[str, int] = field(default_factory=lambda: {"routes": 0, "services": 0})


def read(circuits: CircuitBoard, most: int) -> Readings:
    """Everything there is, or what makes about `most` series of it (0: no bound). Runs in the database thread."""
    rows = {row[0]: RouteRow(*row) for row in tuples(Route.select(
        Route.route_id, Route.service_name, Route.instance_name, Route.domains, Route.path, Route.slot, Route.drain_started_at,
        Route.drain_clock, Route.drain_seconds, Route.maintenance_since))}
    # A service that has no route now is no series. When it is back, its counters go on.
    places = {(row.service, first_domain(row.domains)) for row in rows.values()} | {NOWHERE}
    found = Readings(routes=list(rows.values()), sessions=views.session_counts(), total=len(rows))
    found.sums = {place: item for item in dicts(ServiceStats.select()) if (place := (item["service_name"], item["domain"])) in places}
    code, latency = ServiceStatusCode, ServiceLatency
    codes = code.select(code.service_name, code.domain, code.status_code, code.responses).order_by(code.status_code)
    found.codes = [row for row in tuples(codes) if row[:2] in places]
    buckets = latency.select(latency.service_name, latency.domain, latency.bucket, latency.requests)
    found.latencies = [row for row in tuples(buckets) if row[:2] in places]
    found.open_now = [((row.service, first_domain(row.domains)), *numbers) for route_id, *numbers in open_requests()
                      if (row := rows.get(route_id)) is not None]
    found.health = {route_id: status for route_id, status in tuples(HealthStatus.select(HealthStatus.route_id, HealthStatus.status))
                    if route_id in rows}
    found.refusals = refusal_counts()
    found.circuits = {row.route_id: STATE_NAMES[circuits.state(row.slot, route_number(row.route_id))] for row in found.routes}
    if most:
        _bound(found, most)
    return found


def _bound(found: Readings, most: int) -> None:
    """Leave out what is beyond so many series. Traffic and the state of routes have half of them each, and what the other does not need."""
    traffic = len(found.sums) * (_COUNTED + len(LE) + 3) + len(found.codes)
    state = len(found.routes) * _OF_ROUTE + len(found.health) * _OF_CHECK
    if traffic + state <= most:
        return
    for_traffic = min(traffic, max(most // 2, most - state))
    if for_traffic < traffic:
        _busiest(found, len(found.sums) * for_traffic // traffic)
    for_state = most - for_traffic
    if for_state < state:
        _strangest(found, for_state // (_OF_ROUTE + (_OF_CHECK if found.health else 0)))


def _busiest(found: Readings, count: int) -> None:
    """Keep so many services at their domains, those with the most requests; and what matched no route."""
    asked: Counter[Place] = Counter()
    for service, domain, _, responses in found.codes:
        asked[service, domain] += responses
    kept = {place for place, _ in asked.most_common(count)} | {NOWHERE}
    found.left_out["services"] = len(found.sums.keys() - kept)
    found.sums = {place: item for place, item in found.sums.items() if place in kept}
    found.codes = [row for row in found.codes if row[:2] in kept]
    found.latencies = [row for row in found.latencies if row[:2] in kept]
    found.open_now = [row for row in found.open_now if row[0] in kept]


def _strangest(found: Readings, count: int) -> None:
    """Keep so many routes: those that are not as usual, and then the oldest, so that the same ones stay."""
    usual = STATE_NAMES[CLOSED]

    def order(row: RouteRow) -> tuple[bool, int]:
        strange = (row.drain_started_at is not None or row.maintenance_since is not None or found.circuits[row.route_id] != usual
                   or found.health.get(row.route_id, HEALTHY) != HEALTHY)
        return not strange, route_number(row.route_id)

    found.left_out["routes"] = len(found.routes) - count
    found.routes = heapq.nsmallest(count, found.routes, key=order)
    kept = {row.route_id for row in found.routes}
    found.health = {route_id: status for route_id, status in found.health.items() if route_id in kept}
    found.circuits = {route_id: state for route_id, state in found.circuits.items() if route_id in kept}


def first_domain(domains: str) -> str:
    """The first of the domains of a row, which stands for all of them. Nothing in a domain is escaped in JSON."""
    return domains.partition('"')[2].partition('"')[0]
