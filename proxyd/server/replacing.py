"""Which workers are started and stopped, and when: decided here from what is known of them, without touching a process.

A reload starts workers beside the old ones, and each new one that accepts clients lets one old one go. So the old ones go on for as
long as the new ones need, and for good if the new ones can't start.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

#: Seconds before another start after a worker that could not start; doubled for each that follows.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0
#: So many times the wanted workers may live at once: those that serve, those that start, and those that end what they have.
_MOST = 4


class Seen(NamedTuple):
    """A worker. `age`: workers that were started later have a higher one. `accepts`: it takes clients. `asked`: it was asked to stop."""

    pid: int
    age: int
    accepts: bool
    asked: bool


class Plan(NamedTuple):
    """How many workers to start, and which to ask to stop."""

    start: int
    stop: list[int]


class Replacing:
    """Knows which workers are of before the last reload, and when the next may be started. `now`: time.monotonic() seconds."""

    def __init__(self) -> None:
        #: The highest age that was given when the settings were read last: workers up to it are old.
        self._before = 0
        self._pause = _FIRST_PAUSE
        self._not_before = 0.0

    def replace(self, age: int) -> None:
        """Replace the workers up to this age. New settings deserve a start at once."""
        self._before = age
        self.works()

    def failed(self, now: float) -> float:
        """A worker could not start. Returns the seconds until the next is started. Workers that fail together count once."""
        if now >= self._not_before:
            self._not_before = now + self._pause
            self._pause = min(_LONGEST_PAUSE, self._pause * 2)
        return self._not_before - now

    def works(self) -> None:
        """Workers can start."""
        self._pause, self._not_before = _FIRST_PAUSE, 0.0

    def settled(self, workers: Iterable[Seen], wanted: int) -> bool:
        """Whether there is nothing to wait for: as many workers as are wanted accept clients, and none of them is an old one."""
        going_on = [worker for worker in workers if not worker.asked]
        return len(going_on) == wanted and all(worker.accepts and worker.age > self._before for worker in going_on)

    def plan(self, workers: Iterable[Seen], wanted: int, now: float) -> Plan:
        """What to do now."""
        every = sorted(workers, key=lambda worker: worker.age)
        going_on = [worker for worker in every if not worker.asked]
        current = [worker for worker in going_on if worker.age > self._before]
        starting = [worker for worker in current if not worker.accepts]
        accepting = [worker for worker in going_on if worker.accepts]
        # What is old and not ready yet never has to be.
        stop = [worker.pid for worker in going_on if not worker.accepts and worker.age <= self._before]
        stop += [worker.pid for worker in accepting[:max(0, len(accepting) - wanted)]]
        stop += [worker.pid for worker in starting[max(0, len(starting) - max(0, len(current) - wanted)):]]
        start = 0
        if now >= self._not_before:
            start = min(wanted - len(current), max(wanted - len(going_on), wanted * _MOST - len(every)))
        return Plan(max(0, start), stop)
