"""Watches the requests in flight: their deadlines, the least rates of their clients, and whether their clients have gone.

A request that is new, or that has begun to wait for something since the last tick, is looked at in the next one. After that it is parked:
nothing is done for it until its deadline, until it waits for something else, or until the kernel says that its client has hung up. So
thousands of idle event streams cost nothing, whether each has a connection or a stream of one (HTTP/2 tells by itself when a stream is
reset). Requests of less than a tenth of a second are never parked, and neither are those whose client has no descriptor: they are asked
in each tick.
"""

from __future__ import annotations

import contextlib
import logging
import time
from math import inf
from typing import Any

import gevent
from gevent import monkey
from gevent.hub import get_hub

from proxyd.base.jobs import Glance
from proxyd.proxy.core.exchange import LOOKED_AT, PARKED, Exchange

log = logging.getLogger("proxyd.proxy")

_TICK = 0.05
#: Age of a request, in seconds, from which its client's hang-up is watched and it can be parked.
_LASTS = 0.1
_epoll = monkey.get_original("select", "epoll")
#: EPOLLRDHUP, once: the event stays until the socket is closed.
_HANGUP = 0x2000 | 1 << 30
_EVENTS = 256


class BusyWatch:
    """The requests in flight of this worker. `add` and `discard` are for each request, `forget` for those with `lasting` only."""

    def __init__(self) -> None:
        self._fresh: set[Exchange] = set()
        self._parked: dict[Exchange, int] = {}
        self._due: dict[int, set[Exchange]] = {}
        self._ticks = 0
        self._looking = False
        self._hangups = _Hangups()
        self.add = self._fresh.add
        self.discard = self._fresh.discard

    def start(self) -> None:
        """Begin. It goes on as long as the process lives."""
        self._ticks = int(time.monotonic() / _TICK)
        self._hangups.start()
        Glance(_TICK, self._glance).start()

    def watched(self) -> list[Exchange]:
        """All that is watched now."""
        return [*self._fresh, *self._parked]

    def forget(self, ex: Exchange) -> None:
        """A request with `lasting` has ended."""
        if ex.lasting == PARKED:
            self._take_out(ex)
            # Whatever still waits for something in its name wakes nobody.
            ex.lasting = LOOKED_AT
        self._hangups.discard(ex)

    def wake(self, ex: Exchange) -> None:
        """A parked request waits for something else: look at it in the next tick."""
        self._take_out(ex)
        ex.lasting = LOOKED_AT
        self._fresh.add(ex)

    def _take_out(self, ex: Exchange) -> None:
        tick = self._parked.pop(ex)
        due = self._due.get(tick)
        if due is not None:
            due.discard(ex)
            if not due:
                del self._due[tick]

    def _park(self, ex: Exchange) -> None:
        if not ex.lasting:
            ex.watch = self
            self._hangups.add(ex)
        self._fresh.discard(ex)
        ex.lasting = PARKED
        tick = 0
        if ex.deadline < inf:
            tick = max(int(ex.deadline / _TICK), self._ticks + 1)
            self._due.setdefault(tick, set()).add(ex)
        self._parked[ex] = tick

    def _glance(self) -> None:
        """Called by the event loop: an idle worker has nothing to look at."""
        if not (self._fresh or self._due or self._hangups.hung):
            self._ticks = int(time.monotonic() / _TICK)
        elif not self._looking:
            self._looking = True
            gevent.spawn(self._run)

    def _run(self) -> None:
        try:
            now = time.monotonic()
            before, self._ticks = self._ticks, int(now / _TICK)
            if self._due:
                for tick in range(before + 1, self._ticks + 1):
                    for ex in tuple(self._due.get(tick, ())):
                        self.wake(ex)
            for ex in tuple(self._fresh):
                try:
                    self._look(ex, now)
                except Exception:
                    log.exception("the watchdog failed on %r", ex)
            self._hangups.look(now)
        finally:
            self._looking = False

    def _look(self, ex: Exchange, now: float) -> None:
        if ex.deadline <= now:
            ex.expire(now)
        elif ex.phase.of_client:
            ex.look(now)
        elif now - ex.started > _LASTS:
            # With a deadline before the next tick it stays: looked up in its slot, it would be ended a tick later.
            if ex.deadline - now <= _TICK or ex.client.descriptor() < 0:
                ex.look(now)
            else:
                self._park(ex)


class _Hangups:
    """Learns from the kernel which clients have hung up.

    A client that has closed its connection may have sent data before, which hides the end. So after the event the exchange is asked in
    each tick. HTTP/2 has several requests on one connection. `hung`: those that are asked.
    """

    def __init__(self) -> None:
        self._by_number: dict[int, set[Exchange]] = {}
        self._numbers: dict[Exchange, int] = {}
        self.hung: set[Exchange] = set()
        self._epoll: Any = None
        self._watcher: Any = None

    def start(self) -> None:
        """Begin. Call it after the fork."""
        self._epoll = _epoll()
        self._watcher = get_hub().loop.io(self._epoll.fileno(), 1)
        self._watcher.start(self._happened)

    def add(self, ex: Exchange) -> None:
        """Watch the client of an exchange until `discard`."""
        if ex.tunnel is not None:
            return
        number = ex.client.descriptor()
        sharing = self._by_number.setdefault(number, set())
        try:
            if sharing:
                self._epoll.modify(number, _HANGUP)
            else:
                self._epoll.register(number, _HANGUP)
        except OSError:
            # Ask as long as it lasts.
            self.hung.add(ex)
        sharing.add(ex)
        self._numbers[ex] = number

    def discard(self, ex: Exchange) -> None:
        """The exchange has ended."""
        self.hung.discard(ex)
        number = self._numbers.pop(ex, -1)
        sharing = self._by_number.get(number)
        if sharing is None:
            return
        sharing.discard(ex)
        if not sharing:
            del self._by_number[number]
            # If the socket is closed already, the kernel has forgotten it.
            with contextlib.suppress(OSError, ValueError):
                self._epoll.unregister(number)

    def look(self, now: float) -> None:
        """Ask those whose clients have ended at least their side."""
        for ex in tuple(self.hung):
            if ex.tunnel is not None or ex.client_gone:
                self.hung.discard(ex)
            elif not ex.phase.of_client:
                self._ask(ex, now)

    def _happened(self) -> None:
        """The loop's call, in the hub."""
        now = time.monotonic()
        for number, _ in self._epoll.poll(0, _EVENTS):
            for ex in tuple(self._by_number.get(number, ())):
                self.hung.add(ex)
                if not ex.phase.of_client:
                    self._ask(ex, now)

    @staticmethod
    def _ask(ex: Exchange, now: float) -> None:
        try:
            ex.look(now)
        except Exception:
            log.exception("the watchdog failed on %r", ex)
