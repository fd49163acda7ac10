"""The server's side of an HTTP/2 connection (RFC 9113), without I/O: `feed` bytes, take `next_event` until None, send `take`.

A client's body is told in the pieces in which it comes, not frame by frame. What asks for work and brings none is counted
(`budget`), and the count has a bound: a flood ends with ENHANCE_YOUR_CALM.
"""

from __future__ import annotations

from dataclasses import dataclass

from proxyd.http2 import frames
from proxyd.http2.bodies import Bodies
from proxyd.http2.budget import Ledger
from proxyd.http2.errors import (
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FRAME_SIZE_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ConnectionFault,
    StreamFault,
)
from proxyd.http2.events import Ended, Event, Field, Pong, Request, Trailers
from proxyd.http2.frames import ACK, END_HEADERS, END_STREAM, HAS_PRIORITY, HEADER_SIZE, MAX_PAYLOAD, MAX_WINDOW, PADDED
from proxyd.http2.hpack import Decoder, HpackError, ListTooLarge
from proxyd.http2.priority import parse_priority
from proxyd.http2.stream import Stream
from proxyd.http2.streams import Streams

_GOODBYE = b"goingawy"
_PIECES_OF_A_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Bounds:
    """What a client may ask for: streams at once, bytes on their way to us (of a stream, of all), bytes of a header."""

    streams: int = 100
    stream_window: int = 262144
    connection_window: int = 2097152
    header_list: int = 65536


@dataclass(slots=True)
class _Block:
    """A header block that has begun, and is not whole yet."""

    stream_id: int
    ends: bool
    depends_on_itself: bool
    pieces: list[bytes]
    size: int


class Connection:
    """One connection. Instants are monotonic seconds.

    in_block             whether a header has begun and is not whole
    leaving              whether the client has sent GOAWAY
    stopped              whether `stop` was called: new streams are refused
    """

    __slots__ = (
        "_at", "_block", "_buffer", "_decoder", "_greeted", "_ledger", "_partial_header", "_settled", "_useful", "bodies", "bounds",
        "leaving", "sender", "stopped", "streams",
    )  # fmt: skip

    def __init__(self, bounds: Bounds, now: float) -> None:
        self.bounds = bounds
        self._ledger = Ledger(now)
        self.streams = Streams(self._ledger)
        self.sender = self.streams.sender
        self.leaving = self.stopped = False
        self._decoder = Decoder(bounds.header_list)
        self._useful = 0
        self._buffer = b""
        self._at = 0
        self._greeted = self._settled = False
        self._block: _Block | None = None
        self._partial_header = False
        self.sender.put(self._greeting())
        self.bodies = Bodies(self.streams, self._ledger, bounds.stream_window, bounds.connection_window)

    def _greeting(self) -> bytes:
        """The first that is sent."""
        bounds = self.bounds
        return frames.settings((
            (frames.MAX_CONCURRENT_STREAMS, bounds.streams), (frames.INITIAL_WINDOW_SIZE, bounds.stream_window),
            (frames.MAX_HEADER_LIST_SIZE, bounds.header_list), (frames.ENABLE_CONNECT_PROTOCOL, 1), (frames.NO_RFC7540_PRIORITIES, 1)))

    # -- reading

    @property
    def in_block(self) -> bool:
        return self._block is not None or self._partial_header

    @property
    def block_size(self) -> int:
        """Bytes that have come of the header that is not whole."""
        held = self._block.size if self._block is not None else 0
        return held + (len(self._buffer) - self._at if self._partial_header else 0)

    def feed(self, data: bytes, now: float) -> None:
        """Bytes that have come."""
        self._ledger.now = now
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0

    def next_event(self) -> Event | None:
        """What has come next; None if that takes more bytes. Raises ConnectionFault."""
        bodies = self.bodies
        while True:
            if bodies.busy:
                event: Event | None = bodies.read(self._buffer, self._at)
                self._at = bodies.at
                if event is None and bodies.busy:
                    return None
            else:
                buffer, at = self._buffer, self._at
                if not self._greeted and not self._greet():
                    return None
                at = self._at
                if len(buffer) - at < HEADER_SIZE:
                    if at == len(buffer):
                        self._buffer, self._at = b"", 0
                    return None
                length = buffer[at] << 16 | buffer[at + 1] << 8 | buffer[at + 2]
                kind, flags = buffer[at + 3], buffer[at + 4]
                stream_id = int.from_bytes(buffer[at + 5 : at + 9], "big") & MAX_WINDOW
                self._check(kind, length, stream_id)
                try:
                    if kind == frames.DATA:
                        if flags & PADDED and length and len(buffer) - at < HEADER_SIZE + 1:
                            return None
                        self._at = bodies.at = at + HEADER_SIZE
                        event = bodies.begin(buffer, self._at, flags, stream_id, length)
                        self._at = bodies.at
                    else:
                        end = at + HEADER_SIZE + length
                        if len(buffer) < end:
                            self._partial_header = kind in (frames.HEADERS, frames.CONTINUATION)
                            return None
                        self._at = end
                        self._partial_header = False
                        event = self._take(kind, flags, stream_id, buffer[at + HEADER_SIZE : end])
                except StreamFault as fault:
                    self._at = max(self._at, bodies.at) if kind == frames.DATA else self._at
                    event = self.streams.refuse(stream_id, fault)
            if event is not None:
                return event

    def _greet(self) -> bool:
        """Read the preface. Returns whether it is whole."""
        have = self._buffer[:24]
        if not frames.PREFACE.startswith(have):
            raise ConnectionFault(PROTOCOL_ERROR, "the connection does not begin with the preface of HTTP/2")
        if len(have) < len(frames.PREFACE):
            return False
        self._greeted = True
        self._at = len(have)
        return True

    def _check(self, kind: int, length: int, stream_id: int) -> None:
        """Refuse a frame that may not come now."""
        if not self._settled and kind != frames.SETTINGS:
            raise ConnectionFault(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        if length > MAX_PAYLOAD:
            raise ConnectionFault(FRAME_SIZE_ERROR, f"a frame is larger than {MAX_PAYLOAD} bytes")
        block = self._block
        if block is not None and (kind != frames.CONTINUATION or stream_id != block.stream_id):
            raise ConnectionFault(PROTOCOL_ERROR, "another frame comes in the middle of a header")

    def _take(self, kind: int, flags: int, stream_id: int, payload: bytes) -> Event | None:
        """Read a whole frame other than DATA."""
        if kind == frames.HEADERS:
            return self._headers(flags, stream_id, payload)
        self._count(kind)
        if kind == frames.CONTINUATION:
            return self._continue(flags, payload)
        if kind == frames.WINDOW_UPDATE:
            self._widen(stream_id, payload)
        elif kind == frames.RST_STREAM:
            return self._reset_by_client(stream_id, payload)
        elif kind == frames.SETTINGS:
            self._settings(flags, stream_id, payload)
        elif kind == frames.PING:
            return self._ping(flags, stream_id, payload)
        elif kind == frames.PRIORITY:
            self._priority(stream_id, payload)
        elif kind == frames.PRIORITY_UPDATE:
            self._prefer(stream_id, payload)
        elif kind == frames.GOAWAY:
            if stream_id or len(payload) < 8:
                raise ConnectionFault(PROTOCOL_ERROR, "GOAWAY on a stream, or too short")
            return self._leave(payload)
        elif kind == frames.PUSH_PROMISE:
            raise ConnectionFault(PROTOCOL_ERROR, "a client can't push")
        return None

    def _leave(self, payload: bytes) -> Event | None:
        self.leaving = True
        return None

    def _count(self, kind: int) -> None:
        """Count a frame that brings nothing, after the useful ones since the last. Raises ConnectionFault if there are too many."""
        sent = self.sender.useful
        if sent != self._useful:
            self._ledger.sent(sent - self._useful)
            self._useful = sent
        self._ledger.noise(kind)

    # -- heads

    def _headers(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if not stream_id & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "HEADERS on a stream that a client can't begin")
        payload = _unpadded(flags, payload)
        depends = False
        if flags & HAS_PRIORITY:
            if len(payload) < 5:
                raise ConnectionFault(FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            depends = frames.number(payload[:4]) & MAX_WINDOW == stream_id
            payload = payload[5:]
        ends = bool(flags & END_STREAM)
        if flags & END_HEADERS:
            return self._whole(stream_id, payload, ends, depends)
        self._block = _Block(stream_id, ends, depends, [payload], len(payload))
        return None

    def _continue(self, flags: int, payload: bytes) -> Event | None:
        block = self._block
        if block is None:
            raise ConnectionFault(PROTOCOL_ERROR, "CONTINUATION without a header that it goes on with")
        block.pieces.append(payload)
        block.size += len(payload)
        if len(block.pieces) > _PIECES_OF_A_BLOCK or block.size > 2 * self.bounds.header_list:
            raise ConnectionFault(ENHANCE_YOUR_CALM, "a header is too large, or in too many pieces")
        if not flags & END_HEADERS:
            return None
        self._block = None
        return self._whole(block.stream_id, b"".join(block.pieces), block.ends, block.depends_on_itself)

    def _whole(self, stream_id: int, block: bytes, ends: bool, depends_on_itself: bool) -> Event | None:
        """A header is whole."""
        fields, size = self._decode(block)
        stream = self.streams.open.get(stream_id)
        if stream is not None:
            if not stream.receiving:
                raise StreamFault(STREAM_CLOSED, "HEADERS after the end of the request")
            if not ends:
                raise StreamFault(PROTOCOL_ERROR, "a second header that does not end the request")
            self.streams.received(stream)
            return Trailers(stream, fields)
        if stream_id <= self.streams.last:
            ours = self.streams.closed.get(stream_id)
            if ours is None:
                raise ConnectionFault(PROTOCOL_ERROR, "a new stream has a lower number than one before")
            if not ours:
                raise ConnectionFault(STREAM_CLOSED, "HEADERS on a closed stream")
            # It was on its way when we closed the stream.
            self._count(frames.HEADERS)
            return None
        self.streams.last = stream_id
        if self.stopped:
            self._count(frames.HEADERS)
            # The client knows from our GOAWAY that this was not looked at, and sends it elsewhere.
            self.streams.forget(stream_id, True)
            self.sender.put(frames.reset(stream_id, REFUSED_STREAM))
            return None
        if len(self.streams.open) >= self.bounds.streams:
            raise StreamFault(REFUSED_STREAM, "too many streams at once")
        if depends_on_itself:
            raise StreamFault(PROTOCOL_ERROR, "a stream depends on itself")
        stream = Stream(stream_id, self.sender.first_room, self.bounds.stream_window, self._ledger.now)
        self.streams.open[stream_id] = stream
        stream.receiving = not ends
        self._ledger.began()
        return Request(stream, fields, size)

    def _decode(self, block: bytes) -> tuple[list[Field], int]:
        """The fields of a whole header, and their size. Raises ConnectionFault."""
        try:
            return self._decoder.decode(block)
        except ListTooLarge as error:
            raise ConnectionFault(ENHANCE_YOUR_CALM, str(error)) from None
        except HpackError as error:
            raise ConnectionFault(COMPRESSION_ERROR, str(error)) from None

    # -- bodies

    def consumed(self, stream: Stream, size: int) -> None:
        """Bytes of a body were read, or nobody will: the client may send as many again. It is told when half a window has gathered."""
        self.bodies.consumed(stream, size)

    # -- the other frames

    def _widen(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "WINDOW_UPDATE is not four bytes long")
        size = frames.number(payload) & MAX_WINDOW
        if not stream_id:
            if not size:
                raise ConnectionFault(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
            self.sender.widen(size)
            return
        stream = self.streams.open.get(stream_id)
        if stream is None:
            self.streams.must_have_been(stream_id)
            return
        if not size:
            raise StreamFault(PROTOCOL_ERROR, "WINDOW_UPDATE of nothing")
        self.sender.widen_stream(stream, size)

    def _reset_by_client(self, stream_id: int, payload: bytes) -> Event | None:
        if len(payload) != 4:
            raise ConnectionFault(FRAME_SIZE_ERROR, "RST_STREAM is not four bytes long")
        stream = self.streams.open.get(stream_id)
        if stream is None:
            self.streams.must_have_been(stream_id)
            return None
        self.streams.close(stream, False)
        self._ledger.reset(stream.began)
        return Ended(stream, frames.number(payload), "")

    def _settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise ConnectionFault(FRAME_SIZE_ERROR, "SETTINGS is not a list of settings")
        self._settled = True
        if flags & ACK:
            return
        for key, value in frames.pairs(payload):
            self._set(key, value)
        self.sender.put(frames.SETTINGS_ACK)

    def _set(self, key: int, value: int) -> None:
        """Take over one of the peer's settings."""
        if key == frames.INITIAL_WINDOW_SIZE:
            self.sender.resize_windows(value, self.streams.open.values())
        elif key == frames.HEADER_TABLE_SIZE:
            self.sender.resize_table(value)
        elif (key in (frames.ENABLE_PUSH, frames.NO_RFC7540_PRIORITIES) and value > 1) or (
                key == frames.MAX_FRAME_SIZE and not MAX_PAYLOAD <= value < 1 << 24):
            raise ConnectionFault(PROTOCOL_ERROR, f"the setting {key} can't be {value}")

    def _ping(self, flags: int, stream_id: int, payload: bytes) -> Event | None:
        if stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(FRAME_SIZE_ERROR, "PING is not eight bytes long")
        if flags & ACK:
            return self._pong(payload)
        self.sender.put(frames.ping(payload, ACK))
        return None

    def _pong(self, payload: bytes) -> Event | None:
        return Pong() if payload == _GOODBYE else None

    def _priority(self, stream_id: int, payload: bytes) -> None:
        """PRIORITY, which only has to be well formed (RFC 9113 5.3.2)."""
        if not stream_id:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY without a stream")
        if len(payload) != 5:
            raise StreamFault(FRAME_SIZE_ERROR, "PRIORITY is not five bytes long")
        if frames.number(payload[:4]) & MAX_WINDOW == stream_id:
            raise StreamFault(PROTOCOL_ERROR, "a stream depends on itself")

    def _prefer(self, stream_id: int, payload: bytes) -> None:
        if stream_id or len(payload) < 4:
            raise ConnectionFault(PROTOCOL_ERROR, "PRIORITY_UPDATE on a stream, or too short")
        stream = self.streams.open.get(frames.number(payload[:4]) & MAX_WINDOW)
        if stream is not None:
            self.sender.prefer(stream, *parse_priority(payload[4:260]))

    # -- how streams end

    def blame(self, stream: Stream, code: int = PROTOCOL_ERROR) -> None:
        """Reset a stream because of what its request says. Raises ConnectionFault if that happens too often."""
        self.streams.blame(stream, code)

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream, if it is still open."""
        self.streams.reset(stream, code)

    # -- how the connection ends

    def shut_down(self) -> None:
        """Say that the connection is going to end. Streams that begin until the client has read it are served; it has when Pong comes
        (RFC 9113 6.8)."""
        self.sender.put(frames.goaway(MAX_WINDOW, NO_ERROR) + frames.ping(_GOODBYE))

    def stop(self, code: int = NO_ERROR, detail: str = "") -> None:
        """Say which stream was the last. Those that are open go on, new ones are refused."""
        if not self.stopped or code:
            self.stopped = True
            self.sender.put(frames.goaway(self.streams.last, code, detail))


def _unpadded(flags: int, payload: bytes) -> bytes:
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(PROTOCOL_ERROR, "a frame is shorter than its padding")
    return payload[1 : len(payload) - payload[0]]
