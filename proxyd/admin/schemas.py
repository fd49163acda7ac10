"""The shapes of the API's answers, as JSON Schema (the dialect of OpenAPI 3.1)."""

from __future__ import annotations

from typing import Any

from proxyd.base import counters
from proxyd.base.findings import CRITICAL, KINDS, STARTING, UNWELL, WARNING, WELL
from proxyd.base.webhooks import FORMATS

Schema = dict[str, Any]
#: Where a route comes from: a service that has registered, a site file, an operator.
SOURCES = ["registry", "site", "hand"]


def _is(type_: str | list[str], **more: Any) -> Schema:
    return {"type": type_, **more}


def thing(**properties: Schema) -> Schema:
    """An object that has all these properties."""
    return {"type": "object", "properties": properties, "required": list(properties)}


def many(name: str) -> Schema:
    """An array of a named schema."""
    return {"type": "array", "items": ref(name)}


def ref(name: str) -> Schema:
    """A named schema."""
    return {"$ref": f"#/components/schemas/{name}"}


TEXT, WHOLE, NUMBER, FLAG = _is("string"), _is("integer"), _is("number"), _is("boolean")
MAYBE_TEXT, MAYBE_NUMBER = _is(["string", "null"]), _is(["number", "null"])
INSTANT = _is("string", format="date-time")
MAYBE_INSTANT = _is(["string", "null"], format="date-time")
TEXTS, WHOLES = {"type": "array", "items": TEXT}, {"type": "array", "items": WHOLE}
ANYTHING = _is("object")

_STATE = _is("string", enum=[WELL, STARTING, UNWELL])
_CIRCUIT_STATE = _is("string", enum=["closed", "open", "half_open"])
_OPEN = dict.fromkeys(("in_flight", "websocket_active", "queued"), WHOLE)
_NAMED = _is("object", additionalProperties=TEXT)
_PERCENTILES = dict.fromkeys(("p50_ms", "p95_ms", "p99_ms"), _is(["number", "null"]))
_LATENCIES = dict.fromkeys(counters.LATENCIES, NUMBER)

SCHEMAS: dict[str, Schema] = {
    "Status": thing(
        version=TEXT, uptime_seconds=NUMBER, config_version=WHOLE,
        workers={"type": "array", "items": thing(pid=WHOLE, config_version=WHOLE, heartbeat_at=INSTANT, started_at=INSTANT)},
        sessions=thing(connected=WHOLE, disconnected=WHOLE), routes=WHOLE, state=_STATE, unwell=WHOLE, findings=many("Finding"),
        problems=TEXTS, notices=TEXTS, unknown_hosts=thing(requests=WHOLE, most_asked=many("UnknownHost")),
        certificates={"type": "array", "items": thing(path=TEXT, names=TEXTS, expires_at=INSTANT)},
        jobs={"type": "array", "items": thing(name=TEXT, runs=WHOLE, errors=WHOLE, last_run_at=MAYBE_INSTANT, duration_seconds=NUMBER,
                                              error=TEXT)},
        history=thing(bytes=WHOLE, max_bytes=WHOLE, access_log_bytes=_is(["integer", "null"]), tables={
            "type": "array", "items": thing(table=TEXT, rows=WHOLE, bytes=WHOLE)})),
    "Route": thing(
        route_id=TEXT, session_id=TEXT, source=_is("string", enum=SOURCES), service=TEXT, instance=TEXT,
        domains=TEXTS, path=TEXT, backend=TEXT, priority=WHOLE, enabled=FLAG, options=_NAMED, headers=_NAMED, request_headers=_NAMED,
        rate_limit=TEXT,
        health={"oneOf": [thing(status=TEXT, reason=TEXT, last_check=MAYBE_INSTANT, response_time_ms=MAYBE_NUMBER,
                                success_rate_percent=MAYBE_NUMBER, consecutive_failures=WHOLE), {"type": "null"}]},
        circuit=thing(state=_CIRCUIT_STATE, failures=WHOLE, opened_at=MAYBE_INSTANT, next_attempt=MAYBE_INSTANT,
                      hosts=many("HostCircuit")),
        maintenance=thing(
            active=FLAG, page_url=TEXT, entered_at=MAYBE_INSTANT, until=MAYBE_INSTANT, reason=TEXT, entered_by=TEXT, hits=WHOLE,
            planned={"oneOf": [thing(at=INSTANT, seconds=NUMBER, page_url=TEXT, by=TEXT, reason=TEXT), {"type": "null"}]}),
        hold=thing(active=FLAG, until=MAYBE_INSTANT), rollout_share=MAYBE_NUMBER,
        drain=thing(active=FLAG, started_at=MAYBE_INSTANT, duration_seconds=MAYBE_NUMBER, traffic_percent=NUMBER,
                    remaining_seconds=NUMBER),
        stats=thing(**dict.fromkeys(counters.SHOWN, WHOLE), **_OPEN, **_LATENCIES)),
    "Session": thing(
        session_id=TEXT, service_name=TEXT, instance_name=TEXT, state=_is("string", enum=["connected", "disconnected", "ended"]),
        address=TEXT, connected_at=INSTANT, routes_active=WHOLE, draining=FLAG, last_activity=INSTANT),
    "Health": thing(
        route_id=TEXT, url=TEXT, status=TEXT, reason=TEXT, since=INSTANT, last_check=MAYBE_INSTANT,
        success_rate_percent=MAYBE_NUMBER, response_time_ms=MAYBE_NUMBER, consecutive_failures=WHOLE),
    "Circuit": thing(
        route_id=TEXT, state=_CIRCUIT_STATE, reason=TEXT, failures=WHOLE, successes=WHOLE, opened_at=MAYBE_INSTANT,
        last_failure=MAYBE_INSTANT, next_attempt=MAYBE_INSTANT, host=TEXT, hosts=many("HostCircuit")),
    "HostCircuit": thing(host=TEXT, state=_CIRCUIT_STATE, failures=WHOLE, opened_at=MAYBE_INSTANT, next_attempt=MAYBE_INSTANT),
    "Event": thing(
        id=WHOLE, type=TEXT, at=INSTANT, route_id=MAYBE_TEXT, session_id=MAYBE_TEXT, actor=TEXT, data=ANYTHING),
    "Stats": thing(
        route_id=TEXT, **dict.fromkeys(counters.WHOLE, WHOLE), **_OPEN, **_LATENCIES,
        status_codes=_is("object", additionalProperties=WHOLE)),
    "Traffic": {
        **thing(step_seconds=WHOLE, minutes=WHOLE, routes=_is(
            "object", additionalProperties=thing(requests=WHOLES, errors=WHOLES)), **{"from": INSTANT})},
    "Done": thing(done=TEXT),
    "Added": thing(done=TEXT, route_id=TEXT),
    "Rollout": thing(
        rollout_id=WHOLE, service=TEXT, instance=TEXT,
        state=_is("string", enum=["running", "completed", "rolled_back", "aborted", "ended"]), share=NUMBER, steps=WHOLES,
        step=WHOLE, step_remaining_seconds=NUMBER,
        every_seconds=NUMBER, max_errors=NUMBER, max_slower=NUMBER,
        started_at=INSTANT, started_by=TEXT, ended_at=MAYBE_INSTANT, why=TEXT,
        figures=thing(instance=thing(requests=WHOLE, errors=WHOLE, p95_ms=MAYBE_NUMBER),
                      others=thing(requests=WHOLE, errors=WHOLE, p95_ms=MAYBE_NUMBER))),
    "Tested": _is("object", properties={"reachable": FLAG, "response_time_ms": NUMBER, "status_code": WHOLE, "tls_valid": FLAG,
                                        "error": TEXT}, required=["reachable"]),
    "Ready": _is("object", properties={"ready": FLAG, "reasons": TEXTS, "state": _STATE, "findings": many("Finding")},
                 required=["ready", "reasons"]),
    "Why": thing(
        url=TEXT, client=TEXT, host=TEXT, path=TEXT, domain=MAYBE_TEXT, route_path=MAYBE_TEXT, priority=_is(["integer", "null"]),
        conditions=MAYBE_TEXT,
        steps={"type": "array", "items": thing(name=TEXT, verdict=_is("string", enum=["passes", "refuses", "waits"]), detail=TEXT,
                                               status=WHOLE, code=TEXT)},
        members={"type": "array", "items": thing(route_id=TEXT, service=TEXT, instance=TEXT, backend=TEXT, usable=FLAG, why=TEXT)},
        chosen=MAYBE_TEXT, status=_is(["integer", "null"]), code=MAYBE_TEXT),
    "Finding": thing(
        kind=_is("string", enum=[kind.name for kind in KINDS]), severity=_is("string", enum=[CRITICAL, WARNING, STARTING]), subject=TEXT,
        what=TEXT, why=TEXT, todo=TEXT, since=MAYBE_INSTANT, service=TEXT, route_ids=TEXTS),
    "Certificate": thing(
        domain=TEXT, state=_is("string", enum=["valid", "ordering", "failed", "none"]), not_after=MAYBE_INSTANT, issuer=TEXT,
        challenge=TEXT, error=TEXT, next_attempt=MAYBE_INSTANT),
    "Host": thing(
        name=TEXT, leads=FLAG, term=_is(["integer", "null"]), leads_since=MAYBE_INSTANT, lives=FLAG, release=TEXT, config_version=WHOLE,
        behind=WHOLE, workers=WHOLE, in_flight=WHOLE, websocket_active=WHOLE, connections=WHOLE, drained_at=MAYBE_INSTANT,
        drained_by=MAYBE_TEXT, started_at=INSTANT, heartbeat_at=INSTANT),
    "Hosts": thing(config_version=WHOLE, drain_delay_seconds=NUMBER, hosts=many("Host")),
    "Certificates": thing(certificates=many("Certificate"), local_ca=MAYBE_TEXT),
    "Error": thing(
        service=TEXT, domain=TEXT, path=TEXT, status=WHOLE, reason=TEXT, made_by=_is("string", enum=["backend", "proxy", "client"]),
        requests=WHOLE, first_hour=INSTANT, last_at=INSTANT, last_method=TEXT, last_url=TEXT, last_upstream=TEXT, last_request_id=TEXT),
    "SlowRequest": thing(
        at=INSTANT, route_id=TEXT, level=_is("string", enum=["warning", "critical"]), method=TEXT, url=TEXT, status=WHOLE, total_ms=NUMBER,
        queue_ms=NUMBER, connect_ms=NUMBER, first_byte_ms=NUMBER, body_ms=NUMBER, upstream=TEXT, request_id=TEXT),
    "Requests": thing(slow=many("SlowRequest"), errors=many("Error")),
    "History": {
        **thing(span=TEXT, step_seconds=WHOLE, **_PERCENTILES, points={"type": "array", "items": thing(
            at=INSTANT, requests=WHOLE, errors=WHOLE, status_2xx=WHOLE, status_3xx=WHOLE, status_4xx=WHOLE, status_5xx=WHOLE,
            avg_ms=MAYBE_NUMBER, **_PERCENTILES, down_seconds=NUMBER)},
            checks={"type": "array", "items": thing(at=INSTANT, last_at=INSTANT, checks=WHOLE, route_id=TEXT, ok=FLAG,
                                                    status=_is(["integer", "null"]), response_time_ms=MAYBE_NUMBER, error=MAYBE_TEXT)},
            transitions={"type": "array", "items": thing(at=INSTANT, route_id=TEXT, to=TEXT, reason=TEXT, **{"from": TEXT})},
            deploys={"type": "array", "items": thing(route_id=TEXT, instance=TEXT, backend=TEXT, added_at=INSTANT, added_by=TEXT,
                                                     removed_at=MAYBE_INSTANT, removed_why=MAYBE_TEXT)},
            **{"from": INSTANT})},
    "UnknownHost": thing(host=TEXT, requests=WHOLE, last_at=INSTANT),
    "Webhooks": thing(webhooks={"type": "array", "items": thing(
        name=TEXT, host=TEXT, format=_is("string", enum=list(FORMATS)), types=TEXTS, services=TEXTS, resolved=FLAG)}),
    "SentAlerts": thing(sent={"type": "array", "items": thing(name=TEXT, host=TEXT, error=TEXT)}),
    "Login": thing(csrf_token=TEXT, role=TEXT),
    "Problem": thing(type=TEXT, title=TEXT, status=WHOLE, code=TEXT, detail=TEXT),
}
