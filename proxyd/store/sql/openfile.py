"""Which files an SQLite database consists of, so that the log of one is never taken for another's.

SQLite knows the log (`-wal`) and its index (`-shm`) by their names only. If another database takes the place of one that is in use, whoever
opens it reads it through the old log, and the last who closes it writes that log into it. So:

- The master notes in its lock file which files belong together (`Files`), also for its successor and for workers that start later.
- Nobody opens a database beside the log of another one (`Files.strangers`). The master takes it away (`part`).
- Whoever opens a database makes sure that it was not replaced at that moment (`Pin`).

The last who closes the old one does no harm: SQLite looks whether the database still has its name, and leaves all as it is if not.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import struct
from dataclasses import dataclass

from proxyd.base.fileid import Identity, identity, identity_of, same

#: How a database begins: https://www.sqlite.org/fileformat2.html, section 1.3.1.
_HEAD = b"SQLite format 3\0"
LOG, INDEX = "-wal", "-shm"
#: Behind the name of a database, with LOG or INDEX behind it: what belongs to the last one that lost its place. The index is kept as well,
#: though it is of no use: a new file would soon have the number of one that is deleted, and be taken for it.
PARTED = ".replaced"
#: The bytes whose lock says that a database is in use: https://www.sqlite.org/src/file/src/os_unix.c, SHARED_FIRST and SHARED_SIZE.
_IN_USE, _IN_USE_SIZE = 0x40000002, 510
#: How the index of a log begins: its version, and (after 10 bytes) the size of a page, and how many frames of the log count. A frame is a
#: page with a head. https://www.sqlite.org/walformat.html, section 2.1; https://www.sqlite.org/fileformat2.html, section 4.1.
_INDEX_HEAD = struct.Struct("=I10xHI")
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_INDEX_VERSION, _LOG_HEAD, _FRAME_HEAD = 3007000, 32, 24
#: How a file is noted: see fileid.Identity. Without the last number by an older proxyd.
_NOTED = re.compile(r"-|\d{1,20}:\d{1,20}(:-?\d{1,20})?")
#: Where in the index the salt of the log stands, which is another for each log, and how many of its frames were brought into the database.
#: https://www.sqlite.org/walformat.html, sections 2.1 and 2.3.
_SALT, _BROUGHT_IN = slice(32, 40), slice(96, 100)


@dataclass(frozen=True, slots=True)
class Files:
    """A database, its log and the index of the log."""

    database: Identity
    log: Identity
    index: Identity

    @classmethod
    def at(cls, path: str) -> Files:
        """Those that have the names now."""
        return cls(identity(path), identity(path + LOG), identity(path + INDEX))

    @classmethod
    def parse(cls, text: str) -> Files | None:
        """What `str` gave. None for anything else."""
        words = text.split(" ")
        if len(words) != 3 or not all(map(_NOTED.fullmatch, words)):
            return None
        found: list[Identity] = []
        for word in words:
            device, _, rest = word.partition(":")
            number, _, made = rest.partition(":")
            found.append((int(device), int(number), int(made or 0)) if rest else None)
        return cls(*found)

    def __str__(self) -> str:
        return " ".join(":".join(map(str, found)) if found else "-" for found in (self.database, self.log, self.index))

    def still_at(self, path: str) -> Files:
        """These, without a log and an index that have lost their names. Nobody takes them for another's any more; but when the last who
        has them open closes them, new files may get their numbers."""
        now = Files.at(path)
        return Files(self.database, self.log if now.log == self.log else None, self.index if now.index == self.index else None)

    def strangers(self, path: str) -> list[str]:
        """The log and the index of this database that lie beside another one, which has the name `path` now."""
        now = identity(path)
        if now is None or self.database is None or same(now, self.database):
            return []
        # The log comes last: while it is there, nobody opens the database.
        return [path + suffix for suffix, own in ((INDEX, self.index), (LOG, self.log)) if same(own, identity(path + suffix))]


def noted(lock: str) -> Files | None:
    """Which files a master has noted in its lock file: see MasterLock."""
    try:
        with open(lock, "rb") as file:
            lines = file.read(256).decode("ascii", "replace").splitlines()
    except OSError:
        return None
    return Files.parse(lines[1]) if len(lines) > 1 else None


def part(path: str, files: Files | None) -> str:
    """Take the log of `files` away if another database has the name `path` now. Returns where the log is, "" if there was none.

    For the lock's holder alone. The log is kept, since the database that it belongs to may have another name now. Raises OSError.
    """
    strangers = files.strangers(path) if files is not None else []
    for name in strangers:
        with contextlib.suppress(FileNotFoundError):
            os.rename(name, path + PARTED + name.removeprefix(path))
    return path + PARTED + LOG if path + LOG in strangers else ""


def is_cut(path: str) -> bool:
    """Whether the log of a database is shorter than the index of the log says. SQLite says "disk I/O error" then, for as long as any
    process has the index open. For the database thread: nobody may write meanwhile but other processes."""
    index = path + INDEX
    try:
        size = os.path.getsize(path + LOG)
        own = _own_descriptor(index)
        if own is None:
            with open(index, "rb", buffering=0) as file:
                head = file.read(_INDEX_HEAD.size)
        else:
            head = os.pread(own, _INDEX_HEAD.size, 0)
        # Who appends to the log notes it in the index afterwards; who cuts it, before.
        size = max(size, os.path.getsize(path + LOG))
    except OSError:
        return False
    if len(head) < _INDEX_HEAD.size:
        return False
    version, page, frames = _INDEX_HEAD.unpack(head)
    return version == _INDEX_VERSION and bool(frames) and size < _LOG_HEAD + frames * (_FRAME_HEAD + (65536 if page == 1 else page))


def is_torn(path: str) -> bool:
    """Whether the log of a database does not begin as a log does, or has a hole: somebody cut it, and a process in the middle of a step
    wrote on where the log had ended. For the database thread, as `is_cut`."""
    try:
        # SQLite locks the database and the index; nothing is lost with a descriptor of the log.
        with open(path + LOG, "rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            return size > 0 and (file.read(len(_LOG_MAGIC[0])) not in _LOG_MAGIC or os.lseek(file.fileno(), 0, os.SEEK_HOLE) < size)
    except OSError:
        return False


def _own_descriptor(path: str) -> int | None:
    """The descriptor by which SQLite has this file open in this process: closing another one would free SQLite's locks."""
    path = os.path.abspath(path)
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}") == path:
                return int(name)
    return None


class Pin:
    """A descriptor of the file that a connection of SQLite is about to open, and later one of the index of its log. Close the connection
    first: closing any descriptor of a file frees all locks that the process has on it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        self._index: int | None = None

    def identity(self) -> Identity:
        """That of the file."""
        return identity_of(self._fd)

    def is_database(self) -> bool:
        """Whether the file still begins as a database does. Read by this descriptor: closing another one would free SQLite's locks."""
        return os.pread(self._fd, len(_HEAD), 0) == _HEAD

    def brought_in(self) -> bytes:
        """How much of which log is in the file, by the index of the log: another value once SQLite has written into the file, which it does
        for that alone. Empty where there is no index yet. For those whose connection is open: the index is that connection's, then."""
        if self._index is None:
            with contextlib.suppress(OSError):
                self._index = os.open(self._path + INDEX, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        head = os.pread(self._index, _BROUGHT_IN.stop, 0) if self._index is not None else b""
        return head[_SALT] + head[_BROUGHT_IN] if len(head) == _BROUGHT_IN.stop else b""

    def keep(self) -> None:
        """Until this is closed, the database is in use for whoever closes a connection. So SQLite leaves the log as it is. Raises
        OSError."""
        fcntl.fcntl(self._fd, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, _IN_USE, _IN_USE_SIZE, 0))

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
        if self._index is not None:
            os.close(self._index)


def pin(path: str) -> Pin | None:
    """A pin of the file that has this name. None if it can't be opened: SQLite will tell."""
    try:
        return Pin(path)
    except OSError:
        return None
