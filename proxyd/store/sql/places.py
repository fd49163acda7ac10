"""What was at a place: a service at a domain and path, over all its instances and deploys. Runs in the database thread."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from peewee import fn

from proxyd.base.histogram import percentile
from proxyd.base.text import rfc3339
from proxyd.store.sql.models import Endpoint, Route, RouteHistory
from proxyd.store.sql.observed import CircuitTransition, HealthResult, RouteMinute, SlowRequest
from proxyd.store.sql.query import column, dicts, tuples
from proxyd.store.sql.rollups import HealthHour, HealthMinute, LatencyHour, LatencyMinute, TrafficHour
from proxyd.store.sql.schema import LATENCY_BY_MINUTE, SHARED_RESULTS, has_step

#: Service, (first) domain and path.
Place = tuple[str, str, str]
_SLOW_SHOWN = 20


def place_of(route_id: str) -> Place | None:
    """The place of a route that there is now."""
    row = Route.get_or_none(Route.route_id == route_id)
    return (row.service_name, str(json.loads(row.domains)[0]), row.path) if row is not None else None


def at_place(place: Place) -> Any:
    """The condition for endpoints at a place."""
    service, domain, path = place
    return (Endpoint.service_name == service) & (Endpoint.domain == domain) & (Endpoint.path == path)


def slow_requests(place: Place) -> list[dict[str, Any]]:
    """The last slow requests that were kept, newest first."""
    query = SlowRequest.select().where(SlowRequest.route_id.in_(_routes(place))).order_by(SlowRequest.at.desc()).limit(_SLOW_SHOWN)
    names = ("at", "route_id", "level", "method", "url", "total_ms", "queue_ms", "connect_ms", "first_byte_ms", "body_ms", "upstream",
             "request_id")
    return [{**{name: row[name] for name in names}, "status": row["status_code"]} for row in dicts(query)]


class Span(NamedTuple):
    """A span of time that is shown: seconds of a step, and how many steps."""

    step: int
    steps: int


SPANS: dict[str, Span] = {"hour": Span(60, 60), "day": Span(3600, 24), "week": Span(3600, 168)}
CLASSES = ("status_2xx", "status_3xx", "status_4xx", "status_5xx")
_SHARES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99}
_CHECKS, _TRANSITIONS, _DEPLOYS = 20, 20, 10


def history(place: Place, name: str, now: float) -> dict[str, Any]:
    """What was at a place in the last hour, by the minute, or in the last day or week, by the hour: traffic, percentiles, checks, changes
    of its circuits, and deploys. The last step is not over yet."""
    span = SPANS[name]
    last = int(now // span.step)
    labels = [rfc3339((last - back) * span.step * 1.0) for back in range(span.steps - 1, -1, -1)]
    endpoints = column(Endpoint.select(Endpoint.endpoint_id).where(at_place(place)))
    by_minute = span.step == 60
    counted = {row["at"]: row for row in (_minutes if by_minute else _hours)(endpoints, labels[0])}
    latencies = _latencies(endpoints, labels[0], by_minute)
    all_of: dict[int, int] = defaultdict(int)
    for buckets in latencies.values():
        for bucket, count in buckets.items():
            all_of[bucket] += count
    down = _down(endpoints, labels[0], by_minute)
    points = []
    for label in labels:
        row = counted.get(label, {})
        requests = int(row.get("requests") or 0)
        points.append({
            "at": label, "requests": requests, "errors": int(row.get("errors") or 0),
            **{key: int(row.get(key) or 0) for key in CLASSES},
            "avg_ms": round(row["latency_ms_sum"] / requests, 3) if requests else None,
            **_percentiles(latencies.get(label, {})),
            "down_seconds": round(down.get(label, 0.0), 1)})
    return {"span": name, "step_seconds": span.step, "from": labels[0], "points": points, **_percentiles(all_of),
            "checks": _checks(place), "transitions": _transitions(place), "deploys": _deploys(place)}


def _latencies(endpoints: list[int], since: str, by_minute: bool) -> dict[str, dict[int, int]]:
    """Requests by bucket of the histogram, by step."""
    if by_minute and not has_step(LATENCY_BY_MINUTE):
        return {}
    model = LatencyMinute if by_minute else LatencyHour
    at = LatencyMinute.minute if by_minute else LatencyHour.hour
    found: dict[str, dict[int, int]] = defaultdict(dict)
    for step, bucket, count in tuples(model.select(at, model.bucket, fn.SUM(model.requests)).where(
            model.endpoint_id.in_(endpoints), at >= since).group_by(at, model.bucket)):
        found[step][bucket] = int(count)
    return found


def _percentiles(buckets: dict[int, int]) -> dict[str, float | None]:
    return {key: round(percentile(buckets, share) * 1000, 3) if buckets else None for key, share in _SHARES.items()}


def _minutes(endpoints: list[int], since: str) -> Iterable[dict[str, Any]]:
    model = RouteMinute
    routes = RouteHistory.select(RouteHistory.route_id).where(
        RouteHistory.endpoint.in_(endpoints), RouteHistory.removed_at.is_null() | (RouteHistory.removed_at >= since))
    sums = [fn.SUM(getattr(model, key)).alias(key) for key in ("requests", "errors", "latency_ms_sum", *CLASSES)]
    return dicts(model.select(model.minute.alias("at"), *sums).where(model.route_id.in_(routes), model.minute >= since)
                 .group_by(model.minute))


def _hours(endpoints: list[int], since: str) -> Iterable[dict[str, Any]]:
    model = TrafficHour
    sums = [fn.SUM(getattr(model, key)).alias(key) for key in ("requests", "errors", "latency_ms_sum", *CLASSES)]
    return dicts(model.select(model.hour.alias("at"), *sums).where(model.endpoint_id.in_(endpoints), model.hour >= since)
                 .group_by(model.hour))


def _down(endpoints: list[int], since: str, by_minute: bool) -> dict[str, float]:
    """Seconds that the endpoints were down together, by step."""
    model = HealthMinute if by_minute else HealthHour
    at = HealthMinute.minute if by_minute else HealthHour.hour
    return {step: float(seconds or 0.0) for step, seconds in tuples(
        model.select(at, fn.SUM(model.down_seconds)).where(model.endpoint_id.in_(endpoints), at >= since).group_by(at))}


def _routes(place: Place) -> Any:
    return RouteHistory.select(RouteHistory.route_id).join(Endpoint).where(at_place(place))


def _checks(place: Place) -> list[dict[str, Any]]:
    """The last checks of the routes that there are now, newest first; those that share a row stand together."""
    model, routes = HealthResult, _routes(place).where(RouteHistory.removed_at.is_null())
    columns = [model.checked_at, model.route_id, model.ok, model.status_code, model.response_time_ms, model.error]
    if has_step(SHARED_RESULTS):
        columns += [model.checks, model.last_checked_at]
    query = model.select(*columns).where(model.route_id.in_(routes)).order_by(model.checked_at.desc()).limit(_CHECKS)
    return [{"at": row.checked_at, "last_at": row.last_checked_at or row.checked_at, "checks": row.checks or 1, "route_id": row.route_id,
             "ok": bool(row.ok), "status": row.status_code, "response_time_ms": row.response_time_ms, "error": row.error} for row in query]


def _transitions(place: Place) -> list[dict[str, Any]]:
    model = CircuitTransition
    query = model.select().where(model.route_id.in_(_routes(place))).order_by(model.at.desc()).limit(_TRANSITIONS)
    return [{"at": row.at, "route_id": row.route_id, "from": row.from_state, "to": row.to_state, "reason": row.reason} for row in query]


def _deploys(place: Place) -> list[dict[str, Any]]:
    """The last routes that were at the place, newest first."""
    query = (RouteHistory.select(RouteHistory, Endpoint.instance_name).join(Endpoint).where(at_place(place))
             .order_by(RouteHistory.added_at.desc()).limit(_DEPLOYS))
    return [{"route_id": row.route_id, "instance": row.endpoint.instance_name, "backend": row.backend_url, "added_at": row.added_at,
             "added_by": row.added_by, "removed_at": row.removed_at, "removed_why": row.removed_why} for row in query]
