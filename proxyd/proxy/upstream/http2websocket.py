"""WebSockets to upstreams that take them on streams of HTTP/2 (RFC 8441). What the upstream answers is given the form of HTTP/1.1, so that
all else is as for other WebSockets."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from proxyd.http1 import HeadLimits, ProtocolError, ResponseHead, parse_response_head
from proxyd.http1.reading import MAX_INFORMATIONAL
from proxyd.proxy.core.handshake import accept_value
from proxyd.proxy.core.headers import request_head
from proxyd.proxy.core.phases import RESPONSE_HEAD
from proxyd.proxy.upstream.http2 import failed, links_of
from proxyd.proxy.upstream.http2leg import Leg, request_fields
from proxyd.proxy.upstream.pool import UpstreamError

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts

#: The key of a handshake: 16 bytes in base64 (RFC 6455 4.1).
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")
#: What belongs to HTTP/1.1's handshake, or to a body, in an answer that opens a WebSocket.
_NOT_OPENING = frozenset({"content-length", "sec-websocket-accept"})


def websocket_leg(parts: Parts, ex: Exchange, upstream: Upstream) -> Leg | None:
    """A stream for a WebSocket. None if the upstream is to be asked by HTTP/1.1: it speaks that only, or does not offer WebSockets by
    HTTP/2, or the client's handshake is none that could be told in HTTP/2. Raises UpstreamError."""
    if not _KEY.fullmatch(ex.head.get("sec-websocket-key") or ""):
        return None
    leg = links_of(upstream).leg(ex, upstream, parts.http2_bounds)
    if leg is not None and not leg.takes_websockets:
        leg.close()
        return None
    return leg


def ask_for_websocket(parts: Parts, ex: Exchange, upstream: Upstream, leg: Leg) -> tuple[ResponseHead, bytes]:
    """Send the handshake, and read the answer: a 101 of HTTP/1.1 where it opens the WebSocket; and the bytes behind it. Raises
    UpstreamError, ClientGone, BodyTimeout."""
    ex.wait_for(RESPONSE_HEAD, time.monotonic() + upstream.options.timeout)
    try:
        leg.begin(_fields(ex, upstream), False)
        for _ in range(MAX_INFORMATIONAL + 1):
            response = leg.head("GET", parts.response_limits, tunnel=True)
            if response.status >= 300:
                return response, leg.take()
            if response.status >= 200:
                return _opened(ex, response, parts.response_limits), leg.take()
    except OSError as error:
        raise failed(ex, error) from None
    except ProtocolError as error:
        raise UpstreamError("other", 502, error.code, error.detail) from None
    raise UpstreamError("other", 502, "too_many_informational", "the upstream sent too many informational responses")


def _fields(ex: Exchange, upstream: Upstream) -> list[tuple[str, str]]:
    """The handshake: extended CONNECT, without the key (RFC 8441 4 and 5)."""
    fields = request_fields(request_head(ex, upstream), upstream.scheme)
    kept = [field for field in fields[1:] if field[0].lower() != "sec-websocket-key"]
    return [(":method", "CONNECT"), (":protocol", "websocket"), *kept]


def _opened(ex: Exchange, response: ResponseHead, limits: HeadLimits) -> ResponseHead:
    """The answer that opens a WebSocket as HTTP/1.1 has it, with the answer to the client's key."""
    lines = ["HTTP/1.1 101 Switching Protocols", "Connection: Upgrade", "Upgrade: websocket",
             f"Sec-WebSocket-Accept: {accept_value(ex.head.get('sec-websocket-key') or '')}"]
    lines += [f"{name}: {value}" for name, value in response.end_to_end() if name.lower() not in _NOT_OPENING]
    return parse_response_head("\r\n".join([*lines, "\r\n"]).encode("latin-1"), "GET", limits)
