"""Whether something outside answers, as all processes of a host agree on it in shared memory.

The first that gets no answer begins the outage, for all of them: nobody else has to wait for the same discovery, and it is
told once. From time to time one of them tries; the others do without until it has an answer.
"""

from __future__ import annotations

import mmap
import struct

from proxyd.store.memory.mutex import Mutex
from proxyd.store.memory.shared import put

_UNTIL = struct.Struct("<d")
_PAUSE = 5.0

#: What a caller is to do: use it, try it (and report `end` or `begin`), or do without.
USE, TRY, WITHOUT = range(3)


class Outage:
    """Eight bytes at `offset` of a mapping: 0, or until when nobody tries. `now` is time.monotonic() seconds throughout."""

    __slots__ = ("_data", "_lock", "_offset")

    def __init__(self, data: mmap.mmap, offset: int, lock: Mutex) -> None:
        self._data = data
        self._offset = offset
        self._lock = lock

    def _until(self) -> float:
        until: float = _UNTIL.unpack_from(self._data, self._offset)[0]
        return until

    @property
    def on(self) -> bool:
        """Whether there was no answer the last time that somebody asked."""
        return self._until() != 0.0

    def turn(self, now: float) -> int:
        """USE, TRY (for one caller in each pause) or WITHOUT."""
        until = self._until()
        if not until:
            return USE
        if now < until <= now + _PAUSE:
            return WITHOUT
        with self._lock:
            until = self._until()
            if not until:
                return USE
            if now < until <= now + _PAUSE:
                return WITHOUT
            put(self._data, self._offset, _UNTIL.pack(now + _PAUSE))
        return TRY

    def begin(self, now: float) -> bool:
        """There is no answer; whether that is news."""
        with self._lock:
            news = not self._until()
            put(self._data, self._offset, _UNTIL.pack(now + _PAUSE))
        return news

    def end(self) -> bool:
        """There is an answer again; whether that is news."""
        with self._lock:
            news = bool(self._until())
            put(self._data, self._offset, _UNTIL.pack(0.0))
        return news
