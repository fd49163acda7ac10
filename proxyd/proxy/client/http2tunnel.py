"""WebSockets over HTTP/2 (RFC 8441): a stream of a connection as the raw stream that a tunnel carries bytes with."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Protocol

from proxyd.http1 import ProtocolError, RequestHead
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.handshake import accept_value

if TYPE_CHECKING:
    from proxyd.net.stream import Stream


def accepted(head: RequestHead, headers: Sequence[tuple[str, str]]) -> bool:
    """Whether the backend accepted the handshake whose key we made (RFC 6455 4.1)."""
    wanted = accept_value(head.get("sec-websocket-key") or "")
    return any(name.lower() == "sec-websocket-accept" and value == wanted for name, value in headers)


class Carried(Protocol):
    """What a tunnel needs of the client's stream."""

    secure: bool

    def read_body(self) -> bytes:
        """The next piece, b"" at the end. Raises ClientGone, BodyTimeout, ProtocolError."""

    def has_body(self) -> bool:
        """Whether there may be another piece."""

    def write_raw(self, data: bytes | memoryview) -> None:
        """Send a piece. Raises ClientGone."""

    def finish(self) -> None:
        """End our side. Raises ClientGone."""

    def cancel(self) -> None:
        """Reset the stream."""

    def gone(self) -> bool:
        """Whether the client is."""

    def moved_bytes(self, sending: bool) -> int:
        """How many bytes it has taken, -1 where nothing waits to be sent."""

    def takes(self) -> float:
        """More than 0.0 if the client has taken some of what is being sent."""


class Http2Tunnel:
    """The Stream of a WebSocket whose client speaks HTTP/2. Its end is the end of the HTTP/2 stream, its reset is RST_STREAM."""

    def __init__(self, client: Carried) -> None:
        self._client = client
        self._ended = False
        self.secure = client.secure
        self.address = ""
        self.opened_at = time.monotonic()
        self.idle_limit = inf
        self.idle_until = 0.0
        self.served = 0

    def recv(self, size: int = 0) -> bytes:
        try:
            return self._client.read_body()
        except (ClientGone, BodyTimeout, ProtocolError):
            raise ConnectionResetError("the client reset the stream") from None

    recv_later = recv

    def recv_into(self, buffer: memoryview) -> int:
        raise NotImplementedError("a tunnel reads pieces")

    def give_way(self) -> None:
        """Nothing to do: the connection's reader gives way."""

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            self._client.write_raw(bytes(data) if isinstance(data, bytearray) else data)
        except ClientGone:
            raise ConnectionResetError("the client reset the stream") from None

    def shutdown(self) -> None:
        self._client.cancel()

    def stop_reading(self) -> None:
        self._client.cancel()

    def stop_sending(self) -> None:
        if not self._ended:
            self._ended = True
            try:
                self._client.finish()
            except ClientGone:
                return

    def end(self) -> Stream:
        self.stop_sending()
        return self

    def close(self) -> None:
        self.stop_sending()

    def reset(self) -> None:
        self._client.cancel()

    def quiet(self) -> bool:
        return not self._client.has_body()

    def fileno(self) -> int:
        return -1

    def gone(self) -> bool:
        return self._client.gone()

    def moved(self) -> bool:
        return self._client.takes() > 0.0

    def taken(self) -> int:
        return self._client.moved_bytes(True)
