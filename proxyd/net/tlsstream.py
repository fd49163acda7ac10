"""The TLS stream of the hot path, on a socket of gevent's: OpenSSL reads and writes it."""

from __future__ import annotations

import _socket
import contextlib
import socket as socket_constants
from time import monotonic

import gevent
from gevent import socket as gevent_socket

from proxyd.net.clientcert import shown_certificate
from proxyd.net.peer import Peer
from proxyd.net.stream import PEEK, RECV_SIZE, RESET_AT_CLOSE, SLICE, PlainStream, Stream, StreamBase, let_others_run, turn

#: A read that took longer than this has waited, seconds.
_WAITED = 0.001


class TlsStream(StreamBase):
    """A TLS stream on a gevent SSLSocket, handshake done."""

    __slots__ = ("_closed", "_drained", "_peer", "asked", "certificate", "sock")

    secure = True

    def __init__(self, sock: gevent_socket.socket, asked: bool = False) -> None:
        """`asked`: whether the handshake asked for a certificate."""
        super().__init__()
        self.asked = asked
        self.certificate = shown_certificate(sock) if asked else None
        sock.settimeout(None)
        self.sock = sock
        self._closed = False
        self._drained: PlainStream | None = None
        self._peer = Peer(sock)

    def recv(self, size: int = RECV_SIZE) -> bytes:
        begun = monotonic()
        data: bytes = self.sock.recv(size)
        self._has_read(begun)
        return data

    recv_later = recv

    def recv_into(self, buffer: memoryview) -> int:
        begun = monotonic()
        count: int = self.sock.recv_into(buffer)
        self._has_read(begun)
        return count

    def _has_read(self, begun: float) -> None:
        """Give way after a read that was due for it. gevent's socket does not say whether it waited: its time does."""
        now = monotonic()
        if now - begun > _WAITED:
            turn.began = now
        elif now - turn.began > SLICE:
            let_others_run()

    def send_now(self, data: bytes | bytearray | memoryview) -> int:
        # gevent's socket would wait.
        return 0

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self._peer.moved()
        self.sock.sendall(data)

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
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket_constants.SOL_SOCKET, socket_constants.SO_LINGER, RESET_AT_CLOSE)
        self.sock.close()

    def quiet(self) -> bool:
        raw = _duplicate(self.sock)
        if raw is None:
            return False
        try:
            raw.recv(1, PEEK)
        except BlockingIOError:
            return not self.sock.pending()
        except OSError:
            return False
        finally:
            raw.close()
        return False

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
