"""Drain and maintenance."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxyd.base.text import rfc3339, split_list
from proxyd.base.urls import normalize_domain, normalize_route_path
from proxyd.config.options import BackendTls
from proxyd.registry import fields
from proxyd.registry.activeroutes import sorted_ids
from proxyd.registry.caller import Caller
from proxyd.registry.configuration import EVERY
from proxyd.registry.ends import planned
from proxyd.registry.fields import Field
from proxyd.registry.framing import to_json
from proxyd.registry.operations import CANCELLED, Asked, entered_at
from proxyd.registry.protocol import CommandError, command

TOPIC = "Drain and maintenance"
_ENTER_SECONDS = 25.0
_EXIT_SECONDS = 8.0
_TARGET = Field("target", fields.anything, "`ALL`, route ids with commas, a path (`/admin`) or a domain of the session.",
                routes=True)


@command("DRAIN_START", TOPIC, Field("duration", fields.duration, "Time over which new requests fall from all to none."),
         answer="`DRAIN_OK|completion-time`", help="Drain the session's routes. Replicas take over. Requests in flight are never cut.")
def drain_start(caller: Caller, duration: float) -> str:
    try:
        end = caller.operations.start_drain(caller.session.session_id, duration, caller.actor)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return f"DRAIN_OK|{rfc3339(end)}"


@command("DRAIN_STATUS", TOPIC,
         answer="`DRAIN_STATUS_OK|{active, started_at, duration_seconds, elapsed_seconds, remaining_seconds, traffic_percent, rejected, "
                "in_flight}` "
                "or `ERROR|no drain in progress`",
         help="Show how far the drain is.", repeatable=True)
def drain_status(caller: Caller) -> str:
    status = caller.operations.drain_status(caller.session)
    if status is None:
        raise CommandError("no drain in progress")
    return "DRAIN_STATUS_OK|" + to_json(status)


@command("DRAIN_CANCEL", TOPIC, answer="`DRAIN_OK`", help="End the drain. The routes get full traffic at once.", repeatable=True)
def drain_cancel(caller: Caller) -> str:
    try:
        caller.operations.cancel_drain(caller.session.session_id, caller.actor)
    except ValueError as error:
        raise CommandError(str(error)) from None
    return "DRAIN_OK"


def _routes(caller: Caller, target: str) -> list[str]:
    """The active routes that a maintenance target names. Raises CommandError if there are none."""
    routes = caller.session.routes
    found: list[str] = []
    wanted = target.strip()
    if wanted == EVERY:
        found = list(routes)
    elif wanted.startswith("/"):
        try:
            path = normalize_route_path(wanted)
        except ValueError as error:
            raise CommandError(f"target: {error}") from None
        found = [route_id for route_id, spec in routes.items() if spec.path == path]
    elif all(item in routes for item in split_list(wanted)) and wanted:
        found = list(split_list(wanted))
    else:
        try:
            domain = normalize_domain(wanted)
        except ValueError:
            domain = ""
        found = [route_id for route_id, spec in routes.items() if domain in spec.domains]
    if not found and (wanted != EVERY or routes):
        raise CommandError(f'target: "{target}" is not an active route of this session (ALL, route ids, a path or a domain)')
    return sorted_ids(found)


@command("MAINT_ENTER", TOPIC, _TARGET,
         Field("page_url", fields.page_url, "Url of the service's own page. Empty: the built-in page.", True, ""),
         Field("duration", fields.duration_or_none, "Time after which maintenance ends by itself. Empty: MAINT_EXIT ends it.", True, None),
         Field("reason", fields.reason, "Why, in words for the history (`v_maintenance`).", True, ""),
         answer="`ACK`, then `MAINT_OK|target` once the page answers (25 s at most), else `ERROR|...`",
         help="Put routes into maintenance. It is on before the `ACK` is sent. An error concerns only the page: then maintenance is on "
              "with the built-in page.")
def maint_enter(caller: Caller, target: str, page_url: str, duration: float | None, reason: str) -> Iterator[str]:
    route_ids = _routes(caller, target)
    try:
        caller.operations.enter_maintenance(route_ids, page_url, caller.actor, duration, reason=reason)
    except ValueError as error:
        raise CommandError(str(error)) from None
    # Verify as strictly as the workers do. Otherwise a page could answer here and never be shown.
    tls = BackendTls(caller.operations.verifies(route_ids))
    return _after_ack(caller, target, [(page_url, tls)] if page_url else [], _ENTER_SECONDS, "the built-in page is shown until it does",
                      caller.exit_waits)


@command("MAINT_EXIT", TOPIC, _TARGET,
         answer="`ACK`, then `MAINT_OK|target` once the backend answers (8 s at most), else `ERROR|... maintenance lifted`",
         help="End maintenance. It is lifted in both cases.")
def maint_exit(caller: Caller, target: str) -> Iterator[str]:
    route_ids = _routes(caller, target)
    caller.operations.exit_maintenance(route_ids, caller.actor)
    return _after_ack(caller, target, caller.operations.backend_urls(route_ids), _EXIT_SECONDS, "maintenance lifted")


def _after_ack(caller: Caller, target: str, asked: list[Asked], seconds: float, consolation: str,
               over: Callable[[float], bool] | None = None) -> Iterator[str]:
    yield "ACK"
    with caller.unhurried():
        problem = caller.operations.await_answer(asked, seconds, over)
    if problem == CANCELLED:
        yield f"ERROR|{problem}"
        return
    yield f"ERROR|{problem}; {consolation}" if problem else f"MAINT_OK|{target}"


@command("TRAFFIC_HOLD", TOPIC, _TARGET, Field("duration", fields.duration, "Longest time for which requests wait."),
         answer="`HOLD_OK|until` (RFC 3339)", repeatable=True,
         help="Let the requests of routes wait, unless a replica that is not held takes them. The hold ends by itself.")
def traffic_hold(caller: Caller, target: str, duration: float) -> str:
    return f"HOLD_OK|{rfc3339(caller.operations.ends.hold(_routes(caller, target), duration, caller.actor))}"


@command("TRAFFIC_RELEASE", TOPIC, _TARGET, answer="`HOLD_OK`", repeatable=True,
         help="End a hold. The requests that wait go on, a few at first.")
def traffic_release(caller: Caller, target: str) -> str:
    caller.operations.ends.release(_routes(caller, target), caller.actor)
    return "HOLD_OK"


@command("MAINT_STATUS", TOPIC, answer="`MAINT_STATUS_OK|{in_maintenance:[ids], maintenance_backend, entered_at, until, "
                                        "planned:[{route_id, at, seconds}]}`",
         help="Show which of the session's routes are in maintenance. `until` and `planned` are there if maintenance ends by itself, or "
              "is planned.", repeatable=True)
def maint_status(caller: Caller) -> str:
    rows = [caller.registry.active.rows[route_id] for route_id in sorted_ids(caller.session.routes)]
    held = [row for row in rows if row["maintenance_since"]]
    page = next((row["maintenance_page_url"] for row in held if row["maintenance_page_url"]), "")
    told = {"in_maintenance": [row["route_id"] for row in held], "maintenance_backend": page, "entered_at": entered_at(held)}
    # Only where there is something to tell: older clients compare the whole.
    if ends := [row["maintenance_until"] for row in held if row["maintenance_until"]]:
        told["until"] = min(ends)
    if plans := [(row["route_id"], plan) for row in rows if (plan := planned(row))]:
        told["planned"] = [{"route_id": route_id, "at": rfc3339(plan["at"]), "seconds": plan["seconds"]} for route_id, plan in plans]
    return "MAINT_STATUS_OK|" + to_json(told)
