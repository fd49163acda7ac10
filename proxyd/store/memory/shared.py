"""Memory shared by the processes of one host: a preallocated file, mapped by all, with locks the kernel frees.

The file is allocated in full when it is made: touching a hole of a sparse file on a full disk would kill the
process (SIGBUS), and the data plane must outlive a full disk. Locks are fcntl byte-range locks, because the
kernel frees them when their holder dies, however it dies.

A file that is deleted or replaced under those who use it is mapped anew by all of them, at the same address: who holds a reference
to the mapping, or an address in it, need not know.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import time
from collections.abc import Callable
from types import TracebackType

from gevent.monkey import get_original

from proxyd.base import private
from proxyd.base.fileid import Identity, identity_of

_LOCK_BASE = 1 << 40
#: Longer than the kernel keeps a runnable holder from its turn on a crowded machine. The second number is for a lock
#: whose holder was waited for once in vain: it is stopped, and must not stop everybody time and again.
PATIENCE, PATIENCE_WITH_STUCK = 0.5, 0.001
_SPINS = 50
#: Waiting must not switch greenlets: another one of this process would be let in (see RangeLock).
_sleep = get_original("time", "sleep")


_MAP_FIXED = 0x10
_mmap = ctypes.CDLL(None, use_errno=True).mmap
_mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_mmap.restype = ctypes.c_void_p

BOARD, CIRCUITS, LIMITS, WEBSOCKETS = "proxyd.board", "proxyd.circuits", "proxyd.limits", "proxyd.websockets"
IN_FLIGHT, CLIENTS = "proxyd.inflight", "proxyd.clients"
#: All shared files of a host, and what becomes of workers that start after one was deleted, until all processes map the new one.
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
    replaced by an empty one. `prepare` is given the mapping of a file just made, before anybody else can use it. `carried`: the part
    that a file which takes the place of a lost one gets from it. Raises SharedMemoryError.
    """

    def __init__(self, path: str, size: int, layout: bytes, prepare: Callable[[mmap.mmap], None] | None = None,
                 carried: slice = slice(0, 0)) -> None:
        self.path = path
        #: Called after the file was mapped anew: what this process had in it besides what is carried is to be put there again.
        self.mapped_anew: Callable[[], None] = lambda: None
        self._size = size
        self._magic = layout.ljust(8, b"\0")
        self._prepare = prepare
        self._carried = carried
        self._fd = -1
        self._fd = self._open()
        self.data = mmap.mmap(self._fd, size)
        self._stuck: set[int] = set()

    def _open(self) -> int:
        try:
            os.makedirs(os.path.dirname(os.path.abspath(self.path)), exist_ok=True)
            return self._opened(self.path, self._size, self._magic)
        except OSError as error:
            raise SharedMemoryError(
                f"can't set up the shared memory file {self.path}: {error.strerror}; it needs {self._size >> 20} MiB "
                "and a writable directory ([database] shared_memory), and if it is there, to belong to this user") from None

    def _opened(self, path: str, size: int, magic: bytes) -> int:
        regained = False
        while True:
            try:
                fd, made = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, private.MODE), True
            except FileExistsError:
                try:
                    fd, made = os.open(path, os.O_RDWR | os.O_CLOEXEC), False
                except FileNotFoundError:
                    continue
                except PermissionError:
                    # Once: another process may have done it meanwhile, and one that is somebody else's can't be opened at all.
                    if regained:
                        raise
                    regained = private.regain(path) or True
                    continue
            fcntl.lockf(fd, fcntl.LOCK_EX, 1, _LOCK_BASE - 1)
            status = os.fstat(fd)
            if not os.path.exists(path) or os.stat(path).st_ino != status.st_ino:
                os.close(fd)
                continue
            if status.st_size == size and os.pread(fd, 8, 0) == magic:
                private.tighten(path)
                fcntl.lockf(fd, fcntl.LOCK_UN, 1, _LOCK_BASE - 1)
                return fd
            if not made:
                # Also an empty one: somebody may have cut it under those who map it, and to them another file tells that.
                os.unlink(path)
                os.close(fd)
                continue
            try:
                os.fchmod(fd, private.MODE)
                os.posix_fallocate(fd, 0, size)
                # Kept until the end: a mapping that goes away closes a descriptor, and with it the lock on this file.
                mapping = mmap.mmap(fd, size)
                if self._prepare is not None:
                    self._prepare(mapping)
                # Not from one that was cut, or that something else was written into.
                if self._fd >= 0 and os.fstat(self._fd).st_size == size and os.pread(self._fd, 8, 0) == magic:
                    mapping[self._carried] = self.data[self._carried]
            except OSError:
                os.unlink(path)
                os.close(fd)
                raise
            os.pwrite(fd, magic, 0)
            fcntl.lockf(fd, fcntl.LOCK_UN, 1, _LOCK_BASE - 1)
            return fd

    def in_place(self) -> bool:
        """Whether a process that starts now maps the same file: this one may have been deleted, or overwritten."""
        try:
            named, held = os.stat(self.path), os.fstat(self._fd)
            return os.path.samestat(named, held) and os.pread(self._fd, 8, 0) == self._magic
        except OSError:
            return False

    def look(self) -> str:
        """Map the file anew if it was lost to others, and make it again if need be. What had become of it, "" for nothing.

        The mapping is not touched before it is known to be whole: memory beyond the end of a file kills who touches it. Raises
        SharedMemoryError where the file can't be made; then this process goes on with the memory that it has.
        """
        what = self._lost()
        if what == "unreadable":
            self._make_readable()
        elif what:
            self._map_anew()
        return what

    def _lost(self) -> str:
        """What became of the file."""
        try:
            named = os.stat(self.path)
        except OSError:
            return "deleted"
        held = os.fstat(self._fd)
        if not os.path.samestat(named, held):
            return "" if self._is_of_another_version() else "replaced"
        if held.st_size != self._size:
            return "truncated"
        if os.pread(self._fd, 8, 0) != self._magic:
            return "overwritten"
        return "" if named.st_mode & 0o600 == 0o600 else "unreadable"

    def _is_of_another_version(self) -> bool:
        """Whether the file that took this one's place is that of processes of another version, or with other settings."""
        try:
            with open(self.path, "rb") as file:
                found = file.read(8)
        except OSError:
            return False
        return len(found) == 8 and found != self._magic and found[:1] == self._magic[:1]

    def _make_readable(self) -> None:
        try:
            os.fchmod(self._fd, private.MODE)
        except OSError as error:
            raise SharedMemoryError(f"the shared memory file {self.path} can't be opened by processes that start from now on, and its "
                                    f"mode can't be changed: {error.strerror}; give it to this user, with mode 0640") from None

    def _map_anew(self) -> None:
        fd = self._open()
        address = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        found = _mmap(address, self._size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED | _MAP_FIXED, fd, 0)
        if found != address:
            code = ctypes.get_errno()
            os.close(fd)
            raise SharedMemoryError(f"can't map the shared memory file {self.path} again: {os.strerror(code)}")
        # The same number, for the locks. The other descriptor must be closed before a lock is taken: closing it would free that.
        os.dup2(fd, self._fd, inheritable=False)
        os.close(fd)
        self._stuck.clear()
        self.mapped_anew()

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
        self._known: tuple[Identity, bytes] | None = None
        self._known = self._identity()

    def look(self) -> str:
        """What became of the file since the last look, "" for nothing. Not every configuration needs each, and those that map it make
        it again. One of another layout is that of workers with other settings."""
        before, self._known = self._known, self._identity()
        if before is None or before == self._known:
            return ""
        if self._known is None:
            return "deleted"
        return "replaced" if before[1] == self._known[1] or not self._known[1] else ""

    def _identity(self) -> tuple[Identity, bytes] | None:
        try:
            with open(self.path, "rb") as file:
                return identity_of(file.fileno()), file.read(8).rstrip(b"\0")
        except PermissionError:
            # Those that map it make it readable again.
            return self._known
        except OSError:
            return None


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
