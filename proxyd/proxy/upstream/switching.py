"""How an exchange is switched to another protocol, a WebSocket's or one that the route lists: the handshake passes, then somebody carries
bytes in both directions. A WebSocket may be a stream of HTTP/2 on either side."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxyd.base import clock
from proxyd.http1 import ProtocolError
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.headers import request_head
from proxyd.proxy.core.phases import RESPONSE_HEAD
from proxyd.proxy.upstream.attempt import failure, open_connection, read_head, send_first
from proxyd.proxy.upstream.circuit import is_failure
from proxyd.proxy.upstream.http2 import again
from proxyd.proxy.upstream.http2websocket import ask_for_websocket, websocket_leg
from proxyd.proxy.upstream.pool import UpstreamError
from proxyd.proxy.upstream.relay import relay_refused_upgrade, response_fields

if TYPE_CHECKING:
    from proxyd.http1 import ResponseHead
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.http2leg import Leg
    from proxyd.proxy.upstream.parts import Parts

WEBSOCKET = "websocket"
#: Carries bytes between a client and an upstream until both have ended. The last two: what was read of them already.
Carry = Callable[["Stream", "Stream", bytes, bytes], None]


def switch(parts: Parts, ex: Exchange, upstream: Upstream, admission: int, protocols: str, carry: Carry) -> None:
    """Ask the upstream for one of the protocols, answer the client, and carry what both send then. An answer that does not switch is
    relayed like others. Raises UpstreamError before anything was sent, and ClientGone."""
    ex.upstream = upstream
    tries = 0
    while True:
        ex.upstream_started = time.monotonic()
        leg = websocket_leg(parts, ex, upstream) if upstream.http2 and protocols == WEBSOCKET else None
        try:
            return _switch(parts, ex, upstream, admission, protocols, carry, leg)
        except UpstreamError as error:
            tries += 1
            if leg is None or not again(ex, upstream, leg, error, tries):
                raise


def _switch(parts: Parts, ex: Exchange, upstream: Upstream, admission: int, protocols: str, carry: Carry, leg: Leg | None) -> None:
    """`switch` on a stream of HTTP/2, or on a new connection."""
    stream = ex.upstream_stream = leg if leg is not None else open_connection(ex, upstream)
    try:
        if leg is not None:
            response, rest = ask_for_websocket(parts, ex, upstream, leg)
        else:
            response, rest = _handshake(parts, ex, upstream, stream, protocols)
        switched = response.status == 101
        if switched and response.upgrade not in protocols.lower().split(", "):
            raise UpstreamError("other", 502, "bad_upgrade", "the upstream switched to a protocol that it was not asked for")
        parts.circuits.report(upstream, admission, not is_failure(ex, upstream, response.status), clock.now(), ex.pool)
        if not switched:
            return relay_refused_upgrade(parts, ex, upstream, stream, response, rest)
        ex.begin_response(101)
        # A name of WebSocket's that is spelled in another way is known to few clients.
        name = WEBSOCKET if response.upgrade == WEBSOCKET else response.get("upgrade") or ""
        ex.client.switch([*response_fields(ex, upstream, response), ("Connection", "Upgrade"), ("Upgrade", name)])
        taken = ex.client.take_over()
        if taken is None:
            raise ClientGone
        carry(taken[0], stream, taken[1], rest)
    finally:
        ex.upstream_stream = None
        stream.close()


def _handshake(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream, protocols: str) -> tuple[ResponseHead, bytes]:
    """Send the request to upgrade to one of the protocols, and read the answer's head and the bytes after it."""
    ex.wait_for(RESPONSE_HEAD, time.monotonic() + upstream.options.timeout)
    try:
        send_first(stream, request_head(ex, upstream, upgrade=protocols) + (ex.body or b""))
        return read_head(parts, ex, upstream, stream, upgrade=True)
    except OSError as error:
        raise failure(ex, error) from None
    except ProtocolError as error:
        raise UpstreamError("other", 502, error.code, error.detail) from None
