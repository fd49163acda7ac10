"""Byte streams of the hot path: non-blocking sockets with watchers of our own (net/watched).

A reader that knows there is nothing yet waits first. A watchdog ends a wait with `shutdown`: the peer then reads as gone, and the waiter
asks its exchange why.
"""

from __future__ import annotations

import _socket
import contextlib
import socket as socket_constants
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from gevent import monkey
from gevent import socket as gevent_socket

from proxyd.net.peer import acknowledged
from proxyd.net.pipes import Pipe
from proxyd.net.turns import SLICE, let_others_run, turn
from proxyd.net.watched import Watched

if TYPE_CHECKING:
    from collections.abc import Callable

    from proxyd.net.clientcert import ClientCertificate

RECV_SIZE = 65536
#: What comes in pieces smaller than this (events, messages) mostly comes alone: whoever has read one waits before the next read
#: (`recv_later`) and saves a read in vain.
LITTLE = 4096
#: SO_LINGER: closing sends a reset.
RESET_AT_CLOSE = b"\1\0\0\0\0\0\0\0"
_SHUT_RD, _SHUT_WR, _SHUT_RDWR = socket_constants.SHUT_RD, socket_constants.SHUT_WR, socket_constants.SHUT_RDWR
PEEK = socket_constants.MSG_PEEK | socket_constants.MSG_DONTWAIT
_poll = monkey.get_original("select", "poll")


class Stream(Protocol):
    """What the core needs of a connection. Errors are OSError (ConnectionError among them)."""

    secure: bool
    #: The peer's address where it was dialled, when it was opened, and how long it may lie idle (seconds).
    address: str
    opened_at: float
    idle_limit: float
    #: Until when it may be used again (monotonic seconds), and how many exchanges it has served.
    idle_until: float
    served: int

    def recv(self, size: int = RECV_SIZE) -> bytes:
        """Some bytes, b"" at the end; what is there already is returned without waiting."""

    def recv_later(self, size: int = RECV_SIZE) -> bytes:
        """The same for a caller that knows there is nothing yet."""

    def give_way(self) -> None:
        """Let other greenlets run if this turn has lasted for longer than SLICE: for loops that may go on for long without a read,
        which gives way by itself."""

    def recv_into(self, buffer: memoryview) -> int:
        """Fill some of the buffer; 0 at the end."""

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it."""

    def shutdown(self) -> None:
        """Wake whoever waits here, as if the peer had gone."""

    def stop_reading(self) -> None:
        """Wake whoever reads here, as if the peer had ended its side; sending still works."""

    def stop_sending(self) -> None:
        """End our side; the peer reads an end after all that was sent."""

    def end(self) -> Stream:
        """End our side for good: what the peer still sends is for nobody, and can be read to its end from what this returns."""

    def close(self) -> None:
        """Close; safe to call again."""

    def reset(self) -> None:
        """Close so that the peer sees a reset, never a clean end."""

    def quiet(self) -> bool:
        """Whether nothing has arrived, no end and no error either."""

    def fileno(self) -> int:
        """The descriptor's number, -1 once it is closed."""

    def gone(self) -> bool:
        """Whether the peer has closed (and, without TLS, left no data before that)."""

    def moved(self) -> bool:
        """Whether the peer has taken some of what is being sent, since that began to wait or since this was asked last."""

    def taken(self) -> int:
        """How many bytes the peer has taken in all. -1 where that is not known, or where nothing waits to be sent."""


class DirectStream(Stream, Protocol):
    """A stream that has a socket of its own, so that one can try without waiting."""

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        """Send what can be sent without a wait, maybe nothing. Returns how many bytes were sent."""


class PlainStream(Watched):
    """A TCP or UNIX stream on a non-blocking socket."""

    __slots__ = ("_closed", "_full", "_poll", "_taken", "sock")

    secure = False
    certificate: ClientCertificate | None = None
    asked = False

    def __init__(self, sock: _socket.socket) -> None:
        sock.setblocking(False)
        super().__init__(sock.fileno())
        self.sock = sock
        self._poll: Any = None
        self._closed = False
        self._full = False
        self._taken = 0

    def recv(self, size: int = RECV_SIZE) -> bytes:
        if monotonic() - turn.began > SLICE:
            let_others_run()
        while True:
            try:
                return self.sock.recv(size)
            except BlockingIOError:
                self._wait_to_read()

    def recv_later(self, size: int = RECV_SIZE) -> bytes:
        while True:
            self._wait_to_read()
            try:
                return self.sock.recv(size)
            except BlockingIOError:
                continue

    def recv_into(self, buffer: memoryview) -> int:
        if monotonic() - turn.began > SLICE:
            let_others_run()
        while True:
            try:
                return self.sock.recv_into(buffer)
            except BlockingIOError:
                self._wait_to_read()

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self.sock.send(data)
        except BlockingIOError:
            return 0

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]

        def send_more() -> bool:
            nonlocal rest
            rest = rest[self.sock.send(rest):]
            return not rest

        self._send_rest(send_more)

    def recv_pipe(self, pipe: Pipe, most: int) -> int:
        """Fill some of an empty pipe, as `recv_into` does a buffer, with `most` bytes at most; 0 at the end."""
        if monotonic() - turn.began > SLICE:
            let_others_run()
        while True:
            try:
                return pipe.fill_from(self.sock.fileno(), most)
            except BlockingIOError:
                self._wait_to_read()

    def send_pipe_now(self, pipe: Pipe) -> bool:
        """Send what there is room for of what waits in a pipe. Returns whether that was all."""
        with contextlib.suppress(BlockingIOError):
            pipe.empty_into(self.sock.fileno())
        return not pipe.waiting

    def send_pipe(self, pipe: Pipe) -> None:
        """Send all that waits in a pipe."""
        if not self.send_pipe_now(pipe):
            self._send_rest(lambda: self.send_pipe_now(pipe))

    def _send_rest(self, send_more: Callable[[], bool]) -> None:
        """Wait for room, and send, until `send_more` says that this was all."""
        self._taken = acknowledged(self.sock)
        self._full = True
        try:
            while True:
                self._wait_to_write()
                with contextlib.suppress(BlockingIOError):
                    if send_more():
                        return
        finally:
            self._full = False

    def shutdown(self) -> None:
        self._shut(_SHUT_RDWR)

    def stop_reading(self) -> None:
        self._shut(_SHUT_RD)

    def stop_sending(self) -> None:
        self._shut(_SHUT_WR)

    def end(self) -> PlainStream:
        self._shut(_SHUT_WR)
        return self

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(how)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end_watching()
        self.sock.close()

    def reset(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket_constants.SOL_SOCKET, socket_constants.SO_LINGER, RESET_AT_CLOSE)
        self.close()

    def quiet(self) -> bool:
        if self._poll is None:
            self._poll = _poll()
            self._poll.register(self.sock.fileno(), 1)
        return not self._poll.poll(0)

    def fileno(self) -> int:
        return self.sock.fileno()

    def gone(self) -> bool:
        return _peek_is_end(self.sock)

    def moved(self) -> bool:
        before, self._taken = self._taken, acknowledged(self.sock)
        return self._taken > before

    def taken(self) -> int:
        return (acknowledged(self.sock) or -1) if self._full else -1


def _peek_is_end(sock: _socket.socket) -> bool:
    try:
        return sock.recv(1, PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def plain_stream(sock: gevent_socket.socket) -> PlainStream:
    """A PlainStream that takes over the descriptor of a gevent socket."""
    return PlainStream(_socket.socket(sock.family, sock.type, sock.proto, fileno=sock.detach()))


def no_delay(sock: _socket.socket) -> None:
    """Send small writes at once: a proxy must not add Nagle's delay to somebody's protocol."""
    if sock.family in (_socket.AF_INET, _socket.AF_INET6):
        sock.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
