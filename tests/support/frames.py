"""A client that speaks HTTP/2 frame by frame, many streams at once, and sends whatever a test wants sent."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.support.waiting import patience

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Fields = list[tuple[str, str]]


@dataclass
class Got:
    """What came on one stream. `reset`: the code of a RST_STREAM, -1 where there was none."""

    status: int = 0
    heads: list[Fields] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int = -1
    at: float = 0.0

    @property
    def over(self) -> bool:
        return self.ended or self.reset >= 0

    def header(self, name: str) -> str | None:
        """The first value of a field of the last head."""
        return next((value for key, value in self.heads[-1] if key == name), None) if self.heads else None


class FrameClient:
    """One connection. What comes is read by `frame`, and collected by stream in `got`; SETTINGS and PING are acknowledged.

    `settings`: those that are sent first; without `greet`, neither they nor the preface are. `credit`: whether what was read is given
    back. `acknowledge`: whether `frame` sends at all, which it must not where another thread does.
    """

    def __init__(self, port: int, context: ssl.SSLContext | None, name: str, settings: dict[int, int] | None = None,
                 greet: bool = True, credit: bool = True, acknowledge: bool = True) -> None:
        sock = socket.create_connection(("127.0.0.1", port), timeout=10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            context.set_alpn_protocols(["h2"])
            secured = context.wrap_socket(sock, server_hostname=name)
            assert secured.selected_alpn_protocol() == "h2"
            sock = secured
        self.sock = sock
        self.name = name
        self.scheme = "http" if context is None else "https"
        self.got: dict[int, Got] = {}
        self.goaways: list[tuple[int, int]] = []
        self.settings: dict[int, int] = {}
        self.ended = False
        self.error: OSError | None = None
        self.next_stream = 1
        self.credit = credit and acknowledge
        self.acknowledge = acknowledge
        self.encoder, self._decoder = hpack.Encoder(), hpack.Decoder()
        self._buffer = b""
        self._block: tuple[int, bool, bytes] | None = None
        if greet:
            self.raw(PREFACE)
            self.send(SettingsFrame(0, settings or {}))

    def __enter__(self) -> FrameClient:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.sock.close()

    def raw(self, data: bytes) -> None:
        self.sock.sendall(data)

    def send(self, *frames: Frame) -> None:
        """Send frames."""
        self.raw(b"".join(frame.serialize() for frame in frames))

    def fields(self, method: str = "GET", path: str = "/", more: Iterable[tuple[str, str]] = ()) -> Fields:
        """The fields of a usual request."""
        return [(":method", method), (":scheme", self.scheme), (":authority", self.name), (":path", path), *more]

    def head(self, stream: int, fields: Fields, end: bool = True) -> HeadersFrame:
        """A HEADERS frame."""
        return HeadersFrame(stream, self.encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"] if end else ["END_HEADERS"])

    def new(self) -> int:
        """The number of a new stream."""
        self.next_stream += 2
        return self.next_stream - 2

    def ask(self, path: str = "/", method: str = "GET", more: Iterable[tuple[str, str]] = (), end: bool = True) -> int:
        """Send a request's head, and return its stream."""
        stream = self.new()
        self.send(self.head(stream, self.fields(method, path, more), end))
        return stream

    def data(self, stream: int, data: bytes, end: bool = False) -> None:
        """Send one DATA frame."""
        self.send(DataFrame(stream, data, flags=["END_STREAM"] if end else []))

    def frame(self, seconds: float = 10.0) -> Frame | None:
        """The next frame, None at the end of the connection. Raises TimeoutError."""
        self.sock.settimeout(max(0.001, seconds))
        while True:
            if len(self._buffer) >= 9:
                found, length = Frame.parse_frame_header(memoryview(self._buffer)[:9])
                if len(self._buffer) >= 9 + length:
                    found.parse_body(memoryview(self._buffer)[9 : 9 + length])
                    self._buffer = self._buffer[9 + length :]
                    self._keep(found)
                    return found
            try:
                data = self.sock.recv(1 << 18)
            except TimeoutError:
                raise
            except OSError as error:
                data, self.error = b"", error
            if not data:
                self.ended = True
                return None
            self._buffer += data

    def until(self, condition: Callable[[], object], seconds: float = 10.0) -> None:
        """Read frames until the condition is true. AssertionError at the end of the connection, or of the time."""
        seconds = patience(seconds)
        deadline = time.monotonic() + seconds
        while not condition():
            try:
                ended = self.frame(deadline - time.monotonic()) is None
            except TimeoutError:
                raise AssertionError(f"nothing came in {seconds} s: {self.got} {self.goaways}") from None
            assert not ended or condition(), f"the connection ended: {self.got} {self.goaways}"

    def answers(self, *streams: int, seconds: float = 10.0) -> list[Got]:
        """The answers of streams, when all are over."""
        self.until(lambda: all(stream in self.got and self.got[stream].over for stream in streams), seconds)
        return [self.got[stream] for stream in streams]

    def answer(self, stream: int, seconds: float = 10.0) -> Got:
        """The answer of one stream."""
        return self.answers(stream, seconds=seconds)[0]

    def goaway(self, seconds: float = 5.0) -> tuple[int, int]:
        """The last GOAWAY (stream, code) before the end of the connection, or of the time."""
        deadline = time.monotonic() + seconds
        try:
            while self.frame(deadline - time.monotonic()) is not None:
                pass
        except TimeoutError:
            pass
        assert self.goaways, f"no GOAWAY: {self.got}"
        return self.goaways[-1]

    def alive(self) -> bool:
        """Whether the connection still answers a PING."""
        self.send(PingFrame(0, b"are you?"))
        try:
            while (frame := self.frame(5)) is not None:
                if isinstance(frame, PingFrame) and frame.opaque_data == b"are you?":
                    return True
        except TimeoutError:
            pass
        return False

    def _keep(self, frame: Frame) -> None:
        got = self.got.setdefault(frame.stream_id, Got()) if frame.stream_id else Got()
        if isinstance(frame, DataFrame):
            got.body += frame.data
            self._end(got, "END_STREAM" in frame.flags)
            if self.credit and frame.flow_controlled_length:
                self.send(*([] if got.ended else [WindowUpdateFrame(frame.stream_id, window_increment=frame.flow_controlled_length)]),
                          WindowUpdateFrame(0, window_increment=frame.flow_controlled_length))
        elif isinstance(frame, HeadersFrame | ContinuationFrame):
            stream, end, block = self._block or (frame.stream_id, "END_STREAM" in frame.flags, b"")
            self._block = (stream, end, block + frame.data)
            if "END_HEADERS" in frame.flags:
                block, self._block = self._block[2], None
                fields = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
                          for name, value in self._decoder.decode(block, raw=True)]
                got.heads.append(fields)
                got.status = int(dict(fields).get(":status", got.status))
                self._end(got, end)
        elif isinstance(frame, RstStreamFrame):
            got.reset, got.at = frame.error_code, time.monotonic()
        elif isinstance(frame, GoAwayFrame):
            self.goaways.append((frame.last_stream_id, frame.error_code))
        elif isinstance(frame, SettingsFrame) and "ACK" not in frame.flags:
            self.settings.update(frame.settings)
            if self.acknowledge:
                self.send(SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, PingFrame) and "ACK" not in frame.flags and self.acknowledge:
            self.send(PingFrame(0, frame.opaque_data, flags=["ACK"]))

    @staticmethod
    def _end(got: Got, ended: bool) -> None:
        if ended:
            got.ended, got.at = True, time.monotonic()
