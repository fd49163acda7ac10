"""What a connection sends: frames in the order in which they were made, and bodies in turns, as far as the client's windows allow."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from proxyd.http2 import frames
from proxyd.http2.encoder import Encoder
from proxyd.http2.errors import FLOW_CONTROL_ERROR, ConnectionFault, StreamFault
from proxyd.http2.frames import DATA, END_STREAM, FIRST_WINDOW, MAX_PAYLOAD, MAX_WINDOW
from proxyd.http2.stream import Queue, Stream

_NOTHING = memoryview(b"")
#: While no more than this waits to be sent, a small body is put there at once instead of into the queue.
_AT_ONCE = 65536


class Sender:
    """Frames that wait to be sent (`backlog` bytes of them), and streams whose bodies do.

    `finished(stream)` is called when the last of an answer was put into a frame. `drained` collects the streams whose pending bytes
    all were; whoever calls `take` empties it.
    """

    __slots__ = ("_encoder", "_out", "_queue", "backlog", "drained", "finished", "first_room", "room", "useful")

    def __init__(self, finished: Callable[[Stream], None]) -> None:
        self.finished = finished
        self.room = FIRST_WINDOW
        self.first_room = FIRST_WINDOW
        self.backlog = 0
        self.drained: list[Stream] = []
        #: Frames of bodies that were made: each may be answered by WINDOW_UPDATEs.
        self.useful = 0
        self._out: list[bytes | memoryview] = []
        self._queue = Queue()
        self._encoder = Encoder()

    def waiting(self) -> bool:
        """Whether `take` would return something, as far as is known."""
        return self.backlog > 0 or (len(self._queue) > 0 and self.room > 0)

    def put(self, frame: bytes) -> None:
        """Send a frame behind those that wait already."""
        self._out.append(frame)
        self.backlog += len(frame)

    def head(self, stream: Stream, status: int, fields: Iterable[tuple[str, str]], end: bool) -> None:
        """Send the head of an answer or, with status 0, trailers."""
        self.put(frames.headers(stream.id, self._encoder.encode(fields, status), end))
        if end:
            self._end(stream)

    def body(self, stream: Stream, data: bytes | memoryview, end: bool) -> bool:
        """Send a piece of an answer, the last one if `end`. Returns whether it is in frames already. If not, `data` must stay as it
        is, and nothing more may be sent on the stream, until the stream is among `drained`."""
        size = len(data)
        if not size or (size <= MAX_PAYLOAD and size <= stream.room and size <= self.room and not len(self._queue)
                        and self.backlog < _AT_ONCE):
            self._out += (frames.frame_header(size, DATA, END_STREAM if end else 0, stream.id), bytes(data))
            self.backlog += size + frames.HEADER_SIZE
            self._sent(stream, size)
            if end:
                self._end(stream)
            return True
        stream.pending = memoryview(data)
        stream.ends = end
        if stream.room > 0:
            self._queue.add(stream)
        return False

    def take(self, limit: int) -> bytes:
        """What to send next: about `limit` bytes of it, if there is as much."""
        out, size = self._out, self.backlog
        self._out, self.backlog = [], 0
        while size < limit and self.room > 0:
            stream = self._queue.next()
            if stream is None:
                break
            pending = stream.pending
            length = min(len(pending), MAX_PAYLOAD, stream.room, self.room)
            if length <= 0:
                # Its window has shrunk since it came into the queue. A WINDOW_UPDATE brings it back.
                continue
            whole = length == len(pending)
            last = whole and stream.ends
            out += (frames.frame_header(length, DATA, END_STREAM if last else 0, stream.id), pending[:length])
            size += length + frames.HEADER_SIZE
            self._sent(stream, length)
            if whole:
                stream.pending = _NOTHING
                self.drained.append(stream)
                if last:
                    self._end(stream)
            else:
                stream.pending = pending[length:]
                if stream.room > 0:
                    self._queue.add(stream)
        return b"".join(out)

    def _sent(self, stream: Stream, size: int) -> None:
        stream.room -= size
        stream.sent += size
        self.room -= size
        self.useful += 1

    def _end(self, stream: Stream) -> None:
        stream.sending = False
        self.finished(stream)

    def drop(self, stream: Stream) -> None:
        """Send no more of a stream."""
        self._queue.remove(stream)
        stream.pending = _NOTHING
        stream.sending = stream.receiving = False

    def withdraw(self, stream: Stream) -> None:
        """Forget what waits to be sent on a stream: whoever it belongs to takes it back."""
        self._queue.remove(stream)
        stream.pending = _NOTHING

    def prefer(self, stream: Stream, urgency: int, incremental: bool) -> None:
        """Change a stream's priority."""
        queued = stream.queued
        self._queue.remove(stream)
        stream.urgency, stream.incremental = urgency, incremental
        if queued:
            self._queue.add(stream)

    # -- what the client's settings and WINDOW_UPDATEs say

    def widen(self, size: int) -> None:
        """The client takes more on the connection. Raises ConnectionFault."""
        self.room += size
        if self.room > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "the window of the connection is larger than 2^31-1")

    def widen_stream(self, stream: Stream, size: int) -> None:
        """The client takes more of a stream. Raises StreamFault."""
        stream.room += size
        if stream.room > MAX_WINDOW:
            raise StreamFault(FLOW_CONTROL_ERROR, "the window of the stream is larger than 2^31-1")
        if stream.pending and stream.room > 0:
            self._queue.add(stream)

    def resize_windows(self, size: int, streams: Iterable[Stream]) -> None:
        """The client's SETTINGS_INITIAL_WINDOW_SIZE is this now (RFC 9113 6.9.2). Raises ConnectionFault."""
        if size > MAX_WINDOW:
            raise ConnectionFault(FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE is larger than 2^31-1")
        change = size - self.first_room
        self.first_room = size
        if not change:
            return
        try:
            for stream in streams:
                self.widen_stream(stream, change)
        except StreamFault as fault:
            raise ConnectionFault(fault.code, fault.detail) from None

    def resize_table(self, size: int) -> None:
        """The client's SETTINGS_HEADER_TABLE_SIZE is this now."""
        self._encoder.resize(size)
