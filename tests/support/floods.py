"""Clients that send without a pause, each in a process of its own: `python -m tests.support.floods KIND PORT SECONDS`."""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time

UPGRADE = (b"GET / HTTP/1.1\r\nHost: socket.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
           b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
#: What opens the connection, and what is sent over and over. Some are of the registry's port.
KINDS = {
    "chunks": (b"POST / HTTP/1.1\r\nHost: sink.test\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n" * 20000),
    "requests": (b"", b"GET / HTTP/1.1\r\nHost: nobody.test\r\n\r\n" * 2000),
    "frames": (UPGRADE, b"\x82\x80\0\0\0\0" * 20000),
    "small chunks": (b"GET /small HTTP/1.1\r\nHost: sink.test\r\n\r\n", b""),
    "gzip": (b"GET /text HTTP/1.1\r\nHost: gzip.test\r\nAccept-Encoding: gzip\r\n\r\n", b""),
    "connections": (b"", b""),
    "empty lines": (b"REGISTER|flood|1\n", b"\n" * 60000),
    "wrong lines": (b"REGISTER|flood|1\n", b"\xff\n" * 20000),
    "commands": (b"REGISTER|flood|1\n", b"PING|x\n" * 10000),
    "br": (b"GET /text HTTP/1.1\r\nHost: br.test\r\nAccept-Encoding: br\r\n\r\n", b""),
}


def flood(kind: str, port: int, until: float) -> None:
    """One connection of that kind after another, as fast as they are taken."""
    opening, more = KINDS[kind]
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
            if kind == "connections":
                continue
            sock.sendall(opening)
            if opening is UPGRADE:
                sock.recv(4096)
            reader = threading.Thread(target=_read_on, args=(sock, until), daemon=True)
            reader.start()
            while more and time.monotonic() < until:
                sock.sendall(more)
            reader.join(max(0.0, until - time.monotonic()))


def _read_on(sock: socket.socket, until: float) -> None:
    with contextlib.suppress(OSError):
        while time.monotonic() < until and sock.recv(1 << 20):
            pass


if __name__ == "__main__":
    flood(sys.argv[1], int(sys.argv[2]), time.monotonic() + float(sys.argv[3]))
