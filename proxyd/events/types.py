"""Every type of event, declared once: SUBSCRIBE's check, what clients are sent, the status page, proxyctl and the documents read it.

A new type is a line here and the line that publishes it. A test reads the source for types that are not here.
"""

from __future__ import annotations

from typing import NamedTuple

#: What SUBSCRIBE takes for every type that clients are sent.
ALL = "all"


class EventType(NamedTuple):
    """A type. `fields`: the keys of its data, beside `at` and `route_id`. `subscribed`: what a registry client subscribes to
    in order to get it; empty where it is for operators and the audit trail alone."""

    name: str
    sentence: str
    fields: tuple[str, ...] = ()
    subscribed: str = ""


TYPES: tuple[EventType, ...] = (
    EventType("config_applied", "A session's staged configuration became the active one.",
              ("service", "instance", "routes", "removed", "settings")),
    EventType("apply_refused", "CONFIG_APPLY was refused, and nothing was applied. The same `reason` is told again after a minute.",
              ("service", "instance", "reason")),
    EventType("backend_health_changed", "A health check changed its mind.", ("healthy", "status", "previous", "reason", "url"),
              "backend_health_changed"),
    EventType("circuit_state_changed", "A circuit is in another state: `closed`, `open` or `half_open`.", ("state", "from", "to", "reason"),
              "circuit_state_changed"),
    EventType("circuit_reset", "A circuit was closed by a client or an operator."),
    EventType("maintenance_changed", "Maintenance began or ended, by a client or an operator.", ("active", "page_url"),
              "maintenance_changed"),
    EventType("hold_changed", "The requests of a route began to wait, or go on. `until`: the end of the wait, if nobody ends it before.",
              ("active", "until"), "hold_changed"),
    EventType("rollout_changed", "A rollout began, took its next step or ended. `state`: running, completed, rolled_back, aborted or "
              "ended; `share`: the percentage of clients that the instance gets; `reason`: why it ended.",
              ("service", "instance", "state", "share", "reason")),
    EventType("drain_started", "A session drains.", ("seconds",)),
    EventType("drain_progress", "At every tenth of a drain.", ("traffic_percent", "remaining_seconds"), "drain_progress"),
    EventType("drain_completed", "At the end of a drain, and once more when the last of the requests under way is over.",
              ("traffic_percent", "in_flight"), "drain_progress"),
    EventType("drain_cancelled", "A drain was cancelled."),
    EventType("login_refused", "A registration, or a login at the admin HTTP, was refused.", ("service", "to", "reason")),
    EventType("session_registered", "A session began.", ("service", "instance", "address", "token")),
    EventType("session_lost", "The connection of a session broke: its routes take no traffic, and wait for RECONNECT, for `grace` seconds.",
              ("service", "instance", "address", "grace")),
    EventType("session_back", "A lost session is back by RECONNECT. `away`: after how many seconds.",
              ("service", "instance", "address", "away")),
    EventType("session_ended", "A session ended, and with it its routes, if a successor did not take their place. `reason`: why.",
              ("service", "instance", "reason")),
    EventType("session_replaced", "A client that was connected lost its session to another one, by REGISTER or RECONNECT.",
              ("service", "instance", "how", "address", "token", "previous_address", "count"), "session_replaced"),
    EventType("route_overridden", "A route gets no more traffic for a domain and path: a route of another service has a higher priority.",
              ("service", "place", "by_route", "by_service", "count"), "route_overridden"),
    EventType("host_late", "An apply was answered before the workers of another host routed by it. `reached`: the version that they have.",
              ("host", "version", "reached")),
    EventType("host_changed", "A host that shares the database is drained or serves again (`drained`, `undrained`), gives no sign of life, "
              "or does so again (`gone`, `back`).", ("host", "state"), "host_changed"),
    EventType("cert_renewed", "A certificate of the proxy was replaced.", ("path", "names", "expires"), "cert_renewed"),
    EventType("certificate_changed", "A certificate was obtained or renewed, or could not be. `state`: as in CERT_STATUS.",
              ("domain", "state", "not_after", "issuer", "challenge", "error", "next_attempt"), "certificate_changed"),
    EventType("certificate_expiring", "A certificate is near its end or past it.", ("path", "names", "expires", "days")),
    EventType("history_dropped", "The database is as large as it may be, so the oldest history goes before its time. Said once a day. "
              "`up_to`: what is older is gone.", ("max_size", "rows", "tables", "up_to")),
    EventType("global_config_changed", "The proxy's configuration was read again.", ("file",), "global_config_changed"),
)
NAMES: tuple[str, ...] = tuple(event.name for event in TYPES)
#: What a client subscribes to for each type that clients are sent at all.
SUBSCRIBED: dict[str, str] = {event.name: event.subscribed for event in TYPES if event.subscribed}
#: What SUBSCRIBE takes.
SUBSCRIBABLE: tuple[str, ...] = (*dict.fromkeys(SUBSCRIBED.values()), ALL)
