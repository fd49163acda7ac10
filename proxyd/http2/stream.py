"""One stream of a connection, and the queue of those that have something to send."""

from __future__ import annotations

from typing import Any

from proxyd.http2.priority import USUAL

_NOTHING = memoryview(b"")


class Stream:
    """The state of a stream (RFC 9113 5.1), its windows, and what it has to send.

    receiving, sending   whether that side is still open
    room                 bytes that the client's window takes (may be negative, RFC 9113 6.9.2)
    granted              bytes that the client may still send
    unread               bytes that were read, and of which the client was not told yet
    pending              what waits to be sent; `ends`: whether the answer ends with it
    sent                 bytes that were put into frames
    owner                what the user of the engine keeps here
    began                when the last bytes had come before it began (monotonic seconds)
    """

    __slots__ = (
        "began", "ends", "granted", "id", "incremental", "owner", "pending", "queued", "receiving", "room", "sending", "sent", "unread",
        "urgency",
    )  # fmt: skip

    def __init__(self, stream_id: int, room: int, granted: int, began: float = 0.0) -> None:
        self.id = stream_id
        self.room = room
        self.granted = granted
        self.unread = 0
        self.receiving = self.sending = True
        self.pending = _NOTHING
        self.ends = False
        self.sent = 0
        self.urgency = USUAL
        self.incremental = True
        self.queued = False
        self.owner: Any = None
        self.began = began

    def ready(self) -> bool:
        """Whether it can send something now, as far as its own window says."""
        return self.sending and ((len(self.pending) > 0 and self.room > 0) or (self.ends and not self.pending))


class Queue:
    """The streams that can send, by urgency. Incremental ones take turns; of the others, the oldest goes first."""

    __slots__ = ("_by_urgency", "_count")

    def __init__(self) -> None:
        #: Only lines in which somebody stands: most connections have none.
        self._by_urgency: dict[int, list[Stream]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, stream: Stream) -> None:
        """Put a stream in, at the end of its line."""
        if not stream.queued:
            stream.queued = True
            self._by_urgency.setdefault(stream.urgency, []).append(stream)
            self._count += 1

    def remove(self, stream: Stream) -> None:
        """Take a stream out."""
        if stream.queued:
            self._take_out(stream)

    def next(self) -> Stream | None:
        """Take out the stream whose turn it is. One that has more to send is added again."""
        if not self._count:
            return None
        line = self._by_urgency[min(self._by_urgency)]
        stream = line[0]
        if not stream.incremental and len(line) > 1:
            stream = min((other for other in line if not other.incremental), key=_age)
        self._take_out(stream)
        return stream

    def _take_out(self, stream: Stream) -> None:
        line = self._by_urgency[stream.urgency]
        line.remove(stream)
        if not line:
            del self._by_urgency[stream.urgency]
        stream.queued = False
        self._count -= 1


def _age(stream: Stream) -> int:
    return stream.id
