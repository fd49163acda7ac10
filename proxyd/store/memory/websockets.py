"""How many WebSockets each route has open on this host, over all its workers, in shared memory.

A row a worker, with a count a route. Only the row's worker writes it, and holds the row's lock while it lives: the kernel frees
the lock of a killed worker, and what that one had open counts no more.
"""

from __future__ import annotations

import os
import struct

from proxyd.store.memory.board import MAX_WORKERS
from proxyd.store.memory.shared import WEBSOCKETS, SharedFile

#: Routes with open WebSockets that a row has room for; those beyond are counted by their worker alone.
ROUTES = 2048
_USED = struct.Struct("<I")
_NUMBER = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_NUMBERS_AT = 64
_COUNTS_AT = _NUMBERS_AT + ROUTES * _NUMBER.size
_ROW = _COUNTS_AT + ROUTES * _COUNT.size
_HEADER = 4096
_CHANGING = MAX_WORKERS


class OpenWebSockets:
    """The counts in `directory`; every worker of the host maps the same file. Open it after fork. Routes go by the number in
    their id."""

    def __init__(self, directory: str) -> None:
        self._file = SharedFile(os.path.join(directory, WEBSOCKETS), _HEADER + MAX_WORKERS * _ROW, b"wsopen1")
        self._data = self._file.data
        self._row = -1
        self._counts: dict[int, int] = {}
        self._places: dict[int, int] = {}
        self._free: list[int] = []

    def join(self) -> None:
        """Take a row for this process. Raises RuntimeError when all are taken."""
        for row in range(MAX_WORKERS):
            if self._file.hold(row):
                self._clear(row)
                _USED.pack_into(self._data, self._at(row), 1)
                self._row = row
                self._free = list(range(ROUTES - 1, -1, -1))
                return
        raise RuntimeError(f"more than {MAX_WORKERS} workers on one host")

    def leave(self) -> None:
        """Give the row back: what this process has open counts no more."""
        if self._row >= 0:
            self._clear(self._row)
            self._file.release(self._row)
            self._row = -1

    def reserve(self, number: int, limit: int) -> bool:
        """Count one more for route `number`, unless the host has `limit` of them open already (0: no limit)."""
        with self._file.lock(_CHANGING):
            mine = self._counts.get(number, 0)
            if limit and mine + self._others(number, limit - mine) >= limit:
                return False
            self._set(number, mine + 1)
            return True

    def release(self, number: int) -> None:
        """Count one less that `reserve` counted."""
        with self._file.lock(_CHANGING):
            self._set(number, self._counts.get(number, 1) - 1)

    def close(self) -> None:
        """Leave and unmap."""
        self.leave()
        self._data = memoryview(b"")  # type: ignore[assignment]
        self._file.close()

    @staticmethod
    def _at(row: int) -> int:
        return _HEADER + row * _ROW

    def _clear(self, row: int) -> None:
        at = self._at(row)
        self._data[at:at + _ROW] = bytes(_ROW)

    def _set(self, number: int, count: int) -> None:
        if self._row < 0:
            return
        place = self._places.get(number)
        at = self._at(self._row)
        if not count:
            self._counts.pop(number, None)
            if place is not None:
                _NUMBER.pack_into(self._data, at + _NUMBERS_AT + place * _NUMBER.size, 0)
                self._free.append(self._places.pop(number))
            return
        self._counts[number] = count
        if place is None:
            if not self._free:
                return
            place = self._places[number] = self._free.pop()
            _NUMBER.pack_into(self._data, at + _NUMBERS_AT + place * _NUMBER.size, number)
        _COUNT.pack_into(self._data, at + _COUNTS_AT + place * _COUNT.size, count)

    def _others(self, number: int, enough: int) -> int:
        """What the other workers have open, counted no further than `enough`."""
        found = 0
        for row in range(MAX_WORKERS):
            if found >= enough:
                break
            if row == self._row or not _USED.unpack_from(self._data, self._at(row))[0]:
                continue
            count = self._count(row, number)
            if count and self._file.hold(row):
                # Nobody holds it: its worker was killed.
                self._clear(row)
                self._file.release(row)
                continue
            found += count
        return found

    def _count(self, row: int, number: int) -> int:
        """The count of a route in a row."""
        at = self._at(row) + _NUMBERS_AT
        end = at + ROUTES * _NUMBER.size
        wanted = _NUMBER.pack(number)
        found = self._data.find(wanted, at, end)
        while found >= 0 and (found - at) % _NUMBER.size:
            found = self._data.find(wanted, found + 1, end)
        if found < 0:
            return 0
        place = (found - at) // _NUMBER.size
        count: int = _COUNT.unpack_from(self._data, self._at(row) + _COUNTS_AT + place * _COUNT.size)[0]
        return count
