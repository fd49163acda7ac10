"""What the client has to know of commands to send them again, and to tell a registry that forgot it what it was told.

The registry's command table declares all of this (`proxyd/registry/commands/`); the client can be taken out and used
without it, so it has a copy, and `tests/client/test_commands.py` fails where the two differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

#: Sent again after a loss in mid-answer, since doing them twice is the same as once.
REPEATABLE = frozenset({
    "ROUTE_UPDATE", "HEADERS_SET", "REQUEST_HEADERS_SET", "OPTIONS_SET", "HEALTH_SET", "RATELIMIT_SET",
    "CIRCUIT_BREAKER_SET", "CONFIG_APPLY", "CONFIG_APPLY_PARTIAL", "CONFIG_VALIDATE", "CONFIG_DIFF", "CONFIG_ROLLBACK", "ROUTE_LIST",
    "ROUTE_STATUS", "CIRCUIT_BREAKER_STATUS", "CIRCUIT_BREAKER_RESET", "CERT_STATUS", "STATS_GET", "BACKEND_TEST", "DRAIN_STATUS",
    "DRAIN_CANCEL", "TRAFFIC_HOLD", "TRAFFIC_RELEASE", "MAINT_STATUS", "SESSION_INFO", "PING", "SUBSCRIBE", "UNSUBSCRIBE",
})
#: Commands that stage something, with the scope by which CONFIG_APPLY_PARTIAL knows it.
SCOPES = {
    "ROUTE_ADD": "routes", "ROUTE_ADD_BULK": "routes", "ROUTE_UPDATE": "routes", "ROUTE_REMOVE": "routes",
    "HEADERS_SET": "headers", "HEADERS_REMOVE": "headers",
    "REQUEST_HEADERS_SET": "request_headers", "REQUEST_HEADERS_REMOVE": "request_headers",
    "OPTIONS_SET": "options", "OPTIONS_REMOVE": "options",
    "HEALTH_SET": "health", "RATELIMIT_SET": "ratelimit", "CIRCUIT_BREAKER_SET": "circuit_breaker",
}
#: Commands whose first field names routes: the client puts the ids there that the registry knows them by now.
TARGETED = frozenset({
    "ROUTE_UPDATE", "ROUTE_REMOVE", "HEADERS_SET", "HEADERS_REMOVE", "REQUEST_HEADERS_SET", "REQUEST_HEADERS_REMOVE",
    "OPTIONS_SET", "OPTIONS_REMOVE", "HEALTH_SET",
    "RATELIMIT_SET", "CIRCUIT_BREAKER_SET", "ROUTE_STATUS", "CIRCUIT_BREAKER_STATUS", "CIRCUIT_BREAKER_RESET",
    "STATS_GET", "MAINT_ENTER", "MAINT_EXIT", "TRAFFIC_HOLD", "TRAFFIC_RELEASE",
})

#: Bytes of routes in one ROUTE_ADD_BULK. A line of the registry holds 16 KiB ([registry] max_line), the rest of the command included.
_BULK_BYTES = 12_000


def bulk_lines(routes: Sequence[str]) -> Iterator[str]:
    """JSON arrays of routes, which are JSON themselves, each short enough for a line. One that is too long alone goes alone."""
    part: list[str] = []
    size = 0
    for route in routes:
        length = len(route.encode()) + 2
        if part and size + length > _BULK_BYTES:
            yield f"[{', '.join(part)}]"
            part, size = [], 0
        part.append(route)
        size += length
    if part:
        yield f"[{', '.join(part)}]"
