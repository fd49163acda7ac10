"""Deadlines of everything that waits, kept by one scan instead of a timer per wait.

A deadline is an attribute that its owner moves as it goes on; the scan compares. That makes a deadline cost an
assignment, at the price of firing up to one tick late.
"""

from __future__ import annotations

import logging
import time
from typing import Protocol

import gevent

log = logging.getLogger("proxyd.proxy")


class Watched(Protocol):
    """What is watched: `deadline` in time.monotonic() seconds, and what happens when it is over."""

    deadline: float

    def expire(self, now: float) -> None:
        """The deadline is over; runs in the watchdog's greenlet and must not wait."""

    def look(self, now: float) -> None:
        """Called once a tick while the deadline is not over; must not wait."""


class Watchdog:
    """Watches a set of things every `tick` seconds; `looks` says whether they want to be called each tick."""

    def __init__(self, tick: float, looks: bool) -> None:
        self._tick = tick
        self._looks = looks
        self._watched: set[Watched] = set()
        self.add = self._watched.add
        self.discard = self._watched.discard

    def start(self) -> None:
        """Begin; the greenlet lives as long as the process."""
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
            looks = self._looks
            for item in tuple(self._watched):
                try:
                    if item.deadline <= now:
                        item.expire(now)
                    elif looks:
                        item.look(now)
                except Exception:
                    log.exception("watchdog: %r", item)
