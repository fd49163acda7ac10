"""How incidents, and the seconds that endpoints were up and down, are written and read. Everything here runs in the database thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peewee import fn

from proxyd.store.sql.identity import endpoints_of
from proxyd.store.sql.query import dicts
from proxyd.store.sql.rollups import HealthDay, HealthHour, HealthMinute, Incident, ServiceDay, ServiceHour
from proxyd.store.sql.upsert import add, upsert

_SUMS = ("up_seconds", "down_seconds", "maintenance_seconds", "good", "bad")
#: Each table of sums, its column, and how much of an instant's text names its span.
_SPANS: tuple[tuple[Any, str, int, str], ...] = ((HealthMinute, "minute", 16, ":00.000Z"), (HealthHour, "hour", 13, ":00:00.000Z"),
                                                 (HealthDay, "day", 10, "T00:00:00.000Z"))
_SERVICE_SUMS = ("up_seconds", "down_seconds", "maintenance_seconds")
_SERVICE_SPANS: tuple[tuple[Any, str, int, str], ...] = ((ServiceHour, *_SPANS[1][1:]), (ServiceDay, *_SPANS[2][1:]))
#: Incidents that are read back at a start.
_MOST_OPEN = 20_000


@dataclass(frozen=True, slots=True)
class Left:
    """What the last master left: the first free number, and the incidents that go on."""

    next_id: int
    rows: list[dict[str, Any]]


def left() -> Left:
    """Read the incidents that have not ended."""
    last = Incident.select(fn.MAX(Incident.incident_id)).scalar() or 0
    rows = dicts(Incident.select().where(Incident.ended_at.is_null()).limit(_MOST_OPEN))
    for row in rows:
        row.pop("endpoint_id")
    return Left(last + 1, rows)


def write(incidents: list[dict[str, Any]], sums: list[Any], at: str, services: Sequence[Any] = ()) -> None:
    """Write incidents, and add to the sums of the minute, the hour and the day of an instant (RFC 3339), those of services to the hour's
    and the day's."""
    endpoints = endpoints_of({row["route_id"] for row in incidents} | {item.route_id for item in sums})
    upsert(Incident, [{**row, "endpoint_id": endpoints.get(row["route_id"]) if row["kind"] == "endpoint" else None} for row in incidents])
    added: dict[int, list[float]] = {}
    for item in sums:
        endpoint = endpoints.get(item.route_id)
        if endpoint is not None:
            before = added.setdefault(endpoint, [0] * len(_SUMS))
            added[endpoint] = [old + getattr(item, name) for old, name in zip(before, _SUMS, strict=True)]
    for model, column, length, rest in _SPANS:
        span = at[:length] + rest
        add(model, ("endpoint_id", column, *_SUMS), [(endpoint, span, *values) for endpoint, values in added.items()], _SUMS)
    for service_model, column, length, rest in _SERVICE_SPANS:
        span = at[:length] + rest
        # The key of a service is its kind, its name, no instance, the domain and the path.
        add(service_model, ("service_name", "domain", "path", column, *_SERVICE_SUMS),
            sorted((item.key[1], item.key[3], item.key[4], span, *(getattr(item, name) for name in _SERVICE_SUMS)) for item in services),
            _SERVICE_SUMS)
