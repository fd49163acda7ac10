"""Waits until every live worker of this host routes by a config version: one look at the board for all who wait.

Each command that changes routes waits so, and hundreds may at once: services that come back together after a master's death.
"""

from __future__ import annotations

import time

import gevent
from gevent.event import Event as Signal

from proxyd.store.memory.board import Board, WorkerState

#: Seconds between two looks.
_POLL = 0.001


class Arrival:
    """Who waits on this host, and the greenlet that looks for all of them."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._waiting: dict[Signal, int] = {}
        self._looking: gevent.Greenlet | None = None

    def wait(self, version: int, deadline: float) -> list[WorkerState] | None:
        """Wait for a version that was posted until `deadline` (time.monotonic() seconds). Returns None when all workers have it, or those
        that do not at the deadline; none of them where the board itself is not yet everybody's."""
        if self._looking is None or self._looking.dead:
            if self._has_come(version):
                return None
            self._looking = gevent.spawn(self._look)
        came = Signal()
        self._waiting[came] = version
        try:
            came.wait(max(0.0, deadline - time.monotonic()))
        finally:
            self._waiting.pop(came, None)
        if came.is_set():
            return None
        behind = self._board.behind(version)
        return behind if behind or not self._board.settled() else None

    def _look(self) -> None:
        while self._waiting:
            reached = self._reached()
            for came, version in list(self._waiting.items()):
                if version <= reached:
                    # Not asked about again, before its greenlet has its turn.
                    del self._waiting[came]
                    came.set()
            gevent.sleep(_POLL)

    def _has_come(self, version: int) -> bool:
        return version <= self._reached()

    def _reached(self) -> int:
        """The version that all have. On a board that was just made, because somebody deleted the last one, not all may be seen yet."""
        posted = self._board.version
        # One beyond what was posted still has another database's table.
        reached = min([posted, *(worker.version if worker.version <= posted else 0 for worker in self._board.workers())])
        return reached if self._board.settled() else 0
