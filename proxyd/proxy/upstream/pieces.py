"""The pieces of a response's body as they come from the upstream, and what is raised if they end too early."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.http1 import BodyReader, ProtocolError
from proxyd.http1.response import STREAMED
from proxyd.net.stream import LITTLE
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.upstream.http2leg import Leg, LegBody, LegError

if TYPE_CHECKING:
    from proxyd.http1 import ResponseHead
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.compress import Encoder

RELAY_SIZE = 262144


class ResponseCut(Exception):
    """The upstream failed after part of its response was sent. The client's connection must be cut. `error`: with which of HTTP/2's errors
    the upstream did, 0 if there is none."""

    def __init__(self, code: str, detail: str, error: int = 0) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.error = error


def too_large(upstream: Upstream) -> str:
    """What is said of a body that is larger than max_response_body."""
    return f"the upstream's body is larger than {upstream.options.max_response_body} bytes (option max_response_body)"


def body_of(stream: Stream, response: ResponseHead) -> BodyReader | LegBody:
    """The reader of a response's body."""
    return LegBody(stream) if isinstance(stream, Leg) else BodyReader(response)


def length_to_send(response: ResponseHead, encoder: Encoder | None) -> int:
    """The length of the body for the client, where the body is not framed by it. -1 if it is not known, or if trailers come behind it,
    for which there is no place behind a body of known length."""
    if response.body_kind != STREAMED or encoder is not None or response.get("trailer") is not None:
        return -1
    return response.content_length


def next_piece(ex: Exchange, stream: Stream, body: BodyReader | LegBody, before: int) -> bytes:
    """The next piece of a body, after one of `before` bytes. Empty if only framing has arrived, or at the end. Raises ResponseCut,
    ClientGone."""
    if body.more:
        stream.give_way()
        data = b""
    else:
        try:
            data = stream.recv_later() if before < LITTLE else stream.recv(RELAY_SIZE)
        except LegError as error:
            raise cut(ex, str(error), error.code, error.error) from None
        except OSError as error:
            raise cut(ex, str(error)) from None
        if not data:
            if ex.expired is not None or ex.client_gone or not body.end():
                raise cut(ex, "the body is not complete")
            return b""
    try:
        return body.feed(data)
    except ProtocolError as error:
        raise ResponseCut(error.code, error.detail) from None


def encoded(encoder: Encoder | None, piece: bytes, body: BodyReader | LegBody) -> bytes:
    """The piece, encoded if there is an encoder."""
    if encoder is None:
        return piece
    if body.done:
        return encoder.finish(piece)
    return encoder.flush(piece) if piece else piece


def missing(ex: Exchange, left: int, length: int) -> Exception:
    """The exception for a body that ended when `left` of its bytes had not come."""
    return cut(ex, f"{left} of {length} bytes missing")


def cut(ex: Exchange, reason: str, code: str = "", error: int = 0) -> Exception:
    """The exception for a body that ended early. The client's connection is cut."""
    if ex.client_gone:
        return ClientGone()
    if ex.expired is not None:
        return ResponseCut(ex.expired.reason, f"the response body stalled ({ex.expired.reason})")
    if code == "upstream_closed":
        code = ""
    return ResponseCut(code or "upstream_truncated", f"the upstream ended the response body early: {reason}", error)
