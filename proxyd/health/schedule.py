"""Decides when each target is checked. Two lanes limit the checks that run at once: targets that hang wait for each other, and
targets that answer quickly do not wait for them."""

from __future__ import annotations

import heapq
import itertools
import logging
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import gevent
from gevent.event import Event as Signal
from gevent.pool import Group

log = logging.getLogger("proxyd.health")

#: Seconds. Work that takes longer uses the slow lane from then on.
_QUICK = 1.0
_LAG_SECONDS = 15.0


@dataclass(eq=False, slots=True)
class Turn:
    """Work that is repeated every `interval` seconds. `due`: monotonic instant of the next time. `grid`: the same before jitter.
    `ticket`: its number in the heap, 0 while it waits in a lane or runs."""

    interval: float
    work: Callable[[], None] = lambda: None
    grid: float = 0.0
    due: float = 0.0
    ticket: int = 0
    spread: bool = False
    quick: bool = False
    hurried: bool = False
    ended: bool = False


@dataclass(slots=True)
class _Lane:
    """One lane. `free`: how many more turns may run at once. `waiting`: turns that wait for that."""

    free: int
    waiting: deque[Turn] = field(default_factory=deque)


class Schedule:
    """Runs every turn at its times, with jitter and without drift. `size`: most turns that run at once in each lane."""

    def __init__(self, size: int, jitter: float) -> None:
        self._jitter = jitter
        self._heap: list[tuple[float, int, Turn]] = []
        self._tickets = itertools.count(1)
        self._quick, self._slow = _Lane(size), _Lane(size)
        self._news = Signal()
        self._group = Group()
        self._greenlet: gevent.Greenlet | None = None
        self._worst, self._before, self._since = 0.0, 0.0, 0.0

    def start(self) -> None:
        """Begin."""
        self._greenlet = gevent.spawn(self._run)

    def alive(self) -> bool:
        """Whether the schedule runs."""
        return self._greenlet is not None and not self._greenlet.dead

    def stop(self) -> None:
        """Start no more turns, and end those that run."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self._group.kill(timeout=1)

    @property
    def lag(self) -> float:
        """The longest delay with which a turn of about the last half minute began, in seconds."""
        due = self._heap[0][0] if self._heap else time.monotonic()
        return max(self._worst, self._before, time.monotonic() - due)

    def add(self, turn: Turn, within: float) -> None:
        """Add a turn. Its first time comes within so many seconds."""
        turn.grid = time.monotonic() + random.uniform(0, within)
        self._push(turn, turn.grid)

    def hurry(self, turn: Turn) -> None:
        """Run a turn now. If it is running, run it once more afterwards."""
        if turn.ticket:
            self._push(turn, time.monotonic())
        else:
            turn.hurried = True

    def end(self, turn: Turn) -> None:
        """Run a turn no more."""
        turn.ended = True

    def _push(self, turn: Turn, due: float) -> None:
        turn.due, turn.ticket = due, next(self._tickets)
        heapq.heappush(self._heap, (due, turn.ticket, turn))
        self._news.set()

    def _run(self) -> None:
        while True:
            for lane in (self._quick, self._slow):
                while lane.waiting and lane.free:
                    lane.free -= 1
                    turn = lane.waiting.popleft()
                    self._late(time.monotonic() - turn.due)
                    self._group.spawn(self._work, turn, lane)
            wait = self._heap[0][0] - time.monotonic() if self._heap else None
            if wait is None or wait > 0:
                self._news.clear()
                self._news.wait(wait)
                continue
            _, ticket, turn = heapq.heappop(self._heap)
            if turn.ended or ticket != turn.ticket:
                continue
            turn.ticket = 0
            if turn.quick:
                self._quick.waiting.append(turn)
            elif turn.spread:
                self._slow.waiting.append(turn)
            else:
                # It is not known yet whether it hangs, but it must not wait behind all that do.
                self._slow.waiting.appendleft(turn)

    def _late(self, seconds: float) -> None:
        now = time.monotonic()
        if now - self._since > _LAG_SECONDS:
            self._before, self._worst, self._since = self._worst, 0.0, now
        self._worst = max(self._worst, seconds)

    def _work(self, turn: Turn, lane: _Lane) -> None:
        begun = time.monotonic()
        try:
            if not turn.ended:
                turn.work()
        except Exception:
            log.exception("a health check raised an error of its own")
        finally:
            lane.free += 1
            turn.quick = time.monotonic() - begun < _QUICK
            if not turn.ended:
                self._again(turn)
            self._news.set()

    def _again(self, turn: Turn) -> None:
        """Schedule the next point of the turn's grid, shifted by a random time. So turns neither drift nor run all at once."""
        interval, now = turn.interval, time.monotonic()
        if turn.hurried:
            turn.hurried = False
            self._push(turn, now)
            return
        if not turn.spread:
            # Turns that were added together must not run together for ever.
            turn.spread = True
            turn.grid = now - random.uniform(0, interval)
        turn.grid += interval
        if turn.grid < now:
            turn.grid += interval * ((now - turn.grid) // interval + 1)
        self._push(turn, turn.grid + random.uniform(0, min(self._jitter, interval / 4)))
