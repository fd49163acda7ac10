"""WebSocket: the handshake passed as it is, then bytes both ways in two greenlets, until both sides are done.

RFC 6455; bounds are the route's websocket_* options. Where the proxy ends a connection, both sides get a close
frame 1001, between two frames.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import gevent

from proxyd.http1 import ProtocolError, find_head_end, parse_response_head
from proxyd.proxy import errors, forward
from proxyd.proxy.clientside import ClientGone
from proxyd.proxy.frames import GOING_AWAY, FrameBoundary, close_frame
from proxyd.proxy.headers import request_head
from proxyd.proxy.stream import Stream
from proxyd.proxy.upstream import UpstreamError
from proxyd.text import rfc3339

if TYPE_CHECKING:
    from proxyd.http1 import ResponseHead
    from proxyd.proxy.exchange import Exchange
    from proxyd.proxy.runtime import Runtime
    from proxyd.proxy.table import Upstream

_PIECE = 65536
_MAX_INFORMATIONAL = 16


def tunnel(runtime: Runtime, ex: Exchange, upstream: Upstream, admission: int) -> None:
    """Carry an upgraded exchange to its end. Raises UpstreamError before anything went out, ClientGone."""
    options = upstream.options
    counters = runtime.stats.of(upstream.route_id)
    ex.upstream = upstream
    if not upstream.websocket:
        runtime.circuits.cancel(upstream, admission)
        return errors.respond(ex, 400, "websocket_off", "WebSocket is not enabled on this route (option websocket)")
    if options.websocket_max_connections and counters.websocket_active >= options.websocket_max_connections:
        runtime.circuits.cancel(upstream, admission)
        return errors.respond(ex, 503, "websocket_limit", "too many WebSockets are open on this route", (("Retry-After", "5"),))
    ex.upstream_started = time.monotonic()
    stream = forward.new_connection(ex, upstream)
    ex.upstream_stream = stream
    try:
        response, rest = _handshake(runtime, ex, upstream, stream)
        ok = response.status == 101 or response.status not in options.circuit_failure_status
        runtime.circuits.report(upstream, admission, ok, time.time())
        if response.status != 101:
            forward.relay_refused_upgrade(ex, upstream, stream, response, rest)
            return None
        if "websocket" not in response.upgrade:
            raise UpstreamError("other", 502, "bad_upgrade", "the upstream switched to another protocol than websocket")
        headers = [*response.end_to_end(), ("Connection", "Upgrade"), ("Upgrade", response.upgrade), ("Via", ex.client.via_field),
                   ("X-Request-ID", ex.request_id)]
        ex.status = 101
        ex.response_started = True
        ex.client.switch(headers)
        taken = ex.client.take_over()
        if taken is None:
            raise ClientGone
        client_stream, ahead = taken
        carried = Tunnel(ex, client_stream, stream, options.websocket_idle_timeout, options.websocket_max_duration)
        counters.websockets += 1
        counters.websocket_active += 1
        opened = time.time()
        try:
            carried.run(ahead, rest)
        finally:
            counters.websocket_active -= 1
            runtime.rows.websocket(
                route_id=upstream.route_id, opened_at=rfc3339(opened), closed_at=rfc3339(time.time()), client=ex.client_ip,
                bytes_sent=ex.bytes_sent, bytes_received=ex.bytes_received, reason=carried.reason)
    finally:
        ex.upstream_stream = None
        stream.close()
    return None


def _handshake(runtime: Runtime, ex: Exchange, upstream: Upstream, stream: Stream) -> tuple[ResponseHead, bytes]:
    """Send the upgrade request and read the answer's head and what came behind it."""
    ex.wait_for("timeout", time.monotonic() + upstream.options.timeout)
    buffer = b""
    try:
        stream.send_all(request_head(ex, upstream, upgrade="websocket"))
        for _ in range(_MAX_INFORMATIONAL):
            while (end := find_head_end(buffer) if buffer else -1) < 0:
                data = stream.recv()
                if not data or len(buffer) > runtime.response_limits.head_size:
                    raise forward.failure(ex, "no response to the upgrade")
                buffer += data
            response = parse_response_head(buffer[:end], ex.method, runtime.response_limits)
            buffer = buffer[end:]
            if response.status == 101 or response.status >= 200:
                return response, buffer
        raise UpstreamError("other", 502, "too_many_informational", "the upstream sent too many informational responses")
    except OSError as error:
        raise forward.failure(ex, str(error)) from None
    except ProtocolError as error:
        raise UpstreamError("other", 502, error.code, error.detail) from None


class Tunnel:
    """Two pumps and what ends them."""

    def __init__(self, ex: Exchange, client: Stream, upstream: Stream, idle: float, longest: float) -> None:
        self.reason = "closed"
        self._ex = ex
        self._client = client
        self._upstream = upstream
        self._idle = idle or inf
        self._to_client = FrameBoundary()
        self._to_upstream = FrameBoundary()
        ex.total_deadline = time.monotonic() + longest if longest else inf
        ex.tunnel = self

    def run(self, ahead: bytes, rest: bytes) -> None:
        """Carry both ways until both sides have ended; `ahead` and `rest` are bytes read already."""
        self._touch()
        ex = self._ex
        up = gevent.spawn(self._pump, self._client, self._upstream, self._to_upstream, ahead, True)
        try:
            self._pump(self._upstream, self._client, self._to_client, rest, False)
            up.join()
        except gevent.GreenletExit:
            self.reason = "worker_stopping"
            self._say_goodbye()
            raise
        finally:
            ex.tunnel = None
            up.kill()

    def _touch(self) -> None:
        self._ex.wait_for("websocket_idle", time.monotonic() + self._idle)

    def _pump(self, source: Stream, target: Stream, boundary: FrameBoundary, data: bytes, upward: bool) -> None:
        """Bytes one way; an end is passed on as an end (half-close), an error ends both ways."""
        ex = self._ex
        try:
            while True:
                if data:
                    boundary.feed(data)
                    boundary.sending = True
                    target.send_all(data)
                    boundary.sending = False
                    if upward:
                        ex.bytes_received += len(data)
                    else:
                        ex.bytes_sent += len(data)
                    self._touch()
                data = source.recv(_PIECE)
                if not data:
                    break
            target.stop_sending()
        except OSError:
            if self.reason == "closed" and not ex.expired:
                self.reason = "client_reset" if upward else "upstream_reset"
            source.shutdown()
            target.shutdown()

    def expire(self, reason: str) -> None:
        """The watchdog's call: the idle time or the longest life is over."""
        self.reason = reason
        gevent.spawn(self._end)

    def _end(self) -> None:
        self._say_goodbye()
        self._client.shutdown()
        self._upstream.shutdown()

    def _say_goodbye(self) -> None:
        with gevent.Timeout(1.0, False):
            for stream, boundary, masked in ((self._client, self._to_client, False), (self._upstream, self._to_upstream, True)):
                # One that is still sending has the middle of a frame on its way, and its greenlet waits on the stream.
                if boundary.between and not boundary.sending:
                    try:
                        stream.send_all(close_frame(GOING_AWAY, masked))
                    except OSError:
                        continue
