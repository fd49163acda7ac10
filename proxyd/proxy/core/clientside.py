"""The client's side of an exchange, whatever its protocol: HTTP/1.1 on the proxy's own connection, or a WSGI server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxyd.net.clientcert import ClientCertificate
    from proxyd.net.pipes import Pipe
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.pace import Rates


class ClientGone(Exception):
    """The client closed or reset its connection, or was too slow. Nothing more can be sent to it."""


class BodyTimeout(Exception):
    """The client sent nothing of its body for longer than body_timeout, or too little for longer than min_rate_window."""


class PipeSide(Protocol):
    """What a client's side can do besides, where its bytes go over a plain socket as they are."""

    def body_for_pipe(self) -> int:
        """How many bytes of the request's body come next that `read_body_to` can move. 0 where only `read_body` can read them."""

    def read_body_to(self, pipe: Pipe) -> None:
        """Move the next piece of the body into an empty pipe. Raises ClientGone, BodyTimeout."""

    def write_pipe(self, pipe: Pipe) -> None:
        """Send what waits in a pipe as the next piece of an answer of known length. Raises ClientGone."""


class ClientSide(Protocol):
    """What the core needs from a client connection.

    Headers are (name, value) pairs without framing. The client side adds Content-Length or Transfer-Encoding.
    """

    peer: str
    trusted: bool
    secure: bool
    #: What the client has shown in its handshake, and whether it was asked.
    certificate: ClientCertificate | None
    asked: bool
    version: int
    via: str
    via_field: str
    forwarded: str
    buffers: list[memoryview]
    rates: Rates

    @property
    def by_pipe(self) -> PipeSide | None:
        """This side, if bodies can go through a pipe."""

    def has_body(self) -> bool:
        """Whether a part of the request's body has not been read yet."""

    def read_body(self) -> bytes:
        """The next piece of the body, b"" at its end. Raises ClientGone, BodyTimeout, ProtocolError."""

    def expects_continue(self) -> bool:
        """Whether the client waits for 100 (Continue)."""

    def send_continue(self) -> None:
        """Send 100 (Continue). Raises ClientGone."""

    def trailers(self) -> list[tuple[str, str]]:
        """Trailer fields of a body that was read to its end."""

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send a 1xx response, if the protocol knows them. Raises ClientGone."""

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        """Send the head and the first piece of the body.

        `length`: that of the whole body; -1 if unknown, -2 for no body at all (HEAD, 204, 304: the head stays as it is). `last`:
        whether the body ends with this piece. Raises ClientGone.
        """

    def write(self, data: bytes | memoryview) -> None:
        """Send the next piece of the body. Raises ClientGone."""

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """End the body. Raises ClientGone."""

    def close_after(self) -> None:
        """Close the connection after this response: no other request may come on it."""

    def abort(self) -> None:
        """Cut the connection, so that the client can't take a partial response for a whole one."""

    def gone(self) -> bool:
        """Whether the client has closed its connection."""

    def descriptor(self) -> int:
        """The number of the descriptor by which the kernel tells that the client has hung up. -1: `gone` must be asked."""

    def takes(self) -> float:
        """The seconds to wait until the client takes more of what is being sent. 0.0 if it has taken nothing since the last call."""

    def moved_bytes(self, sending: bool) -> int:
        """The bytes of the request's body that the client has sent, or (`sending`) those of answers that it has taken, since any
        fixed point. -1 where that is not known, or where nothing waits to be sent."""

    def interrupt(self, reading_only: bool) -> None:
        """Wake the greenlet that waits for the client, and let later waits fail at once. `reading_only`: an answer can still be sent."""

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        """Send 101 with these headers, which include Connection and Upgrade. Raises ClientGone."""

    def take_over(self) -> tuple[Stream, bytes] | None:
        """The raw stream of an upgraded connection and the bytes read ahead, or None if there is no raw stream."""
