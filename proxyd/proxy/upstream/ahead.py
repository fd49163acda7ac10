"""Reads an answer ahead of its client (option response_buffer), so that the upstream is free as soon as it has answered.

Nothing is held back. One greenlet reads from the upstream, another one sends to the client what has come. What the client has not
taken waits in a spool. If there is no room in it, the reading waits: then the answer streams, as it would without a buffer.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from proxyd.http1 import ProtocolError
from proxyd.http1.response import LENGTH
from proxyd.proxy.core.phases import RESPONSE_BODY
from proxyd.proxy.core.spool import Spool
from proxyd.proxy.upstream.parts import leave
from proxyd.proxy.upstream.pieces import ResponseCut, body_of, encoded, length_to_send, next_piece, too_large
from proxyd.proxy.upstream.pool import let_go

if TYPE_CHECKING:
    from proxyd.http1 import BodyReader
    from proxyd.http1.response import ResponseHead
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.compress import Encoder
    from proxyd.proxy.upstream.http2leg import LegBody
    from proxyd.proxy.upstream.parts import Parts


def relay_ahead(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, response: ResponseHead,
                headers: list[tuple[str, str]], rest: bytes, encoder: Encoder | None) -> bool:
    """Pass a response with a body on. Returns whether the upstream connection could be used again."""
    client = ex.client
    body = body_of(stream, response)
    length = response.content_length if response.body_kind == LENGTH and encoder is None else length_to_send(response, encoder)
    # An error in this piece can still be answered, because nothing has been sent.
    piece = body.feed(rest)
    room = (upstream.options.max_response_body or inf) - len(piece)
    if room < 0:
        raise ProtocolError(502, "response_too_large", too_large(upstream))
    piece = encoded(encoder, piece, body)
    ex.begin_response(response.status)
    whole = (body.done and not body.trailers) or 0 <= length <= len(piece)
    with_more = _Reader(parts, ex, upstream, stream, body, encoder, room)
    try:
        client.start(response.status, response.reason, headers, length, piece, whole)
        ex.bytes_sent += len(piece)
        if not whole:
            for piece in with_more.pieces():
                client.write(piece)
                ex.bytes_sent += len(piece)
            client.finish(body.trailers)
    finally:
        with_more.stop()
    return body.reusable


class _Reader:
    """Reads a body from the upstream in a greenlet of its own, and lets the upstream go when the body is complete."""

    def __init__(self, parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, body: BodyReader | LegBody,
                 encoder: Encoder | None, room: float) -> None:
        self._parts = parts
        self._ex = ex
        self._upstream = upstream
        self._stream = stream
        self._body = body
        self._encoder = encoder
        self._allowed = room
        self._next = b""
        self._spool = Spool(parts.storage, upstream.options.response_buffer)
        self._more = Event()
        self._room = Event()
        self._error: Exception | None = None
        self._ended = False
        self._greenlet: gevent.Greenlet | None = None
        if body.done:
            self._finish()
        else:
            self._greenlet = gevent.spawn(self._run)

    def _run(self) -> None:
        body = self._body
        size = 0
        try:
            while not body.done:
                piece = next_piece(self._ex, self._stream, body, size)
                size = len(piece)
                self._allowed -= size
                if self._allowed < 0:
                    raise ResponseCut("response_too_large", too_large(self._upstream))
                piece = encoded(self._encoder, piece, body)
                if piece:
                    self._hand_over(piece)
            self._finish()
        except Exception as error:
            # The other greenlet raises it behind what was read before.
            self._error = error
        self._ended = True
        self._more.set()

    def _finish(self) -> None:
        """The upstream has answered: others may have it."""
        self._ended = True
        leave(self._parts, self._ex, self._upstream)
        let_go(self._ex, self._upstream, self._stream, self._body.reusable)

    def _hand_over(self, piece: bytes) -> None:
        spool = self._spool
        while self._next or spool.waiting:
            if spool.put(piece):
                self._more.set()
                return
            self._room.clear()
            self._room.wait()
        self._next = piece
        self._more.set()
        # The client goes first: what it takes at once is never kept.
        gevent.sleep(0)

    def pieces(self) -> Iterator[bytes]:
        """What comes, to the end of the body. Raises ResponseCut, ClientGone."""
        ex, spool, timeout = self._ex, self._spool, self._upstream.options.read_timeout
        while True:
            if self._next:
                piece, self._next = self._next, b""
            elif spool.waiting:
                try:
                    piece = spool.take()
                except ProtocolError as error:
                    raise ResponseCut(error.code, error.detail) from None
            elif self._ended:
                if self._error is not None:
                    raise self._error
                return
            else:
                self._room.set()
                self._more.clear()
                ex.wait_for(RESPONSE_BODY, time.monotonic() + timeout)
                self._more.wait()
                continue
            if not spool.waiting:
                self._room.set()
            yield piece

    def stop(self) -> None:
        """End it, and give back what it holds."""
        if self._greenlet is not None and self._ex.at_upstream:
            self._greenlet.kill()
        if self._spool.denied and self._ex.counters is not None:
            self._ex.counters.unbuffered += 1
        self._spool.close()
