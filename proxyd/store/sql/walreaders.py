"""Who keeps SQLite's log (`-wal`) from being used anew: readers whose snapshot is old, as their locks on the log's index tell.

A reader holds a shared lock on one byte of the index, which stands for how much of the log it may see. What lies behind that can't be
brought into the database while it reads. https://www.sqlite.org/walformat.html, 2.3: the marks follow the two headers of the index.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from proxyd.store.sql.database import database
from proxyd.store.sql.openfile import INDEX, LOG

#: Bytes of the index: where the marks begin, behind the count of what is in the database; and the byte whose lock is that of mark 0.
_MARKS, _FIRST_LOCK, _READERS = 100, 123, 5
#: The byte that each connection holds a shared lock on while it is open.
_USE_LOCK = 128
#: A mark that nobody uses.
_UNUSED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Reader:
    """A process that reads an old state. `frames`: how much of the log it sees, in pages; the smallest keeps the most."""

    pid: int
    name: str
    frames: int

    def __str__(self) -> str:
        return f"{self.name} (pid {self.pid})" if self.pid > 0 else "a process of another container or host"


def log_size(path: str) -> int:
    """Bytes of the log of a database."""
    try:
        return os.path.getsize(path + LOG)
    except OSError:
        return 0


def readers(path: str) -> list[Reader]:
    """The processes that read now, the oldest state first, without the own one. Empty if the kernel does not tell."""
    try:
        with open(path + INDEX, "rb") as file:
            marks = struct.unpack("=5I", file.read(_MARKS + 20)[_MARKS:])
    except (OSError, struct.error):
        return []
    found: dict[int, int] = {}
    for pid, first, last in _shared_locks(path):
        for place in range(max(first, _FIRST_LOCK), min(last, _FIRST_LOCK + _READERS - 1) + 1):
            mark = marks[place - _FIRST_LOCK]
            if mark != _UNUSED:
                found[pid] = min(mark, found.get(pid, mark))
    return sorted((Reader(pid, _name(pid), frames) for pid, frames in found.items()), key=lambda reader: (reader.frames, reader.pid))


def users(path: str) -> list[Reader]:
    """The processes that have the database open, without the own one: each holds a shared lock for as long as that. Empty if the kernel
    does not tell."""
    found = {pid for pid, first, last in _shared_locks(path) if first <= _USE_LOCK <= last}
    return [Reader(pid, _name(pid), 0) for pid in sorted(found)]


def _shared_locks(path: str) -> Iterator[tuple[int, int, int]]:
    """The shared locks on the log's index that other processes hold: process id, first and last byte."""
    try:
        status = os.stat(path + INDEX)
        with open("/proc/locks", encoding="ascii", errors="replace") as table:
            lines = [line.split() for line in table]
    except OSError:
        return
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    for words in lines:
        # 1: POSIX ADVISORY READ 4242 fd:01:131 123 123 (a line of one who waits has -> in the second place)
        if len(words) != 8 or words[1] != "POSIX" or words[3] != "READ" or words[5] != device or not words[4].lstrip("-").isdigit():
            continue
        pid = int(words[4])
        if pid != os.getpid():
            yield pid, int(words[6]), _FIRST_LOCK + _READERS if words[7] == "EOF" else int(words[7])


def _name(pid: int) -> str:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
        return file.read().strip() or "?"
    return "?"


def shorten() -> bool:
    """Bring the log into the database, and cut it if nobody needs it any more. Returns whether nothing is left that a reader keeps. Runs
    in the database thread, outside a transaction."""
    _, pages, copied = database.execute_sql("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
    if pages != copied:
        return False
    # Short now: all is copied. Readers that came meanwhile make it return without having cut anything.
    busy, *_ = database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy
