"""Backends for tests: a well-behaved HTTP server that records, and raw ones that do what a test tells them."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512


class Backend:
    """An HTTP server. `/status/N` answers N, `/slow?s=1` waits, `/bytes/N` sends N bytes, `/echo` tells what it got, anything else says
    its name; `failing` makes everything answer that status, `delay` after so many seconds; `health` is what /healthz answers."""

    def __init__(self, name: str = "backend", port: int = 0) -> None:
        self.name = name
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.failing = 0
        self.delay = 0.0
        self.health = 200
        self.in_flight = 0
        #: The most that were between their arrival and the first byte of their answer: after that, the next one may come.
        self.most_in_flight = 0
        #: Answers to `/until-freed` wait until it is set.
        self.freed = threading.Event()
        self._unanswered = 0
        self._lock = threading.Lock()
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            #: Head and body leave in two pieces; the second would wait 40 ms for the first one's acknowledgement.
            disable_nagle_algorithm = True

            def _serve(self) -> None:
                with backend._lock:
                    backend.in_flight += 1
                    backend._unanswered += 1
                    backend.most_in_flight = max(backend.most_in_flight, backend._unanswered)
                try:
                    backend._answer(self)
                finally:
                    with backend._lock:
                        backend.in_flight -= 1

            do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = do_OPTIONS = do_PATCH = _serve

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._handler = Handler
        self._server: _Server | None = None
        self.port = port
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen (again), on the same port."""
        self._server = _Server(("127.0.0.1", self.port), self._handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Listen no more; connections are refused."""
        self.freed.set()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def seen(self, path: str) -> list[tuple[str, str, dict[str, str], bytes]]:
        """The requests for a path (query left out)."""
        return [request for request in self.requests if request[1].partition("?")[0] == path]

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        length = handler.headers.get("Content-Length")
        body = b""
        if length:
            body = handler.rfile.read(int(length))
        elif "chunked" in handler.headers.get("Transfer-Encoding", ""):
            while size := int(handler.rfile.readline().split(b";")[0], 16):
                body += handler.rfile.read(size)
                handler.rfile.readline()
            while handler.rfile.readline().strip():
                pass
        parts = urlsplit(handler.path)
        query = {key: values[-1] for key, values in parse_qs(parts.query).items()}
        if parts.path != "/healthz":
            self.requests.append((handler.command, handler.path, dict(handler.headers.items()), body))
        status, content, headers = 200, f"{self.name} {parts.path}\n".encode(), {"Content-Type": "text/plain"}
        if parts.path == "/healthz":
            status = self.health
        elif self.failing:
            status = self.failing
        elif parts.path.startswith("/status/"):
            status = int(parts.path.split("/")[2])
        elif parts.path.startswith("/bytes/"):
            content = b"x" * int(parts.path.split("/")[2])
        elif parts.path == "/echo":
            content = json.dumps({"method": handler.command, "path": handler.path, "headers": list(handler.headers.items()),
                                  "body": body.decode("latin-1"), "name": self.name}).encode()
            headers["Content-Type"] = "application/json"
        if parts.path == "/until-freed":
            self.freed.wait(60)
        if self.delay or "s" in query:
            time.sleep(self.delay or float(query["s"]))
        headers["X-Backend"] = self.name
        with self._lock:
            self._unanswered -= 1
        with contextlib.suppress(OSError):
            handler.send_response(status)
            for name, value in headers.items():
                handler.send_header(name, value)
            if status not in (204, 304):
                handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            if handler.command != "HEAD" and status not in (204, 304):
                handler.wfile.write(content)


class RawBackend:
    """A TCP server that hands each connection to `serve(sock)` in a thread; what clients sent is kept by `receive_head`."""

    def __init__(self, serve: Callable[[socket.socket], None]) -> None:
        self._serve = serve
        self.received: list[bytes] = []
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(sock)
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock:
            self._serve(sock)

    def receive_head(self, sock: socket.socket) -> bytes:
        """Read to the end of a request's head, and keep all that came."""
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                break
            data += piece
        self.received.append(data)
        return data

    def stop(self) -> None:
        """Close everything."""
        self._listener.close()
        for sock in self._open:
            with contextlib.suppress(OSError):
                sock.close()


class SilentBackend(RawBackend):
    """Takes a request and answers nothing: `asked` once its head is there, `closed` when the other side ends the connection."""

    def __init__(self) -> None:
        self.asked, self.closed = threading.Event(), threading.Event()
        super().__init__(self._wait)

    def _wait(self, sock: socket.socket) -> None:
        self.receive_head(sock)
        self.asked.set()
        if not sock.recv(1):
            self.closed.set()


#: What the fixture raw_backend gives.
MakeRaw = Callable[..., RawBackend]
