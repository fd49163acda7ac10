"""WebSocket (RFC 6455): passes the handshake on unchanged, then bytes in both directions in two greenlets, until both sides end.

The limits are the route's websocket_* options. If the proxy ends a connection, both sides get a close frame 1001 between two
frames.
"""

from __future__ import annotations

import contextlib
import time
from math import inf
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from proxyd.base.text import rfc3339
from proxyd.net.crew import begin
from proxyd.net.stream import LITTLE, Stream
from proxyd.proxy.core.answers import answer
from proxyd.proxy.core.phases import WEBSOCKET_END, WEBSOCKET_IDLE
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.upstream.frames import GOING_AWAY, FrameBoundary, close_frame, ping_frame
from proxyd.proxy.upstream.switching import WEBSOCKET, switch

if TYPE_CHECKING:
    from proxyd.config.options import RouteOptions
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts

#: Bytes whose frames are followed before other greenlets may run: at most 2,000 frames.
_TURN = 4096
_PIECE = 65536
#: Seconds that both sides have to answer the close frame.
_LINGER = 2.0
_FULL = refuse("websocket_limit", "too many WebSockets are open on this route (option websocket_max_connections)",
                (("Retry-After", "5"),))


def reserve(parts: Parts, upstream: Upstream) -> Refusal | None:
    """Count a WebSocket that is about to open; `tunnel` ends the count. Returns a refusal if the route has too many on this host."""
    if not upstream.websocket or parts.websockets.reserve(upstream.number, upstream.options.websocket_max_connections):
        return None
    return _FULL


def tunnel(parts: Parts, ex: Exchange, upstream: Upstream, admission: int) -> None:
    """Carry an upgraded exchange, which `reserve` has counted, to its end. Raises UpstreamError before anything was sent, and
    ClientGone."""
    ex.upstream = upstream
    if not upstream.websocket:
        parts.circuits.cancel(upstream, admission)
        return answer(ex, refuse("websocket_off", "WebSocket is not enabled on this route (option websocket)"))

    def carry(client: Stream, stream: Stream, ahead: bytes, rest: bytes) -> None:
        """Carry bytes both ways until the end. Count the connection meanwhile, and leave a row about it for the database."""
        carried = Tunnel(ex, client, stream, upstream.options)
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

    try:
        switch(parts, ex, upstream, admission, WEBSOCKET, carry)
    finally:
        parts.websockets.release(upstream.number)


class Tunnel:
    """The two directions of a WebSocket, and what ends them."""

    def __init__(self, ex: Exchange, client: Stream, upstream: Stream, options: RouteOptions) -> None:
        self.reason = "closed"
        self._ex = ex
        self._client = client
        self._upstream = upstream
        self._idle = options.websocket_idle_timeout or inf
        self._ping = options.websocket_ping
        self._to_client = FrameBoundary()
        self._to_upstream = FrameBoundary()
        self._ending = False
        self._cut = False
        self._goodbyes: list[gevent.Greenlet] = []
        ex.total_deadline = time.monotonic() + options.websocket_max_duration if options.websocket_max_duration else inf
        ex.tunnel = self

    def run(self, ahead: bytes, rest: bytes) -> None:
        """Carry bytes both ways until both sides have ended. `ahead` and `rest`: bytes that were already read."""
        self._touch()
        up = begin(self._pump_up, ahead)
        pings = gevent.spawn(self._send_pings) if self._ping else None
        try:
            self._pump(self._upstream, self._client, self._to_client, rest, False)
            up.join()
        finally:
            self._ex.tunnel = None
            up.kill()
            up.join()
            if pings is not None:
                pings.kill()
            gevent.killall(self._goodbyes)

    def _pump_up(self, ahead: bytes) -> None:
        self._pump(self._client, self._upstream, self._to_upstream, ahead, True)

    def _touch(self) -> None:
        self._ex.wait_for(WEBSOCKET_IDLE, time.monotonic() + self._idle)

    def _pump(self, source: Stream, target: Stream, boundary: FrameBoundary, data: bytes, upward: bool) -> None:
        """Carry bytes in one direction. An end is passed on as an end (half-close). An error ends both directions."""
        ex = self._ex
        try:
            while not self._ending:
                if data:
                    boundary.heard = True
                    while boundary.pinging is not None:
                        boundary.pinging.wait()
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
                data = (source.recv_later if len(data) < LITTLE else source.recv)(_PIECE)
                if not data:
                    target.stop_sending()
                    return
        except OSError:
            if not self._ending:
                self.reason = "client_reset" if upward else "upstream_reset"
                source.shutdown()
                target.shutdown()
        if self._ending:
            # Keep reading: closing with unread data would send a reset, and a peer that is still sending would lose the close frame.
            # A peer that goes on sending is not waited for: a socket that was shut down still receives.
            with contextlib.suppress(OSError):
                while not self._cut and source.recv(_PIECE):
                    pass

    def _send_pings(self) -> None:
        """Send a ping to each side that was silent for the time of the option. End if there was no answer to the last one."""
        sides = ((self._client, self._to_client, self._to_upstream, False), (self._upstream, self._to_upstream, self._to_client, True))
        asked = [False, False]
        while not self._ending:
            gevent.sleep(self._ping)
            for index, (stream, outward, inward, masked) in enumerate(sides):
                if inward.heard:
                    inward.heard = asked[index] = False
                elif asked[index]:
                    self.end("ping_timeout")
                    return
                elif outward.between and not outward.sending and not self._ending:
                    asked[index] = True
                    self._send_ping(stream, outward, masked)

    @staticmethod
    def _send_ping(stream: Stream, boundary: FrameBoundary, masked: bool) -> None:
        boundary.pinging = done = Event()
        boundary.sending = True
        # An error is for whoever reads there: it finds out, too.
        with contextlib.suppress(OSError):
            stream.send_all(ping_frame(masked))
        boundary.sending = False
        boundary.pinging = None
        done.set()

    @staticmethod
    def _follow(boundary: FrameBoundary, data: bytes, source: Stream) -> None:
        """Keep track of the frames. A piece with many small frames is followed in turns with other greenlets."""
        if boundary.skip(data):
            return
        view = memoryview(data)
        for at in range(0, len(view), _TURN):
            boundary.feed(view[at : at + _TURN])
            source.give_way()

    def end(self, reason: str) -> None:
        """Send both sides a close frame and give them a moment to answer. A second call cuts them. Must not wait."""
        ex = self._ex
        if self._ending:
            self._cut = True
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
    """Send a close frame if it comes between two frames, then end our side."""
    # While a pump is still sending, it is in the middle of a frame, and its greenlet waits on the stream.
    if boundary.between and not boundary.sending:
        with contextlib.suppress(OSError):
            stream.send_all(close_frame(GOING_AWAY, masked))
    stream.stop_sending()
