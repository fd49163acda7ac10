"""One attempt at an upstream: send the request, read the head of the final response, and hand the response to `relay`.

`retry` decides whether a request is sent again. This module only decides whether the upstream's response can be passed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import gevent

from proxyd.base import clock
from proxyd.http1 import HeadReader, ProtocolError, ResponseHead, whole_head
from proxyd.http1.response import LENGTH
from proxyd.net.handshake import late_fault
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.headers import request_head
from proxyd.proxy.core.phases import CONNECT, REQUEST_BODY, REQUEST_RATE, RESPONSE_BODY, RESPONSE_HEAD, TOTAL
from proxyd.proxy.upstream import retry
from proxyd.proxy.upstream.circuit import is_failure
from proxyd.proxy.upstream.pool import UpstreamError, connect, heed_keep_alive, idle_connection, let_go
from proxyd.proxy.upstream.relay import relay
from proxyd.proxy.upstream.upload import Upload

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts


#: Bytes of the first read of an answer: a head, and 64 KiB of body behind it, which then leave in one write.
_FIRST_PIECE = 65536 + 8192
#: Longest wait for what a server says that has stopped to read, seconds.
_LAST_WORD = 1.0


def attempt(parts: Parts, ex: Exchange, upstream: Upstream, admission: int, retry_statuses: frozenset[int]) -> bool:
    """Send the request to the upstream and its response to the client.

    Returns True if the response was sent, False if its status is in `retry_statuses` and nothing was sent. Raises UpstreamError
    before any byte of a response was sent and ResponseCut after that, ClientGone, BodyTimeout, and ProtocolError (about the
    client's body).
    """
    now = time.monotonic()
    ex.upstream = upstream
    ex.upstream_started = now
    stream = idle_connection(upstream, now)
    if stream is not None:
        try:
            return exchange(parts, ex, upstream, stream, admission, retry_statuses)
        except UpstreamError as error:
            if not retry.on_new_connection(ex, upstream, error):
                raise
            if ex.counters is not None:
                ex.counters.retries += 1
    return exchange(parts, ex, upstream, open_connection(ex, upstream), admission, retry_statuses)


def open_connection(ex: Exchange, upstream: Upstream) -> Stream:
    """A new connection, within connect_timeout and the rest of total_timeout. Raises UpstreamError."""
    # The deadline of an earlier wait must not end this one.
    ex.wait_unwatched(CONNECT)
    begun = time.monotonic()
    limit, code = upstream.options.connect_timeout, "connect_timeout"
    left = ex.total_deadline - begun
    if left < limit:
        limit, code = max(0.001, left), "total_timeout"
    try:
        return connect(upstream, limit, code, client=ex.client_ip)
    except UpstreamError as error:
        if error.code == "total_timeout":
            ex.expired = TOTAL
        raise
    finally:
        ex.connect_seconds = time.monotonic() - begun


def _send_request(ex: Exchange, upstream: Upstream, stream: Stream) -> None:
    data = request_head(ex, upstream)
    if ex.body:
        data += ex.body
    client = ex.client
    if ex.body is None and (ex.kept is not None or client.has_body()):
        ex.upstream_timeout = upstream.options.timeout
        _send_all(ex, stream, data)
        if client.expects_continue():
            client.send_continue()
        ex.upload = Upload(ex, stream)
    else:
        ex.wait_for(RESPONSE_HEAD, time.monotonic() + upstream.options.timeout)
        _send_all(ex, stream, data)


def _send_all(ex: Exchange, stream: Stream, data: bytes) -> None:
    try:
        send_first(stream, data)
    except OSError as error:
        # If a body was sent along, part of the request may have arrived.
        raise failure(ex, error, stream.served > 0 and not ex.body) from None


def send_first(stream: Stream, data: bytes) -> None:
    """Send a request's head. Raises OSError: the one that says why, where a server has refused the TLS handshake meanwhile and closed."""
    try:
        stream.send_all(data)
    except OSError:
        if stream.secure and not stream.served:
            # What it said lies unread. Should it say nothing, nobody waits for it.
            with gevent.Timeout(_LAST_WORD, False):
                stream.recv()
        raise


def failure(ex: Exchange, reason: str | OSError, unsent: bool = False, truncated: bool = False) -> Exception:
    """The error for a failed upstream connection: a deadline passed, the client left, or the upstream failed.

    `unsent`: the upstream can't have seen the request. `truncated`: it sent a part of its answer.
    """
    upload = ex.upload
    if upload is not None and upload.error is not None:
        return upload.error
    if ex.expired is not None:
        # The phase may have moved on before the greenlet that waited was woken: what counts is whose time ran out.
        waited = ex.phase if ex.expired is TOTAL else ex.expired
        if waited.of_client:
            # The watchdog shut the connection down because the client was too slow. The upstream is not to blame.
            return BodyTimeout() if waited is REQUEST_BODY or waited is REQUEST_RATE else ClientGone()
        code = ex.expired.reason
        return UpstreamError("timeout", 504, code, f"the upstream did not answer in time ({code})")
    if ex.client_gone:
        return ClientGone()
    if isinstance(reason, OSError) and (refused := late_fault(reason)):
        return UpstreamError("other", 502, "upstream_tls", refused, upload is None)
    code = "upstream_truncated" if truncated else "upstream_closed"
    return UpstreamError("reset", 502, code, f"the upstream closed the connection: {reason}", unsent)


def read_head(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, upgrade: bool = False) -> tuple[ResponseHead, bytes]:
    """The head of the final response, and the bytes after it. Informational responses are passed on, unless this is an `upgrade`:
    for that, 101 is a final answer. Raises UpstreamError, ClientGone, BodyTimeout, ProtocolError 502."""
    try:
        data = stream.recv_later(_FIRST_PIECE)
    except OSError as error:
        raise failure(ex, error) from None
    if not data:
        raise failure(ex, "no response")
    ex.first_byte_seconds = time.monotonic() - ex.upstream_started
    bare_lf = upstream.options.bare_lf
    if not bare_lf and (found := whole_head(data, ex.method, parts.response_limits)) is not None:
        return found
    reader = HeadReader(ex.method, parts.response_limits, upgrade, bare_lf)
    while True:
        response = reader.feed(data)
        if reader.informational and not upgrade:
            pass_on(ex, upstream, reader.informational)
        if response is not None:
            return response, reader.rest
        try:
            data = stream.recv()
        except OSError as error:
            raise failure(ex, error) from None
        if not data:
            raise failure(ex, "in the response header" if reader.partial else "no response", truncated=reader.partial)


def _first_of_body(ex: Exchange, upstream: Upstream, stream: Stream) -> bytes:
    """The first piece of a body of known length, which the route's answers wait for: many servers send it in a step of its own, and one
    that is killed in between has answered nothing that the client can use. So its request can still wait for the next start (hold).
    Raises UpstreamError, ClientGone."""
    ex.wait_for(RESPONSE_BODY, time.monotonic() + upstream.options.read_timeout)
    try:
        data = stream.recv()
    except OSError as error:
        raise failure(ex, error) from None
    if not data:
        raise failure(ex, "no part of the body")
    return data


def pass_on(ex: Exchange, upstream: Upstream, informational: Sequence[ResponseHead]) -> None:
    """Send informational responses to the client. Each starts the upstream's timeout again."""
    for head in informational:
        # 100 is not passed on: the client gets its own from us.
        if head.status != 100:
            ex.client.informational(head.status, head.end_to_end())
            ex.wait_for(RESPONSE_HEAD, time.monotonic() + upstream.options.timeout)


#: Sends a request; reads the head of the final response.
Send = Callable[["Exchange", "Upstream", "Stream"], None]
Read = Callable[["Parts", "Exchange", "Upstream", "Stream"], tuple[ResponseHead, bytes]]


def exchange(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, admission: int, retry_statuses: frozenset[int],
             send: Send = _send_request, read: Read = read_head) -> bool:
    """The attempt on one connection, or on one stream of HTTP/2. In any case the connection is released or closed here."""
    ex.upstream_stream = stream
    reusable = False
    try:
        send(ex, upstream, stream)
        response, rest = read(parts, ex, upstream, stream)
        if not stream.served:
            heed_keep_alive(stream, response.get("keep-alive"))
        if not rest and response.body_kind == LENGTH and response.content_length and upstream.options.hold_when_down:
            rest = _first_of_body(ex, upstream, stream)
        status = response.status
        counted = admission or upstream.options.circuit_breaker
        ok = not counted or not is_failure(ex, upstream, status)
        if admission or not ok or status in retry_statuses:
            parts.circuits.report(upstream, admission, ok, clock.now(), ex.pool)
            if status in retry_statuses:
                ex.hold_back(status)
                return False
            reusable = relay(parts, ex, upstream, stream, response, rest)
        else:
            # It counts as a success only when the body is complete. Otherwise failures in bodies would never add up. A trial is
            # reported before (above), because it can't wait for a body that streams for hours.
            reusable = relay(parts, ex, upstream, stream, response, rest)
            if counted:
                parts.circuits.succeeded(upstream)
        return True
    except ProtocolError as error:
        if error.status != 502:
            raise
        raise UpstreamError("other", 502, error.code, error.detail) from None
    finally:
        if ex.upstream_stream is not None:
            let_go(ex, upstream, stream, reusable)
