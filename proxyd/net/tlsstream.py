"""The TLS stream of the hot path: OpenSSL on a non-blocking socket, with watchers of our own."""

from __future__ import annotations

import _socket
import contextlib
import socket as socket_constants
from ssl import SSLEOFError, SSLWantReadError, SSLWantWriteError, SSLZeroReturnError
from time import monotonic
from typing import Any

import gevent
from gevent import monkey
from gevent import socket as gevent_socket

from proxyd.net.clientcert import shown_certificate
from proxyd.net.peer import Peer
from proxyd.net.stream import RECV_SIZE, RESET_AT_CLOSE, PlainStream, Stream
from proxyd.net.turns import SLICE, let_others_run, turn
from proxyd.net.watched import Watched

_poll = monkey.get_original("select", "poll")


class TlsStream(Watched):
    """A TLS stream on a gevent SSLSocket, handshake done.

    gevent's socket did the handshake, and does the closing. In between, OpenSSL is asked itself (`_tls`): gevent's way to it takes a
    quarter of a small request's processor time.
    """

    __slots__ = ("_closed", "_drained", "_peer", "_poll", "_tls", "asked", "certificate", "sock")

    secure = True

    def __init__(self, sock: gevent_socket.socket, asked: bool = False) -> None:
        """`asked`: whether the handshake asked for a certificate."""
        super().__init__(sock.fileno())
        self.asked = asked
        self.certificate = shown_certificate(sock) if asked else None
        sock.settimeout(None)
        self.sock = sock
        self._tls: Any = sock._sslobj
        self._closed = False
        self._drained: PlainStream | None = None
        self._peer = Peer(sock)
        self._poll: Any = None

    def recv(self, size: int = RECV_SIZE) -> bytes:
        data: bytes = self._read(size)
        return data

    # What has come may lie in OpenSSL, where the loop does not see it.
    recv_later = recv

    def recv_into(self, buffer: memoryview) -> int:
        count: int = self._read(len(buffer), buffer) or 0
        return count

    def _read(self, *into: Any) -> Any:
        """What OpenSSL's read gives for these arguments: bytes, or with a buffer their number; b"" at the end."""
        if monotonic() - turn.began > SLICE:
            let_others_run()
        while True:
            try:
                return self._tls.read(*into)
            except SSLWantReadError:
                self._wait_to_read()
            except SSLWantWriteError:
                # A renegotiation of TLS 1.2, or a key update: the watcher for writing is the sender's.
                let_others_run()
            except (SSLEOFError, SSLZeroReturnError):
                # An end without close_notify counts as an end. What must not be cut has a length, or chunks.
                return b""

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        size = len(data)
        sent = 0
        with contextlib.suppress(SSLWantReadError, SSLWantWriteError):
            while sent < size:
                # OpenSSL takes a record (16 KiB) at a time.
                sent += self._tls.write(memoryview(data)[sent:] if sent else data)
        return sent

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        sent = self.send_now(data)
        if sent == len(data):
            return
        rest = memoryview(data)[sent:]
        self._peer.moved()
        while rest:
            # OpenSSL must be offered the same bytes again.
            try:
                rest = rest[self._tls.write(rest):]
            except SSLWantWriteError:
                self._wait_to_write()
            except SSLWantReadError:
                let_others_run()

    def shutdown(self) -> None:
        self._shut(socket_constants.SHUT_RDWR)

    def stop_reading(self) -> None:
        self._shut(socket_constants.SHUT_RD)

    def stop_sending(self) -> None:
        self._shut(socket_constants.SHUT_WR)

    def end(self) -> Stream:
        # A close_notify lets the peer tell an end from a cut (RFC 8446 6.1). OpenSSL looks for the peer's at once and finds fault
        # with data there, so that what still comes is read from the socket below. Without a timeout nothing waits here.
        self.sock.settimeout(0.0)
        with contextlib.suppress(OSError, ValueError):
            self.sock.unwrap()
        self._shut(socket_constants.SHUT_WR)
        raw = _duplicate(self.sock)
        if raw is None:
            return self
        self._drained = PlainStream(raw)
        return self._drained

    def _shut(self, how: int) -> None:
        raw = _duplicate(self.sock)
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.shutdown(how)
            raw.close()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end_watching()
        if self._drained is not None:
            self._drained.close()
        else:
            # It must not keep us waiting.
            with contextlib.suppress(OSError, ValueError), gevent.Timeout(1.0, False):
                self.sock.unwrap()
        self.sock.close()

    def reset(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end_watching()
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket_constants.SOL_SOCKET, socket_constants.SO_LINGER, RESET_AT_CLOSE)
        self.sock.close()

    def quiet(self) -> bool:
        if self._poll is None:
            self._poll = _poll()
            self._poll.register(self.sock.fileno(), 1)
        return not self._tls.pending() and not self._poll.poll(0)

    def fileno(self) -> int:
        return self._peer.fileno()

    def gone(self) -> bool:
        return self._peer.gone()

    def moved(self) -> bool:
        return self._peer.moved()

    def taken(self) -> int:
        return self._peer.taken()


def _duplicate(sock: gevent_socket.socket) -> _socket.socket | None:
    """The TCP socket below TLS, as a second descriptor; None when it is closed."""
    try:
        return _socket.socket(fileno=_socket.dup(sock.fileno()))
    except OSError:
        return None
