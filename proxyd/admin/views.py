"""What the API answers about routes, sessions, health, circuits, events and traffic, read from the database.

Everything here runs in the database thread; a list of routes costs a handful of queries however long it is. Sums and
percentiles are those of STATS_GET.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peewee import Expression, chunked, fn

from proxyd.base.counters import LATENCIES, SHOWN
from proxyd.base.drain import began, drain_share
from proxyd.base.text import hash_of, rfc3339, route_number
from proxyd.registry.byhand import written_limits
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import STATE_NAMES
from proxyd.store.sql.maintenance import going_on
from proxyd.store.sql.models import CLIENTLESS, Route, Session
from proxyd.store.sql.observed import Circuit, EventRow, HealthStatus, RouteMinute
from proxyd.store.sql.query import dicts, plain, tuples
from proxyd.store.sql.status import instant, other_circuits
from proxyd.store.sql.traffic import route_stats

_CHUNK = 500
_ROUTE_STATS = (*SHOWN, *LATENCIES, "in_flight", "websocket_active", "queued")


#: States that routes can be listed by, beside being unwell.
STATES: dict[str, Expression] = {
    "maintenance": Route.maintenance_since.is_null(False), "draining": Route.drain_started_at.is_null(False),
    "held": Route.hold_until.is_null(False), "lost": Route.enabled == False}  # noqa: E712


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which routes: those whose id, service, domains or path hold `text`, or the one `route_id`, or with `unwell` only those that
    are unwell; `limit` from `offset`. `worst`: ids of unwell routes, which come first in this order, or are all there are. `state`: one of
    STATES."""

    text: str = ""
    route_id: str = ""
    unwell: bool = False
    worst: tuple[str, ...] = ()
    state: str = ""
    limit: int = 1000
    offset: int = 0


def find_routes(wanted: Wanted) -> tuple[list[Route], int]:
    """The routes, by service, instance and id, and how many there are without limit."""
    query = Route.select()
    if wanted.route_id:
        query = query.where(Route.route_id == wanted.route_id)
    if wanted.text:
        text = wanted.text
        query = query.where(Route.route_id.contains(text) | Route.service_name.contains(text) | Route.domains.contains(text)
                            | Route.path.contains(text) | Route.backend_url.contains(text))
    order = (Route.service_name, Route.instance_name, fn.LENGTH(Route.route_id), Route.route_id)
    if wanted.state:
        query = query.where(STATES[wanted.state])
    if not (wanted.unwell or wanted.worst):
        return list(query.order_by(*order).limit(wanted.limit).offset(wanted.offset)), query.count()
    # Of more ids than one query takes, those that fit are found among all.
    fitting = query.where(Route.route_id.in_(wanted.worst)) if len(wanted.worst) <= _CHUNK else query
    found = {route_id for route_id, in plain(fitting.select(Route.route_id))}
    first = [route_id for route_id in wanted.worst if route_id in found]
    chosen = first[wanted.offset:wanted.offset + wanted.limit]
    if not wanted.unwell and len(chosen) < wanted.limit:
        skipped, more = max(0, wanted.offset - len(first)), wanted.limit - len(chosen)
        others, told = plain(query.select(Route.route_id).order_by(*order).limit(len(first) + skipped + more)), set(first)
        chosen += [route_id for route_id, in others if route_id not in told][skipped:skipped + more]
    rows = {row.route_id: row for piece in chunked(chosen, _CHUNK) for row in Route.select().where(Route.route_id.in_(piece))}
    return [rows[route_id] for route_id in chosen], len(first) if wanted.unwell else query.count()


def routes(circuits: CircuitBoard, wanted: Wanted, now: float) -> tuple[list[dict[str, Any]], int]:
    """Routes with health, circuit, maintenance, drain and traffic."""
    found, total = find_routes(wanted)
    ids = [row.route_id for row in found]
    health_of = {row["route_id"]: row for row in health(ids)}
    stats_of, elsewhere = route_stats(ids), other_circuits(circuits.host, ids)
    why_of = going_on([row.route_id for row in found if row.maintenance_since])
    return [_route(row, {**_live_circuit(circuits, row), "hosts": elsewhere.get(row.route_id, [])}, health_of.get(row.route_id),
                   stats_of[row.route_id], why_of.get(row.route_id, ("", "")), now) for row in found], total


def _route(row: Route, circuit: dict[str, Any], state: dict[str, Any] | None, sums: dict[str, Any], why: tuple[str, str],
           now: float) -> dict[str, Any]:
    if state is not None:
        state = {name: value for name, value in state.items() if name not in ("route_id", "url", "since")}
    return {
        "route_id": row.route_id, "session_id": row.__data__["session"], "source": _source(row.__data__["session"]),
        "service": row.service_name, "instance": row.instance_name,
        "domains": json.loads(row.domains), "path": row.path, "backend": row.backend_url, "priority": row.priority,
        "enabled": bool(row.enabled), "options": json.loads(row.options), "headers": json.loads(row.headers),
        "request_headers": json.loads(row.request_headers), "rate_limit": written_limits(row.rate_limits), "health": state,
        "circuit": circuit,
        "maintenance": {"active": row.maintenance_since is not None, "page_url": row.maintenance_page_url or "",
                        "entered_at": row.maintenance_since, "until": row.maintenance_until, "reason": why[0], "entered_by": why[1],
                        "hits": sums["maintenance_hits"],
                        "planned": {"reason": "", **json.loads(row.maintenance_plan)} if row.maintenance_plan else None},
        "hold": {"active": row.hold_until is not None, "until": row.hold_until},
        "rollout_share": row.rollout_share, "drain": drain(row, now), "stats": {name: sums[name] for name in _ROUTE_STATS},
    }


def _source(session_id: str) -> str:
    """Where the routes of a session come from."""
    return session_id.partition(":")[0] if session_id.startswith(CLIENTLESS) else "registry"


def drain(row: Route, now: float) -> dict[str, Any]:
    """How far the drain of a route is at `now`, an instant of `base.clock`: the share falls from 100 % to 0 in a straight line."""
    if row.drain_started_at is None:
        return {"active": False, "started_at": None, "duration_seconds": None, "traffic_percent": 100.0, "remaining_seconds": 0.0}
    started, seconds = began(row.drain_started_at, row.drain_clock), row.drain_seconds or 0.0
    share, remaining = drain_share(started, seconds, now), max(0.0, started + seconds - now)
    return {"active": True, "started_at": row.drain_started_at, "duration_seconds": row.drain_seconds,
            "traffic_percent": round(share * 100, 1), "remaining_seconds": round(remaining, 1)}


def _live_circuit(circuits: CircuitBoard, row: Route) -> dict[str, Any]:
    slot = circuits.read(row.slot, route_number(row.route_id))
    return {"state": STATE_NAMES[slot.state], "failures": slot.failures, "opened_at": instant(slot.opened_at),
            "next_attempt": instant(slot.next_attempt)}


def circuit_list(circuits: CircuitBoard, wanted: Wanted) -> tuple[list[dict[str, Any]], int]:
    """The circuits of the routes as the workers have them now; the reason is that of the last change."""
    found, total = find_routes(wanted)
    reasons = dict(tuples(Circuit.select(Circuit.route_id, Circuit.reason).where(Circuit.host == circuits.host)))
    elsewhere = other_circuits(circuits.host, [row.route_id for row in found])
    items = []
    for row in found:
        slot = circuits.read(row.slot, route_number(row.route_id))
        items.append({
            "route_id": row.route_id, "state": STATE_NAMES[slot.state], "reason": reasons.get(row.route_id, ""),
            "failures": slot.failures, "successes": slot.successes, "opened_at": instant(slot.opened_at),
            "last_failure": instant(slot.last_failure), "next_attempt": instant(slot.next_attempt), "host": circuits.host,
            "hosts": elsewhere.get(row.route_id, [])})
    return items, total


def health(route_ids: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The health of the routes that are checked."""
    fields = [getattr(HealthStatus, name) for name in (
        "route_id", "url", "status", "reason", "since", "last_check", "success_rate_percent", "response_time_ms",
        "consecutive_failures")]
    if route_ids is None:
        # Only of routes there are: rows of those gone wait for the janitor.
        query = HealthStatus.select(*fields).join(Route, on=Route.route_id == HealthStatus.route_id)
        return dicts(query.order_by(fn.LENGTH(HealthStatus.route_id), HealthStatus.route_id))
    found: list[dict[str, Any]] = []
    for piece in chunked(route_ids, _CHUNK):
        found += dicts(HealthStatus.select(*fields).where(HealthStatus.route_id.in_(piece)))
    return found


def sessions(state: str, limit: int, offset: int, service: str = "") -> tuple[list[dict[str, Any]], int]:
    """The sessions in a state, or (empty) those that are not ended, newest first. `service`: only of this one."""
    query = Session.select().where(Session.state == state if state else Session.state != "ended")
    if service:
        query = query.where(Session.service_name == service)
    found = query.order_by(Session.connected_at.desc(), Session.session_id).limit(limit).offset(offset)
    count = Route.select(Route.session, fn.COUNT(Route.route_id)).group_by(Route.session)
    active = dict(tuples(count))
    draining = {row[0] for row in tuples(Route.select(Route.session).where(Route.drain_started_at.is_null(False)).distinct())}
    items = [{"session_id": row.session_id, "service_name": row.service_name, "instance_name": row.instance_name,
              "state": row.state, "address": row.address, "connected_at": row.connected_at,
              "routes_active": active.get(row.session_id, 0), "draining": row.session_id in draining,
              "last_activity": row.last_activity} for row in found]
    return items, query.count()


def session_counts() -> dict[str, int]:
    """Sessions by state, those that are ended left out."""
    query = Session.select(Session.state, fn.COUNT(Session.session_id)).where(Session.state != "ended").group_by(Session.state)
    return {"connected": 0, "disconnected": 0, **dict(tuples(query))}


def find_session(text: str) -> str | None:
    """The public number of the session that `text` names: that number, or the secret id that its client has."""
    found = Session.get_or_none((Session.session_id == text) | (Session.secret_hash == hash_of(text)))
    return found.session_id if found is not None else None


def events(limit: int, type_: str) -> list[dict[str, Any]]:
    """The last events, newest first."""
    query = EventRow.select()
    if type_:
        query = query.where(EventRow.type == type_)
    return [{"id": row.id, "type": row.type, "at": row.at, "route_id": row.route_id, "session_id": row.session_id,
             "actor": row.actor, "data": json.loads(row.detail)} for row in query.order_by(EventRow.id.desc()).limit(limit)]


def traffic(route_ids: Sequence[str] | None, minutes: int, now: float) -> dict[str, Any]:
    """Requests and errors of each of the last minutes, oldest first, by route id; the last minute is not over yet."""
    last = int(now // 60)
    labels = [rfc3339((last - back) * 60.0) for back in range(minutes - 1, -1, -1)]
    place = {label: index for index, label in enumerate(labels)}
    found: dict[str, dict[str, list[int]]] = {}
    fields = (RouteMinute.route_id, RouteMinute.minute, RouteMinute.requests, RouteMinute.errors)
    pieces = [None] if route_ids is None else list(chunked(route_ids, _CHUNK))
    for piece in pieces:
        query = RouteMinute.select(*fields).where(RouteMinute.minute >= labels[0])
        if piece is not None:
            query = query.where(RouteMinute.route_id.in_(piece))
        for route_id, minute, requests, errors in tuples(query):
            index = place.get(minute)
            if index is not None:
                series = found.setdefault(route_id, {"requests": [0] * minutes, "errors": [0] * minutes})
                series["requests"][index] = requests
                series["errors"][index] = errors
    return {"from": labels[0], "step_seconds": 60, "minutes": minutes, "routes": found}
