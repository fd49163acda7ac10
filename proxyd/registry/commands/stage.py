"""Staging: commands that change the session's staged copy and nothing else, until CONFIG_APPLY."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from proxyd.base.text import format_duration
from proxyd.base.variables import VARIABLES
from proxyd.config import routechecks
from proxyd.registry import fields, staging
from proxyd.registry.caller import Caller
from proxyd.registry.fields import Field
from proxyd.registry.framing import to_json
from proxyd.registry.protocol import ROUTE_ID, TARGET, CommandError, command

TOPIC = "Staging"


@command("ROUTE_ADD", TOPIC,
         Field("domains", fields.domains, "Domains with commas: exact, `*.example.com` (one label) or `*`."),
         Field("path", fields.path, "Path prefix of whole segments."),
         Field("backend_url", fields.backend, "http, https, h2c, ws or wss url, or `unix:/run/app.sock`. Its path is put before the "
                                              "request's path. Or `redirect:` or `respond:`, for an answer of the proxy's own."),
         Field("priority", routechecks.priority, "Routes with a higher priority are tried first."),
         answer="`ROUTE_OK|route_id`", help="Stage a new route.", scope="routes")
def route_add(caller: Caller, domains: tuple[str, ...], path: str, backend_url: str, priority: int) -> str:
    item = {"domains": domains, "path": path, "backend_url": backend_url, "priority": priority}
    return "ROUTE_OK|" + staging.add_routes(caller.registry, caller.session, [item])[0]


@command("ROUTE_ADD_BULK", TOPIC,
         Field("routes", fields.bulk, 'JSON: `[{"domains":[..],"path":..,"backend_url":..,"priority":0}]`.'),
         answer='`ROUTE_BULK_OK|[{"route_id":"r1","status":"ok"},..]`', help="Stage several routes, all or none.", scope="routes")
def route_add_bulk(caller: Caller, routes: list[dict[str, Any]]) -> str:
    ids = staging.add_routes(caller.registry, caller.session, routes)
    return "ROUTE_BULK_OK|" + to_json([{"route_id": route_id, "status": "ok"} for route_id in ids])


@command("ROUTE_UPDATE", TOPIC, ROUTE_ID,
         Field("field", fields.route_field, "`backend_url`, `priority`, `domains` or `path`."),
         Field("value", fields.anything, "The new value, as in ROUTE_ADD."),
         answer="`ROUTE_OK`", help="Stage a change of a route.", repeatable=True, scope="routes")
def route_update(caller: Caller, route_id: str, field: str, value: str) -> str:
    session = caller.session
    spec = staging.require_route(session, route_id)
    try:
        parsed = fields.ROUTE_FIELDS[field](value)
    except ValueError as error:
        raise CommandError(f"{field}: {error}") from None
    if field == "domains":
        staging.check_domains(caller.registry, session, parsed)
    staging.change_route(caller.registry, session, spec._replace(**{field: parsed}))
    return "ROUTE_OK"


@command("ROUTE_REMOVE", TOPIC, ROUTE_ID, answer="`ROUTE_OK`", help="Stage the removal of a route and its settings.",
         scope="routes")
def route_remove(caller: Caller, route_id: str) -> str:
    staging.remove_route(caller.registry, caller.session, route_id)
    return "ROUTE_OK"


_VARIABLES = ", ".join(f"`{{{name}}}`" for name in VARIABLES)
#: What makes a setting of a command's fields behind the target: its name, and the text that is kept of it. None: nothing is staged.
Setting = Callable[..., tuple[str, str] | None]


def _sets(name: str, target: Field, *declared: Field, scope: str, answer: str, help: str) -> Callable[[Setting], Setting]:
    """Declare a command that stages one setting of its scope, for a route or for all; the decorated function makes the setting."""

    def declare(setting: Setting) -> Setting:
        @command(name, TOPIC, target, *declared, answer=f"`{answer}`", help=help, repeatable=True, scope=scope)
        def handler(caller: Caller, of: str, *values: Any) -> str:
            staging.require_target(caller.session, of, target.name)
            made = setting(caller, *values)
            if made is not None:
                staging.stage(caller.registry, caller.session, {(scope, of, made[0]): made[1]})
            return answer

        return setting

    return declare


def _removes(name: str, key: Field, *, scope: str, answer: str, help: str) -> None:
    """Declare a command that stages that a setting of its scope is taken away."""

    @command(name, TOPIC, TARGET, key, answer=f"`{answer}`", help=help, scope=scope)
    def handler(caller: Caller, of: str, setting: str) -> str:
        staging.require_target(caller.session, of)
        if scope == "options" and not _is_known(caller, setting):
            return answer
        staging.unset(caller.registry, caller.session, (scope, of, setting))
        return answer


def _is_known(caller: Caller, key: str) -> bool:
    """Whether there is such an option. If there is not, it is noted, or refused, as the settings say."""
    try:
        fields.option_key(key)
    except ValueError as error:
        if caller.registry.settings.registry.unknown_options == "error":
            raise CommandError(f"key: {error}") from None
        caller.operations.note_unknown(caller.session, key)
        return False
    return True


@_sets("HEADERS_SET", TARGET,
       Field("name", routechecks.header_name, "Response header. Not one that frames or encodes the message, belongs to the connection "
                                              "(Date, Via, Sec-WebSocket-* included), or begins with X-Proxyd-."),
       Field("value", routechecks.header_value, "Its value. It replaces the backend's own, and the proxy's (Strict-Transport-Security, "
                                                "X-Request-ID). `-` alone: the backend's own is taken away. It may hold variables: "
                                                f"{_VARIABLES}."),
       scope="headers", answer="HEADERS_OK", help="Stage a response header.")
def header(caller: Caller, name: str, value: str) -> tuple[str, str]:
    return name, value


_removes("HEADERS_REMOVE", Field("name", routechecks.header_name, "Response header."),
         scope="headers", answer="HEADERS_OK", help="Stage the removal of a header that HEADERS_SET set.")


@_sets("REQUEST_HEADERS_SET", TARGET,
       Field("name", routechecks.request_header_name,
             "Request header. Not one that frames or encodes the message, belongs to the connection, or says who the client is and which "
             "way the request came (Host, Forwarded, X-Forwarded-*, X-Real-IP, X-Request-ID, Via), and no name with `_`."),
       Field("value", routechecks.header_value, "Its value. It replaces the client's own. `-` alone, or a value that comes out empty: "
                                                f"the backend gets none. It may hold variables: {_VARIABLES}."),
       scope="request_headers", answer="HEADERS_OK", help="Stage a header of the requests to the backend.")
def request_header(caller: Caller, name: str, value: str) -> tuple[str, str]:
    return name, value


_removes("REQUEST_HEADERS_REMOVE", Field("name", routechecks.request_header_name, "Request header."),
         scope="request_headers", answer="HEADERS_OK", help="Stage the removal of a header that REQUEST_HEADERS_SET set.")


@_sets("OPTIONS_SET", TARGET,
       Field("key", fields.option_name, "Option key. docs/configuration.md lists all. `[registry] unknown_options` says what becomes of "
                                        "others."),
       Field("value", fields.anything, "Its value."),
       scope="options", answer="OPTIONS_OK", help="Stage an option.")
def option(caller: Caller, key: str, value: str) -> tuple[str, str] | None:
    if not _is_known(caller, key):
        return None
    try:
        checked = fields.option(key, value)
    except ValueError as error:
        raise CommandError(str(error)) from None
    caller.operations.note_unspoken(caller.session, key, checked)
    return key, checked


_removes("OPTIONS_REMOVE", Field("key", fields.option_name, "Option key."),
         scope="options", answer="OPTIONS_OK", help="Stage the return of an option to its default.")


@_sets("HEALTH_SET", Field("route_id", fields.target, "A route of the session, or `ALL`.", routes=True),
       Field("path", fields.check,
             "Path to request, or `tcp://` to connect only, or `tcp://host:port` to connect elsewhere. Empty: no check."),
       Field("interval", fields.interval, "Time between two checks."),
       Field("timeout", fields.duration, "Longest time for one check: connecting, header and body together."),
       scope="health", answer="HEALTH_OK", help="Stage a health check.")
def health_check(caller: Caller, path: str, interval: float, timeout: float) -> tuple[str, str]:
    return "check", json.dumps({
        "health_check_path": path, "health_check_interval": format_duration(interval), "health_check_timeout": format_duration(timeout)})


@_sets("RATELIMIT_SET", TARGET,
       Field("requests", routechecks.requests, "Requests allowed to one client address in a window."),
       Field("window", fields.duration, "Length of the window."),
       scope="ratelimit", answer="RATELIMIT_OK", help="Stage a rate limit per client address.")
def rate_limit(caller: Caller, requests: int, window: float) -> tuple[str, str]:
    return "limit", json.dumps([[requests, window]])


@_sets("CIRCUIT_BREAKER_SET", TARGET,
       Field("threshold", fields.threshold, "Consecutive failures that open the circuit."),
       Field("timeout", fields.duration, "How long a circuit stays open before it allows trial requests."),
       Field("half_open_requests", fields.trials, "Most trial requests at once."),
       scope="circuit_breaker", answer="CIRCUIT_OK", help="Stage a circuit breaker.")
def circuit_breaker(caller: Caller, threshold: int, timeout: float, half_open_requests: int) -> tuple[str, str]:
    return "breaker", json.dumps({
        "circuit_breaker": "true", "circuit_threshold": str(threshold), "circuit_timeout": format_duration(timeout),
        "circuit_half_open_requests": str(half_open_requests)})
