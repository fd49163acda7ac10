"""Finds out that somebody has written into an SQLite file in place: `cp copy proxyd.db` while it is in use, `truncate`, a disk tool.

SQLite would go on with its log and its cache over other content, and mix the two. A file that another one took the place of is told by
its number (`openfile`); one that was written into has the number that it had. But the master alone writes it, in one thread, which notes
size and time of the file after each of its own steps. What has changed between two steps is somebody else's work, and so is what has
changed during one in which nothing of the log was brought into the file.

That need not be harm: a shell brings the log into the file (PRAGMA wal_checkpoint). So the database is looked at through another
connection. If it is whole and of this master, it goes on. Otherwise its content is given another number (`displace`): from then on it is a
database that took the place of the one in use, with all that follows from that. If its log was cut, it is set aside.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import quote

from proxyd.base import private
from proxyd.store.sql.openfile import LOG

#: Seconds that a look at the content may take: all others who want something from the database wait meanwhile.
_LOOK_SECONDS = 1.0
#: Virtual machine instructions of SQLite between two looks at the clock.
_STEPS = 10_000
#: What SQLite says of a file that is not what it was: its log may be shorter than the index of the log says.
_DAMAGE = ("malformed", "not a database", "disk I/O", "no such table")


#: The version in which a route was changed last, and when.
Stamped = tuple[int, str]


class Stamp(NamedTuple):
    """Size and time of change of a database, and the size of its log; -1 for what is not there."""

    size: int
    changed: int
    log: int

    @classmethod
    def of(cls, path: str) -> Stamp:
        """That of the files that have the names now."""
        size = changed = log = -1
        with contextlib.suppress(OSError):
            status = os.stat(path)
            size, changed = status.st_size, status.st_mtime_ns
        with contextlib.suppress(OSError):
            log = os.stat(path + LOG).st_size
        return cls(size, changed, log)


def damage(path: str, mark: int, version: int, routes: Mapping[str, Stamped]) -> str | None:
    """What is wrong with the content of the database, "" for nothing, None if it has changed meanwhile. `mark`: that of its master,
    `version` and `routes`: the config version that it has, and what each of its routes has to be. For the database thread. A database
    that is too large to be looked at as a whole is looked at in part."""
    try:
        if not os.path.getsize(path):
            # SQLite would delete the log of an empty file.
            return "it is empty"
    except OSError:
        return ""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(os.path.abspath(path))}?mode=ro", uri=True, timeout=_LOOK_SECONDS)) as look:
            values = dict(look.execute("SELECT name, value FROM counters WHERE name IN ('mark', 'config_version')"))
            if values.get("config_version", 0) > version and values.get("mark") == mark:
                return None
            # What its log has may lie over what is not its own.
            if values != {"mark": mark, "config_version": version} or routes != {
                    name: (changed, at) for name, changed, at in look.execute("SELECT route_id, version, updated_at FROM routes")}:
                return "another database was written into it"
            until = time.monotonic() + _LOOK_SECONDS
            look.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
            (found,) = look.execute("PRAGMA quick_check(1)").fetchone()
            return "" if found == "ok" else f"it is corrupt ({' '.join(str(found).split())})"
    except sqlite3.Error as error:
        return f"it is corrupt ({error})" if any(word in str(error) for word in _DAMAGE) else ""


def displace(path: str) -> None:
    """Give the content of the database another number. Raises OSError; nothing has changed then."""
    copy = f"{path}.again"
    try:
        private.make(copy)
        shutil.copyfile(path, copy)
        with open(copy, "rb") as file:
            os.fsync(file.fileno())
        os.replace(copy, path)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(copy)
