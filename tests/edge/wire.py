"""Bytes as they are on the wire: a client that sends what it is told, a backend that keeps all it got, and a strict reader."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from dataclasses import dataclass, field

from tests.support.backends import RawBackend
from tests.support.waiting import patience

_FIELD = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+): ?([\t\x20-\x7e\x80-\xff]*)")


class NotStrict(AssertionError):
    """What the backend got could be read in more than one way."""


@dataclass
class Message:
    """One request or response."""

    line: str
    fields: list[tuple[str, str]]
    body: bytes = b""
    complete: bool = True
    trailers: list[tuple[str, str]] = field(default_factory=list)

    @property
    def status(self) -> int:
        return int(self.line.split(" ")[1])

    def all(self, name: str) -> list[str]:
        """The values of a field, in order."""
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The only value of a field, or None."""
        found = self.all(name)
        assert len(found) < 2, f"{name} came {len(found)} times: {found}"
        return found[0] if found else None


def _fields(lines: list[bytes]) -> list[tuple[str, str]]:
    found = []
    for line in lines:
        match = _FIELD.fullmatch(line)
        if match is None:
            raise NotStrict(f"not a field line: {line!r}")
        found.append((match[1].decode(), match[2].decode("latin-1")))
    return found


def read_message(data: bytes, method: str = "") -> tuple[Message, bytes]:
    """The first message of `data` by the narrowest reading there is, and what lies behind it. Raises NotStrict.

    `method` makes it a response to a request of that method; its body may then end with the data.
    """
    head, mark, rest = data.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    if b"\n" in head.replace(b"\r\n", b"") or b"\r" in head.replace(b"\r\n", b"") or b"\0" in head:
        raise NotStrict(f"bare CR, bare LF or NUL in {head!r}")
    if not mark:
        return Message(lines[0].decode("latin-1"), [], complete=False), b""
    message = Message(lines[0].decode("latin-1"), _fields(lines[1:]))
    lengths, codings = message.all("content-length"), message.all("transfer-encoding")
    if len(lengths) + len(codings) > 1:
        raise NotStrict(f"framed twice: {message.fields}")
    if method and (method == "HEAD" or message.status in (204, 304) or message.status < 200):
        return message, rest
    if codings:
        if codings != ["chunked"]:
            raise NotStrict(f"Transfer-Encoding {codings}")
        return _read_chunked(message, rest)
    if lengths:
        if not re.fullmatch(r"[0-9]+", lengths[0]):
            raise NotStrict(f"Content-Length {lengths}")
        size = int(lengths[0])
        message.body, rest = rest[:size], rest[size:]
        message.complete = len(message.body) == size
    elif method:
        message.body, rest = rest, b""
    return message, rest


def _read_chunked(message: Message, data: bytes) -> tuple[Message, bytes]:
    message.complete = False
    while data:
        line, mark, data = data.partition(b"\r\n")
        if not mark:
            return message, b""
        if not re.fullmatch(rb"[0-9a-fA-F]+", line):
            raise NotStrict(f"chunk size {line!r}")
        size = int(line, 16)
        if not size:
            trailers, mark, rest = (b"\r\n" + data).partition(b"\r\n\r\n")
            if mark:
                message.trailers = _fields(trailers.split(b"\r\n")[1:])
                message.complete = True
            return message, rest
        message.body += data[:size]
        if data[size : size + 2] not in (b"\r\n", b"\r", b""):
            raise NotStrict(f"chunk data not followed by CRLF: {data[size:size + 2]!r}")
        data = data[size + 2 :]
    return message, b""


def read_all(data: bytes) -> list[Message]:
    """Every request in `data`."""
    found = []
    while data:
        message, data = read_message(data)
        found.append(message)
    return found


class Recorder:
    """A raw backend that keeps every byte of every connection, and answers each complete request by `answer`."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        self.answer = answer
        self.streams: list[bytearray] = []
        self.raw = RawBackend(self._serve)

    @property
    def url(self) -> str:
        return self.raw.url

    def _serve(self, sock: socket.socket) -> None:
        kept = bytearray()
        self.streams.append(kept)
        unanswered = b""
        while data := sock.recv(65536):
            kept += data
            unanswered += data
            while unanswered:
                try:
                    request, rest = read_message(unanswered)
                except NotStrict:
                    # Answered as well, so that the test sees a request where none should be.
                    request, rest = Message("", []), b""
                if not request.complete:
                    break
                unanswered = rest
                sock.sendall(self.answer)

    def requests(self) -> list[Message]:
        """Every request of every connection so far. Raises NotStrict for bytes that are none."""
        return [request for stream in self.streams for request in read_all(bytes(stream))]

    def forget(self) -> None:
        """Begin anew; open connections go on."""
        for stream in self.streams:
            stream.clear()

    def stop(self) -> None:
        self.raw.stop()


class Wire:
    """A client's connection; with a `receive_buffer` (bytes) the kernel takes no more than about that before it is read."""

    def __init__(self, port: int, timeout: float = 10.0, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(patience(timeout))
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()

    def send(self, data: bytes | str) -> Wire:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.sock.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def more(self) -> bytes:
        """Whatever comes next; b"" at the end or a reset."""
        try:
            piece = self.sock.recv(1 << 20)
        except ConnectionResetError:
            piece = b""
        self.data += piece
        return piece

    def until(self, mark: bytes) -> bytes:
        """Read until `mark` is there (or the end), and return all that came."""
        while mark not in self.data and self.more():
            pass
        return self.data

    def response(self, method: str = "GET") -> Message:
        """The next response; what lies behind it is kept. AssertionError where there is none."""
        while True:
            ended = b"\r\n\r\n" in self.data and self._complete(method)
            if ended:
                message, self.data = read_message(self.data, method)
                return message
            if not self.more():
                assert self.data, "the connection ended without a response"
                message, self.data = read_message(self.data, method)
                return message

    def _complete(self, method: str) -> bool:
        message, _ = read_message(self.data, method)
        framed = message.all("content-length") or message.all("transfer-encoding")
        return message.complete and bool(framed or method == "HEAD" or message.status in (204, 304) or message.status < 200)

    def rest(self) -> bytes:
        """All that comes until the connection ends."""
        while self.more():
            pass
        return self.data

    def ended(self, seconds: float = 5.0) -> bool:
        """Whether the proxy ends the connection in time without another byte."""
        self.sock.settimeout(patience(seconds))
        try:
            return not self.data and not self.more()
        except TimeoutError:
            return False

    def reset_by_peer(self, seconds: float = 5.0) -> bool:
        """Whether the connection ends in a reset (what came before it is kept)."""
        seconds = patience(seconds)
        self.sock.settimeout(seconds)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                piece = self.sock.recv(1 << 20)
            except ConnectionResetError:
                return True
            if not piece:
                return False
            self.data += piece
        return False


def get(host: str, path: str = "/", *fields: str, method: str = "GET", version: str = "1.1") -> bytes:
    """The bytes of a request head; fields as `Name: value`."""
    return "\r\n".join([f"{method} {path} HTTP/{version}", f"Host: {host}", *fields, "", ""]).encode("latin-1")
