"""A client's HTTP/1.1 connection: reads requests, writes responses, and enforces every limit on what a client may do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

import gevent
from gevent.hub import get_hub

from proxyd.http1 import LAST_CHUNK, ChunkedDecoder, ProtocolError, RequestHead, encode_last_chunk, find_head_end, parse_request_head
from proxyd.http1.grammar import head_too_large
from proxyd.net.stream import PlainStream
from proxyd.proxy.client.http2 import Http2Connection
from proxyd.proxy.core.answers import reason_phrase
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.core.origin import forwarded_fields
from proxyd.proxy.core.phases import REQUEST_BODY, RESPONSE_WRITE

if TYPE_CHECKING:
    from proxyd.net.pipes import Pipe
    from proxyd.net.stream import Stream
    from proxyd.proxy.client.front import ClientStream, Front

BODY_PIECE = 262144
#: A first piece of body up to this size is joined with the head, so that one call sends both.
JOIN_LIMIT = 65536
#: Seconds that a client has to send the rest of a body that nobody reads, and for how long it may pause.
_LINGER_SECONDS = 30.0
_LINGER_SILENCE = 2.0

Handler = Callable[[Exchange], None]

#: What looks like a head in the preface of HTTP/2 (RFC 9113 3.4).
_HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\n"


class _Http2Begins(Exception):
    """The client speaks HTTP/2 without having asked (prior knowledge, RFC 9113 3.3)."""


#: The line of a field, without its end.
_field_line = ": ".join


@lru_cache(maxsize=1024)
def _status_line(status: int, reason: str) -> str:
    return f"HTTP/1.1 {status} {reason}"


def _head_of(lines: list[str]) -> bytes:
    """A head of these lines, which are given without their ends."""
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


class ClientConnection:
    """One connection and its current request. It is the ClientSide of its exchanges, and is watched while idle."""

    __slots__ = (
        "_answered_100", "_awaits_head", "_buffer", "_came", "_chunked_out", "_decoder", "_front", "_greenlet", "_head_came",
        "_head_wait", "_late_head", "_left", "_limits", "_served", "_settings",
        "asked", "buffers", "certificate", "deadline", "exchange", "forwarded", "head", "idle", "keep_alive", "peer", "rates", "secure",
        "stream", "taken", "trusted", "version", "via", "via_field",
    )  # fmt: skip

    def __init__(self, stream: ClientStream, peer: str, front: Front) -> None:
        self.stream = stream
        self.peer = peer
        self.secure = stream.secure
        self.trusted = front.trusts(peer)
        self.certificate = stream.certificate
        self.asked = stream.asked
        self.forwarded = forwarded_fields(peer, stream.secure, stream.certificate)
        self.via = front.via
        self.via_field = front.via_field
        self.buffers = front.buffers
        self.rates = front.rates
        self.version = 11
        self.keep_alive = True
        self.deadline = inf
        self.idle = True
        self.taken = False
        self.exchange: Exchange | None = None
        self.head: RequestHead | None = None
        self._front = front
        self._settings = front.settings.proxy
        self._limits = front.head_limits
        self._greenlet = gevent.getcurrent()
        self._awaits_head = False
        self._buffer = b""
        self._served = 0
        self._left = 0
        self._came = 0
        self._head_came = 0
        self._head_wait = front.head_wait
        self._late_head = (-1, 0.0)
        self._decoder: ChunkedDecoder | None = None
        self._chunked_out = False
        self._answered_100 = False

    @property
    def by_pipe(self) -> ClientConnection | None:
        return self if isinstance(self.stream, PlainStream) else None

    @property
    def _plain(self) -> PlainStream:
        """The stream, which is not TLS's: only then is `by_pipe` there."""
        assert isinstance(self.stream, PlainStream)
        return self.stream

    # -- the connection -------------------------------------------------------------------------------------------

    def serve(self, handle: Handler) -> None:
        """Serve requests until the connection ends, then close the stream. Raises nothing."""
        front = self._front
        self._greenlet = gevent.getcurrent()
        front.idle_watch.add(self)
        try:
            while True:
                head = self._next_head()
                if head is None:
                    break
                self._begin(head)
                exchange = Exchange(self, head, time.monotonic())
                self.exchange = exchange
                handle(exchange)
                self.exchange = None
                if self.taken:
                    return
                if not self.keep_alive:
                    self._linger()
                    break
                if self._buffer:
                    # The next request has arrived already, and a thousand more may have. Let others run first.
                    self.stream.give_way()
        except ProtocolError as error:
            self._refuse(error, handle)
        except _Http2Begins:
            front.idle_watch.discard(self)
            self.taken = True
            Http2Connection(self.stream, self.peer, front, _HTTP2_BEGINS + self._buffer).serve(handle)
        except (ClientGone, OSError):
            pass
        finally:
            front.idle_watch.discard(self)
            if not self.taken:
                self.stream.close()

    def expire(self, now: float) -> None:
        """The idle watchdog's call: the client sent nothing, or no complete head."""
        until = 0.0 if self.idle else self._head_until()
        if until > now:
            self.deadline = until
            return
        self.deadline = inf
        if self.idle:
            self.stream.shutdown()
        else:
            get_hub().loop.run_callback(self._interrupt_head)

    def _head_until(self) -> float:
        """Until when the head that is on its way must be complete: what has come of it at the least rate gives it time."""
        if self._late_head[0] != self._served:
            self._late_head = (self._served, self.deadline - self._head_wait)
        return self._late_head[1] + min(self.rates.seconds(self._head_came), self._settings.header_timeout)

    def make_way(self) -> None:
        """End the idle connection. Must not wait."""
        self.deadline = inf
        self.stream.shutdown()

    def idle_since(self) -> float:
        """The instant since which the client has sent nothing. inf while it is served, or once it has been asked to go."""
        return self.deadline - (self._front.idle_seconds if self._served else self._settings.header_timeout) if self.idle else inf

    def _interrupt_head(self) -> None:
        """Make the greenlet that waits for the rest of a head answer 408. This must run in the hub: only there is it certain that
        the greenlet is still waiting."""
        if not self._awaits_head:
            return
        limit = self._settings.header_timeout
        if self.rates.seconds(self._head_came) < limit:
            code, detail = "request_too_slow", "the request header did not arrive in time"
        else:
            code, detail = "header_timeout", f"the request header was not complete within {limit:g} s"
        self._greenlet.throw(ProtocolError(408, code, detail))

    def _refuse(self, error: ProtocolError, handle: Handler) -> None:
        """Have the handler answer a request that could not be read, then close."""
        self._awaits_head = False
        self.deadline = inf
        self.keep_alive = False
        self.exchange = Exchange(self, RequestHead("-", "-", 11, [], []), time.monotonic(), error)
        handle(self.exchange)
        self._linger()

    def _linger(self) -> None:
        """Let the last response reach a client that is still sending. Closing at once would send a reset and destroy it.

        The bound is time, because a client may have sent any amount before it looks for an answer. A worker that stops waits as
        long as for a client that pauses.
        """
        stream = self.stream.end()
        ending = time.monotonic() + _LINGER_SECONDS
        while True:
            silence = min(_LINGER_SILENCE, ending - time.monotonic())
            if silence <= 0:
                return
            data = b""
            try:
                with gevent.Timeout(silence, False):
                    data = stream.recv(BODY_PIECE)
            except OSError:
                return
            if not data:
                return
            if self._front.stopping:
                ending = min(ending, time.monotonic() + _LINGER_SILENCE)

    def _next_head(self) -> RequestHead | None:
        """The next request's head. None if the client ends the connection or leaves it idle for too long."""
        if self._served:
            if not self._skip_body():
                self.keep_alive = False
                return None
            if self._served >= self._settings.requests_per_connection:
                return None
        buffer = self._buffer
        stream = self.stream
        self.idle = not buffer
        wait = self._head_wait if buffer else self._front.idle_seconds if self._served else self._settings.header_timeout
        self.deadline = time.monotonic() + wait
        self._awaits_head = True
        end = find_head_end(buffer) if buffer else -1
        while end < 0:
            if buffer:
                self._head_came = len(buffer)
                if self._head_came > self._limits.head_size:
                    raise head_too_large(buffer, self._limits, 400)
            data = stream.recv() if buffer or not self._served else stream.recv_later()
            if not data:
                return None
            if buffer:
                known = len(buffer)
                buffer += data
                end = find_head_end(buffer, known)
            else:
                if self.idle:
                    self.idle = False
                    self.deadline = time.monotonic() + self._head_wait
                buffer = data
                end = find_head_end(buffer)
        self._awaits_head = False
        self.deadline = inf
        self.idle = False
        if end == len(buffer):
            self._buffer = b""
        else:
            self._buffer = buffer[end:]
            buffer = buffer[:end]
        self._served += 1
        try:
            head = self.head = parse_request_head(buffer, self._limits)
        except ProtocolError:
            if buffer == _HTTP2_BEGINS and self._served == 1 and self._settings.http2_cleartext:
                raise _Http2Begins from None
            raise
        return head

    def _begin(self, head: RequestHead) -> None:
        self.version = head.version
        self.keep_alive = head.keep_alive and not self._front.stopping and self._served < self._settings.requests_per_connection
        if head.chunked:
            self._decoder = ChunkedDecoder()
            self._left = -1
        else:
            self._decoder = None
            self._left = head.content_length if head.content_length > 0 else 0
        self._answered_100 = False

    # -- the request's body ---------------------------------------------------------------------------------------

    def has_body(self) -> bool:
        return self._left != 0

    def expects_continue(self) -> bool:
        return self.head is not None and self.head.expect_continue and not self._answered_100 and not self._buffer

    def send_continue(self) -> None:
        self._answered_100 = True
        self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def read_body(self) -> bytes:
        if self._left == 0:
            return b""
        if self._decoder is not None:
            return self._read_chunked(self._decoder)
        if self._buffer:
            if len(self._buffer) <= self._left:
                data, self._buffer = self._buffer, b""
            else:
                data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        else:
            data = self._receive(min(self._left, BODY_PIECE))
        self._left -= len(data)
        return data

    def _read_chunked(self, decoder: ChunkedDecoder) -> bytes:
        try:
            while True:
                if decoder.more:
                    self.stream.give_way()
                    payload = decoder.resume()
                elif self._buffer:
                    data, self._buffer = self._buffer, b""
                    payload = decoder.feed(data)
                else:
                    payload = decoder.feed(self._receive(BODY_PIECE))
                if decoder.done:
                    self._left = 0
                    self._buffer = decoder.leftover
                    return payload
                if payload:
                    return payload
        except ProtocolError:
            self.keep_alive = False
            raise

    def _receive(self, size: int) -> bytes:
        self._wait_for_body()
        try:
            data = self.stream.recv(size)
        except OSError:
            data = b""
        self._received(len(data))
        return data

    def body_for_pipe(self) -> int:
        return self._left if self._left > 0 and not self._buffer else 0

    def read_body_to(self, pipe: Pipe) -> None:
        self._wait_for_body()
        try:
            count = self._plain.recv_pipe(pipe, self._left)
        except OSError:
            count = 0
        self._received(count)
        self._left -= count

    def _wait_for_body(self) -> None:
        """The client has body_timeout to send some of it."""
        if self.exchange is not None:
            self.exchange.wait_for_body(REQUEST_BODY, time.monotonic() + self._settings.body_timeout)

    def _received(self, count: int) -> None:
        """So many bytes of the body have come; none: the client sends no more."""
        if not count:
            self.keep_alive = False
            if self.exchange is not None and self.exchange.expired is not None:
                raise BodyTimeout
            raise ClientGone
        self._came += count

    def trailers(self) -> list[tuple[str, str]]:
        return self._decoder.trailers if self._decoder is not None else []

    def _skip_body(self) -> bool:
        """Skip the rest of the body if it has arrived already. Returns False if the connection can't go on."""
        if self._left == 0:
            return True
        if self._left > 0:
            if len(self._buffer) < self._left:
                return False
            self._buffer = self._buffer[self._left :]
            self._left = 0
            return True
        return False

    # -- the response ---------------------------------------------------------------------------------------------

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        if self.version == 11:
            self._send(_head_of([_status_line(status, reason_phrase(status)), *map(_field_line, headers)]))

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        if self._left != 0 and not self._answered_everything():
            self.keep_alive = False
        lines = [_status_line(status, reason), *map(_field_line, headers)]
        self._chunked_out = False
        if length >= 0:
            lines.append(f"Content-Length: {length}")
        elif length == -1:
            if self.version == 11:
                self._chunked_out = True
                lines.append("Transfer-Encoding: chunked")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            lines.append("Connection: close")
        elif self.version == 10:
            lines.append("Connection: keep-alive")
        data = _head_of(lines)
        if self._chunked_out:
            if body:
                data += b"%x\r\n%b\r\n" % (len(body), body)
            if last:
                data += LAST_CHUNK
            self._send(data)
        elif not body:
            self._send(data)
        elif len(body) <= JOIN_LIMIT:
            self._send(data + body)
        else:
            self._send(data)
            self._send(body)

    def _answered_everything(self) -> bool:
        """Whether the rest of the body has arrived already, so that it can be skipped after the response."""
        return 0 < self._left <= len(self._buffer)

    def write(self, data: bytes | memoryview) -> None:
        if self._chunked_out:
            self._send(b"%x\r\n%b\r\n" % (len(data), bytes(data) if isinstance(data, memoryview) else data))
        else:
            self._send(data)

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        if self._chunked_out:
            self._send(encode_last_chunk(list(trailers)) if trailers else LAST_CHUNK)

    def write_pipe(self, pipe: Pipe) -> None:
        stream = self._plain
        try:
            if not stream.send_pipe_now(pipe):
                self._wait_for_room()
                stream.send_pipe(pipe)
        except OSError:
            self.keep_alive = False
            raise ClientGone from None

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self.stream.send_now(data)
            if sent == len(data):
                return
            self._wait_for_room()
            self.stream.send_all(memoryview(data)[sent:] if sent else data)
        except OSError:
            self.keep_alive = False
            raise ClientGone from None

    def _wait_for_room(self) -> None:
        """The client has body_timeout to take some of what is sent."""
        if self.exchange is not None:
            self.exchange.wait_for(RESPONSE_WRITE, time.monotonic() + self._settings.body_timeout)

    def close_after(self) -> None:
        self.keep_alive = False

    def abort(self) -> None:
        self.keep_alive = False
        self.stream.reset()

    def gone(self) -> bool:
        return self.stream.gone()

    def descriptor(self) -> int:
        return self.stream.fileno()

    def takes(self) -> float:
        return self._settings.body_timeout if self.stream.moved() else 0.0

    def moved_bytes(self, sending: bool) -> int:
        return self.stream.taken() if sending else self._came

    def interrupt(self, reading_only: bool) -> None:
        if reading_only:
            self.stream.stop_reading()
        else:
            self.stream.shutdown()

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        self._send(_head_of([_status_line(101, "Switching Protocols"), *map(_field_line, headers)]))

    def take_over(self) -> tuple[Stream, bytes] | None:
        rest, self._buffer = self._buffer, b""
        self.keep_alive = False
        return self.stream, rest
