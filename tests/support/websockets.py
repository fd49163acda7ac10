"""WebSocket peers: frames made by hand, so that wrong ones can be made too, and a server that reads them with wsproto."""

from __future__ import annotations

import socket
from collections.abc import Callable

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.edge.wire import Wire, get
from tests.support.backends import RawBackend

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
#: The answer to KEY (RFC 6455 1.3).
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
SWITCH = f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {ACCEPT}\r\n"


def frame(opcode: int, payload: bytes = b"", fin: bool = True, reserved: int = 0, masked: bool = True, length: int | None = None) -> bytes:
    """The bytes of a frame (RFC 6455 5.2). `length`: what the header says, if that is not true."""
    size = len(payload) if length is None else length
    first = (0x80 if fin else 0) | reserved << 4 | opcode
    bit = 0x80 if masked else 0
    if size < 126:
        head = bytes([first, bit | size])
    elif size < 65536:
        head = bytes([first, bit | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([first, bit | 127]) + size.to_bytes(8, "big")
    if not masked:
        return head + payload
    mask = b"\x37\xfa\x21\x3d"
    repeated = mask * (len(payload) // 4 + 1)
    return head + mask + (int.from_bytes(payload, "big") ^ int.from_bytes(repeated[:len(payload)], "big")).to_bytes(len(payload), "big")


def close(code: int | None = 1000, reason: bytes = b"", masked: bool = True) -> bytes:
    """A close frame; `code` None: without a payload."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason, masked=masked)


def handshake(host: str, *fields: str, path: str = "/") -> bytes:
    """The bytes of a client's request to upgrade."""
    return get(host, path, "Connection: Upgrade", "Upgrade: websocket", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13", *fields)


def open_websocket(port: int, host: str, *fields: str, path: str = "/") -> Wire:
    """A client whose handshake has gone through; what the server has sent behind it is in `data`."""
    wire = Wire(port).send(handshake(host, *fields, path=path))
    head, _, wire.data = wire.until(b"\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 "), head
    return wire


def read_frame(wire: Wire) -> tuple[int, bytes]:
    """The next frame a server sent: opcode and payload; (-1, b"") where the connection ends instead."""
    while True:
        data = wire.data
        if len(data) >= 2:
            at = {126: 4, 127: 10}.get(data[1] & 0x7F, 2)
            size = int.from_bytes(data[2:at], "big") if at > 2 else data[1] & 0x7F
            mask = data[at:at + 4] if data[1] & 0x80 else b""
            at += len(mask)
            if len(data) >= at + size and (not data[1] & 0x80 or len(mask) == 4):
                payload, wire.data = data[at:at + size], data[at + size:]
                return data[0] & 0x0F, bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if mask else payload
        if not wire.more():
            assert not wire.data, f"half a frame: {wire.data[:40]!r}"
            return -1, b""


class Switching:
    """A backend that switches to WebSocket and hands the rest to `talk(sock)`; `extra` goes into the answer, `behind` behind it."""

    def __init__(self, make: Callable[..., RawBackend], talk: Callable[[socket.socket], None], extra: str = "",
                 behind: bytes = b"") -> None:
        self._talk = talk
        self._answer = f"{SWITCH}{extra}\r\n".encode() + behind
        self.backend = make(self._serve)
        self.url = self.backend.url

    def _serve(self, sock: socket.socket) -> None:
        self.backend.receive_head(sock)
        sock.sendall(self._answer)
        self._talk(sock)


def echo(sock: socket.socket) -> None:
    """Send back the very bytes that come, until they end."""
    while data := sock.recv(65536):
        sock.sendall(data)


def echo_server(make: Callable[..., RawBackend]) -> RawBackend:
    """A server that reads with wsproto, sends messages back whole, and closes a connection that breaks the protocol."""

    def serve(sock: socket.socket) -> None:
        connection = WSConnection(ConnectionType.SERVER)
        parts: list[str | bytes | bytearray] = []
        while data := sock.recv(65536):
            connection.receive_data(data)
            for event in connection.events():
                if isinstance(event, Request):
                    subprotocol = event.subprotocols[0] if event.subprotocols else None
                    sock.sendall(connection.send(AcceptConnection(subprotocol=subprotocol, extensions=[PerMessageDeflate()])))
                elif isinstance(event, Ping):
                    sock.sendall(connection.send(event.response()))
                elif isinstance(event, TextMessage | BytesMessage):
                    parts.append(event.data)
                    if event.message_finished:
                        sock.sendall(connection.send(type(event)(data=type(event.data)().join(parts))))  # type: ignore[arg-type]
                        parts.clear()
                elif isinstance(event, CloseConnection):
                    # The client's, or what wsproto wants to say about an error.
                    sock.sendall(connection.send(event.response()))
                    # Our last frame gets there only if no byte of the other side is left to be answered with a reset.
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65536):
                        pass
                    return

    return make(serve)
