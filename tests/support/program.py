"""A backend in a process of its own: it tells its name and the path that was asked for, and does wrong what it is told to do wrong.

`python -m tests.support.program NAME PORT ADDRESS` serves:

- `/_mode/MODE` (asked directly, not through the proxy) sets what happens to all further requests: see MODES.
- a path that ends in `/events` gets ten server-sent events, `/bytes/N` gets N bytes of text that compresses well.
- a request to upgrade gets a WebSocket that sends each message back.
- anything else gets `NAME PATH` and the length of the body that came, if one came.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.support.waiting import free_port, listens, wait_for

ROOT = Path(__file__).resolve().parents[2]

#: What a backend can be told to do with requests.
MODES = {
    "well": "answers",
    "error": "answers 500",
    "close": "closes the connection instead of an answer",
    "half": "sends half an answer and closes the connection",
    "garbage": "sends what is not HTTP",
    "slow": "answers after 0.4 s",
}


class BackendProcess:
    """The process. It can be killed, stopped, told to misbehave, and started again on the same port."""

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        self.name = name
        self.address = address
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = subprocess.Popen([sys.executable, "-m", "tests.support.program", self.name, str(self.port), self.address], cwd=ROOT,
                                         env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True)
        wait_for(lambda: listens(self.port, self.address), 20, f"the backend {self.name}")

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def pause(self, seconds: float) -> None:
        """Stop it (SIGSTOP) for a while: connections are taken by the kernel and nothing is answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        try:
            time.sleep(seconds)
        finally:
            self._process.send_signal(signal.SIGCONT)

    def behave(self, mode: str) -> None:
        """Set one of MODES."""
        connection = http.client.HTTPConnection(self.address, self.port, timeout=20)
        with contextlib.closing(connection):
            connection.request("GET", f"/_mode/{mode}")
            assert connection.getresponse().status == 200


class _Server:
    """The inside of the process."""

    def __init__(self, name: str, address: str = "127.0.0.1") -> None:
        self.name = name
        self.address = address
        self.mode = "well"

    def serve(self, sock: Any, address: object) -> None:
        """A connection."""
        with contextlib.suppress(OSError, ValueError), sock.makefile("rb") as reader:
            while line := reader.readline():
                fields = {}
                while (field := reader.readline().strip()):
                    name, _, value = field.decode("latin-1").partition(":")
                    fields[name.lower()] = value.strip()
                if not self._answer(sock, reader, line.split()[1].decode(), fields):
                    return

    def _answer(self, sock: Any, reader: Any, path: str, fields: dict[str, str]) -> bool:
        """Answer one request; whether the connection stays."""
        body = _body(reader, fields)
        if path.startswith("/_mode/"):
            self.mode = path.split("/")[2]
            return _send(sock, b"ok\n")
        if self.mode == "close":
            return False
        if self.mode == "garbage":
            sock.sendall(b"\x00\x01 this is not HTTP\r\n\r\n")
            return False
        if self.mode == "half":
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf an answer")
            return False
        if self.mode == "slow":
            import gevent

            gevent.sleep(0.4)
        if "sec-websocket-key" in fields:
            return _websocket(sock, reader, fields["sec-websocket-key"])
        if path.endswith("/events"):
            return _events(sock)
        head, _, last = path.rpartition("/")
        if head.endswith("/bytes"):
            return _send(sock, (b"some text that compresses well, " * (int(last) // 32 + 1))[:int(last)])
        length = "" if body is None else f" {len(body)}"
        return _send(sock, f"{self.name} {path}{length}\n".encode(), 500 if self.mode == "error" else 200)


def _body(reader: Any, fields: dict[str, str]) -> bytes | None:
    if "chunked" in fields.get("transfer-encoding", ""):
        pieces = []
        while size := int(reader.readline().split(b";")[0], 16):
            pieces.append(reader.read(size))
            reader.readline()
        while reader.readline().strip():
            pass
        return b"".join(pieces)
    return reader.read(int(fields["content-length"])) if "content-length" in fields else None


def _send(sock: Any, body: bytes, status: int = 200) -> bool:
    sock.sendall(b"HTTP/1.1 %d X\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
    return True


def _events(sock: Any) -> bool:
    import gevent

    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
    for number in range(10):
        event = b"data: %d\n\n" % number
        sock.sendall(b"%x\r\n%b\r\n" % (len(event), event))
        gevent.sleep(0.01)
    sock.sendall(b"0\r\n\r\n")
    return True


def _websocket(sock: Any, reader: Any, key: str) -> bool:
    accept = base64.b64encode(hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode()).digest()).decode()
    sock.sendall(f"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
    while head := reader.read(2):
        # Short masked frames alone: more is not sent here.
        opcode, size = head[0] & 0x0F, head[1] & 0x7F
        mask = reader.read(4)
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(reader.read(size)))
        sock.sendall(bytes([0x80 | opcode, size]) + payload)
        if opcode == 8:
            break
    return False


def main() -> None:
    """The process. It ends with the one that started it, however that ends."""
    import gevent
    from gevent.server import StreamServer

    name, port, address = sys.argv[1:]

    def watch(parent: int) -> None:
        while os.getppid() == parent:
            gevent.sleep(1.0)
        os._exit(0)

    gevent.spawn(watch, os.getppid())
    StreamServer((address, int(port)), _Server(name).serve, backlog=1024).serve_forever()


if __name__ == "__main__":
    main()
