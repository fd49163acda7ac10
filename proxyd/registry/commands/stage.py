"""Staging: commands that change the session's staged copy and nothing else, until CONFIG_APPLY."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from proxyd.base.text import format_duration
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
         Field("backend_url", fields.backend, "http, https, ws or wss url; its path is put before the request's."),
         Field("priority", routechecks.priority, "Higher first."),
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
    changed = dataclasses.replace(spec, **{field: parsed})
    key = ("routes", route_id, "")
    if session.routes.get(route_id) == changed:
        staging.stage(caller.registry, session, {}, (key,))
    else:
        staging.stage(caller.registry, session, {key: changed.to_json()})
    return "ROUTE_OK"


@command("ROUTE_REMOVE", TOPIC, ROUTE_ID, answer="`ROUTE_OK`", help="Stage the removal of a route and its settings.",
         scope="routes")
def route_remove(caller: Caller, route_id: str) -> str:
    staging.remove_route(caller.registry, caller.session, route_id)
    return "ROUTE_OK"


def _set(caller: Caller, scope: str, target: str, name: str, value: str, field: str = "target") -> None:
    staging.require_target(caller.session, target, field)
    staging.stage(caller.registry, caller.session, {(scope, target, name): value})


@command("HEADERS_SET", TOPIC, TARGET,
         Field("name", routechecks.header_name, "Response header."),
         Field("value", routechecks.header_value, "Its value; it takes the place of the backend's own."),
         answer="`HEADERS_OK`", help="Stage a response header.", repeatable=True, scope="headers")
def headers_set(caller: Caller, target: str, name: str, value: str) -> str:
    _set(caller, "headers", target, name, value)
    return "HEADERS_OK"


@command("HEADERS_REMOVE", TOPIC, TARGET, Field("name", routechecks.header_name, "Response header."),
         answer="`HEADERS_OK`", help="Stage that a header set with HEADERS_SET is no longer set.", scope="headers")
def headers_remove(caller: Caller, target: str, name: str) -> str:
    staging.require_target(caller.session, target)
    staging.unset(caller.registry, caller.session, ("headers", target, name))
    return "HEADERS_OK"


@command("OPTIONS_SET", TOPIC, TARGET,
         Field("key", fields.option_key, "Option key; all are listed in docs/configuration.md."),
         Field("value", fields.anything, "Its value."),
         answer="`OPTIONS_OK`", help="Stage an option.", repeatable=True, scope="options")
def options_set(caller: Caller, target: str, key: str, value: str) -> str:
    try:
        checked = fields.option(key, value)
    except ValueError as error:
        raise CommandError(str(error)) from None
    _set(caller, "options", target, key, checked)
    caller.operations.note_unspoken(caller.session, key, checked)
    return "OPTIONS_OK"


@command("OPTIONS_REMOVE", TOPIC, TARGET, Field("key", fields.option_key, "Option key."),
         answer="`OPTIONS_OK`", help="Stage that an option goes back to its default.", scope="options")
def options_remove(caller: Caller, target: str, key: str) -> str:
    staging.require_target(caller.session, target)
    staging.unset(caller.registry, caller.session, ("options", target, key))
    return "OPTIONS_OK"


@command("HEALTH_SET", TOPIC,
         Field("route_id", fields.target, "A route of the session, or `ALL`.", routes=True),
         Field("path", fields.check,
               "Path that is asked for, `tcp://` to connect only, `tcp://host:port` to connect elsewhere; empty: no check."),
         Field("interval", fields.interval, "Time between two checks."),
         Field("timeout", fields.duration, "Time for one check: connect, header and body together."),
         answer="`HEALTH_OK`", help="Stage a health check.", repeatable=True, scope="health")
def health_set(caller: Caller, route_id: str, path: str, interval: float, timeout: float) -> str:
    _set(caller, "health", route_id, "check", json.dumps({
        "health_check_path": path, "health_check_interval": format_duration(interval),
        "health_check_timeout": format_duration(timeout)}), "route_id")
    return "HEALTH_OK"


@command("RATELIMIT_SET", TOPIC, TARGET,
         Field("requests", routechecks.requests, "Requests allowed to one client address in a window."),
         Field("window", fields.duration, "Length of the window."),
         answer="`RATELIMIT_OK`", help="Stage a rate limit per client address.", repeatable=True, scope="ratelimit")
def ratelimit_set(caller: Caller, target: str, requests: int, window: float) -> str:
    _set(caller, "ratelimit", target, "limit", json.dumps([[requests, window]]))
    return "RATELIMIT_OK"


@command("CIRCUIT_BREAKER_SET", TOPIC, TARGET,
         Field("threshold", fields.threshold, "Consecutive failures that open the circuit."),
         Field("timeout", fields.duration, "Time until an open circuit lets trial requests through."),
         Field("half_open_requests", fields.trials, "Trial requests let through at once."),
         answer="`CIRCUIT_OK`", help="Stage a circuit breaker.", repeatable=True, scope="circuit_breaker")
def circuit_breaker_set(caller: Caller, target: str, threshold: int, timeout: float, half_open_requests: int) -> str:
    _set(caller, "circuit_breaker", target, "breaker", json.dumps({
        "circuit_breaker": "true", "circuit_threshold": str(threshold), "circuit_timeout": format_duration(timeout),
        "circuit_half_open_requests": str(half_open_requests)}))
    return "CIRCUIT_OK"
