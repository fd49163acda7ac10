"""How long rows are kept: each table that is pruned, with the setting that says how old its rows may get.

The pruning (`proxyd/chores/retention.py`) and docs/database.md follow from this table; the settings themselves are declared in
`DatabaseSettings`, under the names that stand here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from proxyd.store.sql.certhistory import CertificateHistory
from proxyd.store.sql.deploys import Deploy
from proxyd.store.sql.errors import ErrorHour, UnknownHost
from proxyd.store.sql.maintenance import MaintenanceWindow
from proxyd.store.sql.models import Endpoint, Host, Route, RouteHistory, Service, Session, StoredTable
from proxyd.store.sql.observed import (
    CircuitTransition,
    EventRow,
    HealthResult,
    RateLimitRejection,
    RouteLatency,
    RouteMinute,
    RouteStats,
    RouteStatusCode,
    SlowRequest,
    WebSocketConnection,
)
from proxyd.store.sql.rollouts import Rollout
from proxyd.store.sql.rollups import (
    HealthDay,
    HealthHour,
    HealthMinute,
    Incident,
    LatencyHour,
    LatencyMinute,
    ServiceDay,
    ServiceHour,
    TrafficDay,
    TrafficHour,
)
from proxyd.store.sql.servicesums import ServiceLatency, ServiceStats, ServiceStatusCode, gone_services, of_gone_services

#: The route id of requests that matched no route (see proxyd.admin.metrics); it is never a route, and stays.
_NO_ROUTE = "-"
#: What has a route's id, but the names of the endpoint, too.
_OUTLIVES = (Incident, MaintenanceWindow)
_KEPT = "Kept for {}."
_SERVICE_GONE = "The rows of a service without routes are kept for {}."
_ROUTE_GONE = "The rows of a route that is gone are kept for {}."


class Early(NamedTuple):
    """Rows that go before their time where the history costs more than `[database] max_size`: those of a lower `tier` first, by the instant
    in `column`. Those of the last `least` seconds stay."""

    tier: int
    column: Any
    least: float


def _raw(column: Any) -> Early:
    """What was observed, and what is summed up by the minute: the hours have it, too. `v_slo` reads the last hour."""
    return Early(1, column, 3600.0)


def _sums(column: Any) -> Early:
    """What is summed up by the hour: the days have it, too. `v_uptime` reads the last week."""
    return Early(2, column, 8 * 86400.0)


@dataclass(frozen=True, slots=True)
class Retained:
    """Rows of `model` may go when `old`, a peewee expression for an instant (RFC 3339), is true of an instant that lies the
    `[database]` setting behind now. `batch` of them go in one transaction; `said` tells it in docs/database.md. `last`: they stay at
    least as long as what is kept by route, which refers to them. `early`: whether they may go before their time."""

    model: type[StoredTable]
    setting: str
    old: Callable[[str], Any]
    said: str = _KEPT
    batch: int = 500
    last: bool = False
    early: Early | None = None

    def age(self, settings: object) -> float:
        """The age in seconds at which rows go, by the `[database]` settings."""
        by_route = {kept.setting for kept in RETAINED if "route_id" in kept.model._meta.fields and kept.model not in _OUTLIVES}
        names = {self.setting} | (by_route if self.last else set())
        return float(max(getattr(settings, name) for name in names))

    def sentence(self) -> str:
        """What docs/database.md says, with the setting's name."""
        return self.said.format(f"`[database] {self.setting}`")


def _of_no_route(before: str) -> Any:
    """Sums of routes that are gone, and counted nothing since."""
    unused = RouteStats.route_id.not_in(Route.select(Route.route_id)) & (RouteStats.route_id != _NO_ROUTE)
    return unused & (RouteStats.updated_at < before)


def _like_sums(model: type[StoredTable]) -> Callable[[str], Any]:
    """What belongs to such sums, and has no age of its own."""
    return lambda before: model.route_id.in_(RouteStats.select(RouteStats.route_id).where(_of_no_route(before)))  # type: ignore[attr-defined]


def _without_history(before: str) -> Any:
    """Endpoints whose routes are all gone and forgotten, and which no sum refers to."""
    forgotten = Endpoint.first_seen < before
    for column in (RouteHistory.endpoint, HealthDay.endpoint_id, TrafficDay.endpoint_id):
        forgotten = forgotten & Endpoint.endpoint_id.not_in(column.model.select(column))
    return forgotten


RETAINED: tuple[Retained, ...] = (
    Retained(HealthResult, "retain_health", lambda before: HealthResult.checked_at < before, early=_raw(HealthResult.checked_at)),
    Retained(HealthMinute, "retain_minutes", lambda before: HealthMinute.minute < before, early=_raw(HealthMinute.minute)),
    Retained(HealthHour, "retain_hours", lambda before: HealthHour.hour < before, early=_sums(HealthHour.hour)),
    Retained(HealthDay, "retain_days", lambda before: HealthDay.day < before),
    Retained(ServiceHour, "retain_hours", lambda before: ServiceHour.hour < before, early=_sums(ServiceHour.hour)),
    Retained(ServiceDay, "retain_days", lambda before: ServiceDay.day < before),
    Retained(TrafficHour, "retain_hours", lambda before: TrafficHour.hour < before, early=_sums(TrafficHour.hour)),
    Retained(LatencyMinute, "retain_latency", lambda before: LatencyMinute.minute < before, early=_raw(LatencyMinute.minute)),
    Retained(LatencyHour, "retain_hours", lambda before: LatencyHour.hour < before, early=_sums(LatencyHour.hour)),
    Retained(TrafficDay, "retain_days", lambda before: TrafficDay.day < before),
    # An incident that goes on has no age yet.
    Retained(Rollout, "retain_days", lambda before: Rollout.ended_at < before, "It is kept for {} after its end."),
    Retained(MaintenanceWindow, "retain_days", lambda before: MaintenanceWindow.ended_at < before, "It is kept for {} after its end."),
    # Orders that fail in other words each time, and a service that applies without end, must not fill the disk.
    Retained(CertificateHistory, "retain_days", lambda before: CertificateHistory.at < before, early=_sums(CertificateHistory.at)),
    Retained(Deploy, "retain_days", lambda before: Deploy.at < before, early=_sums(Deploy.at)),
    Retained(Incident, "retain_days", lambda before: Incident.ended_at < before, "It is kept for {} after its end."),
    Retained(RouteMinute, "retain_stats", lambda before: RouteMinute.minute < before, early=_raw(RouteMinute.minute)),
    Retained(RateLimitRejection, "retain_stats", lambda before: RateLimitRejection.minute < before, early=_raw(RateLimitRejection.minute)),
    Retained(EventRow, "retain_events", lambda before: EventRow.at < before),
    Retained(CircuitTransition, "retain_events", lambda before: CircuitTransition.at < before, early=_raw(CircuitTransition.at)),
    Retained(ErrorHour, "retain_stats", lambda before: ErrorHour.hour < before, early=_sums(ErrorHour.hour)),
    Retained(UnknownHost, "retain_stats", lambda before: UnknownHost.last_at < before,
             "One that nobody asked for is kept for {}; of all, the thousand that are asked for most."),
    Retained(SlowRequest, "retain_slow", lambda before: SlowRequest.at < before, early=_raw(SlowRequest.at)),
    # A WebSocket may have been open for weeks: its age counts from its end.
    Retained(WebSocketConnection, "retain_slow",
             lambda before: (WebSocketConnection.opened_at < before) & (WebSocketConnection.closed_at < before),
             "A row is written when the connection ends, and kept for {}.", early=_raw(WebSocketConnection.opened_at)),
    # An ended session takes what it declared along (ON DELETE CASCADE), so fewer go at once.
    Retained(Session, "retain_sessions", lambda before: (Session.state == "ended") & (Session.ended_at < before),
             "Ended ones are kept for {}.", batch=50),
    Retained(Host, "retain_sessions", lambda before: Host.heartbeat_at < before, "One that is gone is kept for {}."),
    # The sums are last, because by them the other two know how old they are.
    Retained(RouteStatusCode, "retain_stats", _like_sums(RouteStatusCode), _ROUTE_GONE),
    Retained(RouteLatency, "retain_stats", _like_sums(RouteLatency), _ROUTE_GONE),
    Retained(RouteStats, "retain_stats", _of_no_route, _ROUTE_GONE),
    Retained(ServiceStatusCode, "retain_stats", lambda before: of_gone_services(ServiceStatusCode, before), _SERVICE_GONE),
    Retained(ServiceLatency, "retain_stats", lambda before: of_gone_services(ServiceLatency, before), _SERVICE_GONE),
    Retained(ServiceStats, "retain_stats", gone_services, _SERVICE_GONE),
    Retained(RouteHistory, "retain_routes", lambda before: RouteHistory.removed_at < before,
             "A route that is gone is kept for {}, and at least as long as any other history.", last=True),
    Retained(Endpoint, "retain_routes", _without_history, "It is kept as long as its history.", last=True),
    Retained(Service, "retain_routes", lambda before: (Service.first_seen < before) & Service.service_id.not_in(
        Endpoint.select(Endpoint.service)), "It is kept as long as its endpoints.", last=True),
)
