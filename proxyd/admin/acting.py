"""The endpoints that change something: drain, maintenance, rollouts, circuit reset, backend test, login and logout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from proxyd.admin import views
from proxyd.admin.context import Context
from proxyd.admin.guard import COOKIE, SESSION_SECONDS
from proxyd.admin.http import Request, RequestRefused, Response, as_json
from proxyd.admin.reading import no_route
from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.registry import fields
from proxyd.registry.ends import Conflict
from proxyd.registry.rollouts import EVERY, MAX_ERRORS, MAX_SLOWER, STEPS, Wanted, parse_steps
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.models import Route

MAX_SECONDS = 7 * 86400
_DRAIN_SECONDS = 60.0


def done(context: Context, what: str, action: Callable[..., Any], *args: Any) -> Response:
    """Do it. What the operation objects to becomes the refusal's text."""
    try:
        action(*args)
    except Conflict as error:
        raise RequestRefused(409, "conflict", str(error)) from None
    except ValueError as error:
        raise RequestRefused(400, "refused", str(error)) from None
    except StoreError as error:
        raise RequestRefused(503, "database", str(error)) from None
    context.forget()
    return as_json({"done": what})


def _session(context: Context, text: str) -> str:
    found = context.read(views.find_session, text)
    if found is None:
        raise RequestRefused(404, "no_such_session", f'there is no session "{text[:100]}" (/api/v1/sessions lists them)')
    return found


def _route_exists(context: Context, route_id: str) -> None:
    if not context.read(lambda: Route.select().where(Route.route_id == route_id).exists()):
        raise no_route(route_id)


def _seconds(asked: dict[str, Any]) -> float:
    """How long a drain or a hold is to last. Raises RequestRefused."""
    return float(asked.get("seconds", _DRAIN_SECONDS))


def start_drain(context: Context, request: Request, session_id: str) -> Response:
    """Drain a session: its share of new requests falls to nothing over the seconds given."""
    actor = context.guard.check_action(request)
    seconds = _seconds(request.json_object())
    session = _session(context, session_id)
    return done(context, f"drain of session {session} over {seconds:g} s started",
                 context.state.operations.start_drain, session, seconds, actor)


def cancel_drain(context: Context, request: Request, session_id: str) -> Response:
    """Cancel a drain: full traffic at once."""
    actor = context.guard.check_action(request)
    session = _session(context, session_id)
    return done(context, f"drain of session {session} cancelled",
                 context.state.operations.cancel_drain, session, actor)


def enter_maintenance(context: Context, request: Request, route_id: str) -> Response:
    """Put a route into maintenance; page_url empty or absent: the built-in page. `seconds`: it ends by itself. `at`: it begins then.
    `reason`: why, for the history."""
    actor = context.guard.check_action(request)
    asked = request.json_object()
    page_url = asked.get("page_url", "")
    _route_exists(context, route_id)
    at: float | None = None
    if "at" in asked:
        try:
            at = parse_rfc3339(str(asked["at"]))
        except ValueError:
            raise RequestRefused(400, "bad_body", f"at: {asked['at']!r:.40} is not a time (like 2026-03-02T02:00:00Z)") from None
    seconds = _seconds(asked) if "seconds" in asked else None
    try:
        reason = fields.reason(asked.get("reason", ""))
    except ValueError as error:
        raise RequestRefused(400, "bad_body", f"reason: {error}") from None
    return done(context, f"route {route_id} in maintenance{f' from {rfc3339(at)} on' if at is not None else ''}",
                 context.state.operations.enter_maintenance, [route_id], page_url, actor, seconds, at, reason)


def exit_maintenance(context: Context, request: Request, route_id: str) -> Response:
    """Take a route out of maintenance."""
    actor = context.guard.check_action(request)
    _route_exists(context, route_id)
    return done(context, f"route {route_id} out of maintenance",
                 context.state.operations.exit_maintenance, [route_id], actor)


def hold(context: Context, request: Request, route_id: str) -> Response:
    """Let the requests of a route wait, for the seconds given at most."""
    actor = context.guard.check_action(request)
    seconds = _seconds(request.json_object())
    _route_exists(context, route_id)
    return done(context, f"the requests of route {route_id} wait for {seconds:g} s at most",
                 context.state.operations.ends.hold, [route_id], seconds, actor)


def release(context: Context, request: Request, route_id: str) -> Response:
    """Let the requests that wait go on."""
    actor = context.guard.check_action(request)
    _route_exists(context, route_id)
    return done(context, f"the requests of route {route_id} go on", context.state.operations.ends.release, [route_id], actor)


def start_rollout(context: Context, request: Request, service: str) -> Response:
    """Roll a service out to one of its instances. It goes on by itself."""
    actor = context.guard.check_action(request)
    asked = request.json_object()

    def start() -> None:
        context.state.operations.rollouts.start(service, Wanted(
            asked["to"], parse_steps(asked.get("steps", STEPS)), float(asked.get("every", EVERY)),
            float(asked.get("max_errors", MAX_ERRORS)), float(asked.get("max_slower", MAX_SLOWER))), actor)

    return done(context, f"the rollout of {service[:200]} to {asked['to']} has begun", start)


def abort_rollout(context: Context, request: Request, service: str) -> Response:
    """Give the requests back to the other instances."""
    actor = context.guard.check_action(request)
    return done(context, f"the rollout of {service[:200]} is aborted", context.state.operations.rollouts.abort, service, actor)


def clear_rollout(context: Context, request: Request, service: str) -> Response:
    """Let all instances share by weight again."""
    actor = context.guard.check_action(request)
    return done(context, f"all instances of {service[:200]} share its requests again", context.state.operations.rollouts.clear, service,
                 actor)


def add_route(context: Context, request: Request) -> Response:
    """Add a route by hand."""
    actor = context.guard.check_action(request)
    asked = request.json_object()
    made: list[str] = []

    def add() -> None:
        made.append(context.state.operations.by_hand.add(asked, actor))

    done(context, "", add)
    return as_json({"done": f"route {made[0]} added", "route_id": made[0]})


def change_route(context: Context, request: Request, route_id: str) -> Response:
    """Change a route by hand."""
    actor = context.guard.check_action(request)
    asked = request.json_object()
    _route_exists(context, route_id)
    return done(context, f"route {route_id} changed", context.state.operations.by_hand.change, route_id, asked, actor)


def remove_route(context: Context, request: Request, route_id: str) -> Response:
    """Remove a route by hand."""
    actor = context.guard.check_action(request)
    _route_exists(context, route_id)
    return done(context, f"route {route_id} removed", context.state.operations.by_hand.remove, route_id, actor)


def drain_host(context: Context, request: Request, name: str) -> Response:
    """Take a host out of service for an upgrade."""
    actor = context.guard.check_action(request)
    return done(context, f"host {name[:100]} is drained", context.state.operations.host_drains.drain, name, actor)


def undrain_host(context: Context, request: Request, name: str) -> Response:
    """Let a host serve again."""
    actor = context.guard.check_action(request)
    return done(context, f"host {name[:100]} serves again", context.state.operations.host_drains.undrain, name, actor)


def reset_circuit(context: Context, request: Request, route_id: str) -> Response:
    """Close a route's circuit in every worker."""
    actor = context.guard.check_action(request)
    _route_exists(context, route_id)
    return done(context, f"circuit of route {route_id} reset", context.state.operations.reset_circuit, route_id, actor)


def test_backend(context: Context, request: Request) -> Response:
    """Try a backend url from here."""
    context.guard.check_action(request)
    url = request.json_object()["url"]
    try:
        return as_json(context.state.operations.test_backend(url))
    except ValueError as error:
        raise RequestRefused(400, "refused", str(error)) from None


def login(context: Context, request: Request) -> Response:
    """Trade a token for a session cookie, the CSRF token that goes with it, and whose it is: operator or viewer."""
    token = request.json_object()["token"]
    cookie, role = context.guard.login(request, token)
    response = as_json({"csrf_token": context.guard.csrf(cookie, role), "role": role})
    return Response(response.status, response.body, response.content_type,
                    cookies=(f"{COOKIE}={cookie}; Path=/; HttpOnly; SameSite=Strict; Max-Age={SESSION_SECONDS:.0f}",))


def logout(context: Context, request: Request) -> Response:
    """End the session of the status page."""
    context.guard.check_origin(request)
    context.guard.logout(request)
    return Response(204, cookies=(f"{COOKIE}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0",))


def test_alerts(context: Context, request: Request) -> Response:
    """Send a test message to each webhook, or to one."""
    context.guard.check_action(request)
    name, alerts = request.json_object().get("name"), context.state.alerts
    try:
        found = alerts.test(name) if alerts is not None else []
    except KeyError:
        raise RequestRefused(404, "no_such_webhook", f'there is no webhook "{str(name)[:100]}" (GET /api/v1/alerts lists them)') from None
    return as_json({"sent": [{"name": name, "host": host, "error": error} for name, host, error in found]})
