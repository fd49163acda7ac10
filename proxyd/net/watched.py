"""Waiting for a socket with watchers of our own: what streams have in common.

A gevent socket makes a timer per wait and an exception per read that has to wait. Here deadlines are the watchdog's (one scan for all),
and a watcher stays started from one wait to the next.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import Any

from gevent import getcurrent
from gevent.hub import get_hub

from proxyd.net.turns import SLICE, let_others_run, turn


class Watched:
    """A stream's descriptor and its watchers, and what its pool notes of it.

    A read that finds bytes at once does not switch greenlets, so that a peer which sends without a pause would have the
    worker to itself. Each read therefore looks how long this turn has lasted, and gives way when it is due.

    The watcher for reading stays started from one wait to the next: starting and stopping it costs two system calls each
    time. What arrives while nobody waits (`_waiting`) stops it, and is remembered (`_ready`) for the next wait.
    """

    __slots__ = (
        "_descriptor", "_hub", "_reader", "_ready", "_watched", "_writer", "address", "idle_limit", "idle_until", "opened_at", "served",
    )  # fmt: skip

    def __init__(self, descriptor: int) -> None:
        self.opened_at = monotonic()
        self.address = ""
        self.idle_limit = inf
        self.idle_until = 0.0
        self.served = 0
        self._hub = get_hub()
        #: Made when they are needed first: most streams never wait for room, and many short ones not even for something to read.
        self._reader: Any = None
        self._writer: Any = None
        self._descriptor = descriptor
        self._watched = False
        self._ready = False

    def give_way(self) -> None:
        if monotonic() - turn.began > SLICE:
            let_others_run()

    def _wait_to_read(self) -> None:
        """Wait until there is something to read, as far as the loop knows: the caller tries, and waits again."""
        if self._ready:
            self._ready = False
            self.give_way()
            return
        reader = self._reader
        if self._watched:
            reader.callback = getcurrent().switch
        else:
            if reader is None:
                reader = self._reader = self._hub.loop.io(self._descriptor, 1)
            self._watched = True
            reader.start(getcurrent().switch)
        try:
            self._hub.switch()
        finally:
            reader.callback = self._arrived
        turn.began = monotonic()

    def _arrived(self) -> None:
        """The loop's call, in the hub: something can be read, and nobody waits for it."""
        self._reader.stop()
        self._watched = False
        self._ready = True

    def _wait_to_write(self) -> None:
        """Wait until there is room for what is sent."""
        if self._writer is None:
            self._writer = self._hub.loop.io(self._descriptor, 2)
        self._hub.wait(self._writer)
        turn.began = monotonic()

    def _end_watching(self) -> None:
        """Before the descriptor is closed. Harmless when called again."""
        for watcher in (self._reader, self._writer):
            if watcher is not None:
                watcher.close()
