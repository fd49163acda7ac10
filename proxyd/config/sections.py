"""Every setting, declared once, in its section: default, type, check, help, environment name and docs follow from here.

`settings.py` puts the sections together and reads them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxyd.base import text
from proxyd.base.errorpages import ErrorPages, parse_error_files
from proxyd.base.sourceapi import parse_sources
from proxyd.base.urls import parse_check
from proxyd.config.declare import (
    ADDRESS,
    ADDRESS_OR_NONE,
    BOOL,
    DURATION,
    DURATION_OR_OFF,
    LIST,
    NETWORKS,
    SIZE,
    TEXT,
    Kind,
    choice,
    declare,
    duration_or_off,
    integer,
    number,
    size_between,
    words,
)

_HOST_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LEAST_DATABASE = 64 << 20
_REDIS_SCHEMES = ("redis://", "rediss://", "redis+unix://")


def _counted_in(value: str) -> str:
    """`shared`, or the url of a Redis."""
    place = value.strip()
    if place != "shared" and not (place.startswith(_REDIS_SCHEMES) and len(place.partition("://")[2]) > 0):
        raise ValueError(f'"{value}" is neither shared nor a Redis url (redis://host:port/db, rediss://..., redis+unix:///path)')
    return place


def _host_name(value: str) -> str:
    """A name of at most 64 letters, digits, dots, dashes and underscores, or nothing."""
    name = value.strip()
    if name and not _HOST_NAME.fullmatch(name):
        raise ValueError(f'"{value}" is not a name of at most 64 letters, digits, dots, dashes and underscores')
    return name


def _database_size(value: str) -> int:
    """Bytes of a size, 0 for `off`. Less than `_LEAST_DATABASE` would leave no room for what is needed to serve."""
    size = 0 if value.strip().lower() in ("off", "0", "no") else text.parse_size(value)
    if 0 < size < _LEAST_DATABASE:
        raise ValueError(f"{value!r} is less than 64m, which the configuration and a day of sums may need")
    return size


def _other_hosts_address(value: str) -> str:
    """A host and port that others can connect to, or nothing."""
    address = text.parse_address(value) if value.strip() else ""
    if address.startswith("unix:") or (address and text.split_address(address)[0] in ("", "0.0.0.0", "::")):
        raise ValueError(f'"{value}" is not an address that other hosts can connect to (like web1.example.com:8181)')
    return address


def _some(*known: str) -> Kind:
    """A list of words, one at least."""
    kind = words(*known)

    def parse(value: str) -> tuple[str, ...]:
        found: tuple[str, ...] = kind.parse(value)
        if not found:
            raise ValueError(f"empty; expected one or more of {', '.join(known)}")
        return tuple(dict.fromkeys(found))

    return Kind(kind.name, parse)


def _paths(value: str) -> tuple[str, ...]:
    """Full paths, without a slash at their end."""
    items = text.split_list(value)
    for item in items:
        if not re.fullmatch(r"(?:/(?!\.{1,2}(?:/|\Z))[^/:]+)+/?", item):
            raise ValueError(f'"{item}" is not the full path of a socket or a directory (like /run/apps)')
    return tuple(item.rstrip("/") for item in items)


@dataclass(frozen=True, slots=True)
class ProxySettings:
    """HTTP listener, client side limits, and what the data plane does by default."""

    bind: str = declare(ADDRESS, "127.0.0.1:8000", "Where HTTP clients connect.")
    workers: int = declare(integer(0, 256), "0", "Worker processes. 0: one for each core.")
    worker_connections: int = declare(integer(1, 1_000_000), "10000", "Most client connections that a worker holds at once.")
    backlog: int = declare(integer(1, 65535), "2048", "Connections that the kernel queues until a worker accepts them.")
    keepalive_timeout: float = declare(DURATION, "75s", "How long an idle client connection is kept open.")
    header_timeout: float = declare(DURATION, "10s", "Time a client has to send a complete request header.")
    body_timeout: float = declare(DURATION, "30s", "Longest silence while a client sends a body or reads a response.")
    min_request_rate: int = declare(SIZE, "500", "Least bytes a second of a request, header and body. 0: no least rate.")
    min_response_rate: int = declare(SIZE, "500", "Least bytes a second that a client reads of an answer. 0: no least rate.")
    min_rate_window: float = declare(DURATION, "10s", "How long a client may be behind the least rate.")
    buffer_total: int = declare(SIZE, "256m", "Most bytes of buffered bodies that a worker keeps, in memory and in temporary files.")
    buffer_directory: str = declare(TEXT, "", "Directory of the temporary files of buffered bodies. Empty: the system's.")
    requests_per_connection: int = declare(integer(1, 1_000_000_000), "10000", "Requests on one client connection before proxyd closes it.")
    max_request_line: int = declare(SIZE, "8k", "Longest request line. A longer one is answered with 414.")
    max_header_count: int = declare(integer(1, 10_000), "100", "Most header fields in a request. More are answered with 431.")
    max_header_size: int = declare(SIZE, "64k", "Largest request header, all fields together. A larger one is answered with 431.")
    max_body_size: int = declare(SIZE, "10g", "Largest request body. A larger one is answered with 413. 0 means no limit.")
    max_response_header_size: int = declare(SIZE, "64k", "Largest response header of an upstream. A larger one is answered with 502.")
    graceful_timeout: float = declare(DURATION, "30s", "How long a stopping worker waits for its requests in flight.")
    max_connections_per_client: int = declare(
        integer(0, 1_000_000), "0", "Most connections that one client address (IPv6: /64) may have open on a host. 0: no limit.")
    max_requests_per_client: int = declare(
        integer(0, 1_000_000), "0", "Most requests that one client address (IPv6: /64) may have in flight on a host. 0: no limit.")
    worker_timeout: float = declare(DURATION, "30s", "A worker that gives no sign of life for so long is killed, and another one started.")
    http2_cleartext: bool = declare(BOOL, "no", "Take HTTP/2 on the plain port too, from clients that begin with it (prior knowledge).")
    http2_max_streams: int = declare(integer(1, 10_000), "100", "Most requests at once on one HTTP/2 connection.")
    http2_stream_window: int = declare(
        size_between("64k", "64m"), "256k", "Bytes of one request's body that an HTTP/2 client may send before they are read.")
    http2_connection_window: int = declare(
        size_between("64k", "1g"), "2m", "The same of all requests on one HTTP/2 connection. This much memory it can take.")
    trusted_proxies: tuple[text.TrustedPeer, ...] = declare(
        Kind("list of networks, unix", text.parse_trusted_peers), "",
        "Addresses of proxies in front of proxyd whose X-Forwarded-* and Forwarded fields are believed. unix: whoever connects by a "
        "UNIX socket.")
    backend_tls: str = declare(
        TEXT, "conf/backend-tls", "Directory of the PEM files that the options tls_ca and tls_client_certificate name.")
    gate_timeout: float = declare(DURATION, "1s", "Longest time that a gate of an installed package may wait (option gates).")
    error_pages: ErrorPages = declare(
        Kind("rules like 5xx -> down; 404 -> missing", parse_error_files, free=True), "",
        "Pages in place of proxyd's own errors, by status, where a route says none: names of files in error_page_files.")
    error_page_files: str = declare(TEXT, "conf/error-pages", "Directory of the files that error_pages name: NAME.html and NAME.json.")
    proxy_protocol_from: tuple[text.TrustedPeer, ...] = declare(
        Kind("list of networks, unix", text.parse_trusted_peers), "",
        "Addresses of proxies in front of proxyd that begin each connection with a header of the PROXY protocol (version 1 or 2). unix: "
        "whoever connects by a UNIX socket. Empty: none.")
    stale_after: float = declare(
        DURATION_OR_OFF, "0", "A worker that has known of a newer configuration for so long, and could not read it, answers 503 rather "
        "than by its old routes. 0: it goes on by them.")
    unknown_host: str = declare(choice("404", "421", "close"), "404", "Answer to a request whose host no route names.")
    via: str = declare(TEXT, "", "Name of this proxy in Via, used to detect loops. Empty: made from the host name and the database.")
    redirect_https: bool = declare(BOOL, "no", "Answer plain HTTP with a redirect to HTTPS.")
    hsts: float = declare(DURATION_OR_OFF, "0", "max-age of Strict-Transport-Security in HTTPS responses. 0: the field is not sent.")


@dataclass(frozen=True, slots=True)
class TlsSettings:
    """TLS for HTTP clients."""

    bind: str = declare(ADDRESS_OR_NONE, "", "Where HTTPS clients connect (like 0.0.0.0:8443). Empty: no TLS.")
    certificates: tuple[str, ...] = declare(LIST, "", "PEM files, each with a certificate chain and its key. SNI chooses among them.")
    public_port: int = declare(integer(1, 65535), "443", "Port of HTTPS as clients see it, for redirects.")
    min_version: str = declare(choice("1.2", "1.3"), "1.2", "Oldest TLS version that is accepted.")
    ciphers: str = declare(
        choice("modern", "intermediate"), "intermediate",
        "Ciphers after Mozilla's lists. intermediate: forward secrecy and authenticated encryption, also in TLS 1.2. modern: TLS 1.3 "
        "alone, whatever min_version says.")
    http2: bool = declare(BOOL, "yes", "Offer HTTP/2 to clients (ALPN h2).")
    shared_tickets: bool = declare(
        BOOL, "yes", "Let clients resume their TLS session at any worker of the host. no: at the one that they had before alone.")
    client_ca: str = declare(
        TEXT, "", "PEM file of the CAs whose certificates clients may show. Routes ask for them by the option client_certificate. "
                  "Empty: nobody is asked.")
    client_crl: str = declare(
        TEXT, "", "PEM file with the lists of revoked certificates (CRL) of the CAs in client_ca, one of each. Empty: none is looked at.")


@dataclass(frozen=True, slots=True)
class AcmeSettings:
    """Automatic HTTPS: certificates for the domains of routes, from a CA that speaks ACME (RFC 8555)."""

    enabled: bool = declare(BOOL, "no", "Order and renew certificates for the domains of live routes. It needs [tls] bind.")
    directory: str = declare(TEXT, "https://acme-v02.api.letsencrypt.org/directory", "URL of the CA's directory. Default: Let's Encrypt.")
    ca_file: str = declare(TEXT, "", "PEM file of the CA that signed the directory's own certificate. Empty: the public ones.")
    email: str = declare(TEXT, "", "Address that the CA may write to.")
    terms_agreed: bool = declare(BOOL, "no", "yes: you agree to the CA's terms of service. Nothing is ordered without.")
    eab_kid: str = declare(TEXT, "", "Key id of an external account, for CAs that demand one.")
    eab_hmac_file: str = declare(TEXT, "", "File with the HMAC key of that account (base64url).")
    key_type: tuple[str, ...] = declare(
        _some("ecdsa256", "rsa2048"), "ecdsa256", "Kinds of keys. Each name gets a certificate for each; clients are shown one they know.")
    profile: str = declare(TEXT, "", "Profile of the CA's certificates, like shortlived. Empty: the CA's default.")
    challenges: tuple[str, ...] = declare(
        _some("http-01", "tls-alpn-01", "dns-01"), "http-01",
        "How the CA may check that a name is yours, the preferred way first. Wildcards need dns-01.")
    dns_command: str = declare(
        TEXT, "", "Program for dns-01. It is run as COMMAND present|cleanup NAME VALUE, and returns when name servers have the TXT record.")
    handshake_wait: float = declare(
        duration_or_off("30s"), "3s",
        "How long a handshake waits at most for the first certificate of its name, while that is on order. After that, and with 0 at "
        "once, it is shown the local CA's.")
    renew_before: float = declare(DURATION_OR_OFF, "0", "How long before its end a certificate is renewed. 0: a third of its lifetime.")
    domains: tuple[str, ...] = declare(
        LIST, "", "Names that certificates are ordered for; *.example.com stands for all names below it. Names that a token lists are "
                  "always allowed. Empty: all domains of live routes.")
    key_file: str = declare(
        TEXT, "", "File of the key that encrypts keys in the database, made at the first start. Empty: certificates.key beside the shared "
                  "memory.")


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """The registry master's TCP side."""

    bind: str = declare(ADDRESS, "127.0.0.1:8181", "Where services register.")
    reconnect_grace: float = declare(DURATION, "5m", "How long a lost session is kept for RECONNECT.")
    replace_grace: float = declare(DURATION, "30s", "How long the routes of a replaced session serve until the new one applies.")
    staged_ttl: float = declare(DURATION, "30m", "How long staged changes are kept when nobody touches them.")
    apply_wait: float = declare(DURATION, "2s", "Longest time that CONFIG_APPLY waits for all workers before it answers.")
    max_connections: int = declare(integer(1, 1_000_000), "10000", "Most registry connections at once.")
    spare_descriptors: int = declare(
        integer(0, 1_000_000), "64", "Descriptors of the master that connections leave free, for the admin HTTP and the health checks.")
    max_in_flight: int = declare(integer(1, 100_000), "256", "Most commands carried out at once, over all connections.")
    max_line: int = declare(SIZE, "16k", "Longest command line.")
    max_output: int = declare(SIZE, "2m", "Most output that may wait unread on a connection. Beyond it the connection is closed.")
    max_routes_per_session: int = declare(integer(1, 1_000_000), "1000", "Most routes of one session, staged ones included.")
    max_routes: int = declare(integer(1, 120_000), "100000", "Most routes of the whole registry.")
    max_domains_per_route: int = declare(integer(1, 10_000), "100", "Most domains of one route.")
    max_staged_bytes: int = declare(SIZE, "1m", "Most memory for the staged changes of one session.")
    keepalive_idle: int = declare(integer(1, 7200), "30", "Seconds of silence before TCP keepalive sends the first probe.")
    keepalive_interval: int = declare(integer(1, 600), "10", "Seconds between two TCP keepalive probes.")
    keepalive_count: int = declare(integer(1, 20), "3", "Unanswered probes after which a client counts as gone.")
    register_timeout: float = declare(DURATION, "60s", "How long a connection may stay open without a session.")
    proxy_protocol_from: tuple[text.Network, ...] = declare(
        NETWORKS, "", "Networks whose connections begin with a header of the PROXY protocol (version 1 or 2): the other hosts, whose "
        "masters pass connections on, or a proxy in front. With any, this master sends the header as well when it passes connections on.")
    tokens_file: str = declare(TEXT, "", "File of hashed tokens. With it, REGISTER must send a token. Empty: no tokens are needed.")
    unknown_options: str = declare(
        choice("error", "note"), "error", "Answer of OPTIONS_SET to an option that proxyd does not know. note: OPTIONS_OK, without effect.")
    deny_targets: tuple[text.Network, ...] = declare(
        NETWORKS, "169.254.0.0/16, fe80::/10", "Networks in which no backend, health check or maintenance page may be.")
    unix_targets: tuple[str, ...] = declare(
        Kind("list of paths", _paths), "",
        "UNIX sockets, and directories of them, that backends and maintenance pages may be on. Empty: none.")
    tls_certificate: str = declare(TEXT, "", "PEM file with certificate chain and key for registry TLS. Empty: plain TCP.")
    tls_client_ca: str = declare(TEXT, "", "PEM file of a CA. Clients must then show a certificate of that CA. Empty: none.")
    max_failed_logins: int = declare(integer(1, 10_000), "10", "Refused REGISTERs that one address may make per minute.")
    allow_unprotected: bool = declare(
        BOOL, "no", "Listen beyond loopback without tokens or client certificates. Anyone who can connect can take your traffic.")


@dataclass(frozen=True, slots=True)
class MasterSettings:
    """The registry master process."""

    spawn: bool = declare(BOOL, "yes", "yes: gunicorn starts the master and keeps it alive. no: systemd does.")
    pid_file: str = declare(TEXT, "", "Where the master writes its pid. Empty: master.pid beside the shared memory.")


@dataclass(frozen=True, slots=True)
class AdminSettings:
    """The admin HTTP server: health of proxyd, metrics, API and status page."""

    bind: str = declare(ADDRESS, "127.0.0.1:8282", "Where the admin HTTP server listens.")
    enabled: bool = declare(BOOL, "yes", "Run the admin HTTP server.")
    max_connections: int = declare(integer(1, 100_000), "256", "Most connections at once. /livez, /readyz and /metrics have some more.")
    max_connections_per_client: int = declare(integer(1, 100_000), "64", "Most connections at once from one address (IPv6: /64).")
    request_timeout: float = declare(DURATION, "10s", "Longest time from the first byte of a request to its last, the body included.")
    max_series: int = declare(
        integer(0, 10_000_000), "50000", "About the most series that /metrics has of routes and services. Beyond it, those routes are left "
        "out that are as usual, and the services with the fewest requests. 0: no bound.")
    token_file: str = declare(TEXT, "", "File with the token that actions need. Empty: all actions are refused.")
    viewer_token_file: str = declare(TEXT, "", "File with the token that reading needs. Empty: whoever can connect may read.")
    allow_unprotected: bool = declare(
        BOOL, "no", "Listen beyond loopback without viewer_token_file. Anyone who can connect can then read routes, sessions and traffic.")


@dataclass(frozen=True, slots=True)
class DatabaseSettings:
    """The shared database and what is kept in it."""

    url: str = declare(TEXT, "sqlite:///var/proxyd.db", "sqlite:///path (four slashes: absolute) or postgresql://user@host/database")
    shared_memory: str = declare(TEXT, "", "Directory of the memory files that all workers share. Empty: the directory of the database.")
    busy_timeout: float = declare(DURATION, "5s", "Longest wait for a database lock that another process holds.")
    poll: float = declare(DURATION, "1s", "How often workers look in the database for changes that nobody told them of.")
    max_log: int = declare(SIZE, "256m", "Size of SQLite's log (-wal) at which no more history is written, because a reader keeps it.")
    max_size: int = declare(
        Kind("size, at least 64m, or off", _database_size), "off",
        "Size of the database at which the oldest history goes before its time, raw rows first. off: no bound.")
    retain_health: float = declare(DURATION, "2d", "Age at which health results are pruned.")
    retain_minutes: float = declare(DURATION, "2d", "Age at which health by the minute is pruned.")
    retain_latency: float = declare(DURATION, "2h", "Age at which latencies by the minute are pruned.")
    retain_hours: float = declare(DURATION, "90d", "Age at which health and traffic by the hour are pruned.")
    retain_days: float = declare(DURATION, "1095d", "Age at which health and traffic by the day, and incidents, are pruned.")
    retain_stats: float = declare(DURATION, "30d", "Age at which traffic per minute and rejections are pruned.")
    retain_events: float = declare(DURATION, "90d", "Age at which events and audit rows are pruned.")
    retain_slow: float = declare(DURATION, "14d", "Age at which slow requests and WebSocket rows are pruned.")
    retain_sessions: float = declare(DURATION, "7d", "Age at which ended sessions are pruned.")
    retain_routes: float = declare(DURATION, "400d", "Age at which routes that are gone leave the history of routes.")


@dataclass(frozen=True, slots=True)
class HostsSettings:
    """Several hosts on one database."""

    name: str = declare(
        Kind("name of letters, digits, dots and dashes", _host_name), "",
        "Name of this host among those of its database. Empty: the host name, and a mark of the machine-id.")
    address: str = declare(
        Kind("host:port", _other_hosts_address), "",
        "Where the masters of the other hosts reach this host's registry, to pass connections on while this one leads. Empty: [registry] "
        "bind, with the host name where that is every address.")
    admin: str = declare(
        Kind("host:port", _other_hosts_address), "",
        "Where the masters of the other hosts reach this host's admin HTTP, to pass on what operators have done while this one leads. "
        "Empty: [admin] bind, unless that is this host's alone (a loopback address or a Unix socket).")
    drain_delay: float = declare(
        DURATION_OR_OFF, "5s", "How long /readyz of a host that is drained fails before its sessions are told to connect to another host, "
        "and the lead is handed over: fronts must have noticed by then. 0: not at all.")


@dataclass(frozen=True, slots=True)
class HealthSettings:
    """The health checker."""

    from_: str = declare(choice("leader", "each"), "leader", "Who checks where several hosts share a database: the leader for all hosts, "
                         "or each host for itself.")
    default_check: bool = declare(BOOL, "no", "Check routes without a health check of their own, at default_path.")
    default_path: str = declare(Kind("path or tcp://", parse_check), "/", "Path of the default check.")
    pool: int = declare(integer(1, 10_000), "256", "Most health checks of quick targets that run at once, and as many of slow ones.")
    jitter: float = declare(DURATION_OR_OFF, "500ms", "Each check is shifted by a random time of at most this.")
    max_body: int = declare(SIZE, "64k", "Most bytes of a checked response body that are read.")
    window: int = declare(integer(5, 10_000), "100", "Number of latest checks from which the success rate is computed.")
    queue: int = declare(integer(100, 10_000_000), "100000", "Most results kept while the database is locked. The oldest go first.")
    results_per_second: int = declare(integer(1, 100_000), "5", "Rows of single checks a second up to which each check has its own. "
                                      "Beyond, checks of a route in a row with the same outcome share one.")
    drive_circuits: bool = declare(BOOL, "yes", "An upstream that is down opens its circuit. One that recovers half-opens it.")


@dataclass(frozen=True, slots=True)
class RatelimitSettings:
    """Rate limits."""

    storage: str = declare(Kind("shared, or a Redis url", _counted_in), "shared",
                           "Where requests are counted: shared (for all workers of the host) or redis://host:port/db.")
    storage_timeout: float = declare(DURATION, "2s",
                                     "Longest wait for an answer of Redis. Then each host counts with its share of each limit.")
    strategy: str = declare(choice("sliding-window-counter", "fixed-window", "moving-window"), "sliding-window-counter",
                            "How requests in a window are counted.")
    ipv6_prefix: int = declare(integer(32, 128), "64", "IPv6 addresses that share this many leading bits count as one client.")
    allow: tuple[text.Network, ...] = declare(NETWORKS, "", "Networks that are exempt from every rate limit.")
    headers: bool = declare(BOOL, "no", "Send RateLimit fields with allowed requests' responses too.")
    entries: int = declare(integer(1024, 1 << 20), "65536", "Most clients and routes counted at once. The longest unused go first.")


@dataclass(frozen=True, slots=True)
class MaintenanceSettings:
    """Maintenance mode."""

    bypass: tuple[text.Network, ...] = declare(NETWORKS, "", "Networks whose clients reach the backend during maintenance.")
    page: str = declare(TEXT, "", "HTML file shown instead of the built-in page.")
    retry_after: float = declare(DURATION, "60s", "Retry-After of maintenance responses.")
    max_duration: float = declare(DURATION_OR_OFF, "0", "Longest maintenance; it then ends by itself. 0: no limit.")


@dataclass(frozen=True, slots=True)
class LogSettings:
    """Logs."""

    level: str = declare(choice("debug", "info", "warning", "error"), "info", "Lowest level that is logged.")
    format: str = declare(choice("text", "json"), "text", "Format of the lines in the error log and the access log.")
    access_format: str = declare(choice("same", "text", "combined", "json"), "same",
                                 "Format of the access log: combined is text without the fields of proxyd. same: as format says.")
    access_addresses: str = declare(choice("whole", "short"), "whole",
                                    "Clients' addresses in the access log. short: without the last byte, of IPv6 the first 48 bits.")
    access: str = declare(TEXT, "-", "Where the access log goes: a file, - for standard output, off for none.")
    error: str = declare(TEXT, "-", "Where the error log goes: a file, or - for standard error.")


@dataclass(frozen=True, slots=True)
class TracingSettings:
    """Traces for OpenTelemetry, sent by OTLP over HTTP."""

    endpoint: str = declare(TEXT, "", "URL of the collector (like http://127.0.0.1:4318/v1/traces). Empty: no traces.")
    sample: float = declare(number(0, 100), "1", "Percentage of requests that are traced, if no trusted proxy in front has decided.")
    service: str = declare(TEXT, "proxyd", "service.name of the spans.")
    headers_file: str = declare(TEXT, "", "File of fields that the collector wants (Name: value, one a line), such as Authorization.")


@dataclass(frozen=True, slots=True)
class AlertSettings:
    """Webhook alerts."""

    webhook: str = declare(TEXT, "", "URL to which alerts are posted, as JSON that Slack and Discord accept. Empty: no alerts.")
    interval: float = declare(DURATION, "1m", "Shortest time between two alerts about the same thing.")
    error_rate: float = declare(number(0, 100), "0", "Percentage of a service's requests of a minute whose errors (status from 500) raise "
                                                     "an alert. 0: off.")
    error_requests: int = declare(integer(1, 1_000_000_000), "20", "Fewest requests of a minute for that.")


@dataclass(frozen=True, slots=True)
class SitesSettings:
    """Static routes from files."""

    directory: str = declare(TEXT, "conf/sites-enabled", "Directory of site files (*.ini).")
    watch: bool = declare(BOOL, "yes", "Apply a changed file at once, without SIGHUP.")
    sources: tuple[str, ...] = declare(
        Kind("list of names", parse_sources), "",
        "Sources of routes beside the files: docker, for containers with labels, or entry points proxyd.sources of installed packages.")


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """How the names of upstreams and health check targets are resolved."""

    servers: tuple[tuple[str, int], ...] = declare(
        Kind("list of addresses", text.parse_name_servers), "",
        "Name servers, each with a port if it is not 53. Empty: the ones in /etc/resolv.conf.")
    timeout: float = declare(DURATION, "2s", "Longest time to resolve a name.")
