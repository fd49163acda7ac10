"""A client that speaks HTTP/2 over TLS, as much of it as tests need."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import h2.connection
import h2.events
import h2.settings


@dataclass
class Http2Answer:
    """One stream's answer; `reset` where the stream was cut."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    hints: list[tuple[str, str]] = field(default_factory=list)
    trailers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a field, None where there is none."""
        return next((value for known, value in self.headers if known == name), None)


class Http2Client:
    """One connection. `validate` off lets a test send what h2 itself would not."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str, validate: bool = True, receive_buffer: int = 0) -> None:
        """With a `receive_buffer` (bytes) the kernel takes no more than about that before it is read."""
        context.set_alpn_protocols(["h2"])
        raw = socket.socket()
        if receive_buffer:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        raw.settimeout(10)
        raw.connect(("127.0.0.1", port))
        self.socket = context.wrap_socket(raw, server_hostname=name)
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=validate, normalize_outbound_headers=validate)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._flush()
        self._name = name

    def widen(self, size: int) -> None:
        """Let the server send this many bytes (per stream and in all) before any of them are read."""
        self._connection.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: size})
        self._connection.increment_flow_control_window(size)
        self._flush()

    def ask(self, method: str, path: str, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> Http2Answer:
        """Send a request and read its answer to the end."""
        stream = self.open(method, path, headers, end=not body)
        answer = Http2Answer()
        if body:
            self.send(stream, body, answer)
        return self.answer(stream, answer)

    def open(self, method: str, path: str, headers: list[tuple[str, str]] | None = None, end: bool = True,
             pseudo: list[tuple[str, str]] | None = None) -> int:
        """Send a request's head, and return its stream. `pseudo` stands for the usual pseudo-header fields."""
        stream: int = self._connection.get_next_available_stream_id()
        if pseudo is None:
            pseudo = [(":method", method), (":authority", self._name)]
            if method != "CONNECT":
                pseudo += [(":scheme", "https"), (":path", path)]
        self._connection.send_headers(stream, [*pseudo, *(headers or [])], end_stream=end)
        self._flush()
        return stream

    def send(self, stream: int, body: bytes, answer: Http2Answer | None = None, end: bool = True) -> None:
        """Send a piece of a body, as fast as the server takes it, until its answer ends."""
        answer = answer or Http2Answer()
        while body and not answer.ended:
            room = min(self._connection.local_flow_control_window(stream), self._connection.max_outbound_frame_size)
            if room <= 0:
                self._read(stream, answer)
                continue
            piece, body = body[:room], body[room:]
            self._connection.send_data(stream, piece, end_stream=end and not body)
            self._flush()

    def trailers(self, stream: int, fields: list[tuple[str, str]]) -> None:
        """End a body with trailers."""
        self._connection.send_headers(stream, fields, end_stream=True)
        self._flush()

    def reset(self, stream: int) -> None:
        """Cancel a request."""
        self._connection.reset_stream(stream, 8)
        self._flush()

    def answer(self, stream: int, answer: Http2Answer | None = None, until: Callable[[Http2Answer], object] | None = None) -> Http2Answer:
        """Read until the answer has ended, or until `until(answer)` is true."""
        answer = answer or Http2Answer()
        while not answer.ended and not (until is not None and until(answer)):
            self._read(stream, answer)
        return answer

    def _read(self, stream: int, answer: Http2Answer) -> None:
        data = self.socket.recv(65536)
        if not data:
            answer.ended = answer.reset = True
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.ConnectionTerminated):
                answer.ended = answer.reset = True
            if getattr(event, "stream_id", None) != stream:
                continue
            if isinstance(event, h2.events.ResponseReceived):
                answer.headers = [(str(name), str(value)) for name, value in event.headers]
                answer.status = int(answer.header(":status") or 0)
            elif isinstance(event, h2.events.DataReceived):
                answer.body += event.data
                self._connection.acknowledge_received_data(event.flow_controlled_length, stream)
            elif isinstance(event, h2.events.InformationalResponseReceived):
                answer.hints += [(str(name), str(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.TrailersReceived):
                answer.trailers = [(str(name), str(value)) for name, value in event.headers]
            elif isinstance(event, h2.events.StreamEnded):
                answer.ended = True
            elif isinstance(event, h2.events.StreamReset):
                answer.ended = answer.reset = True
        self._flush()

    def _flush(self) -> None:
        self.socket.sendall(self._connection.data_to_send())

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()
