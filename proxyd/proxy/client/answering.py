"""What a client is answered over HTTP/1.1: heads, bodies, and what is said before them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyd.http1 import LAST_CHUNK, encode_last_chunk
from proxyd.http1.grammar import field_line
from proxyd.net.stream import PlainStream
from proxyd.proxy.core.answers import reason_phrase
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.phases import RESPONSE_WRITE

if TYPE_CHECKING:
    from proxyd.config.sections import ProxySettings
    from proxyd.net.pipes import Pipe
    from proxyd.proxy.client.front import ClientStream
    from proxyd.proxy.core.exchange import Exchange

#: A first piece of body up to this size is joined with the head, so that one call sends both.
JOIN_LIMIT = 65536


@lru_cache(maxsize=1024)
def _status_line(status: int, reason: str) -> str:
    return f"HTTP/1.1 {status} {reason}"


def _head_of(lines: list[str]) -> bytes:
    """A head of these lines, which are given without their ends."""
    lines.append("\r\n")
    return "\r\n".join(lines).encode("latin-1")


class Answering:
    """The sending side of a connection. `keep_alive` tells whether it goes on after the answer. `_buffer` and `_left`: what has come of the
    request beyond its head, and how much of its body is to come, -1 if that is not known."""

    __slots__ = ("_buffer", "_chunked_out", "_left", "_settings", "exchange", "keep_alive", "stream", "version")

    def __init__(self, stream: ClientStream, settings: ProxySettings) -> None:
        self.stream = stream
        self.version = 11
        self.keep_alive = True
        self.exchange: Exchange | None = None
        self._settings = settings
        self._buffer = b""
        self._left = 0
        self._chunked_out = False

    @property
    def _plain(self) -> PlainStream:
        """The stream, which is not TLS's: only then is `by_pipe` there."""
        assert isinstance(self.stream, PlainStream)
        return self.stream

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        if self.version == 11:
            self._send(_head_of([_status_line(status, reason_phrase(status)), *map(field_line, headers)]))

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        if self._left != 0 and not self._answered_everything():
            self.keep_alive = False
        lines = [_status_line(status, reason), *map(field_line, headers)]
        self._chunked_out = False
        if length >= 0:
            lines.append(f"Content-Length: {length}")
        elif length == -1:
            if self.version == 11:
                self._chunked_out = True
                lines.append("Transfer-Encoding: chunked")
            else:
                self.keep_alive = False
        if not self.keep_alive:
            lines.append("Connection: close")
        elif self.version == 10:
            lines.append("Connection: keep-alive")
        data = _head_of(lines)
        if self._chunked_out:
            if body:
                data += b"%x\r\n%b\r\n" % (len(body), body)
            if last:
                data += LAST_CHUNK
            self._send(data)
        elif not body:
            self._send(data)
        elif len(body) <= JOIN_LIMIT:
            self._send(data + body)
        else:
            self._send(data)
            self._send(body)

    def _answered_everything(self) -> bool:
        """Whether the rest of the body has arrived already, so that it can be skipped after the response."""
        return 0 < self._left <= len(self._buffer)

    def write(self, data: bytes | memoryview) -> None:
        if self._chunked_out:
            self._send(b"%x\r\n%b\r\n" % (len(data), bytes(data) if isinstance(data, memoryview) else data))
        else:
            self._send(data)

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        if self._chunked_out:
            self._send(encode_last_chunk(list(trailers)) if trailers else LAST_CHUNK)

    def write_pipe(self, pipe: Pipe) -> None:
        stream = self._plain
        try:
            if not stream.send_pipe_now(pipe):
                self._wait_for_room()
                stream.send_pipe(pipe)
        except OSError:
            self.keep_alive = False
            raise ClientGone from None

    def _send(self, data: bytes | memoryview) -> None:
        try:
            sent = self.stream.send_now(data)
            if sent == len(data):
                return
            self._wait_for_room()
            self.stream.send_all(memoryview(data)[sent:] if sent else data)
        except OSError:
            self.keep_alive = False
            raise ClientGone from None

    def _wait_for_room(self) -> None:
        """The client has body_timeout to take some of what is sent."""
        if self.exchange is not None:
            self.exchange.wait_for(RESPONSE_WRITE, time.monotonic() + self._settings.body_timeout)

    def close_after(self) -> None:
        self.keep_alive = False

    def abort(self) -> None:
        self.keep_alive = False
        self.stream.reset()

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        self._send(_head_of([_status_line(101, "Switching Protocols"), *map(field_line, headers)]))
