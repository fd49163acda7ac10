"""What a worker loads: all routes, the ones changed since the version it has, or those that differ from the ones it has."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_
from typing import Any

from proxyd.base import clock
from proxyd.base.drain import began
from proxyd.base.text import parse_rfc3339
from proxyd.store.sql import hostclocks
from proxyd.store.sql.database import database
from proxyd.store.sql.models import Route, RouteRemoval
from proxyd.store.sql.query import dicts, rows_among, rows_of

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
    #: The text in `updated_at`. With `version` it tells this state of the route from any other, those in other databases too.
    updated: str = ""
    #: Until when the route's requests wait, an instant of `base.clock`.
    held_until: float = 0.0
    request_headers: Pairs = ()
    #: What a rollout leaves to the route: 1.0 for its usual share, 0.0 for none while others serve, between them that share of clients.
    rollout: float = 1.0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Routes as of `version`. `full`: these are all of them; else those changed, and the ids of those gone."""

    version: int
    full: bool
    routes: tuple[RouteRecord, ...]
    removed: tuple[str, ...]


def counter(name: str) -> int:
    """The value of a counter, 0 where it has none yet. Runs in the database thread."""
    row = database.execute_sql(f"SELECT value FROM counters WHERE name = {database.obj.param}", (name,)).fetchone()
    return int(row[0]) if row else 0


def load_snapshot(since: int) -> Snapshot:
    """Routes changed after version `since` (0: all). Runs in the database thread, inside `Store.call` or `read`.

    Answers in full when the removals after `since` are no longer all known, or `since` is ahead of the database
    (a restored backup).
    """
    version = counter("config_version")
    full = since <= 0 or since > version or since < counter("removals_from")
    if full:
        return Snapshot(version, True, tuple(_records(rows_of(Route))), ())
    routes = tuple(_records(rows_of(Route, "version > ?", (since,))))
    return Snapshot(version, False, routes, tuple(row["route_id"] for row in rows_of(RouteRemoval, "version > ?", (since,))))


#: A state of a route: its version, and when it changed last.
Stamp = tuple[int, str]


def load_difference(known: Mapping[str, Stamp], version: int) -> Snapshot:
    """What a table of `version`, whose routes have these stamps, lacks. It need not have been made from this database. Runs in the
    database thread, inside `Store.call` or `read`."""
    current = counter("config_version")
    stamps = {route_id: (changed, at) for route_id, changed, at in
              database.execute_sql(f"SELECT route_id, version, updated_at FROM {Route._meta.table_name}")}
    different = [route_id for route_id, stamp in stamps.items() if known.get(route_id) != stamp]
    if version > current or len(different) > len(stamps) // 2:
        return load_snapshot(0)
    routes = tuple(_records(list(rows_among(Route, "route_id", different))))
    return Snapshot(current, False, routes, tuple(route_id for route_id in known if route_id not in stamps))


def load_hosts(domains: Sequence[str]) -> tuple[RouteRecord, ...]:
    """The routes that name one of these domains. Runs in the database thread."""
    named = Route.select().where(reduce(or_, (Route.domains.contains(json.dumps(domain)) for domain in domains)))
    return tuple(record for record in _records(dicts(named))
                 if not set(record.domains).isdisjoint(domains))


def _instant(value: str | None) -> float:
    return parse_rfc3339(value) if value else 0.0


def _records(rows: Sequence[dict[str, Any]]) -> Iterator[RouteRecord]:
    if any(hostclocks.is_foreign(row["drain_clock"]) or hostclocks.is_foreign(row["hold_clock"]) for row in rows):
        hostclocks.learn()
    return map(record_of, rows)


@lru_cache(maxsize=4096)
def _pairs(text: str) -> Pairs:
    """A JSON object of texts. Most routes have the same few, and their records share what was read."""
    return tuple(json.loads(text).items())


@lru_cache(maxsize=1024)
def _limits(text: str) -> tuple[tuple[int, float], ...]:
    return tuple((int(count), float(window)) for count, window in json.loads(text))


def record_of(value: Mapping[str, Any]) -> RouteRecord:
    """The record of a row, given by the names of its fields."""
    return RouteRecord(
        route_id=value["route_id"], session_id=value["session"], service=value["service_name"],
        instance=value["instance_name"], domains=tuple(json.loads(value["domains"])), path=value["path"],
        backend_url=value["backend_url"], priority=value["priority"], enabled=bool(value["enabled"]), slot=value["slot"],
        version=value["version"], options=_pairs(value["options"]), headers=_pairs(value["headers"]),
        rate_limits=_limits(value["rate_limits"]),
        maintenance_since=_instant(value["maintenance_since"]), maintenance_page_url=value["maintenance_page_url"] or "",
        drain_started_at=began(value["drain_started_at"], value["drain_clock"]), drain_seconds=value["drain_seconds"] or 0.0,
        updated=value["updated_at"],
        held_until=clock.remembered(value["hold_clock"], parse_rfc3339(value["hold_until"]), True) if value["hold_until"] else 0.0,
        request_headers=_pairs(value["request_headers"]),
        rollout=1.0 if value["rollout_share"] is None else value["rollout_share"] / 100.0)
