"""One connection to the registry: lines out, lines in. Knows no session; `link` decides what lines mean."""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable

from proxyd.base import text
from proxyd.client.errors import ClientError, ConnectionLost

MAX_ANSWER = 2 << 20
_POLL_MS = 1000
# Seconds that one of several hosts may take to connect before the next one is tried: one that lost its power answers nothing at all.
_NEXT_HOST = 2.0


def addresses_of(address: str | Iterable[str]) -> tuple[str, ...]:
    """The addresses of a registry: one text, in which commas may stand between several, or several texts. Raises ClientError."""
    items = address.split(",") if isinstance(address, str) else address
    found = tuple(item.strip() for item in items if item.strip())
    if not found:
        raise ClientError("no address of a registry is given")
    return found


def open_any(addresses: tuple[str, ...], first: int, tls: ssl.SSLContext | bool | None, timeout: float) -> tuple[socket.socket, int]:
    """A connected socket to the first of a registry's hosts that can be reached, and its place among the addresses; begins with the
    one at the place `first`. Raises ConnectionLost if none can be, and ClientError for a text that is no address."""
    each = timeout if len(addresses) == 1 else min(timeout, _NEXT_HOST)
    failures = []
    for step in range(len(addresses)):
        place = (first + step) % len(addresses)
        try:
            sock = open_socket(addresses[place], tls, each)
        except ConnectionLost as error:
            failures.append(str(error))
        else:
            return sock, place
    raise ConnectionLost("; ".join(failures))


def open_socket(address: str, tls: ssl.SSLContext | bool | None, timeout: float) -> socket.socket:
    """A connected socket to `host:port`, `[v6]:port` or `unix:/path`; ConnectionLost where there is none.

    `tls` True means the system's certificate authorities. Raises ClientError for a text that is no address.
    """
    try:
        place = text.parse_address(address)
    except ValueError as error:
        raise ClientError(str(error)) from None
    host = "localhost"
    sock: socket.socket | None = None
    try:
        if place.startswith("unix:"):
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(timeout)
            sock.connect(place.removeprefix("unix:"))
        else:
            host, port = text.split_address(place)
            sock = socket.create_connection((host, port), timeout)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if tls:
            context = ssl.create_default_context() if tls is True else tls
            sock = context.wrap_socket(sock, server_hostname=host)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise ConnectionLost(f"can't connect to {address}: {error}") from None
    return sock


class Wire:
    """A connection whose lines a thread of its own reads.

    Lines that answer a command wait in order for `answer`; `unsolicited` takes each line first and says by True
    that it answers nothing. `on_lost` is called once, with this wire, when the connection has ended.
    """

    def __init__(self, sock: socket.socket, unsolicited: Callable[[str], bool], on_lost: Callable[[Wire], None]) -> None:
        self._sock = sock
        self._unsolicited = unsolicited
        self._on_lost = on_lost
        self._answers: queue.Queue[str | None] = queue.Queue()
        # A TLS connection must not be read and written at the same instant, so both take turns.
        self._turn = threading.Lock()
        self._closed = threading.Event()
        threading.Thread(target=self._read, name="registry-reader", daemon=True).start()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed.is_set()

    def send(self, line: str, timeout: float) -> None:
        """Send one line; ConnectionLost where that fails."""
        try:
            with self._turn:
                if self._closed.is_set():
                    raise OSError("the connection is closed")
                self._sock.settimeout(timeout)
                self._sock.sendall(line.encode() + b"\n")
        except OSError as error:
            self.close()
            raise ConnectionLost(f"the connection to the registry broke: {error}") from None

    def answer(self, timeout: float) -> str:
        """The next answer line. A late one would shift all that follow, so silence ends the connection."""
        try:
            line = self._answers.get(timeout=max(timeout, 0.001))
        except queue.Empty:
            self.close()
            raise ConnectionLost(f"no answer from the registry within {timeout:.1f}s") from None
        if line is None:
            self._answers.put(None)
            raise ConnectionLost("the registry closed the connection")
        return line

    def ask(self, line: str, timeout: float) -> str:
        """Send one line and take the answer."""
        self.send(line, timeout)
        return self.answer(timeout)

    def close(self) -> None:
        """End the connection; the reader sees it and closes the socket."""
        self._closed.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        pending = b""
        poller = select.poll()
        poller.register(self._sock.fileno(), select.POLLIN)
        while not self._closed.is_set():
            data = self._receive(poller)
            if data is None:
                continue
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            if len(pending) > MAX_ANSWER:
                break
            for raw in lines:
                line = raw.removesuffix(b"\r").decode("utf-8", "replace")
                if line and not self._unsolicited(line):
                    self._answers.put(line)
        self._closed.set()
        with self._turn:
            self._sock.close()
        self._answers.put(None)
        self._on_lost(self)

    def _receive(self, poller: select.poll) -> bytes | None:
        """Bytes that came, b"" at the end of the connection, None where there is nothing yet."""
        buffered = isinstance(self._sock, ssl.SSLSocket) and self._sock.pending()
        if not buffered and not poller.poll(_POLL_MS):
            return None
        try:
            with self._turn:
                self._sock.setblocking(False)
                return self._sock.recv(65536)
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None
        except OSError:
            return b""
