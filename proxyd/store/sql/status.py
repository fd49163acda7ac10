"""Live state as clients and operators are shown it: what the database and the shared memory say of a route, put together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from peewee import chunked

from proxyd.base import clock
from proxyd.base.drain import began, drain_share
from proxyd.base.text import rfc3339, route_number
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, OPEN, STATE_NAMES
from proxyd.store.sql.observed import Circuit, HealthStatus
from proxyd.store.sql.query import dicts
from proxyd.store.sql.traffic import route_stats

#: Routes that are asked for in one query.
_CHUNK = 400


def instant(seconds: float) -> str | None:
    """RFC 3339 of an instant of `base.clock` by the time of day, None where there is none."""
    return rfc3339(clock.shown(seconds)) if seconds else None


def drain_state(row: dict[str, Any], now: float) -> dict[str, Any]:
    """The drain of a route's row at `now`, an instant of `base.clock`: what share of new requests it still gets, and for how long."""
    if not row["drain_started_at"]:
        return {"active": False, "traffic_percent": 100.0, "remaining_seconds": 0}
    started, seconds = began(row["drain_started_at"], row.get("drain_clock")), row["drain_seconds"]
    elapsed = max(0.0, now - started)
    return {"active": True, "started_at": row["drain_started_at"], "duration_seconds": seconds,
            "elapsed_seconds": round(elapsed, 3), "traffic_percent": round(100.0 * drain_share(started, seconds, now), 1),
            "remaining_seconds": round(max(0.0, seconds - elapsed), 3)}


def other_circuits(host: str, route_ids: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """The circuits of routes on the hosts that are not called `host`, by route id; those that are closed and without failures are left
    out. The rows are at most a second old. Runs in the database thread."""
    found: dict[str, list[dict[str, Any]]] = {}
    fields = (Circuit.route_id, Circuit.host, Circuit.state, Circuit.failures, Circuit.opened_at, Circuit.next_attempt)
    for piece in chunked(route_ids, _CHUNK):
        query = Circuit.select(*fields).where(Circuit.route_id.in_(piece), Circuit.host != host,
                                              (Circuit.state != STATE_NAMES[CLOSED]) | (Circuit.failures > 0)).order_by(Circuit.host)
        for row in dicts(query):
            found.setdefault(row.pop("route_id"), []).append(row)
    return found


def circuit_state(row: dict[str, Any], circuits: CircuitBoard, now: float) -> dict[str, Any]:
    """The circuit of a route's row as the workers see it now."""
    number = route_number(row["route_id"])
    slot = circuits.read(row["slot"], number)
    return {
        "state": STATE_NAMES[slot.state], "failures": slot.failures, "successes": slot.successes,
        "opened_at": instant(slot.opened_at) if slot.state else None, "last_failure": instant(slot.last_failure),
        "next_attempt": instant(slot.next_attempt) if slot.state == OPEN else None,
        "healthy": not (slot.state == OPEN and slot.by_health),
        "in_maintenance": row["maintenance_since"] is not None, "draining": row["drain_started_at"] is not None}


def health_rows(route_ids: list[str]) -> dict[str, dict[str, Any]]:
    """The health of routes by id; routes without a check are missing. Runs in the database thread."""
    return {row["route_id"]: row for row in dicts(HealthStatus.select().where(HealthStatus.route_id.in_(route_ids)))}


def health_state(row: dict[str, Any] | None) -> dict[str, Any]:
    """A health row as clients are shown it."""
    if row is None:
        return {"status": "unknown", "last_check": None, "last_success": None, "last_error": None, "response_time_ms": None,
                "success_rate_percent": None, "consecutive_failures": 0}
    names = ("status", "reason", "since", "last_check", "last_success", "last_error", "response_time_ms",
             "success_rate_percent", "consecutive_failures")
    return {name: row[name] for name in names}


def route_facts(route_id: str, host: str) -> tuple[dict[str, Any] | None, dict[str, Any], list[dict[str, Any]]]:
    """Health row and statistics of a route, and its circuits on other hosts than the one called `host`. Runs in the database thread."""
    return health_rows([route_id]).get(route_id), route_stats([route_id])[route_id], other_circuits(host, [route_id]).get(route_id, [])


def route_status(row: dict[str, Any], health: dict[str, Any] | None, stats: dict[str, Any], circuits: CircuitBoard,
                 now: float) -> dict[str, Any]:
    """What ROUTE_STATUS answers."""
    options = json.loads(row["options"])
    limits = json.loads(row["rate_limits"])
    status = health["status"] if health else "unknown"
    drain = drain_state(row, now)
    drain["rejected"] = stats["drain_rejected"]
    return {
        "route_id": row["route_id"], "domains": json.loads(row["domains"]), "path": row["path"], "backend": row["backend_url"],
        "enabled": bool(row["enabled"]), "healthy": status != "down", "health": health_state(health),
        "circuit": circuit_state(row, circuits, now),
        "ratelimit": {"requests": limits[0][0] if limits else None, "window_seconds": limits[0][1] if limits else None,
                      "rejected": stats["rate_limited"]},
        "maintenance": {"active": row["maintenance_since"] is not None, "page_url": row["maintenance_page_url"] or "",
                        "entered_at": row["maintenance_since"], "until": row["maintenance_until"], "hits": stats["maintenance_hits"]},
        "hold": {"active": row["hold_until"] is not None, "until": row["hold_until"]},
        "drain": drain, "options": options, "in_flight": stats["in_flight"], "queued": stats["queued"]}
