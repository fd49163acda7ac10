"""The body of a request that comes over HTTP/1.1."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxyd.http1 import ChunkedDecoder, ProtocolError, RequestHead
from proxyd.proxy.client.answering import Answering
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.phases import REQUEST_BODY

if TYPE_CHECKING:
    from proxyd.config.sections import ProxySettings
    from proxyd.net.pipes import Pipe
    from proxyd.proxy.client.front import ClientStream

BODY_PIECE = 262144


class Receiving(Answering):
    """Adds the body of the current request, whose head is `head`. `_came`: how many bytes of bodies have come so far."""

    __slots__ = ("_answered_100", "_came", "_decoder", "head")

    def __init__(self, stream: ClientStream, settings: ProxySettings) -> None:
        super().__init__(stream, settings)
        self.head: RequestHead | None = None
        self._came = 0
        self._decoder: ChunkedDecoder | None = None
        self._answered_100 = False

    def has_body(self) -> bool:
        return self._left != 0

    def expects_continue(self) -> bool:
        return self.head is not None and self.head.expect_continue and not self._answered_100 and not self._buffer

    def send_continue(self) -> None:
        self._answered_100 = True
        self._send(b"HTTP/1.1 100 Continue\r\n\r\n")

    def read_body(self) -> bytes:
        if self._left == 0:
            return b""
        if self._decoder is not None:
            return self._read_chunked(self._decoder)
        if self._buffer:
            if len(self._buffer) <= self._left:
                data, self._buffer = self._buffer, b""
            else:
                data, self._buffer = self._buffer[: self._left], self._buffer[self._left :]
        else:
            data = self._receive(min(self._left, BODY_PIECE))
        self._left -= len(data)
        return data

    def _read_chunked(self, decoder: ChunkedDecoder) -> bytes:
        try:
            while True:
                if decoder.more:
                    self.stream.give_way()
                    payload = decoder.resume()
                elif self._buffer:
                    data, self._buffer = self._buffer, b""
                    payload = decoder.feed(data)
                else:
                    payload = decoder.feed(self._receive(BODY_PIECE))
                if decoder.done:
                    self._left = 0
                    self._buffer = decoder.leftover
                    return payload
                if payload:
                    return payload
        except ProtocolError:
            self.keep_alive = False
            raise

    def _receive(self, size: int) -> bytes:
        self._wait_for_body()
        try:
            data = self.stream.recv(size)
        except OSError:
            data = b""
        self._received(len(data))
        return data

    def body_for_pipe(self) -> int:
        return self._left if self._left > 0 and not self._buffer else 0

    def read_body_to(self, pipe: Pipe) -> None:
        self._wait_for_body()
        try:
            count = self._plain.recv_pipe(pipe, self._left)
        except OSError:
            count = 0
        self._received(count)
        self._left -= count

    def _wait_for_body(self) -> None:
        """The client has body_timeout to send some of it."""
        if self.exchange is not None:
            self.exchange.wait_for_body(REQUEST_BODY, time.monotonic() + self._settings.body_timeout)

    def _received(self, count: int) -> None:
        """So many bytes of the body have come; none: the client sends no more."""
        if not count:
            self.keep_alive = False
            if self.exchange is not None and self.exchange.expired is not None:
                raise BodyTimeout
            raise ClientGone
        self._came += count

    def trailers(self) -> list[tuple[str, str]]:
        return self._decoder.trailers if self._decoder is not None else []

    def _skip_body(self) -> bool:
        """Skip the rest of the body if it has arrived already. Returns False if the connection can't go on."""
        if self._left == 0:
            return True
        if self._left > 0:
            if len(self._buffer) < self._left:
                return False
            self._buffer = self._buffer[self._left :]
            self._left = 0
            return True
        return False
