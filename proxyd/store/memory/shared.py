"""Memory shared by the processes of one host: a preallocated file, mapped by all, with locks the kernel frees.

The file is allocated in full when it is made: touching a hole of a sparse file on a full disk would kill the
process (SIGBUS), and the data plane must outlive a full disk. Locks are fcntl byte-range locks, because the
kernel frees them when their holder dies, however it dies.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from types import TracebackType

from gevent.monkey import get_original

_LOCK_BASE = 1 << 40
#: Longer than the kernel keeps a runnable holder from its turn on a crowded machine. The second number is for a lock
#: whose holder was waited for once in vain: it is stopped, and must not stop everybody time and again.
PATIENCE, PATIENCE_WITH_STUCK = 0.5, 0.001
_SPINS = 50
#: Waiting must not switch greenlets: another one of this process would be let in (see RangeLock).
_sleep = get_original("time", "sleep")


BOARD, CIRCUITS, LIMITS, WEBSOCKETS = "proxyd.board", "proxyd.circuits", "proxyd.limits", "proxyd.websockets"
IN_FLIGHT, CLIENTS = "proxyd.inflight", "proxyd.clients"
#: All shared files of a host, and what becomes of workers that start after one was deleted under those that run.
FILES = {
    BOARD: "are told of changes late",
    CIRCUITS: "judge upstreams on their own",
    LIMITS: "count the hits of rate limits on their own",
    WEBSOCKETS: "count open WebSockets on their own",
    IN_FLIGHT: "count the requests in flight on their own",
    CLIENTS: "count what a client has open on their own",
}


class SharedMemoryError(Exception):
    """The shared memory file can't be used; the message says what to do."""


def put(data: mmap.mmap, at: int, value: bytes) -> None:
    """Write a packed value in one copy. `struct.pack_into` would clear the place first, and who reads without a lock would see
    zeros: an open circuit closed, a worker gone."""
    data[at:at + len(value)] = value


class SharedFile:
    """A file of fixed size, mapped read-write; `data` is the mapping. Open it after fork.

    `layout` (8 bytes at most) names what is in it: a file of another layout or size, left by another version, is
    replaced by an empty one. `prepare` is given the mapping of a file just made, before anybody else can use it. Raises
    SharedMemoryError.
    """

    def __init__(self, path: str, size: int, layout: bytes, prepare: Callable[[mmap.mmap], None] | None = None) -> None:
        self.path = path
        magic = layout.ljust(8, b"\0")
        try:
            os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
            self._fd = self._open(path, size, magic, prepare)
        except OSError as error:
            raise SharedMemoryError(
                f"can't set up the shared memory file {path}: {error.strerror}; it needs {size >> 20} MiB "
                "and a writable directory ([database] shared_memory)") from None
        self.data = mmap.mmap(self._fd, size)
        self._stuck: set[int] = set()

    @staticmethod
    def _open(path: str, size: int, magic: bytes, prepare: Callable[[mmap.mmap], None] | None) -> int:
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
            fcntl.lockf(fd, fcntl.LOCK_EX, 1, _LOCK_BASE - 1)
            status = os.fstat(fd)
            if not os.path.exists(path) or os.stat(path).st_ino != status.st_ino:
                os.close(fd)
                continue
            if status.st_size == size and os.pread(fd, 8, 0) == magic:
                fcntl.lockf(fd, fcntl.LOCK_UN, 1, _LOCK_BASE - 1)
                return fd
            if status.st_size:
                os.unlink(path)
                os.close(fd)
                continue
            try:
                os.posix_fallocate(fd, 0, size)
                # Kept until the end: a mapping that goes away closes a descriptor, and with it the lock on this file.
                mapping = mmap.mmap(fd, size)
                if prepare is not None:
                    prepare(mapping)
            except OSError:
                os.unlink(path)
                os.close(fd)
                raise
            os.pwrite(fd, magic, 0)
            fcntl.lockf(fd, fcntl.LOCK_UN, 1, _LOCK_BASE - 1)
            return fd

    def in_place(self) -> bool:
        """Whether a process that starts now maps the same file: this one may have been deleted."""
        try:
            named, held = os.stat(self.path), os.fstat(self._fd)
        except OSError:
            return False
        return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)

    def lock(self, index: int) -> RangeLock:
        """A lock to hold for microseconds, for use in `with`; one index, one lock over all processes."""
        return RangeLock(self._fd, _LOCK_BASE + index, self._stuck)

    def hold(self, index: int) -> bool:
        """Take lock `index` and keep it until this process ends or `release`s; False if another process has it."""
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCK_BASE + index)
        except OSError:
            return False
        return True

    def release(self, index: int) -> None:
        """Give back a lock that `hold` took."""
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, _LOCK_BASE + index)

    def close(self) -> None:
        """Unmap and close; locks held are freed."""
        self.data.close()
        os.close(self._fd)


class ForeignFile:
    """A shared file that other processes map, and this one does not."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._seen = False

    def in_place(self) -> bool:
        """Whether the file is there, or never was: not every configuration needs each. A worker may replace it by one of another
        layout."""
        there = os.path.exists(self.path)
        self._seen = self._seen or there
        return there or not self._seen


class RangeLock:
    """A byte-range lock held inside `with`. Waits at most half a second: a stopped holder must not stop everybody.

    The caller's critical section must not switch greenlets (locks belong to the process, not to the greenlet).
    """

    __slots__ = ("_fd", "_offset", "_stuck")

    def __init__(self, fd: int, offset: int, stuck: set[int]) -> None:
        self._fd = fd
        self._offset = offset
        self._stuck = stuck

    def __enter__(self) -> None:
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._offset)
        except OSError:
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + (PATIENCE_WITH_STUCK if self._offset in self._stuck else PATIENCE)
        spins = 0
        while True:
            try:
                fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._offset)
            except OSError:
                if time.monotonic() > deadline:
                    self._stuck.add(self._offset)
                    return
            else:
                self._stuck.discard(self._offset)
                return
            spins += 1
            if spins > _SPINS:
                _sleep(0.0001)
            else:
                os.sched_yield()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        fcntl.lockf(self._fd, fcntl.LOCK_UN, 1, self._offset)
