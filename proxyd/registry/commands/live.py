"""Live state: status, statistics, circuits, backend tests, events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from proxyd.base import clock
from proxyd.base.counters import LATENCIES, SHOWN
from proxyd.config.defaults import defaults
from proxyd.config.options import option_of
from proxyd.registry import fields
from proxyd.registry.activeroutes import sorted_ids
from proxyd.registry.caller import Caller
from proxyd.registry.configuration import EVERY
from proxyd.registry.fields import Field
from proxyd.registry.framing import compressed, to_json
from proxyd.registry.operations import HTTP3_UNSPOKEN
from proxyd.registry.protocol import ROUTE_ID, CommandError, command
from proxyd.store.sql.status import circuit_state, other_circuits, route_facts, route_status
from proxyd.store.sql.traffic import route_stats

TOPIC = "Live state"
_STATS = ("route_id", *SHOWN, *LATENCIES, "status_codes", "websocket_active")


def _row(caller: Caller, route_id: str, field: str = "route_id") -> dict[str, Any]:
    """The row of an active route of the session. Raises a CommandError that names the command's field."""
    if route_id not in caller.session.routes:
        staged = ("routes", route_id, "") in caller.session.staged
        raise CommandError(f'{field}: "{route_id}" is {"staged, but not applied yet" if staged else "not a route of this session"}')
    return caller.registry.active.rows[route_id]


@command("ROUTE_STATUS", TOPIC, ROUTE_ID,
         answer="`ROUTE_STATUS_OK|{route_id, domains, path, backend, enabled, healthy, health:{status, last_check, last_success, "
                "last_error, response_time_ms, success_rate_percent, consecutive_failures}, circuit:{..}, ratelimit:{requests, "
                "window_seconds, rejected}, maintenance:{active, page_url, entered_at, hits}, drain:{active, traffic_percent, "
                "remaining_seconds, rejected}, upstream_timeout_seconds, in_flight, queued, replicas, notes}`, and "
                "`defaults:{options, headers, request_headers}` if the settings have any",
         help="Show everything about one active route, as the workers have it.", repeatable=True)
def route_status_command(caller: Caller, route_id: str) -> str:
    row = _row(caller, route_id)
    written, stats, elsewhere = caller.registry.store.read(route_facts, route_id, caller.registry.circuits.host)
    status = route_status(row, caller.registry.live_health(route_id) or written, stats, caller.registry.circuits, clock.now())
    if elsewhere:
        status["circuit"]["hosts"] = elsewhere
    options = status.pop("options")
    told = _told_of(options, caller.session.unknown_options)
    # Only where there is something to tell: older clients compare the whole.
    if defaults():
        told["defaults"] = defaults().left(options, json.loads(row["headers"]), json.loads(row["request_headers"]))
    return "ROUTE_STATUS_OK|" + to_json({**status, "replicas": caller.registry.active.replicas(route_id), **told})


def _told_of(options: dict[str, str], unknown: Sequence[str] = ()) -> dict[str, Any]:
    """The fields of ROUTE_STATUS that come from a route's options, and those that its session wants and that there are not."""
    return {"upstream_timeout_seconds": option_of(options, "timeout"),
            "notes": [*([HTTP3_UNSPOKEN] if option_of(options, "http3") else []),
                      *(f'unknown option "{key}" has no effect' for key in unknown)]}


@command("CIRCUIT_BREAKER_STATUS", TOPIC, ROUTE_ID,
         answer="`CIRCUIT_STATUS_OK|{state: closed/open/half_open, failures, successes, opened_at, last_failure, next_attempt, healthy, "
                "in_maintenance, draining}`, and `hosts:[{host, state, failures, opened_at, next_attempt}]` of other hosts where it "
                "is not closed or has failures counted",
         help="Show the circuit as the workers of the host that leads have it now. Each host has circuits of its own.", repeatable=True)
def circuit_status(caller: Caller, route_id: str) -> str:
    circuits = caller.registry.circuits
    state = circuit_state(_row(caller, route_id), circuits, clock.now())
    elsewhere = caller.registry.store.read(other_circuits, circuits.host, [route_id]).get(route_id) if caller.registry.others else None
    return "CIRCUIT_STATUS_OK|" + to_json(state if elsewhere is None else {**state, "hosts": elsewhere})


@command("CIRCUIT_BREAKER_RESET", TOPIC, ROUTE_ID, answer="`CIRCUIT_OK`", help="Close the circuit in every worker of every host.",
         repeatable=True)
def circuit_reset(caller: Caller, route_id: str) -> str:
    _row(caller, route_id)
    caller.operations.reset_circuit(route_id, caller.actor)
    return "CIRCUIT_OK"


@command("STATS_GET", TOPIC,
         Field("target", fields.stats_target, "A route id or `ALL`. Absent or empty: `ALL`.", True, EVERY, True),
         Field("compressed", fields.compressed, "`compressed`: base64(gzip(json)).", True, False),
         answer=f"`STATS_OK|` one object for a route id, an array else: {{route_id, {', '.join((*SHOWN, *LATENCIES))}, "
                "status_codes:{\"200\":n}, websocket_active}",
         help="Show the traffic since each route began, summed over all workers. It is at most a second old.", repeatable=True)
def stats_get(caller: Caller, target: str, compress: bool) -> str:
    if target == EVERY:
        ids = sorted_ids(caller.session.routes)
        found = caller.registry.store.read(route_stats, ids)
        result: Any = [_shown(found[route_id]) for route_id in ids]
    else:
        _row(caller, target, "target")
        result = _shown(caller.registry.store.read(route_stats, [target])[target])
    text = to_json(result)
    return "STATS_OK|" + (compressed(text) if compress else text)


def _shown(stats: dict[str, Any]) -> dict[str, Any]:
    return {name: stats[name] for name in _STATS}


@command("BACKEND_TEST", TOPIC, Field("url", fields.anything, "http, https, h2c, ws or wss url, or `unix:/path`."),
         answer="`BACKEND_OK|{reachable:true, response_time_ms, status_code, tls_valid}` or `BACKEND_FAIL|{reachable:false, error}`",
         help="Ask a backend once, from the master's host.", repeatable=True)
def backend_test(caller: Caller, url: str) -> str:
    with caller.unhurried():
        result = caller.operations.test_backend(url.strip())
    return ("BACKEND_OK|" if result["reachable"] else "BACKEND_FAIL|") + to_json(result)


_TYPE = Field("type", fields.event_type, "Event type, or `all`.")


@command("SUBSCRIBE", TOPIC, _TYPE, answer="`SUBSCRIBE_OK`, and from then on `EVENT|type|{json}` lines",
         help="Receive events about the session's routes and about the whole proxy.", repeatable=True)
def subscribe(caller: Caller, type: str) -> str:
    caller.subscriptions.add(type)
    caller.listens(True)
    return "SUBSCRIBE_OK"


@command("UNSUBSCRIBE", TOPIC, _TYPE, answer="`UNSUBSCRIBE_OK`", help="Receive these events no more. `all` ends every subscription.",
         repeatable=True)
def unsubscribe(caller: Caller, type: str) -> str:
    if type == "all":
        caller.subscriptions.clear()
    else:
        caller.subscriptions.discard(type)
    caller.listens(bool(caller.subscriptions))
    return "UNSUBSCRIBE_OK"
