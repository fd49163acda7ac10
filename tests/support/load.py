"""A steady load on keep-alive connections that counts everything a client would call a failure."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from tests.support.waiting import free_port, listens, wait_for

_SERVER = """
import sys
from gevent.server import StreamServer
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Length: 5\\r\\n\\r\\nhello"
def serve(sock, address):
    data = b""
    while piece := sock.recv(65536):
        data += piece
        while b"\\r\\n\\r\\n" in data:
            data = data.partition(b"\\r\\n\\r\\n")[2]
            sock.sendall(ANSWER)
StreamServer(("127.0.0.1", int(sys.argv[1])), serve, backlog=1024).serve_forever()
"""


@contextlib.contextmanager
def quick_backend() -> Iterator[str]:
    """The url of a backend in a process of its own, which answers every request with 5 bytes at once."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-c", _SERVER, str(port)])
    try:
        wait_for(lambda: listens(port), what="the backend")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait(5)


class KeepAliveLoad:
    """`connections` clients that send one request after the other until told to stop.

    A failure is a refused or reset connection, one that ends where an answer should be, a short answer, or any other
    status than 200. Only a connection that the answer itself said would close may close.
    """

    def __init__(self, port: int, host: str, connections: int = 8) -> None:
        self.failures: list[str] = []
        self.answered = 0
        self.reconnects = 0
        self._port = port
        self._request = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode()
        self._ending = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(connections)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Send no more, and wait for what was sent."""
        self._ending.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self) -> None:
        while not self._ending.is_set():
            count = 0
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=20) as sock:
                    closing = False
                    while not closing and not self._ending.is_set():
                        sock.sendall(self._request)
                        closing = self._answer(sock)
                        count += 1
            except (OSError, ValueError) as error:
                with self._lock:
                    self.failures.append(f"{time.strftime('%X')} after {count} answers: {error!r}")
            with self._lock:
                self.answered += count
                self.reconnects += 1

    @staticmethod
    def _answer(sock: socket.socket) -> bool:
        """Read one answer; whether the connection is to close. Raises OSError, ValueError."""
        data = b""
        while b"\r\n\r\n" not in data or len(data) < data.index(b"\r\n\r\n") + 9:
            piece = sock.recv(65536)
            if not piece:
                raise ValueError(f"the connection ended after {data!r}")
            data += piece
        if not data.startswith(b"HTTP/1.1 200 ") or not data.endswith(b"hello"):
            raise ValueError(f"not the answer: {data!r}")
        return b"\r\nConnection: close\r\n" in data
