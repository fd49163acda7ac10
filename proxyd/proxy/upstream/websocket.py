"""WebSocket: the handshake passed as it is, then bytes both ways in two greenlets, until both sides are done.

RFC 6455; bounds are the route's websocket_* options. Where the proxy ends a connection, both sides get a close
frame 1001, between two frames.
"""

from __future__ import annotations

import contextlib
import time
from math import inf
from typing import TYPE_CHECKING

import gevent

from proxyd.base.text import rfc3339
from proxyd.http1 import ProtocolError
from proxyd.net.stream import Stream
from proxyd.proxy.core.answers import answer
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.headers import request_head
from proxyd.proxy.core.phases import RESPONSE_HEAD, WEBSOCKET_END, WEBSOCKET_IDLE
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.upstream.attempt import failure, open_connection, read_head
from proxyd.proxy.upstream.circuit import is_failure
from proxyd.proxy.upstream.frames import GOING_AWAY, FrameBoundary, close_frame
from proxyd.proxy.upstream.pool import UpstreamError
from proxyd.proxy.upstream.relay import relay_refused_upgrade, response_fields

if TYPE_CHECKING:
    from proxyd.config.options import RouteOptions
    from proxyd.http1 import ResponseHead
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts

#: Bytes whose frames are followed before others may run: at most 2,000 frames.
_TURN = 4096
_PIECE = 65536
#: How long both sides have to answer our close frame.
_LINGER = 2.0
_FULL = refuse("websocket_limit", "too many WebSockets are open on this route (option websocket_max_connections)",
                (("Retry-After", "5"),))


def reserve(parts: Parts, upstream: Upstream) -> Refusal | None:
    """Count a WebSocket that is about to open, until `tunnel` is over; a refusal where the host has too many of the route."""
    if not upstream.websocket or parts.websockets.reserve(upstream.number, upstream.options.websocket_max_connections):
        return None
    return _FULL


def tunnel(parts: Parts, ex: Exchange, upstream: Upstream, admission: int) -> None:
    """Carry an upgraded exchange, which `reserve` has counted, to its end. Raises UpstreamError before anything went out,
    ClientGone."""
    ex.upstream = upstream
    if not upstream.websocket:
        parts.circuits.cancel(upstream, admission)
        return answer(ex, refuse("websocket_off", "WebSocket is not enabled on this route (option websocket)"))
    try:
        _open(parts, ex, upstream, admission)
    finally:
        parts.websockets.release(upstream.number)


def _open(parts: Parts, ex: Exchange, upstream: Upstream, admission: int) -> None:
    options = upstream.options
    ex.upstream_started = time.monotonic()
    stream = ex.upstream_stream = open_connection(ex, upstream)
    try:
        response, rest = _handshake(parts, ex, upstream, stream)
        switched = response.status == 101
        if switched and response.upgrade != "websocket":
            raise UpstreamError("other", 502, "bad_upgrade", "the upstream switched to another protocol than websocket")
        parts.circuits.report(upstream, admission, switched or not is_failure(upstream, response.status), time.time())
        if not switched:
            return relay_refused_upgrade(ex, upstream, stream, response, rest)
        ex.begin_response(101)
        ex.client.switch([*response_fields(ex, upstream, response), ("Connection", "Upgrade"), ("Upgrade", "websocket")])
        taken = ex.client.take_over()
        if taken is None:
            raise ClientGone
        _carry(parts, ex, upstream, Tunnel(ex, taken[0], stream, options), taken[1], rest)
    finally:
        ex.upstream_stream = None
        stream.close()


def _carry(parts: Parts, ex: Exchange, upstream: Upstream, carried: Tunnel, ahead: bytes, rest: bytes) -> None:
    """Carry bytes both ways until the end, count the connection meanwhile, and leave a row of it."""
    counters = parts.stats.of(upstream.route_id)
    counters.websockets += 1
    counters.websocket_active += 1
    opened = time.time()
    try:
        carried.run(ahead, rest)
    finally:
        counters.websocket_active -= 1
        ex.failure = "" if carried.reason == "closed" else carried.reason
        parts.rows.websocket(
            route_id=upstream.route_id, opened_at=rfc3339(opened), closed_at=rfc3339(time.time()), client=ex.client_ip,
            bytes_sent=ex.bytes_sent, bytes_received=ex.bytes_received, reason=carried.reason)


def _handshake(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream) -> tuple[ResponseHead, bytes]:
    """Send the upgrade request and read the answer's head and what came behind it."""
    ex.wait_for(RESPONSE_HEAD, time.monotonic() + upstream.options.timeout)
    try:
        stream.send_all(request_head(ex, upstream, upgrade="websocket"))
        return read_head(parts, ex, upstream, stream, upgrade=True)
    except OSError as error:
        raise failure(ex, str(error)) from None
    except ProtocolError as error:
        raise UpstreamError("other", 502, error.code, error.detail) from None


class Tunnel:
    """Two pumps and what ends them."""

    def __init__(self, ex: Exchange, client: Stream, upstream: Stream, options: RouteOptions) -> None:
        self.reason = "closed"
        self._ex = ex
        self._client = client
        self._upstream = upstream
        self._idle = options.websocket_idle_timeout or inf
        self._to_client = FrameBoundary()
        self._to_upstream = FrameBoundary()
        self._ending = False
        self._goodbyes: list[gevent.Greenlet] = []
        ex.total_deadline = time.monotonic() + options.websocket_max_duration if options.websocket_max_duration else inf
        ex.tunnel = self

    def run(self, ahead: bytes, rest: bytes) -> None:
        """Carry both ways until both sides have ended; `ahead` and `rest` are bytes read already."""
        self._touch()
        up = gevent.spawn(self._pump, self._client, self._upstream, self._to_upstream, ahead, True)
        try:
            self._pump(self._upstream, self._client, self._to_client, rest, False)
            up.join()
        finally:
            self._ex.tunnel = None
            up.kill()
            gevent.killall(self._goodbyes)

    def _touch(self) -> None:
        self._ex.wait_for(WEBSOCKET_IDLE, time.monotonic() + self._idle)

    def _pump(self, source: Stream, target: Stream, boundary: FrameBoundary, data: bytes, upward: bool) -> None:
        """Bytes one way; an end is passed on as an end (half-close), an error ends both ways."""
        ex = self._ex
        try:
            while not self._ending:
                if data:
                    boundary.sending = True
                    self._follow(boundary, data, source)
                    target.send_all(data)
                    boundary.sending = False
                    if upward:
                        ex.bytes_received += len(data)
                    else:
                        ex.bytes_sent += len(data)
                    if self._ending:
                        break
                    self._touch()
                data = source.recv(_PIECE)
                if not data:
                    target.stop_sending()
                    return
        except OSError:
            if not self._ending:
                self.reason = "client_reset" if upward else "upstream_reset"
                source.shutdown()
                target.shutdown()
        if self._ending:
            # Read on, or closing would reset the close frame away from a peer that is still sending.
            with contextlib.suppress(OSError):
                while source.recv(_PIECE):
                    pass

    @staticmethod
    def _follow(boundary: FrameBoundary, data: bytes, source: Stream) -> None:
        """Keep track of the frames; ten thousand empty ones in one piece are taken in turns."""
        if boundary.skip(data):
            return
        view = memoryview(data)
        for at in range(0, len(view), _TURN):
            boundary.feed(view[at : at + _TURN])
            source.give_way()

    def end(self, reason: str) -> None:
        """Say goodbye to both sides and give them a moment to answer; called again, cut them. Must not wait."""
        ex = self._ex
        if self._ending:
            ex.stop_waiting()
            self._client.shutdown()
            self._upstream.shutdown()
            return
        self._ending = True
        self.reason = reason
        ex.total_deadline = inf
        ex.wait_for(WEBSOCKET_END, time.monotonic() + _LINGER)
        for stream, boundary, masked in ((self._client, self._to_client, False), (self._upstream, self._to_upstream, True)):
            self._goodbyes.append(gevent.spawn(_say_goodbye, stream, boundary, masked))


def _say_goodbye(stream: Stream, boundary: FrameBoundary, masked: bool) -> None:
    """A close frame, if it can stand between two frames; then our end."""
    # One that is still sending has the middle of a frame on its way, and its greenlet waits on the stream.
    if boundary.between and not boundary.sending:
        with contextlib.suppress(OSError):
            stream.send_all(close_frame(GOING_AWAY, masked))
    stream.stop_sending()
