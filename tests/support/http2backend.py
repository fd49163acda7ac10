"""A backend that speaks HTTP/2 alone, in the clear or over TLS, by the library h2."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.settings

from proxyd.http2.frames import goaway

Fields = list[tuple[str, str]]


@dataclass
class Request:
    """One stream's request, as far as it has come."""

    connection: Connection
    stream: int
    fields: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    ended: bool = False
    reset: int = -1
    #: Whether the connection has ended.
    lost: bool = False

    @property
    def path(self) -> str:
        return self.fields[":path"]

    def answer(self, body: bytes = b"", status: str = "200", fields: Fields | None = None, trailers: Fields | None = None) -> None:
        """Answer it as a whole."""
        with self.connection.lock:
            h2c = self.connection.h2
            h2c.send_headers(self.stream, [(":status", status), *(fields or [])], end_stream=not body and not trailers)
        if body:
            self.send(body, end=not trailers)
        if trailers:
            with self.connection.lock:
                h2c.send_headers(self.stream, trailers, end_stream=True)
                self.connection.flush()
        self.connection.flush_locked()

    def head(self, fields: Fields | None = None, status: str = "200") -> None:
        """Begin to answer."""
        with self.connection.lock:
            self.connection.h2.send_headers(self.stream, [(":status", status), *(fields or [])])
            self.connection.flush()

    def send(self, body: bytes, end: bool = False) -> None:
        """Send a piece of the body as the windows allow."""
        left = memoryview(body)
        while left or end:
            with self.connection.lock:
                h2c = self.connection.h2
                size = min(h2c.local_flow_control_window(self.stream), h2c.max_outbound_frame_size, len(left))
                if size or not left:
                    last = end and size == len(left)
                    h2c.send_data(self.stream, bytes(left[:size]), end_stream=last)
                    self.connection.flush()
                    left = left[size:]
                    if last or not left:
                        return
                    continue
            time.sleep(0.005)

    def end_with_reset(self, code: int) -> None:
        """Reset the stream."""
        with self.connection.lock:
            self.connection.h2.reset_stream(self.stream, code)
            self.connection.flush()


class Connection:
    """One client's connection."""

    def __init__(self, sock: socket.socket, streams: int, websockets: bool) -> None:
        self.socket = sock
        self.lock = threading.RLock()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="utf-8"))
        self.requests: dict[int, Request] = {}
        self.pings = 0
        #: Pings of our own that were answered: what was sent before them has been read.
        self.pongs = 0
        if streams or websockets:
            own = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: int(websockets)}
            if streams:
                own[h2.settings.SettingCodes.MAX_CONCURRENT_STREAMS] = streams
            self.h2.local_settings = h2.settings.Settings(client=False, initial_values=own)
        with self.lock:
            self.h2.initiate_connection()
            self.flush()

    def flush(self) -> None:
        """Send what waits. Needs the lock."""
        self.socket.sendall(self.h2.data_to_send())

    def flush_locked(self) -> None:
        """The same, with the lock taken."""
        with self.lock:
            self.flush()

    def ping(self) -> None:
        """Send a ping."""
        with self.lock:
            self.h2.ping(b"12345678")
            self.flush()

    def leave(self, last: int) -> None:
        """Send GOAWAY: streams above `last` were not looked at. Not by h2, which ends everything with it."""
        with self.lock:
            self.socket.sendall(goaway(last, 0))


class Http2Backend:
    """`serve(request)` is called in a thread of its own for each request, when its head has come. `streams`: how many it takes at once, 0
    for h2's default. `websockets`: whether it takes extended CONNECT. `plain(sock)` serves connections on which TLS has not chosen h2."""

    def __init__(self, serve: Callable[[Request], None], tls: ssl.SSLContext | None = None, streams: int = 0, mute: bool = False,
                 websockets: bool = False, plain: Callable[[socket.socket], None] | None = None) -> None:
        self._serve = serve
        self._tls = tls
        self._streams = streams
        self._websockets = websockets
        self._plain = plain
        #: Whether nothing that comes is answered any more, pings included.
        self.mute = mute
        self.connections: list[Connection] = []
        self.requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self._listener.getsockname()[1]
        self.url = f"https://localhost:{self.port}" if tls else f"h2c://127.0.0.1:{self.port}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._run, args=(sock,), daemon=True).start()

    def _run(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            if self._tls is not None:
                secured = self._tls.wrap_socket(sock, server_side=True)
                if self._plain is not None and secured.selected_alpn_protocol() != "h2":
                    with secured:
                        self._plain(secured)
                    return
                sock = secured
            connection = Connection(sock, self._streams, self._websockets)
            self.connections.append(connection)
            try:
                while data := sock.recv(65536):
                    if self.mute:
                        continue
                    with connection.lock:
                        for event in connection.h2.receive_data(data):
                            self._take(connection, event)
                        connection.flush()
            finally:
                for request in connection.requests.values():
                    request.lost = True

    def _take(self, connection: Connection, event: h2.events.Event) -> None:
        if isinstance(event, h2.events.RequestReceived):
            fields = {str(name): str(value) for name, value in event.headers or ()}
            request = connection.requests[event.stream_id] = Request(connection, event.stream_id, fields)
            self.requests.append(request)
            threading.Thread(target=self._answer, args=(request,), daemon=True).start()
        elif isinstance(event, h2.events.DataReceived):
            connection.requests[event.stream_id].body += event.data or b""
            if event.flow_controlled_length:
                connection.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            connection.requests[event.stream_id].trailers = {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, h2.events.StreamEnded):
            connection.requests[event.stream_id].ended = True
        elif isinstance(event, h2.events.StreamReset):
            connection.requests[event.stream_id].reset = int(event.error_code or 0)
        elif isinstance(event, h2.events.PingReceived):
            connection.pings += 1
        elif isinstance(event, h2.events.PingAckReceived):
            connection.pongs += 1

    def _answer(self, request: Request) -> None:
        with contextlib.suppress(OSError, h2.exceptions.ProtocolError):
            self._serve(request)

    def stop(self) -> None:
        """Close everything."""
        self._listener.close()
        for connection in self.connections:
            with contextlib.suppress(OSError):
                connection.socket.shutdown(socket.SHUT_RDWR)
            connection.socket.close()
