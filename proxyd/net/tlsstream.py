"""The TLS stream of the hot path: OpenSSL on a non-blocking socket, with watchers of our own, from the handshake on."""

from __future__ import annotations

import _socket
import contextlib
import socket as socket_constants
import ssl
from ssl import SSLEOFError, SSLWantReadError, SSLWantWriteError, SSLZeroReturnError
from time import monotonic
from typing import Any

from gevent import monkey
from gevent import socket as gevent_socket

from proxyd.net.clientcert import ClientCertificate, shown_certificate
from proxyd.net.peer import Peer
from proxyd.net.stream import RECV_SIZE, RESET_AT_CLOSE, Stream
from proxyd.net.turns import SLICE, let_others_run, turn
from proxyd.net.watched import Watched

_poll = monkey.get_original("select", "poll")


class _Referred(_socket.socket):
    """A socket that OpenSSL's side can refer to weakly, as it does."""

    __slots__ = ("__weakref__",)


class TlsStream(Watched):
    """A TLS stream on a non-blocking socket. Nothing but `shake` and what closes may be called before `shake`.

    OpenSSL is asked itself (`_tls`), as the standard library's sockets do. gevent's, which were made for any use, take a third of the
    processor time of a handshake, and a quarter of a small request's.
    """

    __slots__ = ("__weakref__", "_closed", "_peer", "_poll", "_tls", "asked", "certificate", "sock")

    secure = True

    def __init__(self, sock: _socket.socket | gevent_socket.socket) -> None:
        """Take over the descriptor of `sock`."""
        self.sock = _Referred(sock.family, sock.type, sock.proto, sock.detach())
        self.sock.setblocking(False)
        super().__init__(self.sock.fileno())
        self.asked = False
        self.certificate: ClientCertificate | None = None
        self._tls: Any = None
        self._closed = False
        self._peer = Peer(self.sock)
        self._poll: Any = None

    def shake(self, context: ssl.SSLContext, name: str = "", asked: bool = False) -> None:
        """Shake hands: as the server, or with a `name` as the client of the server of that name. `asked`: the context asks for a
        certificate. Sets no time limit. Raises OSError, ssl.SSLError among them; then the stream has to be closed."""
        make: Any = context._wrap_socket  # type: ignore[attr-defined]
        self._tls = make(self.sock, not name, name or None, owner=self)
        if not name:
            # Its first message mostly comes a moment later than its connection, and the answer to ours has to be waited for anyway.
            self._wait_to_read()
        while True:
            try:
                self._tls.do_handshake()
                break
            except SSLWantReadError:
                self._wait_to_read()
            except SSLWantWriteError:
                self._wait_to_write()
        self.asked = asked
        self.certificate = shown_certificate(self._tls) if asked else None

    @property
    def protocol(self) -> str | None:
        """What was agreed on by ALPN."""
        agreed: str | None = self._tls.selected_alpn_protocol()
        return agreed

    # What the context's `sni_callback` asks of its connection. gevent's contexts ask it for the socket first.

    def _sslsock(self) -> TlsStream:
        return self

    def _choose_context(self, context: ssl.SSLContext) -> None:
        self._tls.context = context

    context = property(None, _choose_context, doc="The context that the handshake goes on with.")

    def getsockname(self) -> Any:
        """The address that the peer has connected to, or that we connect from."""
        return self.sock.getsockname()

    def recv(self, size: int = RECV_SIZE) -> bytes:
        data: bytes = self._read(size, None)
        return data

    def recv_later(self, size: int = RECV_SIZE) -> bytes:
        # OpenSSL reads one record at a time, whole (`read_ahead` is off). Where nothing is left of the last one, what comes next is in
        # the kernel or still on its way, and the loop sees it.
        if not self._tls.pending():
            self._wait_to_read()
        return self.recv(size)

    def recv_into(self, buffer: memoryview) -> int:
        count: int = self._read(len(buffer), buffer) or 0
        return count

    def _read(self, size: int, buffer: memoryview | None) -> Any:
        """What OpenSSL's read gives: bytes, or with a buffer their number; b"" at the end."""
        if monotonic() - turn.began > SLICE:
            let_others_run()
        while True:
            try:
                return self._tls.read(size) if buffer is None else self._tls.read(size, buffer)
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
        try:
            while sent < size:
                # OpenSSL takes a record (16 KiB) at a time.
                sent += self._tls.write(memoryview(data)[sent:] if sent else data)
        except (SSLWantReadError, SSLWantWriteError):
            # Without contextlib.suppress, which costs as much as a system call, in each answer.
            return sent
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
        # with data there, so that what still comes is read from the socket below.
        self._say_end()
        self._shut(socket_constants.SHUT_WR)
        self._tls = _Below(self.sock)
        return self

    def _say_end(self) -> None:
        """Send close_notify, if there is room for it. The peer's is not waited for."""
        if self._tls is not None:
            with contextlib.suppress(OSError, ValueError):
                self._tls.shutdown()

    def _shut(self, how: int) -> None:
        with contextlib.suppress(OSError):
            self.sock.shutdown(how)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end_watching()
        self._say_end()
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


class _Below:
    """In OpenSSL's place when our side has ended: what the peer still sends, as it comes."""

    __slots__ = ("_sock",)

    def __init__(self, sock: _socket.socket) -> None:
        self._sock = sock

    def read(self, size: int, buffer: memoryview | None = None) -> bytes | int:
        """Some bytes, or their number; b"" at the end."""
        try:
            return self._sock.recv(size) if buffer is None else self._sock.recv_into(buffer, size)
        except BlockingIOError:
            raise SSLWantReadError from None

    def pending(self) -> int:
        """Bytes that were read and not given."""
        return 0

    def shutdown(self) -> None:
        """All is said."""
