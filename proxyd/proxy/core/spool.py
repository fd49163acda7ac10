"""Bodies that are kept for a while: in memory first, then in a temporary file, and all of a worker's together within one bound.

Files have no name from the beginning, so nothing is left of them however the worker ends. They are written and read in native
threads, because a slow disk must not stop the worker.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator
from typing import Any

from gevent.threadpool import ThreadPool

from proxyd.base.text import format_size
from proxyd.base.threads import in_thread
from proxyd.base.trouble import Trouble
from proxyd.http1 import ProtocolError

log = logging.getLogger("proxyd.proxy")

#: What one spool holds in memory, and what all of a worker hold there, bytes.
MEMORY = 65536
_MEMORY_IN_ALL = 64 << 20
_PIECE = 262144
_THREADS = 4


class _File:
    """A temporary file. It is closed when nobody uses it any more: a thread may still be writing when its exchange has ended."""

    __slots__ = ("_file", "_fd")

    def __init__(self, directory: str) -> None:
        self._file = tempfile.TemporaryFile(buffering=0, dir=directory)  # noqa: SIM115 - closed below
        self._fd = self._file.fileno()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self._file.close()

    def write(self, data: bytes, at: int) -> None:
        """Write all of it. Raises OSError."""
        rest = memoryview(data)
        while rest:
            count = os.pwrite(self._fd, rest, at)
            rest, at = rest[count:], at + count

    def read(self, size: int, at: int) -> bytes:
        """Some of the bytes from there. Raises OSError."""
        data = os.pread(self._fd, size, at)
        if not data:
            raise OSError("a temporary file ended early")
        return data


class Storage:
    """What all spools of a worker may hold together. `directory`: that of the temporary files, "" for the system's."""

    def __init__(self, total: int, directory: str) -> None:
        self.total = total
        self.used = 0
        self.memory = 0
        self.directory = directory
        self._trouble = Trouble(log, "bodies are not buffered")
        self._pool: Any = None

    def call(self, function: Any, *arguments: Any) -> Any:
        """Run a function in a native thread, and return or raise what it does."""
        if self._pool is None:
            self._pool = ThreadPool(_THREADS)
        return in_thread(self._pool, function, *arguments)

    def new_file(self) -> _File:
        """A file. Raises OSError."""
        if not self.directory:
            # Not in the thread: the module has a lock of its own there.
            self.directory = tempfile.gettempdir()
        made: _File = self.call(_File, self.directory)
        return made

    def drop(self, file: _File) -> None:
        """Let a thread close a file: to give up the blocks of a large one takes time."""
        if self._pool is not None:
            self._pool.spawn(id, file)

    def reserve(self, size: int) -> bool:
        """Whether there is room. It is taken then."""
        if self.used + size > self.total:
            self._trouble.goes_on(f"[proxy] buffer_total ({format_size(self.total)}) is used up")
            return False
        self.used += size
        return True

    def release(self, size: int) -> None:
        """Give room back."""
        self.used -= size
        if self._trouble.reason and self.used < self.total // 2:
            self._trouble.is_over()

    def failed(self, error: OSError) -> None:
        """A file could not be made or written."""
        self._trouble.goes_on(f"temporary file in {self.directory or 'any directory'}: {error.strerror or error}")


class Spool:
    """One body, or the part of one that its reader has not taken yet. One greenlet puts, one takes.

    `denied`: whether there was no room for it in the storage, or no file.
    """

    __slots__ = ("_at", "_file", "_in_file", "_index", "_limit", "_memory", "_memory_size", "_size", "_storage", "_taken", "denied")

    def __init__(self, storage: Storage, limit: int) -> None:
        self.denied = False
        self._storage = storage
        self._limit = limit
        self._memory: list[bytes] = []
        self._memory_size = 0
        self._file: _File | None = None
        self._in_file = 0
        self._size = 0
        self._index = 0
        self._at = 0
        self._taken = 0

    @property
    def size(self) -> int:
        """The bytes that were put."""
        return self._size

    @property
    def waiting(self) -> bool:
        """Whether something was put and not taken."""
        return self._taken < self._size

    def put(self, data: bytes) -> bool:
        """Add data at the end. Returns False, and keeps nothing of it, if there is no room."""
        if self._taken and not self.waiting:
            self._empty()
        size = len(data)
        if self._size + size > self._limit:
            return False
        storage = self._storage
        if not storage.reserve(size):
            self.denied = True
            return False
        if not self._in_file and self._size + size <= MEMORY and storage.memory + size <= _MEMORY_IN_ALL:
            self._memory.append(data)
            self._memory_size += size
            storage.memory += size
        else:
            written = False
            try:
                written = self._write(data)
            finally:
                if not written:
                    # Perhaps this greenlet was ended while it waited.
                    self.denied = True
                    storage.release(size)
            if not written:
                return False
        self._size += size
        return True

    def _write(self, data: bytes) -> bool:
        try:
            if self._file is None:
                self._file = self._storage.new_file()
            self._storage.call(self._file.write, data, self._in_file)
        except OSError as error:
            self._storage.failed(error)
            return False
        self._in_file += len(data)
        return True

    def take(self) -> bytes:
        """The next piece that was not taken. Raises ProtocolError 503 if the file can't be read."""
        if self._index < len(self._memory):
            data = self._memory[self._index]
            self._index += 1
        else:
            data = self._read(self._at)
            self._at += len(data)
        self._taken += len(data)
        return data

    def pieces(self) -> Iterator[bytes]:
        """All that was put, from the beginning; nothing is taken by that. Raises ProtocolError 503 if the file can't be read."""
        yield from self._memory
        at = 0
        while at < self._in_file:
            data = self._read(at)
            yield data
            at += len(data)

    def _read(self, at: int) -> bytes:
        assert self._file is not None, "take what was put"
        try:
            data: bytes = self._storage.call(self._file.read, min(_PIECE, self._in_file - at), at)
        except OSError as error:
            raise ProtocolError(503, "buffer_failed", f"a buffered body can't be read: {error.strerror or error}") from None
        return data

    def _empty(self) -> None:
        """Begin anew: all was taken."""
        self._storage.memory -= self._memory_size
        self._storage.release(self._size)
        self._memory = []
        self._memory_size = self._in_file = self._size = self._index = self._at = self._taken = 0

    def close(self) -> None:
        """Give back what it holds. Harmless when done again."""
        self._empty()
        if self._file is not None:
            self._storage.drop(self._file)
            self._file = None
