"""Turns: how long a greenlet works without a wait before others run, and who is next of those that gave way.

In each round of the loop, those go on whose turns together take a slice, and the loop looks at all sockets before the next ones do. So
what a connection that has little to do waits for is one turn or two, however many others never pause.
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
        self._in_turn = False

    def wait(self) -> None:
        """Until it is this greenlet's turn again."""
        waiter: Any = Waiter(self.hub)
        self._waiting.append(waiter)
        if len(self._waiting) == 1 and not self._in_turn:
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
        """The loop's call, in the hub: whose turn it is goes on until it waits for something. If that took little, so does the next one:
        of many that have little to do, like new connections, more may come in each round of the loop than one."""
        self._idle.stop()
        self._timer.close()
        self._in_turn = True
        until = monotonic() + SLICE
        while self._waiting:
            self._waiting.popleft().switch(None)
            if monotonic() > until:
                break
        self._in_turn = False
        if self._waiting:
            self._watch()


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
