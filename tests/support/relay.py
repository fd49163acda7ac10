"""A cable that can be cut: a TCP relay between a client and a server that go on without it."""

from __future__ import annotations

import contextlib
import socket
import threading


class Relay:
    """Forwards connections to `port` on 127.0.0.1, until `cut`; `mend` brings it back on the same address."""

    def __init__(self, port: int) -> None:
        self._target = port
        #: The connection to a PostgreSQL server that says this in a transaction is cut when it has passed on the COMMIT: the server
        #: commits, and the client never hears of it. Once.
        self.lose_commit_of = b""
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    near.close()
                    continue
                self._open += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        said = False
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
                said = said or bool(self.lose_commit_of) and self.lose_commit_of in data
                if said and b"COMMIT" in data:
                    self.lose_commit_of = b""
                    break
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End every connection and take no new one."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._open.clear()

    def mend(self) -> None:
        """Take connections again."""
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()
