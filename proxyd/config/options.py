"""Every route option, declared once: OPTIONS_SET, site files, checks, docs and the data plane read this.

`RouteOptions` is the effective, typed set of one route; `parse_option` checks one key as a client sent it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from proxyd.base import text
from proxyd.base.urls import parse_check_or_none
from proxyd.config.declare import (
    BOOL,
    DURATION,
    DURATION_OR_OFF,
    LIST,
    SIZE,
    STATUSES,
    Kind,
    bounded_text,
    choice,
    declarations,
    declare,
    integer,
    words,
)
from proxyd.config.routechecks import check_interval

RETRY_CAUSES = ("connection_refused", "reset", "timeout")


def _retry_on(value: str) -> tuple[str, ...]:
    """Causes and status codes in any mix: `connection_refused, reset, 502, 503`."""
    items = tuple(item.lower() for item in text.split_list(value))
    for item in items:
        if item not in RETRY_CAUSES:
            try:
                text.parse_status_set(item)
            except ValueError:
                raise ValueError(f'"{item}" is neither one of {", ".join(RETRY_CAUSES)} nor a status code') from None
    return items


def _strip_prefix(value: str) -> str:
    """A path prefix, `true` (the route's own path) or nothing."""
    word = value.strip()
    if word.lower() in ("", "false", "no", "off"):
        return ""
    if word.lower() in ("true", "yes", "on"):
        return "true"
    if not word.startswith("/") or any(ord(char) <= 32 or ord(char) >= 127 for char in word):
        raise ValueError(f'"{value}" is not a path (like /api) nor true or false')
    return word.rstrip("/")


def _cookie_name(value: str) -> str:
    """A cookie's name (RFC 6265 4.1.1: a token), or nothing."""
    name = value.strip()
    if name and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", name):
        raise ValueError(f'"{value[:64]}" is not a cookie name (letters, digits, dash, underscore; 64 at most)')
    return name


#: Names of the policies in proxy/route/balance, the default first. A test holds the two together.
BALANCE = ("least_conn", "round_robin", "ip_hash")


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """The options of one route; defaults are what a route has that sets none. Times are seconds, sizes bytes."""

    connect_timeout: float = declare(DURATION, "5s", "Time to open a connection to the upstream, TLS included.")
    timeout: float = declare(DURATION, "60s", "Time from the sent request to the upstream's response header.")
    read_timeout: float = declare(DURATION, "60s", "Longest silence between two pieces of the response body.")
    total_timeout: float = declare(DURATION_OR_OFF, "0", "Time for the whole exchange, retries included; 0 for none.")
    health_check_path: str = declare(Kind("path, tcp:// or tcp://host:port", parse_check_or_none), "",
                                     "What the health check asks the backend for: a path, or tcp:// to connect only; empty: no check.")
    health_check_interval: float = declare(Kind("duration", check_interval), "10s", "Time between two health checks, at least 10ms.")
    health_check_timeout: float = declare(DURATION, "5s", "Time for one health check: connect, header and body together.")
    health_expected_status: frozenset[int] = declare(STATUSES, "200-399", "Statuses that count as healthy.")
    health_expected_body: str = declare(bounded_text(256), "", "Text that the checked body must hold; empty: any.")
    health_check_keepalive: bool = declare(BOOL, "false", "Keep the connection to the target open between two checks.")
    health_rise: int = declare(integer(1, 100), "2", "Good checks in a row until a down upstream is healthy.")
    health_fall: int = declare(integer(1, 100), "3", "Failed checks in a row until an upstream is down.")
    retry: bool = declare(BOOL, "false", "Try again, another replica first, when the upstream fails. Where no connection comes "
                                 "about, another replica is asked with or without it.")
    retry_max_attempts: int = declare(integer(1, 10), "3", "Attempts in all, the first included.")
    retry_on: tuple[str, ...] = declare(
        Kind("list of causes and status codes", _retry_on), "connection_refused,reset,timeout,502,503,504",
        "What is tried again: connection_refused, reset, timeout, and status codes.")
    retry_backoff: str = declare(choice("exponential", "constant", "none"), "exponential",
                                 "How the delay grows from try to try (full jitter).")
    retry_initial_delay: float = declare(DURATION, "50ms", "Upper bound of the first delay.")
    retry_max_delay: float = declare(DURATION, "2s", "Upper bound of any delay.")
    compression: bool = declare(BOOL, "false", "Compress responses for clients that accept it.")
    compression_algorithms: tuple[str, ...] = declare(
        words("zstd", "br", "gzip"), "zstd,br,gzip", "Algorithms in the order of preference where a client likes several alike.")
    compression_min_size: int = declare(SIZE, "1k", "Smallest body of known length that is compressed.")
    compression_level: int = declare(integer(0, 11), "0", "Level, from 1 (fast) to 9 (br: 11); 0: the algorithm's own default.")
    compression_types: tuple[str, ...] = declare(
        LIST, "text/* application/json application/*+json application/javascript application/xml application/*+xml"
              " application/wasm image/svg+xml font/ttf font/otf",
        "Content types that are compressed; * stands for anything.")
    websocket: bool = declare(BOOL, "false", "Let WebSocket upgrades through.")
    websocket_max_connections: int = declare(
        integer(0, 1_000_000), "0", "Open WebSockets of the route on a host, over all its workers; 0 for no bound.")
    websocket_max_duration: float = declare(DURATION_OR_OFF, "0", "Longest life of a WebSocket; 0 for no bound.")
    websocket_idle_timeout: float = declare(DURATION_OR_OFF, "5m", "Longest silence of a WebSocket; 0 for no bound.")
    slow_warning: float = declare(DURATION_OR_OFF, "0", "Requests that take longer are logged and kept as slow; 0: off.")
    slow_critical: float = declare(DURATION_OR_OFF, "0", "Requests that take longer raise an alert; 0: off.")
    max_body_size: int = declare(SIZE, "0", "Largest request body; 0: the [proxy] max_body_size setting.")
    preserve_host: bool = declare(BOOL, "true", "Send the client's Host to the upstream, not the backend's own.")
    strip_prefix: str = declare(Kind("path, or true for the route's own path", _strip_prefix), "",
                                "Path prefix taken off before the request goes upstream.")
    balance: str = declare(choice(*BALANCE), BALANCE[0], "How replicas share requests.")
    sticky_cookie: str = declare(Kind("cookie name", _cookie_name), "", "Name of a cookie that keeps a client on its replica; empty: none.")
    weight: int = declare(integer(0, 1000), "100", "Share of this replica among its pool.")
    slow_start: float = declare(DURATION_OR_OFF, "10s", "Time over which a recovered replica's share grows to full; 0: at once.")
    pool_size: int = declare(integer(0, 10_000), "64", "Idle connections kept to the upstream by each worker.")
    tls_verify: bool = declare(BOOL, "true", "Verify the certificate of an https or wss backend.")
    circuit_breaker: bool = declare(BOOL, "false", "Count failures and open the circuit; CIRCUIT_BREAKER_SET turns it on.")
    circuit_threshold: int = declare(integer(1, 100_000), "5", "Consecutive failures that open the circuit.")
    circuit_timeout: float = declare(DURATION, "30s", "Time an open circuit waits until it lets trial requests through.")
    circuit_half_open_requests: int = declare(integer(1, 1000), "1", "Trial requests let through at once while half-open.")
    circuit_success_threshold: int = declare(integer(1, 1000), "1", "Successful trials that close the circuit.")
    circuit_window: float = declare(DURATION_OR_OFF, "0", "Failures further apart than this do not add up; 0: they do.")
    circuit_failure_status: frozenset[int] = declare(STATUSES, "500,502,503,504", "Upstream statuses that count as failures.")
    http2: bool = declare(BOOL, "false", "Accepted for existing clients; upstreams are spoken to in HTTP/1.1.")
    http3: bool = declare(BOOL, "false", "Accepted for existing clients; HTTP/3 needs a front such as Caddy.")


OPTIONS = declarations(RouteOptions)
DEFAULT_OPTIONS = RouteOptions()


def parse_option(key: str, value: str) -> Any:
    """The typed value of one option. Raises ValueError naming the key, the value and what was expected."""
    declaration = OPTIONS.get(key)
    if declaration is None:
        raise ValueError(f'unknown option "{key}"{text.suggest(key, OPTIONS)}')
    try:
        return declaration.kind.parse(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def option_of(options: Mapping[str, str], key: str) -> Any:
    """The typed value that one option has in a route's options: the declared default where the route does not set it."""
    return parse_option(key, options.get(key, OPTIONS[key].default))


@lru_cache(maxsize=4096)
def route_options(pairs: tuple[tuple[str, str], ...]) -> RouteOptions:
    """The effective options of a route from (key, text) pairs; equal pairs share one object. Raises ValueError."""
    return replace(DEFAULT_OPTIONS, **{key: parse_option(key, value) for key, value in pairs})
