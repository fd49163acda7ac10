"""The one definition of unwell for routes: what the rows and the circuits say, put together.

A place is what clients ask for: a domain, a path, and the members that serve it. It is out of service when none of them takes requests,
although somebody means it to. Maintenance, holds and drains are meant, and no fault.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxyd.base import clock
from proxyd.base.conditions import conditions_of_row, with_conditions
from proxyd.base.findings import Finding
from proxyd.base.text import names_of_row, rfc3339, route_number
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, OPEN
from proxyd.store.sql.models import Route, Session
from proxyd.store.sql.observed import Circuit, HealthStatus, RouteMinute
from proxyd.store.sql.query import among, column, plain, tuples

#: A route fails when all of its requests of the last minutes did, and there were so many.
FAILING_MINUTES, FAILING_REQUESTS = 3, 5


#: Domain, path, priority, and the conditions in words.
_Place = tuple[str, str, int, str]


@dataclass(slots=True)
class _Member:
    """A route. `changed`: when it was last, empty where it never was. `asked`: its conditions in words. `fault`: why it takes no requests,
    or fails all of them, empty where it does neither; `lost`: its session is."""

    route_id: str
    service: str
    instance: str
    domains: list[str]
    path: str
    priority: int
    enabled: bool
    session: str
    slot: int
    changed: str
    planned: bool
    asked: str
    fault: str = ""
    since: str | None = None
    lost: bool = False
    failing: bool = False

    @property
    def name(self) -> str:
        return f"{self.service}/{self.instance} ({self.route_id})"


def route_findings(circuits: CircuitBoard) -> list[Finding]:
    """What is unwell about routes. Runs in the database thread. Reads the routes that something is said of, and those that serve the same
    names as one that is at fault: of very many routes, that is mostly none."""
    health = {row[0]: row[1:] for row in tuples(HealthStatus.select(
        HealthStatus.route_id, HealthStatus.status, HealthStatus.reason, HealthStatus.since).where(HealthStatus.status != "healthy"))}
    reasons: dict[str, str] = {}
    elsewhere: dict[str, list[str]] = {}
    for host, route_id, state, reason in tuples(Circuit.select(Circuit.host, Circuit.route_id, Circuit.state, Circuit.reason).where(
            Circuit.state != "closed").order_by(Circuit.host)):
        if host == circuits.host:
            reasons[route_id] = reason
        elif state == "open":
            elsewhere.setdefault(route_id, []).append(f"{host} ({reason})")
    lost = dict(tuples(Session.select(Session.session_id, Session.disconnected_at).where(Session.state == "disconnected")))
    failing = _failing()
    disabled = column(Route.select(Route.route_id).where(Route.enabled == False))  # noqa: E712
    found: list[Finding] = []
    members: list[_Member] = []
    said_of = {*health, *elsewhere, *failing, *disabled, *(f"r{number}" for number in circuits.not_closed())}
    # In order, rows that lie together are read one after the other.
    for member in _members(sorted(said_of)):
        members.append(member)
        route_id, service = member.route_id, member.service
        status, reason, since = health.get(route_id, ("", "", None))
        if not member.enabled:
            member.fault, member.since, member.lost = "its service has lost its connection to the registry", lost.get(member.session), True
        elif status == "down":
            member.fault, member.since = f"its health check fails ({reason})", since
        elif (circuit := circuits.read(member.slot, route_number(route_id))).state == OPEN:
            said = reasons.get(route_id, "")
            member.fault, member.since = f"its circuit is open{said and f' ({said})'}", _shown(circuit.opened_at)
        elif not member.planned:
            changed = circuit.state == CLOSED and _shown(circuit.changed_at) or ""
            first, count = _failed(failing.get(route_id, []), max(member.changed, changed))
            if count >= FAILING_REQUESTS:
                member.fault, member.since, member.failing = f"all of its last {count} requests failed", first, True
            elif circuit.state != CLOSED:
                found.append(Finding("circuit_half_open", route_id, f"the circuit of {member.name} is half-open", reasons.get(route_id, ""),
                                     _shown(circuit.changed_at), service, (route_id,)))
            elif status == "degraded":
                found.append(Finding("degraded", route_id, f"{member.name} is degraded", reason, since, service, (route_id,)))
            elif status == "unknown":
                found.append(Finding("starting", route_id, f"{member.name} is starting", "its health check has no result yet", since,
                                     service, (route_id,)))
        if route_id in elsewhere and not member.fault:
            found.append(Finding("circuit_elsewhere", route_id, f"{member.name} takes no requests from another host",
                                 f"its circuit is open on {', '.join(elsewhere[route_id][:5])}", None, service, (route_id,)))
    return found + _of_places(_places(members))


def _members(route_ids: Iterable[str]) -> Iterator[_Member]:
    """These routes, those that there are, without a fault so far."""
    columns = ("route_id, service_name, instance_name, domains, path, priority, enabled, session_id, slot, created_at, updated_at, "
               "maintenance_since, hold_until, drain_started_at, options")
    for (route_id, service, instance, domains, path, priority, enabled, session, slot, created, updated, maintenance, hold, drain,
         options) in among(f"SELECT {columns} FROM routes WHERE route_id IN", route_ids):
        yield _Member(route_id, service, instance, names_of_row(domains), path, priority, bool(enabled), session, slot,
                      updated if updated != created else "", bool(maintenance or hold or drain), conditions_of_row(options))


def _places(members: list[_Member]) -> dict[_Place, list[_Member]]:
    """The places of the members that are at fault, and all others with a name of theirs, with everybody who serves there, the oldest
    first."""
    names = {domain for member in members if member.fault and not member.planned for domain in member.domains}
    if not names:
        return {}
    known = {member.route_id for member in members}
    beside = [route_id for route_id, domains in plain(Route.select(Route.route_id, Route.domains))
              if route_id not in known and not names.isdisjoint(names_of_row(domains))]
    places: dict[_Place, list[_Member]] = {}
    for member in sorted([*members, *_members(beside)], key=lambda member: route_number(member.route_id)):
        for domain in member.domains:
            if domain in names:
                places.setdefault((domain, member.path, member.priority, member.asked), []).append(member)
    return places


def _of_places(places: dict[_Place, list[_Member]]) -> list[Finding]:
    out: dict[tuple[str, ...], tuple[list[_Member], list[str]]] = {}
    others: dict[str, _Member] = {}
    highest: dict[tuple[str, str], int] = {}
    for domain, path, priority, asked in places:
        if not asked:
            highest[domain, path] = max(priority, highest.get((domain, path), priority))
    for (domain, path, priority, asked), members in places.items():
        wrong = [member for member in members if member.fault and not member.planned]
        if not wrong:
            continue
        serving = [member for member in members if not member.fault or (member.planned and not member.lost)]
        # Where the others are in maintenance, one that is merely away leaves their page to be seen.
        nobody = not serving or (all(member.planned for member in serving) and not all(member.lost for member in wrong))
        # Clients are sent to the highest priority alone, and to what has conditions at no lower one.
        if nobody and priority >= highest.get((domain, path), priority):
            _, served = out.setdefault(tuple(sorted(member.route_id for member in members)), (wrong, []))
            served.append(with_conditions(domain + path, asked))
        else:
            others.update((member.route_id, member) for member in wrong)
    found = []
    told: set[str] = set()
    for wrong, named in out.values():
        ids = tuple(member.route_id for member in wrong)
        told.update(ids)
        service = wrong[0].service
        where = f"{service} ({', '.join(named[:3])}{f' and {len(named) - 3} more' if len(named) > 3 else ''})"
        why = "; ".join(f"{member.instance} ({member.route_id}): {member.fault}" for member in wrong[:5])
        why += f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        since = max((member.since or "" for member in wrong), default="") or None
        failing = all(member.failing for member in wrong)
        found.append(Finding("failing" if failing else "out_of_service", " ".join(ids),
                             f"{where} {'fails every request' if failing else 'is out of service'}", why, since, service, ids))
    return found + [_of_one(member) for member in others.values() if member.route_id not in told]


def _of_one(member: _Member) -> Finding:
    if member.failing:
        return Finding("failing", member.route_id, f"{member.name} fails every request", member.fault, member.since, member.service,
                       (member.route_id,))
    return Finding("member_down", member.route_id, f"{member.name} takes no requests", member.fault, member.since, member.service,
                   (member.route_id,))


def _failing() -> dict[str, list[tuple[str, int, int]]]:
    """The last minutes, newest first, of the routes that had one in which all requests failed: minute, requests, errors."""
    oldest = rfc3339((int(time.time() // 60) - FAILING_MINUTES + 1) * 60.0)
    bad = RouteMinute.select(RouteMinute.route_id).where(
        RouteMinute.minute >= oldest, RouteMinute.requests > 0, RouteMinute.errors >= RouteMinute.requests)
    found: dict[str, list[tuple[str, int, int]]] = {}
    query = RouteMinute.select(RouteMinute.route_id, RouteMinute.minute, RouteMinute.requests, RouteMinute.errors).where(
        RouteMinute.minute >= oldest, RouteMinute.requests > 0, RouteMinute.route_id.in_(bad)).order_by(RouteMinute.minute.desc())
    for route_id, *minute in tuples(query):
        found.setdefault(route_id, []).append((minute[0], minute[1], minute[2]))
    return found


def _failed(minutes: list[tuple[str, int, int]], begun: str) -> tuple[str, int]:
    """How many requests failed in a row, as far as minutes tell, and since which one. What was before `begun` says nothing: the route
    was another one then, or its circuit was open."""
    since, count = "", 0
    for minute, requests, errors in minutes:
        if errors < requests or minute < begun:
            break
        since, count = minute, count + requests
    return since, count


def _shown(instant: float) -> str | None:
    return rfc3339(clock.shown(instant)) if instant else None
