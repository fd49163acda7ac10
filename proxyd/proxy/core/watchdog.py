"""Deadlines of everything that waits, checked by one scan instead of a timer for each wait.

A deadline is an attribute that its owner moves as it goes on. The scan compares it with the clock. So a deadline costs only an
assignment, but it may fire up to one tick late.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

import gevent

log = logging.getLogger("proxyd.proxy")


class Watched(Protocol):
    """Something with a deadline. `deadline`: time.monotonic() seconds."""

    deadline: float

    def expire(self, now: float) -> None:
        """Called when the deadline has passed. Runs in the watchdog's greenlet and must not wait."""


class Watchdog:
    """Watches a set of things every `tick` seconds."""

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._watched: set[Watched] = set()
        self.add = self._watched.add
        self.discard = self._watched.discard

    def start(self) -> None:
        """Begin. The greenlet lives as long as the process."""
        gevent.spawn(self._run)

    def __len__(self) -> int:
        return len(self._watched)

    def watched(self) -> list[Watched]:
        """All that is watched now."""
        return list(self._watched)

    def _run(self) -> None:
        while True:
            gevent.sleep(self._tick)
            now = time.monotonic()
            for item in tuple(self._watched):
                try:
                    if item.deadline <= now:
                        item.expire(now)
                except Exception:
                    log.exception("the watchdog failed on %r", item)
