"""A thread that gives the leader's sign of life while its master is too busy to: it reads 100,000 routes, migrates a long table, waits for
a slow answer of the database, or has no turn on a crowded machine.

Others depose a leader that is silent for two seconds. One that is only late must not lose its sessions by that. A thread of its own needs
a turn of microseconds, where the master's may be behind with the work of seconds. Its sign says that the process lives, so it ends with
the process: with one that is stopped, killed or cut off, and some time after the event loop has stopped turning. The thread never takes the
lead. A host that does not lead has none: whoever waits for its reports had better not, while it is busy.
"""

from __future__ import annotations

import time

from gevent.monkey import get_original

from proxyd.base.jobs import Glance
from proxyd.store.sql.membership import BEAT, Membership

_start = get_original("_thread", "start_new_thread")
_lock = get_original("_thread", "allocate_lock")
#: Seconds for which the event loop may not have turned; a master that takes longer hangs.
_LONGEST_TURN = 30.0


class LifeSign:
    """The thread for the connection of `member`. `start` it after the fork, in the thread of the event loop."""

    def __init__(self, member: Membership, longest_turn: float = _LONGEST_TURN) -> None:
        self._member = member
        self._longest = longest_turn
        self._turned = 0.0
        self._glance = Glance(BEAT, self._turn)
        self._over = _lock()

    def start(self) -> None:
        """Begin."""
        self._turn()
        self._glance.start()
        self._over.acquire()
        _start(self._run, ())

    def stop(self) -> None:
        """End, within half a second."""
        self._glance.stop()
        if self._over.locked():
            self._over.release()

    def _turn(self) -> None:
        self._turned = time.monotonic()

    def _run(self) -> None:
        while not self._over.acquire(True, BEAT):
            if time.monotonic() - self._turned < self._longest:
                self._member.sign_late()
