"""Sums of a service at a domain, which go on over redeploys: what /metrics shows. A route's own sums end with the route.

Everything here runs in the database thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from peewee import CompositeKey, TextField, fn

from proxyd.base.counters import COUNTERS
from proxyd.store.sql.database import database
from proxyd.store.sql.models import Route, StoredTable, of_key
from proxyd.store.sql.observed import LatencyBuckets, StatusCodes, with_counters
from proxyd.store.sql.query import among, among_pairs, plain
from proxyd.store.sql.upsert import add

#: Service and (first) domain.
Place = tuple[str, str]
#: The route id, service and domain of requests that matched no route.
NO_ROUTE = "-"
NOWHERE: Place = (NO_ROUTE, NO_ROUTE)
_SUMS = tuple(counter.name for counter in COUNTERS)
_PLACES = ("SELECT h.route_id, e.service_name, e.domain FROM route_history h JOIN endpoints e ON e.endpoint_id = h.endpoint_id "
           "WHERE h.route_id IN")


@with_counters
class ServiceStats(StoredTable):
    """Sums of a service at a domain since it was first seen, over all its instances, paths and deploys."""

    service_name = TextField()
    domain = TextField()
    updated_at = TextField()

    class Meta:
        table_name = "service_stats"
        primary_key = CompositeKey("service_name", "domain")


class ServiceStatusCode(StatusCodes):
    """Its responses by status code."""

    service_name = of_key(TextField())
    domain = of_key(TextField())

    class Meta:
        table_name = "service_status_codes"
        primary_key = CompositeKey("service_name", "domain", "status_code")


class ServiceLatency(LatencyBuckets):
    """Its latency histogram: requests in bucket `bucket`."""

    service_name = of_key(TextField())
    domain = of_key(TextField())

    class Meta:
        table_name = "service_latency"
        primary_key = CompositeKey("service_name", "domain", "bucket")


class Counted(Protocol):
    """What was counted for a route: sums by name of a counter, responses by status code, requests by bucket of the histogram."""

    sums: dict[str, float]
    codes: dict[int, int]
    latency: dict[int, int]


def add_to_services(routes: Mapping[str, Counted], at: str) -> None:
    """Add what was counted by route up to the instant `at`. Routes without a history are left out."""
    places: dict[str, Place] = {NO_ROUTE: NOWHERE}
    places.update({route_id: (service, domain) for route_id, service, domain in among(_PLACES, routes)})
    sums: dict[Place, list[float]] = {}
    codes: dict[tuple[str, str, int], int] = {}
    latency: dict[tuple[str, str, int], int] = {}
    for route_id, traffic in routes.items():
        place = places.get(route_id)
        if place is None:
            continue
        values = [traffic.sums.get(name, 0) for name in _SUMS]
        before = sums.get(place)
        sums[place] = values if before is None else [old + new for old, new in zip(before, values, strict=True)]
        for total, counted in ((codes, traffic.codes), (latency, traffic.latency)):
            for key, count in counted.items():
                total[*place, key] = total.get((*place, key), 0) + count
    # In one order, so that workers which write to a server at the same time never wait for each other in a circle.
    add(ServiceStats, ("service_name", "domain", "updated_at", *_SUMS), [(*place, at, *values) for place, values in sorted(sums.items())],
        _SUMS)
    add(ServiceStatusCode, ("service_name", "domain", "status_code", "responses"),
        [(*key, count) for key, count in sorted(codes.items())], ("responses",))
    add(ServiceLatency, ("service_name", "domain", "bucket", "requests"),
        [(*key, count) for key, count in sorted(latency.items())], ("requests",))


def by_requests() -> list[Place]:
    """All services at their domains, those with the most requests first."""
    order = ServiceStats._meta.fields["requests"].desc(), ServiceStats.service_name, ServiceStats.domain
    return [(service, domain) for service, domain in plain(ServiceStats.select(*order[1:]).order_by(*order))]


def of_places(model: type[ServiceStats | ServiceStatusCode | ServiceLatency], places: Sequence[Place],
              names: Sequence[str]) -> Iterable[tuple[Any, ...]]:
    """The rows of services at their domains: service, domain, and the columns `names`."""
    return among_pairs(f"SELECT t.service_name, t.domain, {', '.join(f't.{name}' for name in names)} FROM {model._meta.table_name} t "
                       "JOIN pairs ON t.service_name = pairs.column1 AND t.domain = pairs.column2", places)


def fill_from_routes() -> None:
    """Begin with what the routes, those that are gone too, have counted: a counter of /metrics must not fall at an upgrade."""
    there = {column.name for column in database.get_columns("route_stats")}
    for into, table, key, names in (("service_stats", "route_stats", "updated_at", [name for name in _SUMS if name in there]),
                                    ("service_status_codes", "route_status_codes", "status_code", ["responses"]),
                                    ("service_latency", "route_latency", "bucket", ["requests"])):
        sums = ", ".join(f"SUM(s.{name})" for name in names)
        kept, group = ("MAX(s.updated_at)", "") if key == "updated_at" else (f"s.{key}", f", s.{key}")
        database.execute_sql(f"DELETE FROM {into}")
        database.execute_sql(
            f"INSERT INTO {into} (service_name, domain, {key}, {', '.join(names)}) SELECT p.service_name, p.domain, {kept}, {sums} "
            f"FROM {table} s JOIN (SELECT h.route_id, e.service_name, e.domain FROM route_history h JOIN endpoints e ON e.endpoint_id = "
            f"h.endpoint_id UNION ALL SELECT '-', '-', '-') p ON p.route_id = s.route_id GROUP BY p.service_name, p.domain{group}")


def gone_services(before: str) -> Any:
    """Sums of services that have no route, and counted nothing since an instant."""
    unused = ServiceStats.service_name.not_in(Route.select(Route.service_name)) & (ServiceStats.service_name != NO_ROUTE)
    return unused & (ServiceStats.updated_at < before)


def of_gone_services(model: type[ServiceStatusCode] | type[ServiceLatency], before: str) -> Any:
    """What belongs to such sums, and has no age of its own."""
    return fn.EXISTS(ServiceStats.select(ServiceStats.domain).where(
        ServiceStats.service_name == model.service_name, ServiceStats.domain == model.domain, gone_services(before)))
