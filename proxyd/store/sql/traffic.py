"""What workers count, written in batches: traffic sums, histograms, rejections, slow requests, WebSockets. And how the
sums are read back. Everything here runs in the database thread."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peewee import Expression, chunked, fn

from proxyd.base.counters import COUNTERS, LATENCIES, WHOLE
from proxyd.base.histogram import percentile
from proxyd.base.hosts import WorkerKey
from proxyd.store.sql.identity import endpoints_of
from proxyd.store.sql.observed import (
    RateLimitRejection,
    RouteInFlight,
    RouteLatency,
    RouteMinute,
    RouteStats,
    RouteStatusCode,
    SlowRequest,
    WebSocketConnection,
    Worker,
)
from proxyd.store.sql.query import dicts, tuples
from proxyd.store.sql.rollups import LatencyHour, LatencyMinute, TrafficDay, TrafficHour
from proxyd.store.sql.schema import LATENCY_BY_MINUTE, PLANNED_APART, has_step
from proxyd.store.sql.servicesums import add_to_services
from proxyd.store.sql.upsert import add

#: The slow requests kept of each route and hour.
SLOW_KEPT = 20
_CHUNK = 80
_READ_CHUNK = 250
#: The percentiles of LATENCIES, behind the average.
_SHARES = (0.5, 0.95, 0.99)
_SUMS = tuple(counter.name for counter in COUNTERS)
#: The counters that are kept by the hour and the day, and then the classes of status codes.
_BY_ENDPOINT = tuple(counter.name for counter in COUNTERS if counter.name in TrafficHour._meta.fields)
_CLASSES = tuple(f"status_{first}xx" for first in (2, 3, 4, 5))
#: Those that are kept by the minute, and those of them that a database before PLANNED_APART has.
_BY_MINUTE = tuple(counter.name for counter in COUNTERS if counter.name in RouteMinute._meta.fields)
_BY_MINUTE_BEFORE = tuple(name for name in _BY_MINUTE if name != "maintenance_hits")


@dataclass(slots=True)
class Traffic:
    """What one worker counted for one route since its last batch. `sums` has the columns of route_stats."""

    sums: dict[str, float]
    codes: dict[int, int]
    latency: dict[int, int]


@dataclass(slots=True)
class TrafficBatch:
    """Deltas by route id, the routes' in-flight numbers now, and when: minute and instant as text."""

    worker: WorkerKey
    at: str
    routes: dict[str, Traffic]
    in_flight: dict[str, tuple[int, int, int]] = field(default_factory=dict)

    def write(self) -> None:
        """Add everything to the tables."""
        at, minute, routes = self.at, self.at[:16] + ":00.000Z", self.routes
        add(RouteStats, ("route_id", "updated_at", *_SUMS),
            [(route_id, at, *[traffic.sums.get(name, 0) for name in _SUMS]) for route_id, traffic in routes.items()], _SUMS)
        counted = _BY_MINUTE if has_step(PLANNED_APART) else _BY_MINUTE_BEFORE
        add(RouteMinute, ("route_id", "minute", *counted, *_CLASSES),
            [(route_id, minute, *[traffic.sums.get(name, 0) for name in counted], *_classes(traffic))
             for route_id, traffic in routes.items()], (*counted, *_CLASSES))
        self._write_by_endpoint()
        add_to_services(routes, at)
        add(RouteStatusCode, ("route_id", "status_code", "responses"),
            [(route_id, code, count) for route_id, traffic in routes.items() for code, count in traffic.codes.items()], ("responses",))
        add(RouteLatency, ("route_id", "bucket", "requests"),
            [(route_id, bucket, count) for route_id, traffic in routes.items() for bucket, count in traffic.latency.items()],
            ("requests",))
        add(RouteInFlight, ("host", "boot", "pid", "route_id", "in_flight", "websocket_active", "queued"),
            [(*self.worker, route_id, *numbers) for route_id, numbers in self.in_flight.items() if any(numbers)])
        ended = [route_id for route_id, numbers in self.in_flight.items() if not any(numbers)]
        for piece in chunked(ended, _READ_CHUNK):
            RouteInFlight.delete().where(of_worker(RouteInFlight, self.worker), RouteInFlight.route_id.in_(piece)).execute()

    def _write_by_endpoint(self) -> None:
        """Add the traffic to the sums of the endpoints that the routes are for."""
        sums: dict[int, list[float]] = {}
        latency: dict[tuple[int, int], int] = {}
        for route_id, endpoint in endpoints_of(self.routes).items():
            traffic = self.routes[route_id]
            values = [*[traffic.sums.get(name, 0) for name in _BY_ENDPOINT], *_classes(traffic)]
            before = sums.get(endpoint)
            sums[endpoint] = values if before is None else [old + new for old, new in zip(before, values, strict=True)]
            for bucket, count in traffic.latency.items():
                latency[endpoint, bucket] = latency.get((endpoint, bucket), 0) + count
        hour, columns = self.at[:13] + ":00:00.000Z", (*_BY_ENDPOINT, *_CLASSES)
        # In one order, so that workers which write to a server at the same time never wait for each other in a circle.
        rows = sorted(sums.items())
        add(TrafficHour, ("endpoint_id", "hour", *columns), [(endpoint, hour, *values) for endpoint, values in rows], columns)
        day = self.at[:10] + "T00:00:00.000Z"
        add(TrafficDay, ("endpoint_id", "day", *columns), [(endpoint, day, *values) for endpoint, values in rows], columns)
        if has_step(LATENCY_BY_MINUTE):
            minute = self.at[:16] + ":00.000Z"
            add(LatencyMinute, ("endpoint_id", "minute", "bucket", "requests"),
                [(endpoint, minute, bucket, count) for (endpoint, bucket), count in sorted(latency.items())], ("requests",))
        add(LatencyHour, ("endpoint_id", "hour", "bucket", "requests"),
            [(endpoint, hour, bucket, count) for (endpoint, bucket), count in sorted(latency.items())], ("requests",))


def _classes(traffic: Traffic) -> list[int]:
    """Responses by the first digit of their status, 2 to 5."""
    found = [0, 0, 0, 0]
    for code, count in traffic.codes.items():
        if 200 <= code < 600:
            found[code // 100 - 2] += count
    return found


@dataclass(slots=True)
class RejectionBatch:
    """Rejections by route id, minute and address."""

    rejected: dict[tuple[str, str, str], int]

    def write(self) -> None:
        """Add them to the table."""
        add(RateLimitRejection, ("route_id", "minute", "address", "rejected"),
            [(*key, count) for key, count in self.rejected.items()], ("rejected",))


@dataclass(slots=True)
class RowBatch:
    """Finished rows: WebSockets that were open, and slow requests."""

    websockets: list[dict[str, Any]]
    slow: list[dict[str, Any]]

    def write(self) -> None:
        """Insert them; of slow requests the worst of each route and hour stay."""
        for model, rows in ((WebSocketConnection, self.websockets), (SlowRequest, self.slow)):
            for piece in chunked(rows, _CHUNK):
                model.insert_many(piece).execute()
        for route_id, hour in {(row["route_id"], row["at"][:13]) for row in self.slow}:
            _keep_worst(route_id, hour)


def _keep_worst(route_id: str, hour: str) -> None:
    within = (SlowRequest.route_id == route_id) & (SlowRequest.at >= hour) & (SlowRequest.at < hour + "~")
    worst = SlowRequest.select(SlowRequest.id).where(within).order_by(SlowRequest.total_ms.desc()).limit(SLOW_KEPT)
    keep = [row.id for row in worst]
    SlowRequest.delete().where(within & SlowRequest.id.not_in(keep)).execute()


def route_stats(route_ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Sums over all workers, latencies and what is open now, by route id; zeros for a route without traffic."""
    found: dict[str, dict[str, Any]] = {}
    for piece in chunked(route_ids, _READ_CHUNK):
        found.update(_stats_of(piece))
    return found


def _stats_of(ids: list[str]) -> dict[str, dict[str, Any]]:
    """A few queries for all of them: one command must not keep the database thread for as long as a thousand routes take singly."""
    sums = {row["route_id"]: row for row in dicts(RouteStats.select().where(RouteStats.route_id.in_(ids)))}
    buckets: dict[str, dict[int, int]] = defaultdict(dict)
    for route_id, bucket, count in latencies(RouteLatency.route_id.in_(ids)):
        buckets[route_id][bucket] = count
    codes: dict[str, dict[str, int]] = defaultdict(dict)
    for route_id, code, count in status_codes(RouteStatusCode.route_id.in_(ids)):
        codes[route_id][str(code)] = count
    open_now = {route_id: numbers for route_id, *numbers in open_requests(RouteInFlight.route_id.in_(ids))}
    return {route_id: _summed(route_id, sums.get(route_id, {}), buckets[route_id], codes[route_id], *open_now.get(route_id, (0, 0, 0)))
            for route_id in ids}


def _summed(route_id: str, row: dict[str, Any], buckets: dict[int, int], codes: dict[str, int], in_flight: int,
            websockets: int, queued: int) -> dict[str, Any]:
    counted = sum(buckets.values())
    average = row["latency_ms_sum"] / counted if row and counted else 0.0
    reckoned = (average, *(percentile(buckets, share) * 1000 for share in _SHARES))
    return {
        "route_id": route_id, **{name: row.get(name, 0) for name in WHOLE},
        **{name: round(value, 3) for name, value in zip(LATENCIES, reckoned, strict=True)},
        "status_codes": codes, "in_flight": in_flight, "websocket_active": websockets, "queued": queued}


def latencies(where: Expression) -> Iterable[tuple[Any, ...]]:
    """Route id, bucket and requests of the latency histograms."""
    return tuples(RouteLatency.select(RouteLatency.route_id, RouteLatency.bucket, RouteLatency.requests).where(where))


def status_codes(where: Expression) -> Iterable[tuple[Any, ...]]:
    """Route id, status code and responses, by code."""
    fields = (RouteStatusCode.route_id, RouteStatusCode.status_code, RouteStatusCode.responses)
    return tuples(RouteStatusCode.select(*fields).where(where).order_by(RouteStatusCode.status_code))


def open_requests(where: Expression | None = None) -> Iterable[tuple[Any, ...]]:
    """Route id, requests and WebSockets open now, and requests that wait, summed over the workers."""
    query = RouteInFlight.select(RouteInFlight.route_id, fn.SUM(RouteInFlight.in_flight), fn.SUM(RouteInFlight.websocket_active),
                                 fn.SUM(RouteInFlight.queued))
    if where is not None:
        query = query.where(where)
    # PostgreSQL adds whole numbers up to a Decimal, which JSON does not know.
    return [(route_id, *map(int, numbers)) for route_id, *numbers in tuples(query.group_by(RouteInFlight.route_id))]


def of_worker(model: type[Worker] | type[RouteInFlight], key: WorkerKey) -> Expression:
    """The rows of one worker."""
    host, boot, pid = key
    found: Expression = (model.host == host) & (model.boot == boot) & (model.pid == pid)
    return found


def forget_worker(key: WorkerKey) -> None:
    """Drop the row of a worker that is gone, and what it had open."""
    for model in (RouteInFlight, Worker):
        model.delete().where(of_worker(model, key)).execute()
