"""DATA frames: the bodies of requests, in the pieces in which they come, and the windows that bound them (RFC 9113 5.2, 6.1)."""

from __future__ import annotations

from proxyd.http2 import frames
from proxyd.http2.budget import Ledger
from proxyd.http2.errors import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, ConnectionFault, StreamFault
from proxyd.http2.events import Body, Event
from proxyd.http2.frames import END_STREAM, FIRST_WINDOW, PADDED
from proxyd.http2.stream import Stream
from proxyd.http2.streams import Streams


class Bodies:
    """Reads DATA frames, and grants windows. `at`: where in the buffer reading has come to. `busy`: whether a frame has begun and is not
    at its end."""

    __slots__ = ("_connection_window", "_ends", "_granted", "_ledger", "_left", "_padding", "_reads", "_stream_window", "_streams",
                 "_unread", "at")

    def __init__(self, streams: Streams, ledger: Ledger, stream_window: int, connection_window: int) -> None:
        self.at = 0
        self._streams = streams
        self._ledger = ledger
        self._stream_window = stream_window
        self._connection_window = connection_window
        # The frame that is being read: its stream (None: nobody reads it), bytes left of it and of its padding, if it is the last.
        self._reads: Stream | None = None
        self._left = self._padding = 0
        self._ends = False
        self._granted = FIRST_WINDOW
        self._unread = 0
        more = connection_window - FIRST_WINDOW
        if more > 0:
            streams.sender.put(frames.window_update(0, more))
            self._granted += more

    @property
    def busy(self) -> bool:
        return self._left > 0 or self._padding > 0

    def begin(self, buffer: bytes, at: int, flags: int, stream_id: int, length: int) -> Event | None:
        """Read the beginning of a frame, whose payload stands at `at`. Raises StreamFault, ConnectionFault."""
        if not stream_id or stream_id > self._streams.last:
            raise ConnectionFault(PROTOCOL_ERROR, "DATA on a stream that is not open")
        padding = 0
        if flags & PADDED:
            padding = buffer[at] + 1 if length else 1
            at += 1
            if padding > length:
                raise ConnectionFault(PROTOCOL_ERROR, "a frame is shorter than its padding")
        self._granted -= length
        if self._granted < 0:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "more was sent than the window of the connection allows")
        self.at = at
        self._left, self._padding = length - padding, max(0, padding - 1)
        self._ends = bool(flags & END_STREAM)
        self._reads = None
        stream = self._streams.open.get(stream_id)
        if stream is None or not stream.receiving or length > stream.granted:
            self._unread += length
            self._grant()
            if stream is not None:
                if stream.receiving:
                    raise StreamFault(FLOW_CONTROL_ERROR, "more was sent than the window of the stream allows")
                raise StreamFault(STREAM_CLOSED, "DATA after the end of the request")
            if not self._streams.closed.get(stream_id):
                raise ConnectionFault(STREAM_CLOSED, "DATA on a closed stream")
            self._ledger.noise(-1)
            return None
        self._reads = stream
        stream.granted -= length
        if padding:
            self.consumed(stream, padding)
        if not self._left and not self._ends:
            self._ledger.noise(frames.DATA)
        return None if self._left or self._padding else self._end_body(stream)

    def _end_body(self, stream: Stream) -> Event | None:
        """A frame ends of which nothing else was to be told. Nobody is there to be told if the stream was reset meanwhile."""
        if not self._ends or not stream.receiving:
            return None
        self._streams.received(stream)
        return Body(stream, b"", True)

    def read(self, buffer: bytes, at: int) -> Event | None:
        """Tell what there is, from `at` on, of a frame that has begun."""
        stream = self._reads
        if not self._left:
            self.at = at + min(self._padding, len(buffer) - at)
            self._padding -= self.at - at
            return self._end_body(stream) if stream is not None and not self._padding else None
        size = min(self._left, len(buffer) - at)
        if not size:
            return None
        self._left -= size
        self.at = at + size
        if stream is None:
            return None
        if not stream.receiving:
            # It was reset since the frame began.
            self._reads = None
            self._unread += size + self._left
            self._grant()
            return None
        ended = self._ends and not self._left and not self._padding
        if ended:
            self._streams.received(stream)
        return Body(stream, buffer[at : at + size], ended)

    def consumed(self, stream: Stream, size: int) -> None:
        """Bytes of a body were read, or nobody will: the client may send as many again. It is told when half a window has gathered."""
        self._unread += size
        self._grant()
        stream.unread += size
        if stream.unread * 2 >= self._stream_window and stream.receiving:
            self._streams.sender.put(frames.window_update(stream.id, stream.unread))
            stream.granted += stream.unread
            stream.unread = 0

    def _grant(self) -> None:
        if self._unread * 2 >= self._connection_window:
            self._streams.sender.put(frames.window_update(0, self._unread))
            self._granted += self._unread
            self._unread = 0
