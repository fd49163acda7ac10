"""The endpoints that read: state of the master, routes, sessions, health, circuits, events, traffic, metrics."""

from __future__ import annotations

import time
from itertools import islice
from typing import Any

import gevent
from gevent.lock import BoundedSemaphore

from proxyd import __version__
from proxyd.admin import metrics, readings, views
from proxyd.admin.context import Context
from proxyd.admin.http import Request, RequestRefused, Response, as_json
from proxyd.base import clock
from proxyd.base.findings import STARTING, state_of
from proxyd.base.text import rfc3339
from proxyd.events.types import ALL
from proxyd.store.sql import certificates as certs
from proxyd.store.sql import errors as grouped
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.hostlist import host_rows
from proxyd.store.sql.models import Route
from proxyd.store.sql.refusals import refusal_counts
from proxyd.store.sql.snapshot import counter
from proxyd.store.sql.tablesizes import HistoryNumbers
from proxyd.store.sql.traffic import route_stats

MAX_LIMIT, MAX_OFFSET = 10_000, 10_000_000
#: Findings that an answer lists; the worst come first.
MAX_FINDINGS = 200
#: Hosts that the status names among those that are asked for and that no route names.
_MOST_ASKED = 10
#: Hours of errors that are asked for, where nobody says.
DEFAULT_HOURS, MAX_HOURS = 168, 720
_CATCH_UP_SECONDS = 1.0
_DATABASE_SECONDS = 2.0
_scrapes = BoundedSemaphore(2)


def livez(context: Context, request: Request) -> Response:
    """The master runs and answers."""
    return Response(200, b"ok\n", "text/plain; charset=utf-8")


def readyz(context: Context, request: Request) -> Response:
    """Whether traffic can be served as configured, and why not."""
    verbose = request.query.get("verbose", "0") != "0"
    if verbose:
        context.guard.check_read(request)
    reasons = _not_ready(context, _CATCH_UP_SECONDS)
    if reasons and not context.guard.may_read(request):
        reasons = ["why not is said to those who come with a token"]
    answer: dict[str, Any] = {"ready": not reasons, "reasons": reasons}
    if verbose:
        found = context.wellness.findings()
        answer |= {"state": state_of(found), "findings": [item.shown() for item in found[:MAX_FINDINGS]]}
    return as_json(answer, 503 if reasons else 200)


def _not_ready(context: Context, patience: float) -> list[str]:
    """Why traffic can't be served as configured; workers have so many seconds to catch up."""
    others = context.state.others
    reasons = [others.drained] if others is not None and others.drained else []
    try:
        with gevent.Timeout(_DATABASE_SECONDS):
            context.read(counter, "config_version")
    except RequestRefused as refusal:
        reasons.append(refusal.detail)
    except gevent.Timeout:
        reasons.append(f"the database did not answer within {_DATABASE_SECONDS:g} s")
    board = context.state.board
    if not board.workers():
        reasons.append("no worker is running")
    version = board.version
    deadline = time.monotonic() + patience
    # Workers take a new version within milliseconds; only one that stays behind is worth a word.
    while (behind := board.behind(version)) and time.monotonic() < deadline:
        gevent.sleep(0.02)
    reasons += [f"worker {worker.pid} routes by config version {worker.version}, current is {version}" for worker in behind]
    alive = context.state.health_alive
    if alive is not None and not alive():
        reasons.append("the health checker is not running")
    return reasons


def prometheus(context: Context, request: Request) -> Response:
    """Metrics for Prometheus."""
    state = context.state
    with _scrapes:
        found = context.read(readings.read, state.circuits, context.settings.admin.max_series)
        process = metrics.Process(
            state.started, state.board.version, [(worker.pid, worker.version) for worker in state.board.workers()],
            state.certificates(), len(state.problems()), state.health_numbers() if state.health_numbers is not None else {},
            state.jobs, context.wellness.findings(), state.orders(), state.history())
        body, content_type = gevent.get_hub().threadpool.apply(
            metrics.render, (found, process, request.header("Accept"), clock.now()))
    return Response(200, body, content_type)


def status(context: Context, request: Request) -> Response:
    """The master, its workers and what is wrong."""
    state = context.state
    routes, sessions, unknown = context.kept("status", lambda: context.read(_counts))
    found = context.wellness.findings()
    return as_json({
        "version": __version__, "uptime_seconds": round(clock.now() - state.started, 1), "config_version": state.board.version,
        "workers": [{"pid": worker.pid, "config_version": worker.version, "heartbeat_at": rfc3339(clock.shown(worker.heartbeat)),
                     "started_at": rfc3339(clock.shown(worker.started))} for worker in state.board.workers()],
        "sessions": {"connected": sessions["connected"], "disconnected": sessions["disconnected"]}, "routes": routes,
        "state": state_of(found), "unwell": len(context.wellness.routes()), "findings": [item.shown() for item in found[:MAX_FINDINGS]],
        "problems": [item.sentence for item in islice((item for item in found if item.severity != STARTING), MAX_FINDINGS)],
        "notices": state.notices(), "unknown_hosts": unknown,
        "certificates": [{"path": item["path"], "names": list(item["names"]), "expires_at": rfc3339(float(item["expires"]))}
                         for item in state.certificates()],
        "jobs": [{"name": job.name, "runs": job.runs, "errors": job.errors, "last_run_at": rfc3339(job.last_run) if job.last_run else None,
                  "duration_seconds": round(job.duration, 6), "error": job.error} for job in state.jobs],
        "history": _history(state.history())})


def _history(known: HistoryNumbers) -> dict[str, Any]:
    """What the history costs, the largest table first."""
    tables = sorted(known.tables.items(), key=lambda item: (-item[1].bytes, item[0]))
    return {"bytes": known.used, "max_bytes": known.bound, "access_log_bytes": known.access_log,
            "tables": [{"table": name, "rows": size.rows, "bytes": size.bytes} for name, size in tables]}


def _counts() -> tuple[int, dict[str, int], dict[str, Any]]:
    unknown = {"requests": refusal_counts().get("unknown_host", 0), "most_asked": grouped.unknown_hosts(_MOST_ASKED)}
    return Route.select().count(), views.session_counts(), unknown


def wanted(context: Context, request: Request) -> views.Wanted:
    """The routes that a request's query asks for. Raises RequestRefused."""
    unwell = request.query.get("unwell") == "1"
    worst = context.wellness.routes() if unwell or request.query.get("order") == "worst" else ()
    return views.Wanted(text=request.query.get("q", ""), unwell=unwell, worst=worst, state=request.query.get("state", ""),
                        limit=request.whole("limit", 1000), offset=request.whole("offset", 0))


def _list(context: Context, request: Request, name: str, found: tuple[list[Any], int]) -> Response:
    items, total = found
    return as_json({name: items}, headers={"X-Total-Count": str(total)})


def routes(context: Context, request: Request) -> Response:
    """Routes with health, circuit, maintenance, drain and traffic."""
    chosen = wanted(context, request)
    found = context.kept(("routes", chosen), lambda: context.read(views.routes, context.state.circuits, chosen, clock.now()))
    return _list(context, request, "routes", found)


def route(context: Context, request: Request, route_id: str) -> Response:
    """One route."""
    found, _ = context.read(views.routes, context.state.circuits, views.Wanted(route_id=route_id), clock.now())
    if not found:
        raise no_route(route_id)
    return as_json(found[0])


def rollout(context: Context, request: Request, service: str) -> Response:
    """The rollout of a service that goes on, or its last one."""
    try:
        found = context.state.operations.rollouts.status(service)
    except StoreError as error:
        raise RequestRefused(503, "database", str(error)) from None
    if found is None:
        raise RequestRefused(404, "no_such_rollout", f'there was no rollout of a service "{service[:100]}"')
    return as_json(found)


def no_route(route_id: str) -> RequestRefused:
    """The refusal for a route id that no route has."""
    return RequestRefused(404, "no_such_route", f'there is no route "{route_id[:100]}"')


def sessions(context: Context, request: Request) -> Response:
    """Sessions, newest first."""
    state = request.query.get("state", "")
    limit, offset = request.whole("limit", 1000), request.whole("offset", 0)
    service = request.query.get("service", "")
    found = context.kept(("sessions", state, limit, offset, service),
                         lambda: context.read(views.sessions, state, limit, offset, service))
    return _list(context, request, "sessions", found)


def health(context: Context, request: Request) -> Response:
    """The health of the routes that are checked."""
    found = context.kept("health", lambda: context.read(views.health))
    return _list(context, request, "health", (found, len(found)))


def circuits(context: Context, request: Request) -> Response:
    """The circuits as the workers have them now."""
    chosen = wanted(context, request)
    found = context.kept(("circuits", chosen), lambda: context.read(views.circuit_list, context.state.circuits, chosen))
    return _list(context, request, "circuits", found)


def hosts(context: Context, request: Request) -> Response:
    """The hosts that share a PostgreSQL database; none with SQLite, which is one host's."""
    others, current = context.state.others, context.state.board.version
    if others is None:
        return as_json({"config_version": current, "drain_delay_seconds": 0.0, "hosts": []})
    found = []
    for row in context.kept("hosts", lambda: context.read(host_rows)):
        # The rows are a little older than what is known here.
        reached = others.reached(row["name"])
        version = current if reached is None else reached
        found.append({**row, "lives": others.lives(row["name"]), "config_version": version, "behind": max(0, current - version)})
    return as_json({"config_version": current, "drain_delay_seconds": context.settings.hosts.drain_delay, "hosts": found})


def certificates(context: Context, request: Request) -> Response:
    """Certificates by [acme] and their orders, and the local CA as PEM."""
    found = context.kept("certificates", lambda: context.read(certs.status, None, time.time()))
    local = context.read(certs.local_ca)
    return as_json({"certificates": found, "local_ca": local["chain"] if local is not None else None})


def events(context: Context, request: Request) -> Response:
    """The last events, newest first; or, followed, events as they happen."""
    type_ = request.query.get("type", ALL)
    type_ = "" if type_ == ALL else type_
    if request.query.get("follow") == "1" or "text/event-stream" in request.header("Accept"):
        body = context.followers.follow(type_) if request.method != "HEAD" else b""
        return Response(200, body, "text/event-stream; charset=utf-8", {"X-Accel-Buffering": "no"})
    limit = request.whole("limit", 100)
    found = context.kept(("events", limit, type_), lambda: context.read(views.events, limit, type_))
    return _list(context, request, "events", (found, len(found)))


def alerts(context: Context, request: Request) -> Response:
    """The webhooks that alerts go to."""
    found = context.state.alerts.shown() if context.state.alerts is not None else []
    return as_json({"webhooks": found})


def errors(context: Context, request: Request) -> Response:
    """The errors of the last hours, grouped."""
    query = request.query
    hours, made, service = request.whole("hours", DEFAULT_HOURS), query.get("made_by", ""), query.get("service", "")
    limit, offset = request.whole("limit", 1000), request.whole("offset", 0)

    def read() -> list[dict[str, Any]]:
        return context.read(grouped.groups, rfc3339(time.time() - hours * 3600), made, service)

    found = context.kept(("errors", hours, made, service), read)
    return _list(context, request, "errors", (found[offset:offset + limit], len(found)))


def unknown_hosts(context: Context, request: Request) -> Response:
    """The hosts that are asked for most and that no route names."""
    limit = request.whole("limit", 100)
    found = context.kept(("unknown hosts", limit), lambda: context.read(grouped.unknown_hosts, limit))
    return _list(context, request, "hosts", (found, len(found)))


def stats(context: Context, request: Request) -> Response:
    """Traffic sums of the routes, over all workers."""
    chosen = wanted(context, request)
    found = context.kept(("stats", chosen), lambda: context.read(_stats, chosen))
    return _list(context, request, "stats", found)


def _stats(chosen: views.Wanted) -> tuple[list[dict[str, Any]], int]:
    found, total = views.find_routes(chosen)
    return list(route_stats([row.route_id for row in found]).values()), total


def traffic(context: Context, request: Request) -> Response:
    """Requests and errors of the last minutes, by route."""
    chosen, minutes = wanted(context, request), request.whole("minutes", 30)
    return as_json(context.kept(("traffic", chosen, minutes), lambda: context.read(_traffic, chosen, minutes)))


def _traffic(chosen: views.Wanted, minutes: int) -> dict[str, Any]:
    found, _ = views.find_routes(chosen)
    return views.traffic([row.route_id for row in found], minutes, time.time())
