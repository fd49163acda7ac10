"""What the master of a host does while another one leads: it takes the config version to the workers of its own host, the registry
connections that come here to the leader, and looks after what is each host's own (`ownhost.py`).

The server tells it of a commit; if that gets lost, it asks four times a second. It posts the version on the board of its host, waits until
every live worker routes by it, and reports that. The leader's `OK` waits for the report.
"""

from __future__ import annotations

import logging
import time

import gevent

from proxyd.base.jobs import Job
from proxyd.config.settings import Settings
from proxyd.server.ownhost import OwnHost
from proxyd.server.relay import Relay
from proxyd.store.memory.board import Board
from proxyd.store.memory.watch import SharedWatch
from proxyd.store.sql import words
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.membership import Membership

log = logging.getLogger("proxyd.master")

_TICK = 0.001
#: Seconds between two questions about what the server does not tell of, or what may have got lost.
_ASK = 0.25


class Standby:
    """The followed lead: `board` is that of this host."""

    def __init__(self, settings: Settings, store: Store, member: Membership, board: Board) -> None:
        self._member = member
        self._relay = Relay(settings.registry, member.name)
        self._own = OwnHost(settings, store, board, member.name)
        #: By itself: it may wait for an answer of the database for long, and this host has to know who leads meanwhile.
        self._looking = Job("own-host", _ASK, self._own.look, log, first=0.0, expected=StoreError)
        self._board = board
        #: The version that was committed last, as far as this host knows, and when it asks for it next (monotonic seconds).
        self._version, self._ask_at = 0, 0.0
        # The workers may have another one, which was deleted.
        board.awaited = True
        self._files = SharedWatch((board.file,), log, logging.WARNING)

    def stop(self) -> None:
        """This host leads now, or its master ends: pass on no more. Clients connect again, and find who leads."""
        self._relay.stop()
        self._looking.stop()
        self._own.stop()

    def spare(self) -> bool:
        """Whether this host is to lead only if no other can, as one that is drained."""
        return self._own.drained

    def follow(self, seconds: float) -> None:
        """Wait at most `seconds` for news, then take the current version to the workers, for at most a quarter of a second. Raises
        StoreError if the server can't be asked."""
        news = self._member.news(seconds)
        if (told := words.committed(news)) > self._board.version:
            # The workers read while this one asks for the rest.
            self._board.post(told)
        self._own.hear(news)
        self._files.look()
        if not self._looking.alive():
            self._looking.start()
        self._version = max(self._version, told)
        if time.monotonic() >= self._ask_at:
            self._relay.use(self._member.leaders_registry())
            self._version = self._member.version()
            self._ask_at = time.monotonic() + _ASK
        if self._own.leaves:
            self._relay.leave()
        else:
            self._relay.start()
        self._member.connections = self._relay.count
        version = self._version
        if not version:
            return
        if version != self._board.version:
            self._board.post(version)
        until = time.monotonic() + _ASK
        while self._board.behind(version) or not self._board.settled():
            if time.monotonic() >= until:
                return
            gevent.sleep(_TICK)
        if version != self._member.reached:
            self._member.report(version)
