"""The client's side of an HTTP/2 connection (RFC 9113), without I/O: `begin` streams, and use the rest as that of `connection`.

Frames, windows, settings and bounds are the same on both sides. What is here is what only one who asks has: streams of its own, heads
of answers, and what the server says of how many streams it takes.
"""

from __future__ import annotations

from collections.abc import Iterable

from proxyd.http2 import frames
from proxyd.http2.connection import Bounds, Connection
from proxyd.http2.errors import NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, ConnectionFault, StreamFault
from proxyd.http2.events import Answer, Body, Event, Leaving, Pong, Trailers
from proxyd.http2.frames import MAX_WINDOW
from proxyd.http2.stream import Stream

#: Stream numbers end here. A connection that comes near takes no more.
_LAST = MAX_WINDOW - 2
_MOST_DETAIL = 200


class ClientStream(Stream):
    """A stream that was begun here. `answered`: the head of its final answer has come."""

    __slots__ = ("answered",)

    def __init__(self, stream_id: int, room: int, granted: int, began: float) -> None:
        super().__init__(stream_id, room, granted, began)
        self.answered = False


class ClientConnection(Connection):
    """One connection to a server. `bounds.streams`: how many streams are begun at once, if the server takes as many.

    allowed              how many streams the server takes at once
    settled              whether its first SETTINGS have come
    leaving              whether it has sent GOAWAY
    takes_websockets     whether it takes extended CONNECT (RFC 8441 3)
    """

    __slots__ = ("allowed", "takes_websockets")

    def __init__(self, bounds: Bounds, now: float) -> None:
        super().__init__(bounds, now)
        self.allowed = bounds.streams
        self.takes_websockets = False
        self._greeted = True

    def _greeting(self) -> bytes:
        bounds = self.bounds
        return frames.PREFACE + frames.settings((
            (frames.ENABLE_PUSH, 0), (frames.INITIAL_WINDOW_SIZE, bounds.stream_window),
            (frames.MAX_HEADER_LIST_SIZE, bounds.header_list)))

    @property
    def settled(self) -> bool:
        return self._settled

    def room(self) -> int:
        """How many streams can be begun now."""
        if self.leaving or self.stopped or self.streams.last >= _LAST:
            return 0
        return min(self.allowed, self.bounds.streams) - len(self.streams.open)

    def begin(self, fields: Iterable[tuple[str, str]], end: bool) -> ClientStream:
        """Send the head of a request, the pseudo-header fields first. `end`: it has no body. There must be `room`."""
        streams = self.streams
        number = streams.last + 2 if streams.last else 1
        stream = ClientStream(number, self.sender.first_room, self.bounds.stream_window, self._ledger.now)
        streams.last = number
        streams.open[number] = stream
        self._ledger.began()
        self.sender.head(stream, 0, fields, end)
        return stream

    def ping(self, payload: bytes) -> None:
        """Ask whether the server is there. Pong comes if it is."""
        self.sender.put(frames.ping(payload))

    def next_event(self) -> Event | None:
        event = super().next_event()
        if type(event) is Body and not event.stream.answered:  # type: ignore[attr-defined]
            self.consumed(event.stream, len(event.data))
            return self.streams.refuse(event.stream.id, StreamFault(PROTOCOL_ERROR, "a body comes before the head of its answer"))
        return event

    def _whole(self, stream_id: int, block: bytes, ends: bool, depends_on_itself: bool) -> Event | None:
        fields, size = self._decode(block)
        stream = self.streams.open.get(stream_id)
        if stream is None:
            self.streams.must_have_been(stream_id)
            if not self.streams.closed.get(stream_id):
                raise ConnectionFault(STREAM_CLOSED, "HEADERS on a closed stream")
            self._count(frames.HEADERS)
            return None
        assert isinstance(stream, ClientStream)
        if not stream.receiving:
            raise StreamFault(STREAM_CLOSED, "HEADERS after the end of the answer")
        if stream.answered:
            if not ends:
                raise StreamFault(PROTOCOL_ERROR, "a second head that does not end the answer")
            self.streams.received(stream)
            return Trailers(stream, fields)
        informational = bool(fields) and fields[0][0] == b":status" and fields[0][1][:1] == b"1"
        if informational and ends:
            raise StreamFault(PROTOCOL_ERROR, "an informational answer ends the stream")
        stream.answered = not informational
        if ends:
            self.streams.received(stream)
        return Answer(stream, fields, size, ends)

    def _set(self, key: int, value: int) -> None:
        if key == frames.MAX_CONCURRENT_STREAMS:
            self.allowed = value
        elif key == frames.ENABLE_CONNECT_PROTOCOL:
            if value > 1 or (self.takes_websockets and not value):
                raise ConnectionFault(PROTOCOL_ERROR, f"the setting {key} can't be {value}")
            self.takes_websockets = value == 1
        else:
            super()._set(key, value)

    def _pong(self, payload: bytes) -> Event | None:
        return Pong()

    def _leave(self, payload: bytes) -> Event | None:
        """GOAWAY: what is above the stream that it names was not looked at, and may be sent elsewhere (RFC 9113 6.8)."""
        self.leaving = True
        detail = payload[8 : 8 + _MOST_DETAIL].decode("ascii", "replace")
        return Leaving(frames.number(payload[:4]) & MAX_WINDOW, frames.number(payload[4:8]), detail)

    def stop(self, code: int = NO_ERROR, detail: str = "") -> None:
        """Say that no more is asked for. The server may end the connection."""
        if not self.stopped or code:
            self.stopped = True
            self.sender.put(frames.goaway(0, code, detail))
