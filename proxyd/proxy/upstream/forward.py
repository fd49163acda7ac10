"""One attempt at an upstream: the request out, the response back, both streaming with bounded memory.

Nothing is retried here but a stale pooled connection; nothing is decided here but whether what the upstream
said can be passed on.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import gevent

from proxyd.http1 import LAST_CHUNK, ChunkedDecoder, ProtocolError, encode_last_chunk, find_head_end, parse_response_head
from proxyd.http1.grammar import head_too_large
from proxyd.http1.response import CHUNKED, LENGTH, NONE, ResponseHead
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.exchange import CLIENT_PHASES
from proxyd.proxy.core.headers import http_date, replace_fields, request_head
from proxyd.proxy.upstream import compress
from proxyd.proxy.upstream.pool import UpstreamError, connect, idle_connection, release

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.route.table import Upstream
    from proxyd.proxy.runtime import Runtime

IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
RELAY_SIZE = 262144
_MAX_INFORMATIONAL = 16


class ResponseCut(Exception):
    """The upstream failed after part of its response went out: the client's connection is cut."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Upload:
    """The request's body on its way to the upstream, in a greenlet beside the one that waits for the response."""

    def __init__(self, ex: Exchange, stream: Stream) -> None:
        self.done = False
        self.error: Exception | None = None
        self._ex = ex
        self._stream = stream
        self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        ex, stream = self._ex, self._stream
        client = ex.client
        chunked = ex.head.chunked
        limit = ex.upstream_limit
        try:
            while True:
                data = client.read_body()
                if not data:
                    break
                ex.bytes_received += len(data)
                if limit and ex.bytes_received > limit:
                    raise ProtocolError(413, "body_too_large", f"the request body is larger than {limit} bytes")
                ex.wait_for_body("request_send", time.monotonic() + ex.upstream_timeout)
                stream.send_all(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)
            if chunked:
                trailers = client.trailers()
                stream.send_all(encode_last_chunk(trailers) if trailers else LAST_CHUNK)
            self.done = True
            stream.moved()
            ex.wait_for_body("timeout", time.monotonic() + ex.upstream_timeout)
        except OSError:
            # The upstream stopped taking the body; its answer, or its end, is read by the other greenlet.
            ex.wait_for_body("timeout", time.monotonic() + ex.upstream_timeout)
        except (ClientGone, BodyTimeout, ProtocolError) as error:
            self.error = error
            stream.shutdown()

    def stop(self) -> None:
        """End it; safe when it is over."""
        self._greenlet.kill()


def attempt(runtime: Runtime, ex: Exchange, upstream: Upstream, admission: int, retry_statuses: frozenset[int]) -> bool:
    """Send the request to the upstream and its response to the client.

    Returns True when the response is out, False when its status is in `retry_statuses` and nothing went out. Raises
    UpstreamError before any byte of a response went out, ResponseCut after, ClientGone, BodyTimeout, ProtocolError (of
    the client's body).
    """
    now = time.monotonic()
    ex.upstream = upstream
    ex.upstream_started = now
    stream = idle_connection(upstream, now)
    if stream is not None:
        try:
            return _exchange(runtime, ex, upstream, stream, admission, retry_statuses)
        except UpstreamError as error:
            # The upstream closed its idle connection just as we used it (RFC 9112 9.3.1).
            stale = error.code == "upstream_closed" and not ex.expired and not ex.client_gone
            if not stale or (ex.method not in IDEMPOTENT and not error.unsent) or ex.upload is not None:
                raise
            # Or it failed in the middle of the request, which looks the same: hence out of the budget.
            if not upstream.state.spend_retry():
                raise
            if ex.counters is not None:
                ex.counters.retries += 1
    return _exchange(runtime, ex, upstream, open_connection(ex, upstream), admission, retry_statuses)


def open_connection(ex: Exchange, upstream: Upstream) -> Stream:
    """A new connection, within connect_timeout and what is left of total_timeout. Raises UpstreamError."""
    # What was waited for before must not run out on it.
    ex.phase, ex.deadline = "connect_timeout", inf
    begun = time.monotonic()
    try:
        return connect(upstream, min(upstream.options.connect_timeout, max(0.001, ex.total_deadline - begun)))
    except UpstreamError as error:
        if error.code == "connect_timeout" and time.monotonic() >= ex.total_deadline:
            error.code = ex.expired = "total_timeout"
        raise
    finally:
        ex.connect_seconds = time.monotonic() - begun


def _exchange(runtime: Runtime, ex: Exchange, upstream: Upstream, stream: Stream, admission: int,
              retry_statuses: frozenset[int]) -> bool:
    """The attempt on one connection, which is released or closed here, whatever happens."""
    ex.upstream_stream = stream
    reusable = False
    try:
        _send_request(ex, upstream, stream)
        response, rest = _read_response_head(runtime, ex, upstream, stream)
        status = response.status
        ok = status not in upstream.options.circuit_failure_status
        if admission or not ok or status in retry_statuses:
            runtime.circuits.report(upstream, admission, ok, time.time())
            if status in retry_statuses:
                ex.status = status
                return False
            reusable = _relay(ex, upstream, stream, response, rest)
        else:
            # A success only once the body is complete, or failures in the body would never add up. A trial can't wait
            # for a body that streams for hours.
            reusable = _relay(ex, upstream, stream, response, rest)
            runtime.circuits.report(upstream, admission, True, time.time())
        return True
    except ProtocolError as error:
        if error.status != 502:
            raise
        raise UpstreamError("other", 502, error.code, error.detail) from None
    finally:
        ex.upstream_stream = None
        upload = ex.upload
        if upload is not None:
            reusable = reusable and upload.done
            upload.stop()
            if ex.client.has_body():
                ex.client.keep_alive = False
        if reusable:
            release(upstream, stream, time.monotonic())
        else:
            stream.close()


def _send_request(ex: Exchange, upstream: Upstream, stream: Stream) -> None:
    data = request_head(ex, upstream)
    if ex.body:
        data += ex.body
    client = ex.client
    if ex.body is None and client.has_body():
        ex.upstream_timeout = upstream.options.timeout
        _send_all(ex, stream, data)
        if client.expects_continue():
            client.send_continue()
        ex.upload = Upload(ex, stream)
    else:
        ex.wait_for("timeout", time.monotonic() + upstream.options.timeout)
        _send_all(ex, stream, data)


def _send_all(ex: Exchange, stream: Stream, data: bytes) -> None:
    try:
        stream.send_all(data)
    except OSError as error:
        # With a body that was to go along, part of the whole may have arrived.
        raise failure(ex, str(error), stream.served > 0 and not ex.body) from None


def failure(ex: Exchange, reason: str, unsent: bool = False) -> Exception:
    """What went wrong on the upstream's connection: our deadline, the client, or the upstream."""
    upload = ex.upload
    if upload is not None and upload.error is not None:
        return upload.error
    if ex.expired and ex.phase in CLIENT_PHASES:
        # Its connection was shut down because the client kept us waiting: nothing the upstream is to blame for.
        return BodyTimeout() if ex.phase == "request_body" else ClientGone()
    if ex.expired:
        return UpstreamError("timeout", 504, ex.expired, f"the upstream did not answer in time ({ex.expired})")
    if ex.client_gone:
        return ClientGone()
    return UpstreamError("reset", 502, "upstream_closed", f"the upstream closed the connection: {reason}", unsent)


def _read_response_head(runtime: Runtime, ex: Exchange, upstream: Upstream, stream: Stream) -> tuple[ResponseHead, bytes]:
    """The final response's head and what came behind it; informational responses are passed on."""
    limits = runtime.response_limits
    buffer = b""
    first = True
    for _ in range(_MAX_INFORMATIONAL):
        end = find_head_end(buffer) if buffer else -1
        while end < 0:
            if len(buffer) > limits.head_size:
                raise head_too_large(buffer, limits, 502)
            try:
                data = stream.recv_later() if first else stream.recv()
            except OSError as error:
                raise failure(ex, str(error)) from None
            if not data:
                reason = "no response" if not buffer else "in the response header"
                error_ = failure(ex, reason)
                if buffer and isinstance(error_, UpstreamError) and error_.code == "upstream_closed":
                    error_.code = "upstream_truncated"
                raise error_
            if first:
                first = False
                ex.first_byte_seconds = time.monotonic() - ex.upstream_started
            known = len(buffer)
            buffer = buffer + data if buffer else data
            end = find_head_end(buffer, known)
        response = parse_response_head(buffer[:end], ex.method, limits)
        buffer = buffer[end:]
        if response.status >= 200:
            return response, buffer
        if response.status == 101:
            raise UpstreamError("other", 502, "unasked_upgrade", "the upstream switched protocols without being asked")
        if response.status != 100:
            ex.client.informational(response.status, response.end_to_end())
            ex.wait_for("timeout", time.monotonic() + upstream.options.timeout)
    raise UpstreamError("other", 502, "too_many_informational", "the upstream sent too many informational responses")


def response_fields(ex: Exchange, upstream: Upstream, response: ResponseHead) -> list[tuple[str, str]]:
    """The response's fields as the client gets them, framing aside: the upstream's, the route's own, and ours."""
    headers = response.end_to_end()
    if upstream.headers:
        headers = replace_fields(headers, upstream.headers)
    if ex.set_headers:
        headers += ex.set_headers
    if not response.dated:
        # RFC 9110 6.6.1: whoever passes on a response without a date gives it one.
        headers.append(("Date", http_date(int(time.time()))))
    headers.append(("Via", ex.client.via_field))
    headers.append(("X-Request-ID", ex.request_id))
    return headers


def _relay(ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, rest: bytes) -> bool:
    """Pass the response on; whether the upstream connection can be used again."""
    client = ex.client
    kind = response.body_kind
    status = ex.status = response.status
    headers = response_fields(ex, upstream, response)
    if kind == NONE:
        if ex.method == "HEAD" and upstream.options.compression:
            # It is not encoded, but says Vary as the answer to GET does (RFC 9110 9.3.2).
            compress.encoder_for(ex, upstream.options, response, headers)
        if response.content_length >= 0:
            headers.append(("Content-Length", str(response.content_length)))
        ex.response_started = True
        client.start(status, response.reason, headers, -2, b"", True)
        return response.keep_alive and not rest
    encoder = compress.encoder_for(ex, upstream.options, response, headers) if upstream.options.compression else None
    if kind == LENGTH and encoder is None:
        return _relay_length(ex, upstream, stream, response, headers, rest)
    return _relay_stream(ex, upstream, stream, response, headers, rest, encoder)


def _relay_length(ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, headers: list[tuple[str, str]],
                  rest: bytes) -> bool:
    """A body of known length, passed on as it comes."""
    client = ex.client
    length = response.content_length
    reusable = response.keep_alive
    left = length - len(rest)
    if left < 0:
        rest, reusable, left = rest[:length], False, 0
    ex.response_started = True
    client.start(ex.status, response.reason, headers, length, rest, left == 0)
    ex.bytes_sent += len(rest)
    if not left:
        return reusable
    timeout = upstream.options.read_timeout
    buffers = ex.client.buffers
    buffer = buffers.pop() if buffers else memoryview(bytearray(RELAY_SIZE))
    try:
        while left:
            ex.wait_for("read_timeout", time.monotonic() + timeout)
            try:
                count = stream.recv_into(buffer if left >= RELAY_SIZE else buffer[:left])
            except OSError as error:
                raise _cut(ex, str(error)) from None
            if not count:
                raise _cut(ex, f"{left} of {length} bytes missing")
            left -= count
            client.write(buffer[:count])
            ex.bytes_sent += count
    finally:
        buffers.append(buffer)
    return reusable


def _relay_stream(ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, headers: list[tuple[str, str]],
                  rest: bytes, encoder: compress.Encoder | None) -> bool:
    """A body that is decoded, encoded, or ends when the upstream closes: sent piece by piece, each at once."""
    client = ex.client
    decoder = ChunkedDecoder(status=502) if response.body_kind == CHUNKED else None
    left = response.content_length if response.body_kind == LENGTH else -1
    reusable = response.keep_alive
    timeout = upstream.options.read_timeout
    started = False
    data = rest
    ended = left == 0
    while True:
        if data:
            if decoder is not None:
                try:
                    data = decoder.feed(data)
                except ProtocolError as error:
                    if started:
                        raise ResponseCut(error.code, error.detail) from None
                    raise
                ended = decoder.done
                if ended and decoder.leftover:
                    reusable = False
            elif left >= 0:
                if len(data) > left:
                    data, reusable = data[:left], False
                left -= len(data)
                ended = left == 0
        if encoder is not None and (data or ended):
            data = encoder.finish(data) if ended else encoder.flush(data)
        if not started:
            started = ex.response_started = True
            trailing = ended and not (decoder is not None and decoder.trailers)
            client.start(ex.status, response.reason, headers, -1, data, trailing)
            if trailing:
                ex.bytes_sent += len(data)
                return reusable
        elif data:
            client.write(data)
        ex.bytes_sent += len(data)
        if ended:
            client.finish(decoder.trailers if decoder is not None else ())
            return reusable
        ex.wait_for("read_timeout", time.monotonic() + timeout)
        try:
            data = stream.recv(RELAY_SIZE)
        except OSError as error:
            raise _cut(ex, str(error)) from None
        if not data:
            if decoder is not None or left >= 0 or ex.expired or ex.client_gone:
                raise _cut(ex, "the body is not complete")
            ended = True
            if encoder is None:
                client.finish()
                return False


def relay_refused_upgrade(ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead, rest: bytes) -> None:
    """Pass on the plain answer to a request to upgrade; neither connection is used again for another."""
    ex.client.keep_alive = False
    _relay(ex, upstream, stream, response, rest)


def _cut(ex: Exchange, reason: str) -> Exception:
    """Why a body stopped short; the client's connection is cut for it."""
    if ex.client_gone:
        return ClientGone()
    if ex.expired:
        return ResponseCut(ex.expired, f"the response body stalled ({ex.expired})")
    return ResponseCut("upstream_truncated", f"the upstream ended the response body early: {reason}")
