"""How many of something are open on this host, over all its workers, in shared memory: WebSockets or requests of a route, connections
or requests of a client.

A row a worker, with a count a key. Only the row's worker writes it, and holds the row's lock while it lives: the kernel frees
the lock of a killed worker, and what that one had open counts no more.
"""

from __future__ import annotations

import os
import struct

from proxyd.store.memory.board import MAX_WORKERS
from proxyd.store.memory.shared import SharedFile, put

#: Keys that a row of routes has room for; those beyond are counted by their worker alone.
ROUTES = 2048
#: The same for clients.
CLIENTS = 8192
#: A key lies in the bucket that it chooses, so that a search looks at few places.
_BUCKET = 64
_KEY = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_HIGH = struct.Struct("<I")
_HIGH_AT = 64
_HEADER = 4096
_CHANGING = MAX_WORKERS
#: An odd factor makes keys look random (and different ones stay different): a search for bytes finds no parts of two neighbours.
_FACTOR = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


class HostCounts:
    """The counts in the file `name` of `directory`; every worker of the host maps the same file. Open it after fork. Keys are whole
    numbers from 1, below 2 ** 64. `places`: keys that a worker can have open at once."""

    def __init__(self, directory: str, name: str, places: int = ROUTES) -> None:
        self._buckets = places // _BUCKET
        self._counts_at = places * _KEY.size
        self._row_size = places * (_KEY.size + _COUNT.size)
        self._file = SharedFile(os.path.join(directory, name), _HEADER + MAX_WORKERS * self._row_size, b"counts1")
        self._file.mapped_anew = self._come_back
        self._data = self._file.data
        self._row = -1
        self._counts: dict[int, int] = {}
        self._places: dict[int, int] = {}
        self._free: list[list[int]] = []

    def join(self) -> None:
        """Take a row for this process. Raises RuntimeError when all are taken."""
        for row in range(MAX_WORKERS):
            if self._file.hold(row):
                self._clear(row)
                with self._file.lock(_CHANGING):
                    high: int = _HIGH.unpack_from(self._data, _HIGH_AT)[0]
                    put(self._data, _HIGH_AT, _HIGH.pack(max(high, row + 1)))
                self._row = row
                self._free = [list(range((bucket + 1) * _BUCKET - 1, bucket * _BUCKET - 1, -1)) for bucket in range(self._buckets)]
                return
        raise RuntimeError(f"more than {MAX_WORKERS} workers on one host")

    @property
    def file(self) -> SharedFile:
        """The mapped file."""
        return self._file

    def _come_back(self) -> None:
        """Put what this process has open into a file that takes the place of a lost one."""
        if self._row >= 0:
            counts, self._counts, self._places = self._counts, {}, {}
            self.join()
            for key, count in counts.items():
                self._set(key, count)

    def leave(self) -> None:
        """Give the row back: what this process has open counts no more."""
        if self._row >= 0:
            self._clear(self._row)
            self._file.release(self._row)
            self._row = -1

    def reserve(self, key: int, limit: int, behind: int = 0) -> bool:
        """Count one more of `key`, unless the host has `limit` of them open already (0: no limit), or another worker has some of the
        key `behind`."""
        with self._file.lock(_CHANGING):
            if behind and self._others(behind, 1):
                return False
            mine = self._counts.get(key, 0)
            if limit and mine + self._others(key, limit - mine) >= limit:
                return False
            self._set(key, mine + 1)
            return True

    def release(self, key: int) -> None:
        """Count one less that `reserve` counted."""
        with self._file.lock(_CHANGING):
            self._set(key, self._counts.get(key, 1) - 1)

    def elsewhere(self, key: int) -> int:
        """How many of `key` the other workers have open."""
        with self._file.lock(_CHANGING):
            return self._others(key, _MASK)

    def close(self) -> None:
        """Leave and unmap."""
        self.leave()
        self._data = memoryview(b"")  # type: ignore[assignment]
        self._file.close()

    def _at(self, row: int) -> int:
        return _HEADER + row * self._row_size

    def _clear(self, row: int) -> None:
        at = self._at(row)
        self._data[at:at + self._row_size] = bytes(self._row_size)

    def _set(self, key: int, count: int) -> None:
        if self._row < 0:
            return
        place = self._places.get(key)
        at = self._at(self._row)
        free = self._free[key % self._buckets]
        if not count:
            self._counts.pop(key, None)
            if place is not None:
                put(self._data, at + place * _KEY.size, _KEY.pack(0))
                free.append(self._places.pop(key))
            return
        self._counts[key] = count
        if place is None:
            if not free:
                return
            place = self._places[key] = free.pop()
            put(self._data, at + place * _KEY.size, _KEY.pack(key * _FACTOR & _MASK))
        put(self._data, at + self._counts_at + place * _COUNT.size, _COUNT.pack(count))

    def _others(self, key: int, enough: int) -> int:
        """What the other workers have open, counted no further than `enough`."""
        found = 0
        wanted = _KEY.pack(key * _FACTOR & _MASK)
        first = key % self._buckets * _BUCKET
        for row in range(_HIGH.unpack_from(self._data, _HIGH_AT)[0]):
            if found >= enough:
                break
            if row == self._row:
                continue
            count = self._count(self._at(row), first, wanted)
            if count and self._file.hold(row):
                # Nobody holds it: its worker was killed.
                self._clear(row)
                self._file.release(row)
                continue
            found += count
        return found

    def _count(self, at: int, first: int, wanted: bytes) -> int:
        """The count of a packed key in the row at `at`, whose bucket begins at the place `first`."""
        begin = at + first * _KEY.size
        end = begin + _BUCKET * _KEY.size
        found = self._data.find(wanted, begin, end)
        while found >= 0 and (found - begin) % _KEY.size:
            found = self._data.find(wanted, found + 1, end)
        if found < 0:
            return 0
        place = first + (found - begin) // _KEY.size
        count: int = _COUNT.unpack_from(self._data, at + self._counts_at + place * _COUNT.size)[0]
        return count
