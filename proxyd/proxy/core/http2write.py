"""How the frames of an HTTP/2 connection leave, of a client's or an upstream's: the greenlet that writes them, and how those that read,
send and write wait for each other."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

from gevent.hub import Waiter, get_hub

from proxyd.net.crew import Job, begin

if TYPE_CHECKING:
    from proxyd.http2.sender import Sender
    from proxyd.net.stream import DirectStream

#: Bytes that one call sends.
_BATCH = 131072
#: So many bytes the loop tries to send itself: of more, the socket may not take all, and the trial would be in vain.
_SMALL = 16384


class Wait:
    """A wait of one greenlet for another, one at a time."""

    __slots__ = ("_waiter",)

    def __init__(self) -> None:
        self._waiter: Any = None

    def wait(self) -> None:
        """Wait for `end`."""
        # A waiter that is given up, by a timeout, takes a late switch without harm.
        waiter: Any = Waiter(get_hub())
        self._waiter = waiter
        try:
            waiter.get()
        finally:
            self._waiter = None

    def end(self) -> None:
        """End the wait, if there is one. Must not wait."""
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            get_hub().loop.run_callback(waiter.switch, None)


class FrameWriter:
    """Writes what a sender has, and calls `sent` of the owner of each stream whose body is in frames.

    `watch`: called with `until` before each call that sends, which must take `timeout` seconds at most. `idle`: all was sent. `over`:
    nothing will be sent any more. `closing`: end the connection when all was sent.
    """

    __slots__ = ("_job", "_sender", "_stopped", "_stream", "_timeout", "_watch", "_went_on", "closing", "idle", "over", "until")

    def __init__(self, sender: Sender, stream: DirectStream, timeout: float = inf, watch: Callable[[float], None] | None = None) -> None:
        self._sender = sender
        self._stream = stream
        self._timeout = timeout
        self._watch = watch
        self._went_on = Wait()
        self._job: Job | None = None
        self._stopped = False
        self.idle = self.over = self.closing = False
        self.until = inf

    def start(self) -> None:
        """Begin to write."""
        self._job = begin(self._run, b"")

    def stop(self) -> None:
        """Write nothing more. Must not wait."""
        self.idle = False
        self._stopped = True
        if self._job is not None:
            self._job.kill()

    def wake(self) -> None:
        """There is something to send."""
        if self.idle:
            self.idle = False
            get_hub().loop.run_callback(self._send_now)

    def take(self) -> bytes:
        """What is to be sent next, for who sends it himself while the writer is idle."""
        return self._sender.take(_BATCH)

    def wait_below(self, backlog: int) -> None:
        """Wait while more bytes of frames than that, bodies aside, are to be sent: until the peer has taken some, or takes none any
        more."""
        self.wake()
        while self._sender.backlog > backlog and not self.over:
            self._went_on.wait()

    def wait_for_all(self) -> None:
        """Wait until all was sent, or the peer takes nothing any more."""
        self.wake()
        while not (self.idle or self.over):
            self._went_on.wait()

    def _send_now(self) -> None:
        """The loop's call, in the hub: an answer that is small mostly fits into the socket, and no greenlet is needed."""
        if self._stopped:
            return
        data = self._next()
        sent = 0
        if 0 < len(data) <= _SMALL:
            try:
                sent = self._stream.send_now(data)
            except OSError:
                self._end()
                return
        if sent == len(data) and not self._sender.waiting() and not self.closing:
            self._all_sent()
            return
        self._job = begin(self._run, memoryview(data)[sent:])

    def _next(self) -> bytes:
        """What is to be sent next. Who waits for that is told."""
        sender = self._sender
        data = sender.take(_BATCH)
        drained = sender.drained
        if drained:
            sender.drained = []
            for state in drained:
                state.owner.sent()
        self._went_on.end()
        return data

    def _run(self, data: bytes | memoryview) -> None:
        # A greenlet is held only while there is something to write: thousands of idle connections have none.
        while data or self._sender.waiting():
            data = data or self._next()
            if not data:
                continue
            if self._watch is not None:
                self.until = time.monotonic() + self._timeout
                self._watch(self.until)
            try:
                self._stream.send_all(data)
            except OSError:
                self._end()
                return
            self.until = inf
            data = b""
        if self.closing:
            self._end()
            return
        self._job = None
        self._all_sent()

    def _all_sent(self) -> None:
        self.idle = True
        self._went_on.end()

    def _end(self) -> None:
        self.over = True
        self._went_on.end()
        self._stream.shutdown()
