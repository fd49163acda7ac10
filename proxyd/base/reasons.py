"""Every reason code, declared once: why the proxy refused a request, failed to serve it, or cut its answer.

The same code stands in X-Proxyd-Reason, in the problem+json body, as `reason=` in the access log and as a label of
`proxyd_refusals_total`. docs/reasons.md is made from this table. A test fails for a code in the source that is not here.
"""

from __future__ import annotations

import re
from typing import NamedTuple

#: Only in the access log, where a request ends without an answer: the client went away; the connection was closed unanswered.
CLIENT_GONE, CLOSED = 499, 444


class Reason(NamedTuple):
    """`status` is what the client is answered; `sentence` says what happened and what to do, for whoever runs the proxy."""

    code: str
    status: int
    sentence: str


#: A backend's answer that may be retried and then could not be: one code for each status, which is the answer's own.
STATUS_FAMILY = Reason("upstream_NNN", 502, "The backend's own answer had status NNN, which `retry_on` names, and no attempt was left. Or "
                       "the route replaces it by a page (`error_pages_replace`). The client gets NNN. Look into the backend's log")
_IN_FAMILY = re.compile(r"upstream_[1-5]\d\d")

GROUPS: tuple[tuple[str, tuple[Reason, ...]], ...] = (
    ("The request finds no backend", (
        Reason("unknown_host", 404, "No route names this host. `proxyctl routes` lists those that exist. `[proxy] unknown_host` can make "
               "it 421, or close the connection (444 in the log)"),
        Reason("no_route", 404, "A route names this host, but none covers this path. `proxyctl routes` lists the paths"),
        Reason("no_service", 503, "The host has a certificate by `[acme]`, but no route any more: its service is away. `proxyctl sessions` "
               "lists those that are there"),
        Reason("ambiguous_path", 400, "Read leniently, the path (its `%2F`, `;` or backslash) belongs to another "
               "route, or leads out of the path of the backend url. The route option `ambiguous_path = pass` lets it through. Or the "
               "option `rewrite` makes dot segments of it"),
        Reason("no_table", 503, "The worker has not read the routes yet: proxyd has just started, or the database cannot be read"),
        Reason("stale_table", 503, "The worker has known of a newer configuration for `[proxy] stale_after`, and could not read it: its "
               "log says why. Without that setting it would go on by its old routes"),
        Reason("route_disabled", 503, "The service lost its connection to the registry. It keeps the route for `reconnect_grace`"),
        Reason("maintenance", 503, "The service is in maintenance mode. `MAINT_EXIT` ends it"),
        Reason("draining", 503, "The service drains and no replica takes its place. `DRAIN_CANCEL` stops the drain"),
        Reason("rate_limited", 429, "The client is over the route's limit. `Retry-After` says when it may try again"),
        Reason("queue_full", 503, "The backend has `max_in_flight` requests under way, and `queue_size` more wait. More replicas, or a "
               "faster backend, take more"),
        Reason("queue_timeout", 503, "The request waited in the queue for `queue_timeout`. The route still had `max_in_flight` others "
               "under way"),
        Reason("held", 503, "The service holds its requests (`TRAFFIC_HOLD`). They wait, so no client gets this code"),
        Reason("hold_timeout", 503, "The request waited for a service that was away (`hold_when_down`, `TRAFFIC_HOLD`), and it was not "
               "back in time"),
        Reason("hold_full", 503, "The service is away, and `hold_size` requests of the worker wait for it already"),
        Reason("gate_refused", 403, "A gate of an installed package (option `gates`) refused the request, with a status of its choice"),
        Reason("gate_failed", 500, "A gate of an installed package (option `gates`) can't be imported, failed, or took longer than "
               "`[proxy] gate_timeout`. The error log says what it was"),
        Reason("client_requests", 429, "The client has `[proxy] max_requests_per_client` requests in flight"),
        Reason("proxy_protocol", 400, "A peer of `[proxy] proxy_protocol_from` began its connection without a sound header of the PROXY "
               "protocol. Over TLS, the connection is closed unanswered. Turn the protocol on in that front, or take its address out"),
        Reason("client_connections", 503, "The client has `[proxy] max_connections_per_client` connections open. Over TLS, the connection "
               "is closed without an answer"),
        Reason("circuit_open", 503, "The backend failed too often. `CIRCUIT_BREAKER_STATUS` says since when"),
        Reason("upstream_down", 503, "No backend of the route passes its health check. `proxyctl health` says why"),
    )),
    ("The backend fails", (
        Reason("upstream_refused", 502, "Nothing listens at the backend's address. Check that it runs, and the port"),
        Reason("upstream_unreachable", 502, "There is no network path to the backend. Check the address, routing and firewall"),
        Reason("upstream_unresolved", 502, "The backend's name has no address. Check the name and the resolver"),
        Reason("upstream_denied", 502, "Every address of the backend is in `[registry] deny_targets`, or is that of proxyd's own registry "
               "or admin HTTP. Nothing was sent. Name another backend, or change the setting"),
        Reason("upstream_tls", 502, "TLS with the backend failed: its certificate does not verify, or it does not speak TLS"),
        Reason("upstream_closed", 502, "The backend closed the connection before it answered. Look into its log"),
        Reason("upstream_truncated", 502, "The backend closed the connection in the middle of its answer. If part of that had gone out, "
               "the client's connection is cut"),
        Reason("upstream_http2", 502, "The backend does not speak HTTP/2 although its url says so (`h2c://`), or it breaks RFC 9113"),
        Reason("connect_timeout", 504, "The backend did not accept the connection within `connect_timeout`"),
        Reason("timeout", 504, "The backend did not begin to answer within `timeout`"),
        Reason("request_send", 504, "The backend stopped taking the request's body for longer than `timeout`"),
        Reason("read_timeout", 504, "The backend paused in its answer for longer than `read_timeout`. The client's connection is cut"),
        Reason("total_timeout", 504, "The request took longer than `total_timeout`, or a call of gRPC longer than its client gave it "
               "(`grpc-timeout`). It is 408 while the client still sends its body"),
        STATUS_FAMILY,
        Reason("response_too_large", 502, "The backend's body is larger than `max_response_body`. A body that has begun is cut"),
        Reason("unasked_upgrade", 502, "The backend switched protocols although nobody asked it to"),
        Reason("bad_upgrade", 502, "The backend switched to a protocol that it was not asked for. A client whose Upgrade field is not a "
               "list of protocols gets 400"),
        Reason("too_many_informational", 502, "The backend sent more than 16 informational answers before the final one"),
    )),
    ("WebSocket", (
        Reason("websocket_off", 400, "The route does not allow WebSocket. Set the option `websocket`"),
        Reason("websocket_limit", 503, "The route has `websocket_max_connections` WebSockets open"),
        Reason("idle_timeout", 101, "No bytes passed for `websocket_idle_timeout`. In the log only"),
        Reason("ping_timeout", 101, "One side did not answer a ping within `websocket_ping`. In the log only"),
        Reason("max_duration", 101, "The WebSocket was open for `websocket_max_duration`. In the log only"),
        Reason("worker_stopping", 101, "The worker stopped and closed the WebSocket. In the log only"),
        Reason("client_reset", 101, "The client broke the WebSocket off with a reset. In the log only"),
        Reason("upstream_reset", 101, "The backend broke the WebSocket off with a reset. In the log only"),
    )),
    ("The client is slow, or leaves", (
        Reason("header_timeout", 408, "The client did not send a complete header within `[proxy] header_timeout`"),
        Reason("body_timeout", 408, "The client sent nothing of its body for `[proxy] body_timeout`"),
        Reason("request_too_slow", 408, "The client sent its request at less than `[proxy] min_request_rate` for `min_rate_window`"),
        Reason("client_gone", CLIENT_GONE, "The client closed the connection before it had the whole answer. In the log only"),
        Reason("response_write", CLIENT_GONE, "The client took nothing of the answer for `[proxy] body_timeout`. In the log only"),
        Reason("reading_too_slow", CLIENT_GONE, "The client read the answer at less than `[proxy] min_response_rate` for "
               "`min_rate_window`. In the log only"),
    )),
    ("The proxy does not allow it", (
        Reason("cors_denied", 403, "A browser asked (a preflight) for a page of an origin that the route's `cors_origins` does not name"),
        Reason("login_required", 401, "The route asks for a name and a password (`basic_auth`), and the client gave none, or wrong ones"),
        Reason("login_limited", 429, "The client's address (IPv6: /64) gave ten wrong passwords within a minute, or has eight logins under "
               "way that have to be checked"),
        Reason("auth_refused", 401, "The service of `forward_auth` did not let the request pass. Status and answer are that service's own"),
        Reason("auth_unavailable", 503, "Nobody can tell who may pass: the file of users can't be read, too many passwords are being "
               "checked, or the service of `forward_auth` does not answer, answers 5xx, or has failed three times in ten seconds. "
               "The error log says why"),
        Reason("address_denied", 403, "The route's `allow` does not name the client's address, or its `deny` does. The access log has the "
               "address; behind a front, `[proxy] trusted_proxies` must name the front"),
        Reason("client_certificate", 403, "The route has `client_certificate = required`, and the client has shown none. If it has one, "
               "look whether it asks for this host by name (SNI) in its handshake"),
        Reason("misdirected", 421, "The route has `client_certificate = required`, and the connection was opened for another host, "
               "which wants no certificate. The client opens another connection"),
        Reason("https_only", 308, "`[proxy] redirect_https` sends the client to the HTTPS address"),
        Reason("loop", 508, "The request has passed this proxy before. A backend url points back to it"),
        Reason("connect_refused", 405, "CONNECT is for forward proxies, and this is not one"),
        Reason("trace_ends_here", 405, "A TRACE arrived with Max-Forwards: 0. The proxy does not answer it"),
        Reason("request_line_too_long", 414, "The request line is longer than `[proxy] max_request_line`"),
        Reason("too_many_fields", 431, "The header has more fields than `[proxy] max_header_count`. A backend's may have 200; beyond that "
               "the client gets 502"),
        Reason("field_too_large", 431, "One header field is larger than `[proxy] max_header_size`. 502 in a backend's answer"),
        Reason("head_too_large", 431, "The header is larger than `[proxy] max_header_size`. A backend's may be as large as "
               "`max_response_header_size`; beyond that the client gets 502"),
        Reason("status_line_too_long", 502, "The first line of the backend's answer is longer than `[proxy] max_request_line`"),
        Reason("body_too_large", 413, "The request's body is larger than `max_body_size`"),
        Reason("content_length_too_large", 413, "Content-Length has more digits than any real size"),
        Reason("buffer_failed", 503, "The temporary file of a buffered body can't be read. Look at the disk of `[proxy] buffer_directory`. "
               "If a part of an answer had gone out, the client's connection is cut"),
        Reason("internal_error", 500, "The proxy has a bug. The log has a traceback under the id that the answer names. Please report it"),
    )),
    ("The message breaks HTTP", (
        Reason("malformed_request", 400, "The HTTP/2 request breaks RFC 9113 8: its fields, or its Content-Length. Its stream is reset"),
        Reason("unsupported_protocol", 501, "An HTTP/2 CONNECT (RFC 8441) asks for a protocol other than websocket"),
        Reason("missing_host", 400, "The request has no Host field"),
        Reason("duplicate_host", 400, "The request has more than one Host field"),
        Reason("bad_host", 400, "Host is not a name with an optional port"),
        Reason("host_mismatch", 400, "Host is not the host of the request's target"),
        Reason("bad_request_line", 400, "The first line is not method, target and version with one space between"),
        Reason("bad_target", 400, "The request's target has characters or a form that it must not have"),
        Reason("fragment_in_target", 400, "The request's target has a fragment (#)"),
        Reason("unsupported_version", 505, "The request is neither HTTP/1.0 nor HTTP/1.1"),
        Reason("bad_status_line", 502, "The first line of the backend's answer is not an HTTP/1 status line"),
        Reason("bad_field_line", 400, "A header line has no colon, or is otherwise malformed"),
        Reason("bad_field_name", 400, "The name of a header field is not a token"),
        Reason("empty_field_name", 400, "A header field has no name"),
        Reason("space_before_colon", 400, "A header field has white space before its colon"),
        Reason("obs_fold", 400, "A header field is folded over several lines"),
        Reason("bare_cr", 400, "A CR is not followed by LF"),
        Reason("bare_lf", 400, "A line ends in LF without CR"),
        Reason("nul_byte", 400, "The header contains a NUL byte"),
        Reason("control_character", 400, "The header contains a control character"),
        Reason("incomplete_head", 400, "The header does not end in an empty line"),
        Reason("conflicting_lengths", 400, "The message has both Content-Length and Transfer-Encoding"),
        Reason("duplicate_content_length", 400, "The message has more than one Content-Length"),
        Reason("bad_content_length", 400, "Content-Length is not one decimal number"),
        Reason("duplicate_transfer_encoding", 400, "The message has more than one Transfer-Encoding"),
        Reason("bad_transfer_encoding", 400, "Transfer-Encoding is not just chunked"),
        Reason("transfer_encoding_in_http10", 400, "An HTTP/1.0 message has Transfer-Encoding"),
        Reason("unsupported_transfer_coding", 501, "Transfer-Encoding names a coding other than chunked"),
        Reason("bad_chunk_size", 400, "A chunk's size is not a hexadecimal number"),
        Reason("bad_chunk_end", 400, "A chunk's data is not followed by CRLF"),
        Reason("chunk_line_too_long", 400, "The line with a chunk's size is too long"),
        Reason("chunk_extensions_too_large", 400, "The chunk extensions are larger than the data"),
        Reason("bad_trailer", 400, "A trailer field is malformed"),
        Reason("forbidden_trailer", 400, "A field stands in the trailers that must stand in the header"),
        Reason("trailers_too_large", 400, "The trailers are too large"),
        Reason("bad_connection", 400, "An option in Connection is not a token"),
        Reason("forbidden_connection_option", 400, "Connection names a field that must not be removed"),
        Reason("upgrade_with_body", 400, "A request to upgrade to websocket has a body"),
        Reason("unsupported_expectation", 417, "Expect asks for something other than 100-continue"),
        Reason("body_not_allowed", 502, "The backend announces a body where there cannot be one"),
    )),
)

#: The reasons for which a backend is to blame: it was asked, or could not be reached.
OF_BACKEND: frozenset[str] = frozenset(reason.code for name, group in GROUPS if name == "The backend fails" for reason in group)

REASONS: dict[str, Reason] = {reason.code: reason for _, group in GROUPS for reason in group}


def reason_of(code: str) -> Reason:
    """The reason with a code; `upstream_503` and its like have one together. Raises KeyError for a code that is not declared."""
    if _IN_FAMILY.fullmatch(code):
        return STATUS_FAMILY
    return REASONS[code]


def is_of_backend(code: str) -> bool:
    """Whether a failure with this reason code is a backend's. So is one without a code: the backend's own answer."""
    return not code or code in OF_BACKEND or _IN_FAMILY.fullmatch(code) is not None
