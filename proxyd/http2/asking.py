"""One request after another over HTTP/2, on a socket that somebody has opened: for checks and tests of backends, not for traffic."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from proxyd.http2.client import ClientConnection
from proxyd.http2.connection import Bounds
from proxyd.http2.errors import CANCEL, NAMES, ConnectionFault, StreamFault
from proxyd.http2.events import Answer, Body, Ended, Leaving, Trailers
from proxyd.http2.fields import read_answer

_RECEIVE = 65536


class Failed(Exception):
    """There is no answer, or none of use. The message is the reason."""


class NotHttp2(Failed):
    """The target does not begin HTTP/2."""


class Ending(Failed):
    """The target ended the connection without an answer. On a kept one, this says nothing about the target."""


class Reset(Failed):
    """The target has read the request, and has ended its stream without an answer. Further requests may be sent."""


@dataclass(slots=True)
class Reply:
    """What the target answered."""

    status: int = 0
    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class Asker:
    """A connection. Its waits have no limit: the caller has one for all."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._engine = ClientConnection(Bounds(1, 65536, 65536, 65536), time.monotonic())

    def greet(self) -> None:
        """Wait for the target's SETTINGS. Raises NotHttp2."""
        engine = self._engine
        while not engine.settled:
            self._flush()
            data = self._sock.recv(_RECEIVE)
            if not data:
                raise NotHttp2("the connection was closed when HTTP/2 began")
            engine.feed(data, time.monotonic())
            try:
                while engine.next_event() is not None:
                    pass
            except ConnectionFault as fault:
                raise NotHttp2(f"no HTTP/2: {fault.detail}") from None

    def ask(self, method: str, scheme: str, authority: str, path: str, fields: Sequence[tuple[str, str]], body: bytes,
            max_body: int) -> Reply:
        """Send a request and read its answer, as far as `max_body` bytes of the body. Raises Failed, OSError."""
        engine = self._engine
        if engine.room() <= 0:
            raise Ending("the target takes no more requests on its connection")
        stream = engine.begin([(":method", method), (":scheme", scheme), (":authority", authority), (":path", path),
                               *fields], not body)
        if body:
            engine.sender.body(stream, body, True)
        reply = Reply()
        try:
            while True:
                self._flush()
                data = self._sock.recv(_RECEIVE)
                if not data:
                    if not reply.status:
                        raise Ending("the connection was closed without an answer")
                    raise Failed("the connection was closed in the middle of the body")
                engine.feed(data, time.monotonic())
                while (event := engine.next_event()) is not None:
                    if type(event) is Leaving and event.last < stream.id:
                        raise Ending("the target ends the connection")
                    if self._take(event, reply):
                        self._flush()
                        return reply
                if reply.status and len(reply.body) >= max_body:
                    engine.reset(stream, CANCEL)
                    self._flush()
                    reply.body = reply.body[:max_body]
                    return reply
        except (ConnectionFault, StreamFault) as fault:
            raise Failed(f"not a valid HTTP/2 answer: {fault.detail}") from None

    def _take(self, event: object, reply: Reply) -> bool:
        """Take over what has come. Returns whether the answer is whole."""
        if type(event) is Answer:
            status, fields = read_answer(event.fields)
            if status >= 200:
                reply.status, reply.fields = status, dict(fields)
            return event.ended
        if type(event) is Body:
            reply.body += event.data
            self._engine.consumed(event.stream, len(event.data))
            return event.ended
        if type(event) is Trailers:
            reply.fields.update(event.fields)
            return True
        if type(event) is Ended:
            raise Reset(f"the stream was reset ({NAMES.get(event.code, event.code)})")
        return False

    def _flush(self) -> None:
        data = self._engine.sender.take(_RECEIVE)
        if data:
            self._sock.sendall(data)
