"""Turns: how long a greenlet works without a wait before others run, and who is next of those that gave way.

One of them goes on at a time, and between two of them the loop looks at all sockets. So what a connection that has little to do waits for
is one turn, however many others never pause.
"""

from __future__ import annotations

import contextlib
from collections import deque
from time import monotonic
from typing import Any

from gevent.hub import Waiter, get_hub

#: How long a greenlet may work without a wait until it lets others run, seconds.
SLICE = 0.004
#: How long it waits for others at most, seconds, where they never leave the loop idle: it has a turn in every 20 ms, as far as those
#: that gave way then have half of the time at most.
_LONGEST_WAIT = 0.02


class Turn:
    """Since when the greenlet that runs now has done so (`began`, monotonic seconds). One runs at a time, and its turn begins anew when
    it has waited for a stream."""

    __slots__ = ("began",)

    def __init__(self) -> None:
        self.began = monotonic()


class _Line:
    """Those that gave way, first come first served: the first goes on as soon as the loop finds nothing else to do."""

    def __init__(self, hub: Any) -> None:
        self.hub = hub
        self._waiting: deque[Any] = deque()
        self._idle = hub.loop.idle()
        self._timer = hub.loop.timer(0)

    def wait(self) -> None:
        """Until it is this greenlet's turn again."""
        waiter: Any = Waiter(self.hub)
        self._waiting.append(waiter)
        if len(self._waiting) == 1:
            self._watch()
        try:
            waiter.get()
        except BaseException:
            with contextlib.suppress(ValueError):
                self._waiting.remove(waiter)
            raise

    def _watch(self) -> None:
        self._idle.start(self._next)
        self._timer = self.hub.loop.timer(max(SLICE, _LONGEST_WAIT / len(self._waiting)))
        self._timer.start(self._next)

    def _next(self) -> None:
        """The loop's call, in the hub: whose turn it is goes on, until it waits for something."""
        self._idle.stop()
        self._timer.close()
        if not self._waiting:
            return
        waiter = self._waiting.popleft()
        if self._waiting:
            self._watch()
        waiter.switch(None)


#: The turn of this process.
turn = Turn()
_line: _Line | None = None


def let_others_run() -> None:
    """Go on when nobody else has anything to do, or after 20 ms or somewhat more, with a new turn.

    gevent.sleep(0) would not do: greenlets that call it in turn run one after another, and the loop looks at no socket.
    """
    global _line
    hub = get_hub()
    if _line is None or _line.hub is not hub:
        _line = _Line(hub)
    try:
        _line.wait()
    finally:
        turn.began = monotonic()
