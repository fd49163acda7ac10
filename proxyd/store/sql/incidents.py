"""How incidents, and the seconds that endpoints were up and down, are written and read. Everything here runs in the database thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peewee import fn

from proxyd.store.sql import running
from proxyd.store.sql.identity import endpoints_of
from proxyd.store.sql.query import dicts
from proxyd.store.sql.rollups import HealthMinute, Incident
from proxyd.store.sql.upsert import merge, upsert

_COLUMNS, _MERGING = running.ENDPOINTS.columns, running.ENDPOINTS.merging
_SERVICE_SUMS = running.SERVICES.sums
#: How much of an instant's text names its minute, hour and day, and what follows.
_MINUTE = (16, ":00.000Z")
_SPANS = {"hour": (13, ":00:00.000Z"), "day": (10, "T00:00:00.000Z")}
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
    added: dict[int, Any] = {}
    for item in sums:
        endpoint = endpoints.get(item.route_id)
        if endpoint is not None:
            before = added.get(endpoint)
            added[endpoint] = item if before is None else before.plus(item)
    rows = [(endpoint, *[getattr(item, name) for name in _COLUMNS]) for endpoint, item in added.items()]
    merge(HealthMinute, ("endpoint_id", "minute", *_COLUMNS), [(row[0], at[:_MINUTE[0]] + _MINUTE[1], *row[1:]) for row in rows], _MERGING)
    # The key of a service is its kind, its name, no instance, the domain and the path.
    of_services = sorted((item.key[1], item.key[3], item.key[4], *(getattr(item, name) for name in _SERVICE_SUMS)) for item in services)
    for kind, found in ((running.ENDPOINTS, rows), (running.SERVICES, of_services)):
        for table, column in kind.tables:
            length, rest = _SPANS[column]
            running.add(kind, table, column, at[:length] + rest, found)
