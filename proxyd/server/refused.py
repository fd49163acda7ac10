"""The answer to a connection that is not served: a few bytes, sent without waiting."""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Any

import gevent

from proxyd.net.stream import plain_stream
from proxyd.proxy.core.answers import problem, reason_phrase
from proxyd.proxy.core.refusal import Refusal

if TYPE_CHECKING:
    from proxyd.net.stream import Stream

#: A request that arrives after the close would be answered by a reset, and the client might not see the answer.
_LINGER_SECONDS = 1.0
_LINGERING_AT_MOST = 64

_lingering = 0


def refuse_connection(client: Any, refusal: Refusal, plain: bool) -> None:
    """Answer a connection with a refusal, and close it. Not `plain`: only close it, because TLS would cost a handshake."""
    global _lingering
    client.setblocking(False)
    with contextlib.suppress(OSError):
        if plain:
            client.send(_answer(refusal))
            client.shutdown(socket.SHUT_WR)
            if _lingering < _LINGERING_AT_MOST:
                _lingering += 1
                stream = plain_stream(client)
                try:
                    _linger(stream)
                finally:
                    _lingering -= 1
                    stream.close()
    client.close()


def _answer(refusal: Refusal) -> bytes:
    page = problem(refusal.status, refusal.code, refusal.detail, "-")
    fields = (("Content-Type", page.content_type), ("X-Proxyd-Reason", refusal.code), *refusal.headers, ("Cache-Control", "no-store"),
              ("Connection", "close"), ("Content-Length", str(len(page.body))))
    head = f"HTTP/1.1 {refusal.status} {reason_phrase(refusal.status)}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields)
    return f"{head}\r\n".encode("latin-1") + page.body


def _linger(stream: Stream) -> None:
    """A stream, because its reads give way to others: a client that sends without a pause would keep the worker to itself, and the
    timeout from coming."""
    with gevent.Timeout(_LINGER_SECONDS, False):
        while stream.recv():
            pass
