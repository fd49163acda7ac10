"""The streams of a connection: which are open, which were, and how they end."""

from __future__ import annotations

from proxyd.http2 import frames
from proxyd.http2.budget import Ledger
from proxyd.http2.errors import PROTOCOL_ERROR, ConnectionFault, StreamFault
from proxyd.http2.events import Ended, Event
from proxyd.http2.sender import Sender
from proxyd.http2.stream import Stream

_CLOSED_KEPT = 1000


class Streams:
    """`open`: by number. `last`: the highest number of a stream that was begun. `closed`: those that were closed last, and whether we
    reset them, so that what was on its way is no fault."""

    __slots__ = ("_ledger", "closed", "last", "open", "sender")

    def __init__(self, ledger: Ledger) -> None:
        self.open: dict[int, Stream] = {}
        self.closed: dict[int, bool] = {}
        self.last = 0
        self.sender = Sender(self._answered)
        self._ledger = ledger

    def must_have_been(self, stream_id: int) -> None:
        """Refuse a frame on a stream that was never open."""
        if not stream_id or stream_id > self.last or not stream_id & 1:
            raise ConnectionFault(PROTOCOL_ERROR, "a frame on a stream that is not open")

    def received(self, stream: Stream) -> None:
        """The request is whole."""
        stream.receiving = False
        if not stream.sending:
            self.close(stream, False)

    def _answered(self, stream: Stream) -> None:
        """The answer is whole."""
        self._ledger.answered()
        if not stream.receiving:
            self.close(stream, False)

    def close(self, stream: Stream, by_us: bool) -> None:
        self.sender.drop(stream)
        if self.open.pop(stream.id, None) is not None:
            self.forget(stream.id, by_us)

    def forget(self, stream_id: int, by_us: bool) -> None:
        closed = self.closed
        closed[stream_id] = by_us
        if len(closed) > _CLOSED_KEPT:
            del closed[next(iter(closed))]

    def refuse(self, stream_id: int, fault: StreamFault) -> Event | None:
        """Reset a stream because of what was sent on it."""
        self._ledger.reset()
        stream = self.open.get(stream_id)
        if stream is not None:
            self.close(stream, True)
        elif stream_id:
            self.forget(stream_id, True)
        self.sender.put(frames.reset(stream_id, fault.code))
        return Ended(stream, fault.code, fault.detail) if stream is not None else None

    def blame(self, stream: Stream, code: int = PROTOCOL_ERROR) -> None:
        """Reset a stream because of what its request says. Raises ConnectionFault if that happens too often."""
        self.reset(stream, code)
        self._ledger.reset()

    def reset(self, stream: Stream, code: int) -> None:
        """End a stream, if it is still open."""
        if stream.id in self.open:
            self.close(stream, True)
            self.sender.put(frames.reset(stream.id, code))
