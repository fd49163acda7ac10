"""The client's side of an exchange, whatever it speaks: HTTP/1.1 on our own connection, or a WSGI server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxyd.net.stream import Stream


class ClientGone(Exception):
    """The client closed or reset its connection, or took too long; nothing more can be sent to it."""


class BodyTimeout(Exception):
    """The client sent nothing of its body for longer than body_timeout."""


class ClientSide(Protocol):
    """What the core asks of a client connection.

    Headers are (name, value) pairs without framing; the client side writes Content-Length or Transfer-Encoding.
    """

    peer: str
    trusted: bool
    secure: bool
    version: int
    via: str
    via_field: str
    forwarded: str
    buffers: list[memoryview]

    def has_body(self) -> bool:
        """Whether some of the request's body has not been read yet."""

    def read_body(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises ClientGone, BodyTimeout, ProtocolError."""

    def expects_continue(self) -> bool:
        """Whether the client waits for 100 (Continue)."""

    def send_continue(self) -> None:
        """Send 100 (Continue). Raises ClientGone."""

    def trailers(self) -> list[tuple[str, str]]:
        """Trailer fields of a body that was read to its end."""

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send a 1xx response where the protocol knows them. Raises ClientGone."""

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        """Send the head and the first piece of the body.

        `length`: of the whole body; -1 unknown, -2 none at all (HEAD, 204, 304: the head says what it says). `last`:
        the body ends with this piece. Raises ClientGone.
        """

    def write(self, data: bytes | memoryview) -> None:
        """Send the next piece of the body. Raises ClientGone."""

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """End the body. Raises ClientGone."""

    def close_after(self) -> None:
        """No other request comes on this connection: close it when the response is out."""

    def abort(self) -> None:
        """Cut the connection, so that the client can't take what it has for the whole."""

    def gone(self) -> bool:
        """Whether the client has closed its connection."""

    def takes(self) -> float:
        """For a client that has taken some of what is being sent since this was asked last: how long to wait for it to take
        more, in seconds; 0.0 for one that has not."""

    def interrupt(self, reading_only: bool) -> None:
        """Wake whoever waits for the client, for good; `reading_only`: an answer can still be sent."""

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        """Send 101 with these headers, Connection and Upgrade among them. Raises ClientGone."""

    def take_over(self) -> tuple[Stream, bytes] | None:
        """The raw stream and the bytes read ahead, for an upgraded connection; None where there is none."""
