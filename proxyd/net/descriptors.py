"""The bound on open files of a process: each connection is one, and shells hand on a soft limit of 1024 for the sake of programs
that use select(2). None of ours does for connections, so every process takes what it may have."""

from __future__ import annotations

import errno
import resource
import time
from collections.abc import Callable

_ENOUGH = 1 << 20
#: Descriptors kept free: this part of all, but no more than that.
_SPARE_PART, _SPARE_AT_MOST = 6, 256
#: Seconds for which an answer to the question for room holds.
_PAUSE = 0.05


def raise_limit() -> int:
    """Raise the soft limit to the hard one, at most to a million; returns the limit that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return _ENOUGH if soft == resource.RLIM_INFINITY else soft
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    except (OSError, ValueError):
        return soft
    return wanted


def open_limit() -> int:
    """How many files this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return _ENOUGH if soft == resource.RLIM_INFINITY else soft


class Spare:
    """Keeps some descriptors of this process free, by asking for room before the last one is taken.

    The kernel gives the lowest number that is free, so a high number says that nearly all are taken. `make_room` is called with a
    number of descriptors that should become free soon, and returns how many will.
    """

    def __init__(self, limit: int, spare: int, make_room: Callable[[int], int]) -> None:
        self._line = limit - spare
        self._wanted = max(1, spare // 2)
        self._make_room = make_room
        self._promised = 0
        self._until = 0.0

    def taken(self, number: int) -> None:
        """A descriptor was given out."""
        if number >= self._line:
            self.ask()

    def ask(self, wanted: int = 0) -> bool:
        """Ask for room, for so many descriptors (0: for the usual number). Returns whether there will be some.

        What has been promised a moment ago is used up first: it takes a turn of the loop until a connection is closed. If there was
        nothing a moment ago, nobody is asked.
        """
        now = time.monotonic()
        if now < self._until:
            if not self._promised:
                return False
            self._promised -= 1
            if self._promised:
                return True
        self._promised = self._make_room(wanted or self._wanted)
        self._until = now + _PAUSE
        return self._promised > 0


_spare: Spare | None = None


def keep_spare(make_room: Callable[[int], int]) -> Spare:
    """Keep descriptors free in this process from now on."""
    global _spare
    limit = open_limit()
    _spare = Spare(limit, min(_SPARE_AT_MOST, limit // _SPARE_PART), make_room)
    return _spare


def taken(number: int) -> None:
    """A descriptor was given out for a connection that this process opened."""
    if _spare is not None:
        _spare.taken(number)


def none_left(error: OSError) -> bool:
    """Whether an error says that no descriptor is left. If so, room has been asked for."""
    if error.errno not in (errno.EMFILE, errno.ENFILE):
        return False
    if _spare is not None:
        _spare.ask()
    return True
