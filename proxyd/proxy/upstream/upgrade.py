"""Upgrades to protocols that a route lists (option `upgrade`): the handshake passes, then bytes in both directions, as they are."""

from __future__ import annotations

import contextlib
import time
from math import inf
from typing import TYPE_CHECKING

import gevent

from proxyd.net.stream import LITTLE
from proxyd.proxy.core.phases import WEBSOCKET_IDLE
from proxyd.proxy.upstream.switching import switch

if TYPE_CHECKING:
    from proxyd.config.options import RouteOptions
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts

_PIECE = 65536


def listed(ex: Exchange, upstream: Upstream) -> str:
    """The protocols that the client asks for and the route lists, as the client spells them. Empty: none, or the request has a body that
    was not read as a whole."""
    allowed = upstream.options.upgrade
    if not allowed or (ex.body is None and (ex.kept is not None or ex.client.has_body())):
        return ""
    asked = [item.strip() for item in ",".join(ex.head.get_all("upgrade")).split(",")]
    return ", ".join([item for item in asked if item.lower() in allowed])


def tunnel(parts: Parts, ex: Exchange, upstream: Upstream, admission: int, protocols: str) -> None:
    """Carry an exchange that asks for protocols to its end. Raises UpstreamError before anything was sent, and ClientGone."""

    def carry(client: Stream, stream: Stream, ahead: bytes, rest: bytes) -> None:
        pipe = Pipe(ex, client, stream, upstream.options)
        try:
            pipe.run(ahead, rest)
        finally:
            ex.failure = pipe.reason

    switch(parts, ex, upstream, admission, protocols, carry)


class Pipe:
    """The two directions. `reason`: why the proxy ended them, or an empty text."""

    def __init__(self, ex: Exchange, client: Stream, upstream: Stream, options: RouteOptions) -> None:
        self.reason = ""
        self._ex = ex
        self._client = client
        self._upstream = upstream
        self._idle = options.websocket_idle_timeout or inf
        ex.total_deadline = time.monotonic() + options.websocket_max_duration if options.websocket_max_duration else inf
        ex.tunnel = self

    def run(self, ahead: bytes, rest: bytes) -> None:
        """Carry bytes both ways until both sides have ended. `ahead` and `rest`: bytes that were already read."""
        up = gevent.spawn(self._pump, self._client, self._upstream, ahead, True)
        try:
            self._pump(self._upstream, self._client, rest, False)
            up.join()
        finally:
            self._ex.tunnel = None
            up.kill()

    def _pump(self, source: Stream, target: Stream, data: bytes, upward: bool) -> None:
        """Carry bytes in one direction. An end is passed on as an end, an error ends both directions."""
        ex = self._ex
        try:
            while True:
                if data:
                    target.send_all(data)
                    if upward:
                        ex.bytes_received += len(data)
                    else:
                        ex.bytes_sent += len(data)
                ex.wait_for(WEBSOCKET_IDLE, time.monotonic() + self._idle)
                data = (source.recv_later if len(data) < LITTLE else source.recv)(_PIECE)
                if not data:
                    with contextlib.suppress(OSError):
                        target.stop_sending()
                    return
        except OSError:
            self.reason = self.reason or ("client_reset" if upward else "upstream_reset")
            source.shutdown()
            target.shutdown()

    def end(self, reason: str) -> None:
        """Close both sides. Must not wait."""
        self.reason = self.reason or reason
        self._ex.stop_waiting()
        self._client.shutdown()
        self._upstream.shutdown()
