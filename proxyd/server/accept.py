"""Sharing new connections among the workers of a host.

All workers wait on the same listening socket, and whichever wakes first gets the connection: under keep-alive a few
workers would serve almost everybody while others idle. Here a worker that has more clients than another one leaves a new
connection alone for a moment, and takes one of those that are still there afterwards: nothing waits for a busy worker.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from gevent.pool import Pool
from gevent.server import StreamServer

from proxyd.store.memory.board import Board

#: Longer costs clients that come for a request each more than the balance is worth.
_PAUSE = 0.0003
#: Connections taken in one turn of the event loop.
_AT_ONCE = 16
#: How far ahead of the least loaded worker one may be, in connections, and as a part of its own.
_LEAD, _LEAD_PART = 2, 8
#: How long the list of the other workers is good.
_LOOK_SECONDS = 0.1


class Share:
    """How many client connections this worker has, beside the others on `board`."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._others: list[int] = []
        self._looked = 0.0
        self._taking = False
        self.connections = 0

    def begin(self) -> None:
        """Tell the others that this worker takes clients."""
        self._taking = True
        self._board.connections(self.connections)

    def end(self) -> None:
        """This worker takes no more clients; those it has don't matter to the others."""
        self._taking = False
        self._board.connections(None)

    def add(self, count: int) -> None:
        """Count `count` connections more, or less."""
        self.connections += count
        if self._taking:
            self._board.connections(self.connections)

    def ahead(self) -> bool:
        """Whether another worker should have the next one."""
        enough = self.connections - self.connections // _LEAD_PART - _LEAD
        if enough < 0:
            return False
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            self._others = self._board.accepting(time.time())
        return bool(self._others) and enough > self._board.fewest(self._others)


class SharingServer(StreamServer):  # type: ignore[misc]
    """gevent's server for one listener of a worker that has siblings."""

    max_accept = _AT_ONCE

    def __init__(self, listener: Any, handle: Callable[[Any, Any], None], spawn: Pool, share: Share) -> None:
        super().__init__(listener, handle=handle, spawn=spawn)
        self._share = share
        self._waited = False
        self._rest = self.loop.timer(_PAUSE)

    def do_read(self) -> Any:
        """The next connection and its address; None where there is none, or where another worker should have it."""
        if self._waited:
            self._waited = False
        elif self._share.ahead():
            self.stop_accepting()
            # A timer that was used once would fire at once.
            self._rest.close()
            self._rest = self.loop.timer(_PAUSE)
            self._rest.start(self._go_on, update=True)
            return None
        accepted = super().do_read()
        if accepted:
            self._share.add(1)
        return accepted

    def do_close(self, *args: Any) -> None:
        """The connection is over."""
        self._share.add(-1)
        super().do_close(*args)

    def close(self) -> None:
        """Accept no more."""
        self._rest.close()
        super().close()

    def _go_on(self) -> None:
        if not self.started:
            return
        self._waited = True
        self.start_accepting()
