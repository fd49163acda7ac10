"""A client that speaks HTTP/2 over TLS, as much of it as tests need."""

from __future__ import annotations

import socket
import ssl
from dataclasses import dataclass, field

import h2.connection
import h2.events


@dataclass
class Http2Answer:
    """One stream's answer; `reset` where the stream was cut."""

    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: bool = False

    def header(self, name: str) -> str | None:
        """The first value of a field, None where there is none."""
        return next((value for known, value in self.headers if known == name), None)


class Http2Client:
    """One connection. `validate` off lets a test send what h2 itself would not."""

    def __init__(self, port: int, context: ssl.SSLContext, name: str, validate: bool = True) -> None:
        context.set_alpn_protocols(["h2"])
        raw = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket = context.wrap_socket(raw, server_hostname=name)
        assert self.socket.selected_alpn_protocol() == "h2"
        config = h2.config.H2Configuration(
            header_encoding="utf-8", validate_outbound_headers=validate, normalize_outbound_headers=validate)
        self._connection = h2.connection.H2Connection(config)
        self._connection.initiate_connection()
        self._flush()
        self._name = name

    def ask(self, method: str, path: str, body: bytes = b"", headers: list[tuple[str, str]] | None = None) -> Http2Answer:
        """Send a request and read its answer to the end."""
        stream = self._connection.get_next_available_stream_id()
        pseudo = [(":method", method), (":authority", self._name)]
        if method != "CONNECT":
            pseudo += [(":scheme", "https"), (":path", path)]
        self._connection.send_headers(stream, [*pseudo, *(headers or [])], end_stream=not body)
        self._flush()
        answer = Http2Answer()
        while body and not answer.ended:
            room = min(self._connection.local_flow_control_window(stream), self._connection.max_outbound_frame_size)
            if room <= 0:
                self._read(stream, answer)
                continue
            piece, body = body[:room], body[room:]
            self._connection.send_data(stream, piece, end_stream=not body)
            self._flush()
        while not answer.ended:
            self._read(stream, answer)
        return answer

    def _read(self, stream: int, answer: Http2Answer) -> None:
        data = self.socket.recv(65536)
        assert data, "the connection ended"
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
