"""Rate-limit counters of a host in shared memory, as a storage of the `limits` library (scheme `proxyd`).

A hash table of fixed size: each key has one place in a set of eight; when a set is full, its longest unused entry
goes. A set's lock is held for microseconds, and the kernel frees it when its holder dies. Counters survive restarts of
workers. The clock is the machine's own since its start, which nobody sets: a window is neither cut short nor drawn out
when the time of day is set right. Three kinds of entry, one storage each:

- fixed window: a count and its window's end;
- sliding window counter: the counts of this window and the last one, the last one weighted by how much of it still
  lies within the window behind now (what the library's own storages do);
- moving window: counts in 64 parts, each 1/63 of a window wide. A part that is only partly past still counts in full,
  so the limit is never exceeded in any window; a hit is given back at most 1/63 of the window late.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from limits.storage import MovingWindowSupport, SlidingWindowCounterSupport, Storage

from proxyd.store.memory import mutex
from proxyd.store.memory.mutex import Mutex, trylock, unlock
from proxyd.store.memory.outage import Outage
from proxyd.store.memory.shared import LIMITS, SharedFile, put

WAYS = 8
PARTS = 64
_OUTAGE_AT = 64
_LOCKS = 1024
_LOCKS_AT = 4096
_HEADER = _LOCKS_AT + _LOCKS * mutex.SIZE
_KEY = 16
#: Key, last use, window number (fixed window: its end in ms), count, count of the window before.
_COUNTS = struct.Struct("<16sdqII")
_COUNTS_SIZE = 48
_COUNTS_USED = _COUNTS.size
#: `_pack_counts` empties the place before it fills it: a worker killed in between leaves an empty place, so one client's count
#: begins anew. All others write a packed entry in one copy (see shared.put); SlidingCounter.take, which every limited request
#: comes through, saves the 0.1 us of that.
_unpack_counts, _pack_counts = _COUNTS.unpack_from, _COUNTS.pack_into
_VALUES = struct.Struct("<qII")
_MOVING = struct.Struct(f"<16sdq{PARTS}I")
_MOVING_SIZE = _MOVING.size
_EMPTY = bytes(_KEY)


def _boot() -> bytes:
    """A mark of this boot of the machine: a mutex that was held when the power went would stay held for ever."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
    except OSError:
        boot = b""
    return hashlib.blake2b(boot, digest_size=5).digest() + b"4"


def _make_locks(data: mmap.mmap) -> None:
    mutex.initialise(mutex.address_of(data) + _LOCKS_AT, _LOCKS)


class SlidingCounter:
    """The sliding window of one key. Every limited request comes through here, so it is written out instead of put together."""

    __slots__ = ("_address", "_at", "_clock", "_data", "_digest", "_find", "_lock")

    def __init__(self, data: mmap.mmap, lock: Mutex, clock: Callable[[], float], digest: bytes, at: int,
                 find: Callable[[], tuple[int, int, int, int]]) -> None:
        self._data = data
        self._lock = lock
        self._address = lock.address
        self._clock = clock
        self._digest = digest
        self._at = at
        self._find = find

    def take(self, limit: int, expiry: float, amount: int = 1) -> bool:
        """Count `amount` hits, if they are within `limit` in `expiry` seconds; whether they are."""
        failed = trylock(self._address)
        if failed:
            failed = self._lock.wait(failed)
        try:
            data, at, digest = self._data, self._at, self._digest
            found, _, known, count, before = _unpack_counts(data, at)
            if found != digest:
                # It was evicted, or never there; the set is locked now.
                at, known, count, before = self._find()
                self._at = at
            now = self._clock()
            position = now / expiry
            window = int(position)
            if known != window:
                before, count = (count, 0) if known == window - 1 else (0, 0)
            weighted = int(before * (1.0 - (position - window))) if before else 0
            allowed: bool = weighted + count + amount <= limit
            _pack_counts(data, at, digest, now, window, count + amount if allowed else count, before)
        finally:
            if not failed:
                unlock(self._address)
        return allowed

    def give_back(self, amount: int, window: int, expiry: float) -> None:
        """Take back hits that were counted in window number `window`, unless that one is over."""
        with self._lock:
            at, known, count, before = self._find()
            now = self._clock()
            if known == window == int(now / expiry):
                put(self._data, at, _COUNTS.pack(self._digest, now, window, max(0, count - amount), before))


class SharedCounters(Storage, SlidingWindowCounterSupport, MovingWindowSupport):
    """Counters of up to `entries` keys in `directory`; `moving`: entries hold the parts of a moving window.

    `clock` is what windows go by. Instants that come out are Unix seconds, as the library wants them, or those of a clock that is
    given. `outage`: what the host's workers agree on about a storage that this one stands in for.
    """

    STORAGE_SCHEME = ["proxyd"]

    def __init__(self, uri: str | None = None, wrap_exceptions: bool = False, directory: str = ".", entries: int = 65536,
                 moving: bool = False, clock: Callable[[], float] | None = None, **options: Any) -> None:
        super().__init__(uri, wrap_exceptions)
        self._moving = moving
        self._size = _MOVING_SIZE if moving else _COUNTS_SIZE
        self._sets = max(1, entries // WAYS)
        layout = (b"lm" if moving else b"lc") + _boot()
        self._file = SharedFile(os.path.join(directory, LIMITS), _HEADER + self._sets * WAYS * self._size, layout,
                                _make_locks, slice(_HEADER, None))
        self._data = self._file.data
        address = mutex.address_of(self._data) + _LOCKS_AT
        self._locks = [Mutex(address + index * mutex.SIZE) for index in range(_LOCKS)]
        self.clock = clock or time.monotonic
        self.wall = clock or time.time
        self.outage = Outage(self._data, _OUTAGE_AT, self._locks[0])
        self._places: dict[str, tuple[int, bytes]] = {}
        self._sliding: dict[str, SlidingCounter] = {}

    @property
    def file(self) -> SharedFile:
        """The mapped file."""
        return self._file

    @property
    def base_exceptions(self) -> type[Exception]:
        return OSError

    def _place(self, key: str) -> tuple[int, bytes]:
        """Number of the key's set, and the digest it is stored under."""
        found = self._places.get(key)
        if found is None:
            digest = hashlib.blake2b(key.encode("utf-8", "replace"), digest_size=_KEY).digest()
            if len(self._places) > 20_000:
                self._places.clear()
            found = self._places[key] = (int.from_bytes(digest[:8], "little") % self._sets, digest)
        return found

    def _find(self, number: int, digest: bytes) -> tuple[int, bool]:
        """Offset of the digest's entry in its set, or of the one to be used for it, and whether it was there."""
        data, size = self._data, self._size
        at = _HEADER + number * WAYS * size
        oldest, oldest_use = at, float("inf")
        for _ in range(WAYS):
            key = data[at:at + _KEY]
            if key == digest:
                return at, True
            used = struct.unpack_from("<d", data, at + _KEY)[0] if key != _EMPTY else -1.0
            if used < oldest_use:
                oldest, oldest_use = at, used
            at += size
        return oldest, False

    def _counts(self, number: int, digest: bytes) -> tuple[int, int, int, int]:
        """Offset, and the entry's three values (0, 0, 0 where it is new). The set must be locked for writing."""
        at, there = self._find(number, digest)
        if not there:
            return at, 0, 0, 0
        window, count, before = _VALUES.unpack_from(self._data, at + 24)
        return at, window, count, before

    # -- fixed window

    def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        return self._count(key, expiry, amount)

    def take_fixed(self, key: str, limit: int, expiry: float) -> bool:
        """Count a hit; whether it is within the limit. Without what the library wraps around a storage's methods."""
        return self._count(key, expiry, 1) <= limit

    def _count(self, key: str, expiry: float, amount: int) -> int:
        number, digest = self._place(key)
        with self._locks[number % _LOCKS]:
            now = self.clock()
            at, end, count, _ = self._counts(number, digest)
            # An end further away than a window comes from a clock that was set back, or from a longer limit.
            if not now * 1000 < end <= (now + expiry) * 1000:
                end, count = int((now + expiry) * 1000), 0
            count = min(count + amount, 0xFFFFFFFF)
            self._data[at:at + _COUNTS_USED] = _COUNTS.pack(digest, now, end, count, 0)
        return count

    def get(self, key: str) -> int:
        number, digest = self._place(key)
        with self._locks[number % _LOCKS]:
            _, end, count, _ = self._counts(number, digest)
        return count if end > self.clock() * 1000 else 0

    def get_expiry(self, key: str) -> float:
        number, digest = self._place(key)
        with self._locks[number % _LOCKS]:
            _, end, _, _ = self._counts(number, digest)
        return self.wall() + max(0.0, end / 1000 - self.clock())

    # -- sliding window counter

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: float, amount: int = 1) -> bool:
        return self.take_sliding(key, limit, expiry, amount)

    def take_sliding(self, key: str, limit: int, expiry: float, amount: int = 1) -> bool:
        """The same without what the library wraps around a storage's methods."""
        return self.sliding(key).take(limit, expiry, amount)

    def sliding(self, key: str) -> SlidingCounter:
        """What counts the hits of a key that is hit again and again."""
        found = self._sliding.get(key)
        if found is None:
            number, digest = self._place(key)

            def find() -> tuple[int, int, int, int]:
                return self._counts(number, digest)

            if len(self._sliding) > 20_000:
                self._sliding.clear()
            at = _HEADER + number * WAYS * self._size
            found = self._sliding[key] = SlidingCounter(self._data, self._locks[number % _LOCKS], self.clock, digest, at, find)
        return found

    def forget(self, key: str) -> None:
        """Drop the way to the counter of a key; what it counted stays."""
        self._sliding.pop(key, None)

    def get_sliding_window(self, key: str, expiry: float) -> tuple[int, float, int, float]:
        number, digest = self._place(key)
        with self._locks[number % _LOCKS]:
            _, known, count, before = self._counts(number, digest)
        window, part = divmod(self.clock(), expiry)
        if known != int(window):
            before, count = (count, 0) if known == int(window) - 1 else (0, 0)
        return before, max(0.0, expiry - part), count, 2 * expiry - part

    def clear_sliding_window(self, key: str, expiry: float) -> None:
        self.clear(key)

    # -- moving window

    def acquire_entry(self, key: str, limit: int, expiry: float, amount: int = 1) -> bool:
        return self.take_moving(key, limit, expiry, amount)

    def take_moving(self, key: str, limit: int, expiry: float, amount: int = 1) -> bool:
        """The same for the request path."""
        number, digest = self._place(key)
        with self._locks[number % _LOCKS]:
            now = self.clock()
            part = int(now / expiry * (PARTS - 1))
            at, known, parts = self._parts(number, digest, part)
            allowed = sum(parts) + amount <= limit
            if allowed:
                parts[part % PARTS] += amount
            self._data[at:at + _MOVING_SIZE] = _MOVING.pack(digest, now, part, *parts)
        return allowed

    def get_moving_window(self, key: str, limit: int, expiry: float) -> tuple[float, int]:
        number, digest = self._place(key)
        now = self.clock()
        part = int(now / expiry * (PARTS - 1))
        with self._locks[number % _LOCKS]:
            _, known, parts = self._parts(number, digest, part)
        for age in range(PARTS - 1, -1, -1):
            if parts[(part - age) % PARTS]:
                # The end of the part, as its hits are given back together when the last of them may be.
                return (part - age + 1) * expiry / (PARTS - 1) - now + self.wall(), sum(parts)
        return self.wall(), 0

    def _parts(self, number: int, digest: bytes, part: int) -> tuple[int, int, list[int]]:
        """Offset, last part written, and the counts of the parts that are not past. The set must be locked."""
        at, there = self._find(number, digest)
        if not there:
            return at, part, [0] * PARTS
        _, _, known, *parts = _MOVING.unpack_from(self._data, at)
        if part - known >= PARTS or part < known - PARTS:
            return at, known, [0] * PARTS
        for passed in range(known + 1, part + 1):
            parts[passed % PARTS] = 0
        return at, known, parts

    # -- all

    def clear(self, key: str) -> None:
        number, digest = self._place(key)
        with self._locks[number % _LOCKS]:
            at, there = self._find(number, digest)
            if there:
                self._data[at:at + self._size] = bytes(self._size)

    def check(self) -> bool:
        return True

    def reset(self) -> int | None:
        self._data[_HEADER:] = bytes(len(self._data) - _HEADER)
        return None

    def close(self) -> None:
        """Unmap."""
        self._file.close()
