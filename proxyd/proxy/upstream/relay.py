"""Passes the response on to the client, piece by piece, with bounded memory."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

from proxyd.http1 import ProtocolError
from proxyd.http1.response import LENGTH, NONE, ResponseHead
from proxyd.proxy.core.headers import http_date
from proxyd.proxy.core.phases import RESPONSE_BODY
from proxyd.proxy.core.putback import put_back
from proxyd.proxy.core.setfields import filled, replace_fields, without_set
from proxyd.proxy.upstream import compress
from proxyd.proxy.upstream.ahead import relay_ahead
from proxyd.proxy.upstream.pieces import RELAY_SIZE, ResponseCut, body_of, cut, encoded, length_to_send, missing, next_piece, too_large
from proxyd.proxy.upstream.piped import relay_piped

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts


def response_fields(ex: Exchange, upstream: Upstream, response: ResponseHead) -> list[tuple[str, str]]:
    """The response's fields for the client, without framing: those of the upstream, of the route and of the proxy."""
    headers = response.end_to_end()
    if upstream.puts_back:
        headers = put_back(ex, upstream, headers)
    own = [*ex.set_headers, ("Via", ex.client.via_field), ("X-Request-ID", ex.request_id)]
    if upstream.options.server_timing:
        own.append(("Server-Timing", _timing(ex)))
    if upstream.headers:
        new = filled(upstream.headers, ex, upstream)
        headers = replace_fields(headers, new)
        own = without_set(own, new)
    headers += own
    if not response.dated:
        # RFC 9110 6.6.1: a recipient that forwards a response without Date adds one.
        headers.append(("Date", http_date(int(time.time()))))
    return headers


def _timing(ex: Exchange) -> str:
    """What the times up to here were spent on, in milliseconds (W3C Server Timing): `before` the attempt at the backend, `connect`, and
    `backend` until its answer began."""
    parts = (("before", ex.upstream_started - ex.started), ("connect", ex.connect_seconds),
             ("backend", ex.first_byte_seconds - ex.connect_seconds))
    return ", ".join([f"proxyd-{name};dur={max(0.0, seconds) * 1000:.1f}" for name, seconds in parts])


def relay(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, rest: bytes) -> bool:
    """Pass the response on. Returns whether the upstream connection can be used again."""
    client = ex.client
    kind = response.body_kind
    status = response.status
    headers = response_fields(ex, upstream, response)
    if status == 426 and ex.head.version == 11:
        # It must say which protocols it asks for (RFC 9110 15.5.22).
        offered = [field for field in response.headers if field[0].lower() == "upgrade"]
        headers += [("Connection", "Upgrade"), *offered] if offered else []
    if kind == NONE:
        if upstream.options.compression and (ex.method == "HEAD" or status == 304):
            # There is no body to encode, but HEAD has the Vary of GET (RFC 9110 9.3.2), and 304 also the ETag (15.4.5).
            compress.encoder_for(ex, upstream.options, response, headers)
        if response.content_length >= 0:
            headers.append(("Content-Length", str(response.content_length)))
        ex.begin_response(status)
        client.start(status, response.reason, headers, -2, b"", True)
        return response.keep_alive and not rest
    if 0 < upstream.options.max_response_body < response.content_length:
        raise ProtocolError(502, "response_too_large", too_large(upstream))
    encoder = compress.encoder_for(ex, upstream.options, response, headers) if upstream.options.compression else None
    if upstream.options.response_buffer and not ex.head.upgrade and not _is_event_stream(response):
        return relay_ahead(parts, ex, upstream, stream, response, headers, rest, encoder)
    if kind == LENGTH and encoder is None:
        return _relay_length(ex, upstream, stream, response, headers, rest)
    return _relay_stream(ex, upstream, stream, response, headers, rest, encoder)


def _is_event_stream(response: ResponseHead) -> bool:
    """Whether what a slow client has not read yet is better not kept: old events, where new ones follow."""
    return (response.get("content-type") or "").lower().startswith("text/event-stream")


def _relay_length(ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, headers: list[tuple[str, str]],
                  rest: bytes) -> bool:
    """Pass on a body of known length, unchanged."""
    client = ex.client
    length = response.content_length
    reusable = response.keep_alive
    left = length - len(rest)
    if left < 0:
        rest, reusable, left = rest[:length], False, 0
    ex.begin_response(response.status)
    client.start(response.status, response.reason, headers, length, rest, left == 0)
    ex.bytes_sent += len(rest)
    if not left:
        return reusable
    timeout = upstream.options.read_timeout
    left = relay_piped(ex, stream, left, length, timeout)
    if left:
        _relay_copied(ex, stream, left, length, timeout)
    return reusable


def _relay_copied(ex: Exchange, stream: Stream, left: int, length: int, timeout: float) -> None:
    """Read and write what is left of a body, piece by piece."""
    client = ex.client
    buffers = client.buffers
    buffer = buffers.pop() if buffers else memoryview(bytearray(RELAY_SIZE))
    try:
        while left:
            ex.wait_for(RESPONSE_BODY, time.monotonic() + timeout)
            try:
                count = stream.recv_into(buffer if left >= RELAY_SIZE else buffer[:left])
            except OSError as error:
                raise cut(ex, str(error)) from None
            if not count:
                raise missing(ex, left, length)
            left -= count
            client.write(buffer[:count])
            ex.bytes_sent += count
    finally:
        buffers.append(buffer)


def _relay_stream(ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, headers: list[tuple[str, str]],
                  rest: bytes, encoder: compress.Encoder | None) -> bool:
    """Pass on a body that is chunked, that is encoded here, that comes by HTTP/2, or that ends when the upstream closes. Each piece is
    sent at once."""
    client = ex.client
    timeout = upstream.options.read_timeout
    body = body_of(stream, response)
    room = upstream.options.max_response_body or inf
    # An error in this piece can still be answered, because nothing has been sent.
    piece = body.feed(rest)
    room -= len(piece)
    if room < 0:
        raise ProtocolError(502, "response_too_large", too_large(upstream))
    piece = encoded(encoder, piece, body)
    length = length_to_send(response, encoder)
    whole = (body.done and not body.trailers) or 0 <= length <= len(piece)
    ex.begin_response(response.status)
    client.start(response.status, response.reason, headers, length, piece, whole)
    ex.bytes_sent += len(piece)
    if whole:
        return body.reusable
    size = len(piece)
    while not body.done:
        ex.wait_for(RESPONSE_BODY, time.monotonic() + timeout)
        piece = next_piece(ex, stream, body, size)
        size = len(piece)
        room -= size
        if room < 0:
            raise ResponseCut("response_too_large", too_large(upstream))
        if encoder is not None:
            piece = encoded(encoder, piece, body)
        if piece:
            client.write(piece)
            ex.bytes_sent += len(piece)
    client.finish(body.trailers)
    return body.reusable


def relay_refused_upgrade(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, rest: bytes) -> None:
    """Pass on the plain answer to an upgrade request. Neither connection is used again."""
    ex.client.close_after()
    relay(parts, ex, upstream, stream, response, rest)
