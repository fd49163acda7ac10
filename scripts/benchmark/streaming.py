"""Streams through a proxy on loopback, the client's side and the backend's in one process.

KIND BACKEND_PORT PROXY_PORT CONNECTIONS SECONDS: opens so many event streams (`events`) or WebSockets (`websocket`), and prints `open`. For
a line of input it sends messages over all of them in turn for some seconds, and prints how many; it ends with its input.
`http1`, `http2` and, over TLS, `https1` and `https2` hold connections that have had one answer; the backend of those is another one's.
"""

from __future__ import annotations

import socket
import ssl
import sys
import time

from hpack import Encoder

_DATA = b"data: " + b"x" * 100 + b"\n\n"
_EVENT = b"%x\r\n%b\r\n" % (len(_DATA), _DATA)
_TEXT = b"x" * 100
_FROM_CLIENT = b"\x81\xe4\0\0\0\0" + _TEXT
_FROM_BACKEND = b"\x81\x64" + _TEXT
_REQUESTS = {
    "events": b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n",
    "websocket": b"GET /websocket HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
}
_ANSWERS = {
    "events": b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Accel-Buffering: no\r\nTransfer-Encoding: chunked\r\n\r\n",
    "websocket": b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                 b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
}
_ONE = b"GET /1k HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def _http2_request() -> bytes:
    fields = [(":method", "GET"), (":scheme", "http"), (":path", "/1k"), (":authority", "127.0.0.1")]
    return b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(4, 0, 0, b"") + _frame(1, 5, 1, Encoder().encode(fields))


def _read_until(sock: socket.socket, wanted: bytes) -> None:
    got = b""
    while wanted not in got:
        data = sock.recv(65536)
        if not data:
            raise SystemExit(f"the proxy closed: {got[:300]!r}")
        got += data


def pair(kind: str, listener: socket.socket, port: int) -> tuple[socket.socket, socket.socket]:
    """A stream that is open: the client's socket and the backend's."""
    client = socket.create_connection(("127.0.0.1", port), 20)
    client.sendall(_REQUESTS[kind])
    backend, _ = listener.accept()
    backend.settimeout(20)
    _read_until(backend, b"\r\n\r\n")
    backend.sendall(_ANSWERS[kind])
    _read_until(client, b"\r\n\r\n")
    return client, backend


def send_events(pairs: list[tuple[socket.socket, socket.socket]]) -> int:
    """An event over each stream. Returns how many messages that were."""
    for _, backend in pairs:
        backend.sendall(_EVENT)
    for client, _ in pairs:
        _read_until(client, b"\n\n")
    return len(pairs)


def send_messages(pairs: list[tuple[socket.socket, socket.socket]]) -> int:
    """A message and its answer over each WebSocket. Returns how many messages that were."""
    for client, _ in pairs:
        client.sendall(_FROM_CLIENT)
    for _, backend in pairs:
        backend.recv(65536)
        backend.sendall(_FROM_BACKEND)
    for client, _ in pairs:
        client.recv(65536)
    return 2 * len(pairs)


def answered(kind: str, port: int, context: ssl.SSLContext) -> socket.socket:
    """A connection that has had one answer and stays open."""
    sock: socket.socket = socket.create_connection(("127.0.0.1", port), 20)
    if kind.startswith("https"):
        sock = context.wrap_socket(sock)
    sock.sendall(_ONE if kind.endswith("1") else _http2_request())
    _read_until(sock, b"x" * 1024)
    return sock


def main(kind: str, backend: int, port: int, count: int, seconds: float) -> None:
    """See above."""
    listener = socket.create_server(("127.0.0.1", backend), backlog=4096) if kind in _REQUESTS else None
    if listener is None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2" if kind.endswith("2") else "http/1.1"])
        held: list[object] = [answered(kind, port, context) for _ in range(count)]
    else:
        listener.settimeout(20)
        pairs = [pair(kind, listener, port) for _ in range(count)]
        held = [pairs]
    print("open", flush=True)
    for _ in sys.stdin:
        sent, until = 0, time.monotonic() + seconds
        while time.monotonic() < until:
            sent += send_events(pairs) if kind == "events" else send_messages(pairs)
        print(f"{sent} messages", flush=True)
    held.clear()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
