"""Every route option, declared once: OPTIONS_SET, site files, checks, docs and the data plane read this.

`RouteOptions` is the effective, typed set of one route; `parse_option` checks one key as a client sent it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from proxyd.base import text
from proxyd.base.conditions import Rule, parse_cookies, parse_headers, parse_methods, parse_queries
from proxyd.base.errorpages import ErrorPages, parse_error_pages
from proxyd.base.gateapi import parse_gates
from proxyd.base.rewrites import Rewrite, parse_rewrite
from proxyd.base.urls import parse_check_or_none
from proxyd.config import optionvalues as values
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
from proxyd.config.named import AddressRule, UsersName, named, parse_users_name
from proxyd.config.routechecks import check_interval

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
    health_method: str = declare(Kind("GET, HEAD, OPTIONS or POST", values.check_method), "GET",
                                 "Method of health checks. They have no body.")
    health_headers: tuple[tuple[str, str], ...] = declare(
        Kind("NAME: VALUE, several with ;", values.check_fields, free=True), "",
        "Fields of health checks, Host among them. They replace those that the route sets for its requests, which checks have too.")
    health_check_keepalive: bool = declare(BOOL, "false", "Keep the connection to the target open between checks.")
    health_rise: int = declare(integer(1, 100), "2", "Successful checks in a row after which an upstream that is down counts as healthy.")
    health_fall: int = declare(integer(1, 100), "3", "Failed checks in a row after which an upstream counts as down.")
    retry: bool = declare(BOOL, "false", "Send a failed request again, to another replica if there is one. A request whose connection "
                                 "could not be opened goes to another replica even if this is off.")
    retry_max_attempts: int = declare(integer(1, 10), "3", "Most attempts, the first included.")
    retry_on: tuple[str, ...] = declare(
        Kind("list of causes and status codes", values.retry_on), "connection_refused,reset,timeout,502,503,504",
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
        Kind("list of protocols", values.protocols), "",
        "Protocols other than websocket that a client may upgrade to, such as tcp, spdy/3.1. They have the time limits of a WebSocket.")
    slow_warning: float = declare(DURATION_OR_OFF, "0", "Requests that take longer are logged and stored as slow. 0: off.")
    slow_critical: float = declare(DURATION_OR_OFF, "0", "Requests that take longer raise an alert. 0: off.")
    slo_availability: float = declare(
        Kind("percentage like 99.9%, or off", values.availability), "off",
        "Objective: so many of the requests are answered without an error (status from 500) over 30 days. v_slo tells what is left.")
    slo_latency: values.Within | None = declare(
        Kind("share and time like 99% in 300ms, or off", values.within), "off",
        "Objective: so many of the requests take no longer than that over 30 days.")
    server_timing: bool = declare(BOOL, "false", "Tell clients by the field Server-Timing how long a request waited, connected, and waited "
                                                 "for the backend. Browsers show it.")
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
        values.BUFFER_SIZE, "off", "Bytes of a request body that are received before the upstream is asked. Most bodies should fit.")
    response_buffer: int = declare(
        values.BUFFER_SIZE, "off", "Most bytes of an answer that are received ahead of a slow client, so that the upstream is free sooner.")
    gates: tuple[str, ...] = declare(
        Kind("list of names", parse_gates), "", "Gates of installed packages (entry points proxyd.gates) that each request must pass.")
    error_pages: ErrorPages = declare(
        Kind("rules like 5xx -> down; 404 -> /errors/404.html", parse_error_pages, free=True), "",
        "Pages in place of proxyd's own errors, by status: names of files in [proxy] error_page_files, or paths of the backend.")
    error_pages_replace: bool = declare(BOOL, "false", "Show error_pages also in place of the backend's own answers of these statuses.")
    preserve_host: bool = declare(BOOL, "true", "Send the client's Host to the upstream. false: send the host of the backend url.")
    upstream_host: str = declare(Kind("host, with a port or without", values.host_field), "",
                                 "Host that the upstream gets, in requests and health checks. Empty: as preserve_host says.")
    strip_prefix: str = declare(Kind("path, or true for the route's own path", values.strip_prefix), "",
                                "Path prefix that is removed before the request is sent to the upstream.")
    rewrite: Rewrite | None = declare(
        Kind("/old -> /new, or ~ EXPRESSION -> /new", parse_rewrite, free=True), "",
        "What the path becomes before the request is sent to the upstream: a prefix another one, or what an expression matches as a whole.")
    raw_path: bool = declare(BOOL, "false", "Forward repeated slashes and dot segments of a path as the client sent them.")
    ambiguous_path: str = declare(
        choice("refuse", "pass"), "refuse", "What to do with a path that a backend may read as another route's, or as one that leads out.")
    balance: str = declare(choice(*BALANCE), BALANCE[0], "How requests are shared among replicas.")
    sticky_cookie: str = declare(Kind("cookie name", values.cookie_name), "",
                                 "Name of a cookie that keeps a client on one replica. Empty: none.")
    sticky_secure: str = declare(choice("auto", "always"), "auto", "Whether the cookie is Secure. auto: if the client comes by HTTPS, to "
                                                                   "proxyd or to a trusted front.")
    sticky_same_site: str = declare(choice("lax", "strict", "none"), "lax", "SameSite of the cookie. none makes it Secure, too.")
    sticky_max_age: float = declare(DURATION_OR_OFF, "0", "How long a browser keeps the cookie. 0: until it is closed.")
    allow: AddressRule = declare(values.ADDRESSES, "", "Clients that may use the route. Empty: all that deny does not name.")
    basic_auth: UsersName = declare(
        Kind("name of [users]", parse_users_name), "", "File of users who pass by name and password, by its name in [users]. Empty: none.")
    forward_auth: values.AuthUrl | None = declare(
        Kind("http or https url", values.auth_url), "",
        "Service that is asked whether a request may pass, as Authelia, Authentik and oauth2-proxy speak it. Empty: none.")
    forward_auth_headers: tuple[str, ...] = declare(
        Kind("list of names", values.auth_names), "Remote-User,Remote-Groups,Remote-Name,Remote-Email",
        "Fields of that service's 2xx that the backend gets. Those of the client are dropped.")
    forward_auth_timeout: float = declare(DURATION, "5s", "Longest time for that service to answer. Then nobody passes (503).")
    rate_limit_key: tuple[tuple[str, str], ...] = declare(
        Kind("address, user, header:NAME, cookie:NAME, path:N, or several with +", values.limit_key), "address",
        "By what requests are counted together for rate limits: address (IPv6: network), the user who has logged in, a request field, a "
        "cookie, the first N segments of the path. A request without user, field or cookie is counted by its address.")
    respond_text: str = declare(
        bounded_text(4096), "", "Text of the answer of a route whose backend is respond: or redirect:. HTML if it begins with <. Empty: "
                                "the status in words.")
    cors_origins: tuple[str, ...] = declare(
        Kind("list of origins", values.origins), "",
        "Origins whose pages may read the answers: https://app.example.com, https://*.a.test, *. "
        "Empty: no CORS here, the backend's own fields pass.")
    cors_methods: tuple[str, ...] = declare(
        Kind("list of methods", values.tokens), "GET,HEAD,POST", "Methods that pages of those origins may use.")
    cors_headers: tuple[str, ...] = declare(
        Kind("list of names, or *", values.tokens), "", "Request fields that those pages may send. *: any.")
    cors_expose: tuple[str, ...] = declare(Kind("list of names", values.tokens), "", "Response fields that those pages may read.")
    cors_credentials: bool = declare(BOOL, "false", "Those pages may send cookies and logins. Not with the origin *.")
    cors_max_age: float = declare(DURATION_OR_OFF, "10m", "How long a browser may remember the answer to a preflight. 0: as it likes.")
    deny: AddressRule = declare(values.ADDRESSES, "", "Clients that may not use the route, even if allow names them.")
    match_method: tuple[str, ...] = declare(
        Kind("list of methods", parse_methods), "", "Methods of the requests that the route is for. Empty: all.")
    match_header: tuple[Rule, ...] = declare(
        Kind("NAME or NAME: VALUE, several with ;", parse_headers, free=True), "",
        "Request fields that make a request the route's. * in a value is any text, ` | ` stands between values that will do.")
    match_query: tuple[Rule, ...] = declare(
        Kind("NAME or NAME=VALUE, several with ;", parse_queries, free=True), "", "The same of parameters in the query.")
    match_cookie: tuple[Rule, ...] = declare(
        Kind("NAME or NAME=VALUE, several with ;", parse_cookies, free=True), "", "The same of cookies.")
    weight: int = declare(integer(0, 1000), "100", "Share of requests for this replica, relative to the others of its pool.")
    rollout: str = declare(choice("at_once", "wait"), "at_once",
                           "When a new instance takes traffic: at once, or not until proxyctl rollout gives it some, as long as another "
                           "instance serves.")
    slow_start: float = declare(DURATION_OR_OFF, "10s", "Time over which the share of a recovered replica grows back to full. 0: at once.")
    drain_alone: str = declare(choice("serve", "refuse"), "serve",
                               "What a drain does if nobody else takes the traffic: serve it all until the end, or refuse a growing share.")
    pool_size: int = declare(
        Kind("whole number, 0 to 10000, or auto", values.pool_size), "auto",
        "Most idle connections to the upstream that each worker keeps. auto: as many as were in use at once within pool_idle_timeout.")
    pool_idle_timeout: float = declare(DURATION, "50s", "Longest time an idle connection is kept. The upstream's Keep-Alive may say less.")
    pool_max_age: float = declare(DURATION_OR_OFF, "5m", "Greatest age of a kept connection to the upstream. 0: no limit.")
    tls: str = declare(choice("auto", "off"), "auto", "auto: with [acme], the route's domains get certificates. off: they get none.")
    tls_redirect: bool = declare(BOOL, "true", "Redirect plain HTTP to HTTPS (308) for names that have a certificate by [acme].")
    client_certificate: str = declare(
        choice("off", "optional", "required"), "off",
        "Certificate of clients, by a CA in [tls] client_ca. optional: they are asked, and the backend is told. required: 403 for those "
        "that show none.")
    tls_verify: bool = declare(BOOL, "true", "Verify the certificate of an https or wss backend.")
    send_proxy: str = declare(
        choice("off", "v1", "v2"), "off", "Begin each connection to the upstream with a header of the PROXY protocol that names the "
                                          "client. Connections are not kept then.")
    tls_server_name: str = declare(Kind("host", values.server_name), "",
                                   "Name that an https or wss backend is asked for (SNI), and that its certificate must have. Empty: the "
                                   "host of its url.")
    tls_ca: str = declare(
        Kind("file name", values.file_name), "",
        "PEM file, in [proxy] backend_tls, of the CAs that may sign the certificate of an https or wss backend. Empty: the system's.")
    tls_client_certificate: str = declare(
        Kind("file name", values.file_name), "",
        "PEM file, in [proxy] backend_tls, with the certificate that proxyd shows to an https or wss backend, and its key. Empty: none.")
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
