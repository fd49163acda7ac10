"""A client's HTTP/1.1 connection: reads requests, writes responses, and enforces every limit on what a client may do."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING

import gevent
from gevent.hub import get_hub

from proxyd.http1 import ChunkedDecoder, ProtocolError, RequestHead, find_head_end, parse_request_head
from proxyd.http1.grammar import head_too_large
from proxyd.net.stream import PlainStream
from proxyd.proxy.client.http2 import Http2Connection
from proxyd.proxy.client.receiving import Receiving
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.core.origin import forwarded_fields

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.client.front import ClientStream, Front

#: Seconds that a client has to send the rest of a body that nobody reads, and for how long it may pause.
_LINGER_SECONDS = 30.0
_LINGER_SILENCE = 2.0

Handler = Callable[[Exchange], None]

#: What looks like a head in the preface of HTTP/2 (RFC 9113 3.4).
_HTTP2_BEGINS = b"PRI * HTTP/2.0\r\n\r\n"


class _Http2Begins(Exception):
    """The client speaks HTTP/2 without having asked (prior knowledge, RFC 9113 3.3)."""


class ClientConnection(Receiving):
    """One connection and its current request. It is the ClientSide of its exchanges, and is watched while idle."""

    __slots__ = (
        "_awaits_head", "_front", "_greenlet", "_head_came", "_head_wait", "_late_head", "_limits", "_served", "asked", "buffers",
        "certificate", "deadline", "forwarded", "idle", "peer", "rates", "secure", "taken", "trusted", "via", "via_field",
    )  # fmt: skip

    def __init__(self, stream: ClientStream, peer: str, front: Front) -> None:
        super().__init__(stream, front.settings.proxy)
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
        self.deadline = inf
        self.idle = True
        self.taken = False
        self._front = front
        self._limits = front.head_limits
        self._greenlet = gevent.getcurrent()
        self._awaits_head = False
        self._served = 0
        self._head_came = 0
        self._head_wait = front.head_wait
        self._late_head = (-1, 0.0)

    @property
    def by_pipe(self) -> ClientConnection | None:
        return self if isinstance(self.stream, PlainStream) else None

    # -- the loop over requests --------------------------------------------------------------------------------------

    def serve(self, handle: Handler) -> None:
        """Serve requests until the connection ends, then close the stream. Raises nothing."""
        front = self._front
        self._greenlet = gevent.getcurrent()
        front.idle_watch.add(self)
        http2 = False
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
                    if not self._at_end(head):
                        self._linger()
                    break
                # Nothing of it is kept while the next one is waited for, which may be for long.
                del exchange, head
                self.head = self._decoder = None
                if self._buffer:
                    # The next request has arrived already, and a thousand more may have. Let others run first.
                    self.stream.give_way()
        except ProtocolError as error:
            self._refuse(error, handle)
        except _Http2Begins:
            self.taken = http2 = True
        except (ClientGone, OSError):
            pass
        finally:
            front.idle_watch.discard(self)
            # The greenlet goes on to others.
            self._awaits_head = False
            if not self.taken:
                self.stream.close()
        if http2:
            # Not where the exception is still known, and with it all that was looked at.
            Http2Connection(self.stream, self.peer, front, _HTTP2_BEGINS + self._buffer).serve(handle)

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

    def _at_end(self, head: RequestHead) -> bool:
        """Whether the client has said that this was all, in a request without a body, and has sent nothing else, or has closed already:
        then closing sends no reset, and nothing is waited for."""
        if head.keep_alive or head.chunked or head.content_length > 0 or self._buffer:
            return False
        stream = self.stream
        return stream.fileno() >= 0 and (stream.quiet() or stream.gone())

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
                    data = stream.recv()
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
                buffer = data
                end = find_head_end(buffer)
                if end < 0:
                    self.idle = False
                    self.deadline = time.monotonic() + self._head_wait
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

    # -- what others ask of it ------------------------------------------------------------------------------------

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

    def take_over(self) -> tuple[Stream, bytes] | None:
        rest, self._buffer = self._buffer, b""
        self.keep_alive = False
        return self.stream, rest
