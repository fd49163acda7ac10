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
from proxyd.base.errorpages import ErrorPages, parse_error_pages
from proxyd.base.gateapi import parse_gates
from proxyd.base.rewrites import Rewrite, parse_rewrite
from proxyd.base.urls import Backend, parse_backend, parse_check_or_none
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
from proxyd.config.named import AddressRule, UsersName, named, parse_rule, parse_users_name
from proxyd.config.routechecks import check_interval, request_header_name

#: Files that options name: never a path, so that nobody leaves the directory.
FILE_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
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


def _host_field(value: str) -> str:
    """A host as a Host field has it, or nothing."""
    host = value.strip()
    if host and parse_backend(f"http://{host}").path:
        raise ValueError(f'"{value}" is not a host (like app.internal or app.internal:8080)')
    return host


def _server_name(value: str) -> str:
    """A host by name or address, without a port, or nothing."""
    host = value.strip()
    if not host:
        return ""
    found = parse_backend(f"http://{host}")
    if found.path or found.authority not in (found.host, f"[{found.host}]"):
        raise ValueError(f'"{value}" is not a host without a port (like app.internal)')
    return found.host


def _file_name(value: str) -> str:
    """The name of a file in a directory that a setting names, or nothing."""
    name = value.strip()
    if name and not re.fullmatch(FILE_NAME, name):
        raise ValueError(f'"{value[:140]}" is not a file\'s name (letters, digits, dot, dash and underscore, without a directory)')
    return name


def _cookie_name(value: str) -> str:
    """A cookie's name (RFC 6265 4.1.1: a token), or nothing."""
    name = value.strip()
    if name and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", name):
        raise ValueError(f'"{value[:64]}" is not a cookie name (letters, digits, dash, underscore; 64 at most)')
    return name


def _protocols(value: str) -> tuple[str, ...]:
    """Names of protocols as an Upgrade field has them (RFC 9110 7.8), lower case."""
    names = tuple(name.lower() for name in text.split_list(value))
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}(?:/[!#$%&'*+.^_`|~0-9a-z-]{1,64})?", name):
            raise ValueError(f'"{name[:64]}" is not the name of a protocol (like tcp or spdy/3.1)')
        if name == "websocket":
            raise ValueError("websocket has an option of its own (websocket = true)")
        if name.startswith(("h2c", "http/", "tls/")):
            raise ValueError(f'"{name}" is the proxy\'s own matter: it speaks HTTP and TLS itself')
    return names


def _origins(value: str) -> tuple[str, ...]:
    """Origins (RFC 6454 6.2) in lower case, with `*` for the first label or for any origin."""
    origins = tuple(origin.lower() for origin in text.split_list(value))
    for origin in origins:
        if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?",
                                                           origin):
            raise ValueError(f'"{origin[:80]}" is not an origin (like https://app.example.com, without a path)')
    if "*" in origins and len(origins) > 1:
        raise ValueError("* is any origin, so it stands alone")
    return origins


def _tokens(value: str) -> tuple[str, ...]:
    """Tokens (RFC 9110 5.6.2), such as methods and names of fields."""
    items = text.split_list(value)
    for item in items:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", item):
            raise ValueError(f'"{item[:80]}" is not a method or a name of a field')
    return items


@dataclass(frozen=True, slots=True)
class Within:
    """An objective for the time of requests: `percent` of them take at most `seconds`."""

    percent: float
    seconds: float


def _percent(value: str) -> float:
    """An objective in percent, with the sign or without."""
    number = value.strip().removesuffix("%").strip()
    if not re.fullmatch(r"\d{1,2}(?:\.\d{1,6})?", number, re.ASCII) or not float(number):
        raise ValueError(f'"{value[:40]}" is not a percentage above 0 and below 100 (like 99.9%)')
    return float(number)


def _availability(value: str) -> float:
    return 0.0 if value.strip().lower() in ("", "0", "off") else _percent(value)


def _within(value: str) -> Within | None:
    """`99% in 300ms`, or nothing."""
    if value.strip().lower() in ("", "0", "off"):
        return None
    percent, word, seconds = value.partition(" in ")
    if not word:
        raise ValueError(f'"{value[:80]}" is not a share and a time (like 99% in 300ms)')
    return Within(_percent(percent), text.parse_duration(seconds.strip()))


@dataclass(frozen=True, slots=True)
class AuthUrl:
    """The url of a service that decides who may pass: where it is, and the target of the requests to it."""

    backend: Backend
    target: str


def _auth_url(value: str) -> AuthUrl | None:
    """An http or https url with a path and a query or without, or nothing."""
    url = value.strip()
    if not url:
        return None
    plain, mark, query = url.partition("?")
    if not plain.lower().startswith(("http://", "https://")) or "#" in query or any(not 32 < ord(char) < 127 for char in url):
        raise ValueError(f'"{url[:80]}" is not an http or https url (like http://127.0.0.1:9091/api/authz/forward-auth)')
    backend = parse_backend(plain)
    if not backend.port:
        raise ValueError(f'"{url[:80]}" is a UNIX socket, where no such service is asked')
    return AuthUrl(backend, "/" + "".join(plain.split("/", 3)[3:]) + mark + query)


def _auth_names(value: str) -> tuple[str, ...]:
    """Names of request fields that a route may set."""
    return tuple(request_header_name(name) for name in text.split_list(value))


#: The key of rate limits where a route says nothing.
BY_ADDRESS = (("address", ""),)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def _limit_key(value: str) -> tuple[tuple[str, str], ...]:
    """What makes the key of a rate limit: kinds, each with its name or number."""
    parts = []
    for word in value.split("+"):
        kind, colon, name = word.strip().partition(":")
        kind = kind.lower()
        sound = {"address": not colon, "header": bool(_TOKEN.fullmatch(name)) and "_" not in name, "cookie": bool(_TOKEN.fullmatch(name)),
                 "path": name in tuple("12345678")}.get(kind, False)
        if not sound:
            raise ValueError(f'"{word.strip()[:80]}" is not address, header:NAME, cookie:NAME or path:N with N from 1 to 8')
        parts.append((kind, name.lower() if kind == "header" else name))
    if len(set(parts)) < len(parts):
        raise ValueError(f'"{value[:80]}" says the same twice')
    return tuple(parts)


def _buffer(value: str) -> int:
    """A size, `off`, or `on` for a size that fits most services."""
    word = value.strip().lower()
    if word in ("", "0", "off", "no", "false"):
        return 0
    return _BUFFER if word in ("on", "yes", "true") else text.parse_size(value)


_BUFFER = 64 << 20
_ADDRESSES = Kind("list of networks and names of [lists]", parse_rule)
_BUFFER_SIZE = Kind("size, on (64m) or off", _buffer)


def _pool_size(value: str) -> int:
    """A number, or `auto` for as many as are in use."""
    return POOL_AUTO if value.strip().lower() == "auto" else integer(0, 10_000).parse(value)


POOL_AUTO = 1 << 20

#: Names of the policies in proxy/route/balance, the default first. A test holds the two together.
BALANCE = ("least_conn", "round_robin", "ip_hash")


@dataclass(frozen=True, slots=True)
class BackendTls:
    """What a route asks of TLS with its backend, and of what comes before it (`send_proxy`).

    `server_name`: for SNI and the certificate, in place of the backend's host. `ca`, `certificate`: names of files: of the CAs that are
    trusted instead of the system's, and of the certificate that is shown and its key.
    """

    verify: bool = True
    server_name: str = ""
    ca: str = ""
    certificate: str = ""
    send_proxy: str = "off"


@dataclass(frozen=True, slots=True)
class RouteOptions:
    """The options of one route. A field's default applies to a route that does not set it. Times are seconds, sizes bytes."""

    connect_timeout: float = declare(DURATION, "5s", "Longest time to open a connection to the upstream, TLS handshake included.")
    timeout: float = declare(DURATION, "60s", "Longest wait for the upstream's response header, once the request is sent.")
    read_timeout: float = declare(DURATION, "60s", "Longest silence between two pieces of the response body.")
    total_timeout: float = declare(DURATION_OR_OFF, "0", "Longest time for the whole exchange, retries included. 0: no limit.")
    health_check_path: str = declare(Kind("path, tcp:// or tcp://host:port, grpc://", parse_check_or_none), "",
                                     "What the health check requests: a path, tcp:// to connect only, or grpc:// for gRPC's health "
                                     "service. Empty: no health check.")
    health_check_interval: float = declare(Kind("duration", check_interval), "10s", "Time between two health checks, 10ms or more.")
    health_check_timeout: float = declare(DURATION, "5s", "Longest time for one health check: connecting, header and body together.")
    health_expected_status: frozenset[int] = declare(STATUSES, "200-399", "Response statuses that count as healthy.")
    health_expected_body: str = declare(bounded_text(256), "", "Text that the checked response body must contain. Empty: any body.")
    health_check_keepalive: bool = declare(BOOL, "false", "Keep the connection to the target open between checks.")
    health_rise: int = declare(integer(1, 100), "2", "Successful checks in a row after which an upstream that is down counts as healthy.")
    health_fall: int = declare(integer(1, 100), "3", "Failed checks in a row after which an upstream counts as down.")
    retry: bool = declare(BOOL, "false", "Send a failed request again, to another replica if there is one. A request whose connection "
                                 "could not be opened goes to another replica even if this is off.")
    retry_max_attempts: int = declare(integer(1, 10), "3", "Most attempts, the first included.")
    retry_on: tuple[str, ...] = declare(
        Kind("list of causes and status codes", _retry_on), "connection_refused,reset,timeout,502,503,504",
        "Failures after which a request is sent again: connection_refused, reset, timeout, and status codes.")
    retry_backoff: str = declare(choice("exponential", "constant", "none"), "exponential",
                                 "How the delay before each retry grows. The real delay is random, between 0 and that (full jitter).")
    retry_initial_delay: float = declare(DURATION, "50ms", "Longest delay before the first retry.")
    retry_max_delay: float = declare(DURATION, "2s", "Longest delay before any retry.")
    compression: bool = declare(BOOL, "false", "Compress responses for clients that accept it.")
    compression_algorithms: tuple[str, ...] = declare(
        words("zstd", "br", "gzip"), "zstd,br,gzip", "Algorithms, the preferred one first, for clients that have no preference.")
    compression_min_size: int = declare(SIZE, "1k", "Bodies whose known length is below this are not compressed.")
    compression_level: int = declare(integer(0, 11), "0", "Level from 1 (fast) to 9 (br: 11). 0: the algorithm's own default.")
    compression_types: tuple[str, ...] = declare(
        LIST, "text/* application/json application/*+json application/javascript application/xml application/*+xml"
              " application/wasm image/svg+xml font/ttf font/otf",
        "Content types that are compressed. * matches anything.")
    websocket: bool = declare(BOOL, "false", "Allow WebSocket upgrades.")
    websocket_max_connections: int = declare(
        integer(0, 1_000_000), "0", "Most open WebSockets of the route on one host, over all workers. 0: no limit.")
    websocket_max_duration: float = declare(DURATION_OR_OFF, "0", "Longest life of a WebSocket. 0: no limit.")
    websocket_idle_timeout: float = declare(DURATION_OR_OFF, "5m", "Longest silence of a WebSocket. 0: no limit.")
    websocket_ping: float = declare(
        DURATION_OR_OFF, "0", "Silence of either side after which proxyd sends it a ping. A side that does not answer within the same time "
                              "is gone. 0: no pings.")
    upgrade: tuple[str, ...] = declare(
        Kind("list of protocols", _protocols), "", "Protocols other than websocket that a client may upgrade to, such as tcp, spdy/3.1. "
                                                   "They have the time limits of a WebSocket.")
    slow_warning: float = declare(DURATION_OR_OFF, "0", "Requests that take longer are logged and stored as slow. 0: off.")
    slow_critical: float = declare(DURATION_OR_OFF, "0", "Requests that take longer raise an alert. 0: off.")
    slo_availability: float = declare(
        Kind("percentage like 99.9%, or off", _availability), "off",
        "Objective: so many of the requests are answered without an error (status from 500) over 30 days. v_slo tells what is left.")
    slo_latency: Within | None = declare(
        Kind("share and time like 99% in 300ms, or off", _within), "off",
        "Objective: so many of the requests take no longer than that over 30 days.")
    max_in_flight: int = declare(integer(0, 1_000_000), "0", "Most requests that the backend has under way on one host, over all workers, "
                                                             "open WebSockets included. 0: no limit.")
    queue_size: int = declare(integer(0, 1_000_000), "0", "Most requests that wait for a place within max_in_flight.")
    queue_timeout: float = declare(DURATION, "10s", "Longest wait in the queue.")
    hold_when_down: float = declare(
        DURATION_OR_OFF, "0", "Longest time that a request waits while all members drain, are disconnected or down, or refuse connections. "
                              "0: such a request is refused at once.")
    hold_size: int = declare(integer(1, 100_000), "1000", "Most requests of the route that wait in each worker while it is held.")
    max_body_size: int = declare(SIZE, "0", "Largest request body. 0: the setting [proxy] max_body_size holds.")
    max_response_body: int = declare(SIZE, "0", "Largest response body of the upstream, before compression. 0: no limit.")
    bare_lf: bool = declare(BOOL, "false", "Accept a response header whose lines end in LF without CR, as some old devices send it.")
    request_buffer: int = declare(
        _BUFFER_SIZE, "off", "Bytes of a request body that are received before the upstream is asked. Most bodies should fit.")
    response_buffer: int = declare(
        _BUFFER_SIZE, "off", "Most bytes of an answer that are received ahead of a slow client, so that the upstream is free sooner.")
    gates: tuple[str, ...] = declare(
        Kind("list of names", parse_gates), "", "Gates of installed packages (entry points proxyd.gates) that each request must pass.")
    error_pages: ErrorPages = declare(
        Kind("rules like 5xx -> down; 404 -> /errors/404.html", parse_error_pages, free=True), "",
        "Pages in place of proxyd's own errors, by status: names of files in [proxy] error_page_files, or paths of the backend.")
    error_pages_replace: bool = declare(BOOL, "false", "Show error_pages also in place of the backend's own answers of these statuses.")
    preserve_host: bool = declare(BOOL, "true", "Send the client's Host to the upstream. false: send the host of the backend url.")
    upstream_host: str = declare(Kind("host, with a port or without", _host_field), "",
                                 "Host that the upstream gets, in requests and health checks. Empty: as preserve_host says.")
    strip_prefix: str = declare(Kind("path, or true for the route's own path", _strip_prefix), "",
                                "Path prefix that is removed before the request is sent to the upstream.")
    rewrite: Rewrite | None = declare(
        Kind("/old -> /new, or ~ EXPRESSION -> /new", parse_rewrite, free=True), "",
        "What the path becomes before the request is sent to the upstream: a prefix another one, or what an expression matches as a whole.")
    raw_path: bool = declare(BOOL, "false", "Forward repeated slashes and dot segments of a path as the client sent them.")
    ambiguous_path: str = declare(choice("refuse", "pass"), "refuse", "What to do with a path that a backend may read as another route's.")
    balance: str = declare(choice(*BALANCE), BALANCE[0], "How requests are shared among replicas.")
    sticky_cookie: str = declare(Kind("cookie name", _cookie_name), "", "Name of a cookie that keeps a client on one replica. Empty: none.")
    sticky_secure: str = declare(choice("auto", "always"), "auto", "Whether the cookie is Secure. auto: if the client comes by HTTPS, to "
                                                                   "proxyd or to a trusted front.")
    sticky_same_site: str = declare(choice("lax", "strict", "none"), "lax", "SameSite of the cookie. none makes it Secure, too.")
    sticky_max_age: float = declare(DURATION_OR_OFF, "0", "How long a browser keeps the cookie. 0: until it is closed.")
    allow: AddressRule = declare(_ADDRESSES, "", "Clients that may use the route. Empty: all that deny does not name.")
    basic_auth: UsersName = declare(
        Kind("name of [users]", parse_users_name), "", "File of users who pass by name and password, by its name in [users]. Empty: none.")
    forward_auth: AuthUrl | None = declare(
        Kind("http or https url", _auth_url), "", "Service that is asked whether a request may pass, as Authelia, Authentik and "
                                                  "oauth2-proxy speak it. Empty: none.")
    forward_auth_headers: tuple[str, ...] = declare(
        Kind("list of names", _auth_names), "Remote-User,Remote-Groups,Remote-Name,Remote-Email",
        "Fields of that service's 2xx that the backend gets. Those of the client are dropped.")
    forward_auth_timeout: float = declare(DURATION, "5s", "Longest time for that service to answer. Then nobody passes (503).")
    rate_limit_key: tuple[tuple[str, str], ...] = declare(
        Kind("address, header:NAME, cookie:NAME, path:N, or several with +", _limit_key), "address",
        "By what requests are counted together for rate limits: address (IPv6: network), a request field, a cookie, the first N segments "
        "of the path. A request without the field or the cookie is counted by its address.")
    respond_text: str = declare(
        bounded_text(4096), "", "Text of the answer of a route whose backend is respond: or redirect:. HTML if it begins with <. Empty: "
                                "the status in words.")
    cors_origins: tuple[str, ...] = declare(
        Kind("list of origins", _origins), "", "Origins whose pages may read the answers: https://app.example.com, https://*.a.test, *. "
                                               "Empty: no CORS here, the backend's own fields pass.")
    cors_methods: tuple[str, ...] = declare(
        Kind("list of methods", _tokens), "GET,HEAD,POST", "Methods that pages of those origins may use.")
    cors_headers: tuple[str, ...] = declare(
        Kind("list of names, or *", _tokens), "", "Request fields that those pages may send. *: any.")
    cors_expose: tuple[str, ...] = declare(Kind("list of names", _tokens), "", "Response fields that those pages may read.")
    cors_credentials: bool = declare(BOOL, "false", "Those pages may send cookies and logins. Not with the origin *.")
    cors_max_age: float = declare(DURATION_OR_OFF, "10m", "How long a browser may remember the answer to a preflight. 0: as it likes.")
    deny: AddressRule = declare(_ADDRESSES, "", "Clients that may not use the route, even if allow names them.")
    weight: int = declare(integer(0, 1000), "100", "Share of requests for this replica, relative to the others of its pool.")
    rollout: str = declare(choice("at_once", "wait"), "at_once",
                           "When a new instance takes traffic: at once, or not until proxyctl rollout gives it some, as long as another "
                           "instance serves.")
    slow_start: float = declare(DURATION_OR_OFF, "10s", "Time over which the share of a recovered replica grows back to full. 0: at once.")
    drain_alone: str = declare(choice("serve", "refuse"), "serve",
                               "What a drain does if nobody else takes the traffic: serve it all until the end, or refuse a growing share.")
    pool_size: int = declare(
        Kind("whole number, 0 to 10000, or auto", _pool_size), "auto",
        "Most idle connections to the upstream that each worker keeps. auto: as many as were in use at once within pool_idle_timeout.")
    pool_idle_timeout: float = declare(DURATION, "50s", "Longest time an idle connection is kept. The upstream's Keep-Alive may say less.")
    pool_max_age: float = declare(DURATION_OR_OFF, "5m", "Greatest age of a kept connection to the upstream. 0: no limit.")
    tls: str = declare(choice("auto", "off"), "auto", "auto: with [acme], the route's domains get certificates. off: they get none.")
    tls_redirect: bool = declare(BOOL, "true", "Redirect plain HTTP to HTTPS (308) for names that have a certificate by [acme].")
    tls_verify: bool = declare(BOOL, "true", "Verify the certificate of an https or wss backend.")
    send_proxy: str = declare(
        choice("off", "v1", "v2"), "off", "Begin each connection to the upstream with a header of the PROXY protocol that names the "
                                          "client. Connections are not kept then.")
    tls_server_name: str = declare(Kind("host", _server_name), "",
                                   "Name that an https or wss backend is asked for (SNI), and that its certificate must have. Empty: the "
                                   "host of its url.")
    tls_ca: str = declare(
        Kind("file name", _file_name), "", "PEM file, in [proxy] backend_tls, of the CAs that may sign the certificate of an https or wss "
                                           "backend. Empty: the system's.")
    tls_client_certificate: str = declare(
        Kind("file name", _file_name), "", "PEM file, in [proxy] backend_tls, with the certificate that proxyd shows to an https or wss "
                                           "backend, and its key. Empty: none.")
    circuit_breaker: bool = declare(BOOL, "false", "Count failures and open the circuit after too many. CIRCUIT_BREAKER_SET turns it on.")
    circuit_threshold: int = declare(integer(1, 100_000), "5", "Consecutive failures that open the circuit.")
    circuit_timeout: float = declare(DURATION, "30s", "How long a circuit stays open before it allows trial requests.")
    circuit_half_open_requests: int = declare(integer(1, 1000), "1", "Most trial requests at once while the circuit is half-open.")
    circuit_success_threshold: int = declare(integer(1, 1000), "1", "Successful trials that close the circuit.")
    circuit_window: float = declare(DURATION_OR_OFF, "0", "Failures further apart than this are not added up. 0: all are.")
    circuit_error_rate: int = declare(integer(0, 100), "0", "Percentage of failures among the requests of circuit_window (10s if that is "
                                                            "0) that opens the circuit as well. 0: off.")
    circuit_min_requests: int = declare(integer(1, 1_000_000), "20", "Fewest requests within that time for circuit_error_rate to count.")
    circuit_slow: float = declare(DURATION_OR_OFF, "0", "An answer that begins later than this is a failure for the circuit. 0: off.")
    max_ejected_percent: int = declare(
        integer(0, 100), "100", "Largest share of a pool whose circuits requests may open. Further members keep their traffic, failing or "
                                "not. One may always be opened, unless this is 0.")
    circuit_failure_status: frozenset[int] = declare(STATUSES, "500,502,503,504", "Upstream statuses that count as failures.")
    http2: bool = declare(BOOL, "false", "Speak HTTP/2 to the upstream if it does (https: by ALPN), with requests side by side on one "
                                         "connection. Backends named h2c:// always get it.")
    http2_ping: float = declare(
        DURATION_OR_OFF, "15s", "Silence of an HTTP/2 connection with requests under way after which proxyd sends the upstream a ping. "
                                "One that does not answer within the same time is gone. 0: no pings.")
    http3: bool = declare(BOOL, "false", "Accepted for the sake of existing clients, without effect: HTTP/3 needs a front such as Caddy.")


OPTIONS = declarations(RouteOptions)
DEFAULT_OPTIONS = RouteOptions()


def tls_of(options: RouteOptions) -> BackendTls:
    """What the options of a route ask of TLS with its backend."""
    return BackendTls(options.tls_verify, options.tls_server_name, options.tls_ca, options.tls_client_certificate, options.send_proxy)


def parse_option(key: str, value: str) -> Any:
    """The typed value of one option. Raises ValueError that names the key, the value and what was expected."""
    declaration = OPTIONS.get(key)
    if declaration is None:
        raise ValueError(f'unknown option "{key}"{text.suggest(key, OPTIONS)}')
    try:
        return declaration.kind.parse(value)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def check_option(key: str, value: str) -> Any:
    """The typed value of one option that somebody sets now: what it names must be there. Raises ValueError."""
    parsed = parse_option(key, value)
    try:
        named().check(parsed)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None
    return parsed


_beneath: dict[str, str] = {}


def use_option_defaults(options: Mapping[str, str]) -> None:
    """Take other values, which parse, for options that a route does not set (`config/defaults`)."""
    _beneath.clear()
    _beneath.update(options)
    route_options.cache_clear()


def option_of(options: Mapping[str, str], key: str) -> Any:
    """The typed value of one option of a route. A route that does not set it has that of all routes, or the declared default."""
    return parse_option(key, options.get(key, _beneath.get(key, OPTIONS[key].default)))


@lru_cache(maxsize=4096)
def route_options(pairs: tuple[tuple[str, str], ...]) -> RouteOptions:
    """The effective options of a route from (key, text) pairs. Equal pairs share one object. Raises ValueError."""
    return replace(DEFAULT_OPTIONS, **{key: parse_option(key, value) for key, value in {**_beneath, **dict(pairs)}.items()})
