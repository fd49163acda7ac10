"""What a worker loads: all routes, or the ones changed since the version it has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from proxyd.base.drain import began
from proxyd.base.text import parse_rfc3339
from proxyd.store.sql.models import Route, RouteRemoval, StoredCounter

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class RouteRecord:
    """One active route as the database has it. Instants are Unix seconds, 0.0 where there is none; when a drain began is one
    of `base.clock`."""

    route_id: str
    session_id: str
    service: str
    instance: str
    domains: tuple[str, ...]
    path: str
    backend_url: str
    priority: int
    enabled: bool
    slot: int
    version: int
    options: Pairs
    headers: Pairs
    rate_limits: tuple[tuple[int, float], ...]
    maintenance_since: float
    maintenance_page_url: str
    drain_started_at: float
    drain_seconds: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Routes as of `version`. `full`: these are all of them; else those changed, and the ids of those gone."""

    version: int
    full: bool
    routes: tuple[RouteRecord, ...]
    removed: tuple[str, ...]


def counter(name: str) -> int:
    """The value of a counter, 0 where it has none yet. Runs in the database thread."""
    row = StoredCounter.get_or_none(StoredCounter.name == name)
    return row.value if row else 0


def load_snapshot(since: int) -> Snapshot:
    """Routes changed after version `since` (0: all). Runs in the database thread, inside `Store.call` or `read`.

    Answers in full when the removals after `since` are no longer all known, or `since` is ahead of the database
    (a restored backup).
    """
    version = counter("config_version")
    full = since <= 0 or since > version or since < counter("removals_from")
    query = Route.select()
    if not full:
        query = query.where(Route.version > since)
    routes = tuple(_record(row) for row in cast(Iterable[tuple[Any, ...]], query.tuples()))
    removed = () if full else tuple(
        row.route_id for row in RouteRemoval.select().where(RouteRemoval.version > since))
    return Snapshot(version, full, routes, removed)


def _instant(value: str | None) -> float:
    return parse_rfc3339(value) if value else 0.0


_COLUMNS = [field.name for field in Route._meta.sorted_fields]


def _record(row: tuple[Any, ...]) -> RouteRecord:
    value = dict(zip(_COLUMNS, row, strict=True))
    return RouteRecord(
        route_id=value["route_id"], session_id=value["session"], service=value["service_name"],
        instance=value["instance_name"], domains=tuple(json.loads(value["domains"])), path=value["path"],
        backend_url=value["backend_url"], priority=value["priority"], enabled=bool(value["enabled"]), slot=value["slot"],
        version=value["version"], options=tuple(json.loads(value["options"]).items()),
        headers=tuple(json.loads(value["headers"]).items()),
        rate_limits=tuple((int(count), float(window)) for count, window in json.loads(value["rate_limits"])),
        maintenance_since=_instant(value["maintenance_since"]), maintenance_page_url=value["maintenance_page_url"] or "",
        drain_started_at=began(value["drain_started_at"], value["drain_clock"]), drain_seconds=value["drain_seconds"] or 0.0)
