"""What the kernel knows of the other end of a connection: whether it is there, and whether it takes what is sent."""

from __future__ import annotations

import _socket
import socket as socket_constants
import struct
from typing import Any

from gevent import monkey
from gevent import socket as gevent_socket

#: The peer has ended its side (Linux).
_RDHUP = 0x2000
#: tcpi_bytes_acked of struct tcp_info (linux/tcp.h), which is at its byte 120.
_ACKNOWLEDGED = struct.Struct("=Q")
_poll = monkey.get_original("select", "poll")


def acknowledged(sock: _socket.socket | gevent_socket.socket) -> int:
    """How many bytes the peer has acknowledged: how full the send buffer is says less, for it is refilled meanwhile. 0 where
    that can't be known (UNIX sockets, and Linux before 4.1)."""
    try:
        information = sock.getsockopt(socket_constants.IPPROTO_TCP, socket_constants.TCP_INFO, 128)
        count: int = _ACKNOWLEDGED.unpack_from(information, 120)[0]
    except (OSError, struct.error):
        return 0
    return count


class Peer:
    """What the TCP below TLS knows of the peer, looked at without reading."""

    __slots__ = ("_poll", "_sock", "_taken")

    def __init__(self, sock: gevent_socket.socket) -> None:
        self._sock = sock
        self._taken = 0
        self._poll: Any = None

    def fileno(self) -> int:
        """The descriptor's number, -1 once it is closed."""
        number: int = self._sock.fileno()
        return number

    def gone(self) -> bool:
        """Whether it has ended its side. A close_notify lies before the end, and can't be told from data."""
        if self._sock.fileno() < 0:
            return True
        if self._poll is None:
            self._poll = _poll()
            self._poll.register(self._sock.fileno(), _RDHUP)
        return bool(self._poll.poll(0))

    def moved(self) -> bool:
        """Whether it has taken some of what was sent since this was asked last."""
        before, self._taken = self._taken, acknowledged(self._sock)
        return self._taken > before

    def taken(self) -> int:
        """How many bytes it has taken in all. -1 where that is not known."""
        return acknowledged(self._sock) or -1
