"""Commands about the session itself, REGISTER among them."""

from __future__ import annotations

import logging
import time
from typing import Any

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.registry import fields
from proxyd.registry.auth import LoginRefused
from proxyd.registry.caller import Caller
from proxyd.registry.fields import Field
from proxyd.registry.framing import to_json
from proxyd.registry.protocol import CommandError, command
from proxyd.registry.staging import merged
from proxyd.registry.state import ENDED

log = logging.getLogger("proxyd.registry")

TOPIC = "Sessions"


@command("REGISTER", TOPIC,
         Field("service", fields.name, "Name of the service. Its instances form pools."),
         Field("instance", fields.name, "Name of this instance. Another REGISTER with the same names replaces this session. "
               "Its routes serve until the new session's first apply, or until `replace_grace` has passed."),
         Field("maintenance_port", fields.port, "Port of the service's maintenance server, 0 for none.", True, 0),
         Field("metadata", fields.metadata, "JSON object that is stored and shown. Absent, empty, `{}` and `null` mean the same. "
               "`token` in it is the registry token.", True, None),
         answer="`ACK|session_id`", help="Begin a session on this connection.", session=False)
def register(caller: Caller, service: str, instance: str, maintenance_port: int, metadata: dict[str, Any] | None) -> str:
    if caller.has_session:
        raise CommandError("this connection has a session already; CLIENT_SHUTDOWN ends it")
    kept = dict(metadata or {})
    token = kept.pop("token", None)
    try:
        grant = caller.gate.admit(service, token, caller.address.rpartition(":")[0], time.monotonic())
        session, secret = caller.registry.register(service, instance, maintenance_port, kept, caller.address, caller, grant)
    except LoginRefused as error:
        if error.counted:
            log.warning("%s may not register from %s: %s", service[:128], caller.address, error)
            caller.registry.bus.publish("login_refused", {"service": service[:128], "reason": str(error)}, actor=caller.address)
        raise CommandError(str(error)) from None
    caller.hold(session, secret)
    log.info("%s/%s registered from %s as session %s", service, instance, caller.address, session.session_id)
    return f"ACK|{secret}"


@command("RECONNECT", TOPIC,
         Field("session_id", fields.anything, "The session to resume."),
         answer="`OK`, or `REREGISTER` for an unknown or expired session", session=False,
         help="Resume a session on a new connection, within `reconnect_grace` of its loss. Its routes are live again, and its "
              "staged changes are still there. After `REREGISTER` the connection may REGISTER.")
def reconnect(caller: Caller, session_id: str) -> str:
    if caller.has_session:
        if session_id == caller.secret:
            return "OK"
        raise CommandError("this connection has a session already; RECONNECT belongs on a new one")
    session = caller.registry.find_secret(session_id)
    if session is None or session.state == ENDED:
        return "REREGISTER"
    if session.expires and session.expires <= clock.now():
        return "REREGISTER"
    caller.registry.reconnect(session, caller.address, caller)
    caller.hold(session, session_id)
    log.info("%s/%s reconnected from %s with %d routes", session.service, session.instance, caller.address, len(session.routes))
    return "OK"


@command("PING", TOPIC, answer="`PONG`", help="Show that the client is alive.", repeatable=True)
def ping(caller: Caller) -> str:
    return "PONG"


@command("SESSION_INFO", TOPIC,
         answer="`SESSION_OK|{session_id, service_name, instance_name, connected_at, uptime_seconds, last_activity, last_apply, "
                "routes_active, routes_staged, metadata, took_from}`",
         help="Show what the registry knows about the session. `took_from`: the address of a client that was connected as the same "
              "instance, and lost its session to this one; else null.", repeatable=True)
def session_info(caller: Caller) -> str:
    session = caller.session
    return "SESSION_OK|" + to_json({
        "session_id": caller.secret, "service_name": session.service, "instance_name": session.instance,
        "connected_at": rfc3339(session.connected_at), "uptime_seconds": int(clock.now() - session.began),
        "last_activity": rfc3339(session.last_activity),
        "last_apply": rfc3339(session.last_apply) if session.last_apply else None, "routes_active": len(session.routes),
        "routes_staged": sum(1 for route_id in merged(session) if route_id not in session.routes),
        "metadata": session.metadata, "took_from": session.took_from or None})


@command("CLIENT_SHUTDOWN", TOPIC, answer="`SHUTDOWN_OK`, then the connection closes",
         help="End the session. Its routes are gone from every worker before the answer is sent. While all of them are held (TRAFFIC_HOLD, "
              "`proxyctl deploy`), they wait as those of a lost session instead: somebody has said that the service will be back.")
def client_shutdown(caller: Caller) -> str:
    registry, session = caller.registry, caller.session
    count = len(session.routes)
    if registry.active.held(session.routes):
        registry.disconnect(session, caller)
        caller.closing = True
        log.info("%s/%s ended its session while its requests are held: its %d routes wait for its return", session.service,
                 session.instance, count)
        return "SHUTDOWN_OK"
    before = registry.kept.get((session.service, session.instance))
    ending = [session] if before is None or registry.active.held(before.routes) else [session, before]
    registry.end(ending, caller.actor, "CLIENT_SHUTDOWN")
    caller.closing = True
    log.info("%s/%s ended its session: its %d routes are removed", session.service, session.instance, count)
    return "SHUTDOWN_OK"
