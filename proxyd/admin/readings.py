"""What the metrics are made of: everything that the database says of routes and services, and their circuits.

Where that would make more series than [admin] max_series, those that say least are left out, and how many is told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from peewee import fn

from proxyd.admin import views
from proxyd.admin.families import LE
from proxyd.base.counters import COUNTERS
from proxyd.base.text import names_of_row, route_number
from proxyd.health.thresholds import HEALTHY, STATUSES
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import STATE_NAMES
from proxyd.store.sql.models import Route
from proxyd.store.sql.observed import HealthStatus
from proxyd.store.sql.query import among, column, plain
from proxyd.store.sql.refusals import refusal_counts
from proxyd.store.sql.servicesums import NOWHERE, Place, ServiceLatency, ServiceStats, ServiceStatusCode, by_requests, of_places
from proxyd.store.sql.traffic import open_requests

#: Series of a route: drain, maintenance and circuit; and those that a health check brings.
_OF_ROUTE, _OF_CHECK = 2 + len(STATE_NAMES), 1 + len(STATUSES)
_COUNTED = sum(1 for counter in COUNTERS if counter.metric)
_SUMS = tuple(counter.name for counter in COUNTERS)


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


#: What it is made of.
_ROWS = ("SELECT route_id, service_name, instance_name, domains, path, slot, drain_started_at, drain_clock, drain_seconds, "
         "maintenance_since FROM routes WHERE route_id IN")


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
    """Everything there is, or what makes about `most` series of it (0: no bound). Runs in the database thread. Of what has no series, only
    the names are read."""
    place: dict[str, Place] = {}
    # A service that has no route now is no series. When it is back, its counters go on.
    there = {NOWHERE}
    for route_id, service, domains in plain(Route.select(Route.route_id, Route.service_name, Route.domains).order_by(
            fn.LENGTH(Route.route_id), Route.route_id)):
        place[route_id] = of = service, names_of_row(domains)[0]
        there.add(of)
    health = {route_id: status for route_id, status in plain(HealthStatus.select(HealthStatus.route_id, HealthStatus.status))
              if route_id in place}
    counted = by_requests()
    busiest = [one for one in counted if one in there]
    codes = ServiceStatusCode.select().count() * len(busiest) // max(1, len(counted))
    services, routes = _bounds(len(busiest), len(busiest) * (_COUNTED + len(LE) + 3) + codes, len(place), len(health), most)
    without = {*busiest[services:]} - {NOWHERE}
    found = Readings(sessions=views.session_counts(), refusals=refusal_counts(), total=len(place),
                     left_out={"routes": len(place) - routes, "services": len(without)})
    _read_traffic(found, [one for one in busiest if one not in without])
    found.open_now = [(at, *numbers) for route_id, *numbers in open_requests()
                      if (at := place.get(route_id)) is not None and at not in without]
    _read_state(found, _strangest(place, health, circuits)[:routes], health, circuits)
    return found


def _bounds(services: int, traffic: int, routes: int, checked: int, most: int) -> tuple[int, int]:
    """How many of the services and of the routes are within so many series. `traffic`: the series of all services; `checked`: routes with
    a health check. Traffic and the state of routes have half of the series each, and what the other does not need."""
    state = routes * _OF_ROUTE + checked * _OF_CHECK
    if not most or traffic + state <= most:
        return services, routes
    for_traffic = min(traffic, max(most // 2, most - state))
    for_state = most - for_traffic
    return (services if for_traffic == traffic else services * for_traffic // traffic,
            routes if for_state >= state else for_state // (_OF_ROUTE + (_OF_CHECK if checked else 0)))


def _strangest(place: Iterable[str], health: dict[str, str], circuits: CircuitBoard) -> list[str]:
    """The routes of `place`, the oldest first: those that are not as usual, and then the others, so that the same ones stay."""
    meant = column(Route.select(Route.route_id).where(Route.drain_started_at.is_null(False) | Route.maintenance_since.is_null(False)))
    strange = {*meant, *(route_id for route_id, status in health.items() if status != HEALTHY),
               *(f"r{number}" for number in circuits.not_closed())}
    return [*(route_id for route_id in place if route_id in strange), *(route_id for route_id in place if route_id not in strange)]


def _read_traffic(found: Readings, services: list[Place]) -> None:
    """What was counted for these services at their domains."""
    found.sums = {(service, domain): dict(zip(_SUMS, values, strict=True))
                  for service, domain, *values in of_places(ServiceStats, services, _SUMS)}
    found.codes = sorted(of_places(ServiceStatusCode, services, ("status_code", "responses")))
    found.latencies = list(of_places(ServiceLatency, services, ("bucket", "requests")))


def _read_state(found: Readings, route_ids: list[str], health: dict[str, str], circuits: CircuitBoard) -> None:
    """These routes with their circuits, and their health of that of all."""
    found.routes = list(map(RouteRow._make, among(_ROWS, route_ids)))
    found.health = {row.route_id: health[row.route_id] for row in found.routes if row.route_id in health}
    found.circuits = {row.route_id: STATE_NAMES[circuits.state(row.slot, route_number(row.route_id))] for row in found.routes}
