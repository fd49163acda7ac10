"""What the master of a host does while another one leads: it takes the config version to the workers of its own host.

The server tells it of a commit; if that gets lost, it asks four times a second. It posts the version on the board of its host, waits until
every live worker routes by it, and reports that. The leader's `OK` waits for the report.
"""

from __future__ import annotations

import logging
import time

import gevent

from proxyd.store.memory.board import Board
from proxyd.store.memory.watch import SharedWatch
from proxyd.store.sql.membership import Membership

log = logging.getLogger("proxyd.master")

_TICK = 0.001


class Standby:
    """The followed lead: `board` is that of this host."""

    def __init__(self, member: Membership, board: Board) -> None:
        self._member = member
        self._board = board
        # The workers may have another one, which was deleted.
        board.awaited = True
        self._files = SharedWatch((board.file,), log, logging.WARNING)

    def follow(self, seconds: float) -> None:
        """Wait at most `seconds` for news, then take the current version to the workers. Raises StoreError if the server can't be asked."""
        self._member.news(seconds)
        self._files.look()
        version = self._member.version()
        if not version:
            return
        if version != self._board.version:
            self._board.post(version)
        until = time.monotonic() + seconds
        while self._board.behind(version) or not self._board.settled():
            if time.monotonic() >= until:
                return
            gevent.sleep(_TICK)
        if version != self._member.reached:
            self._member.report(version)
