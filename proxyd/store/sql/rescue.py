"""What happens to an SQLite file behind our back. One that is corrupt at start is set aside, so that the system starts: with
the sites' routes, and whoever registers. One that is deleted while in use is written again from what is still open."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any

from proxyd.base import private
from proxyd.base.fileid import Identity, identity
from proxyd.store.sql import openfile

log = logging.getLogger("proxyd.master")

def is_frozen(path: str) -> bool:
    """Whether an SQLite file has no log, and this user can't make one beside it: SQLite reads such a file only when told that it
    never changes."""
    if os.access(os.path.dirname(os.path.abspath(path)), os.W_OK):
        return False
    try:
        return os.path.getsize(f"{path}-wal") == 0
    except OSError:
        return True


def put_back(execute: Callable[..., Any], path: str, own: Identity) -> None:
    """Make a deleted database anew, from what a connection that is still open reads; `execute` runs SQL on it, `own` is its file.

    What is left of it goes first: its log must not be taken for the new file's. Raises OSError, sqlite3.Error, and what
    `execute` raises; FileExistsError where somebody else was quicker.
    """
    copy = f"{path}.again"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    try:
        _remove(copy)
        private.make(copy)
        execute("VACUUM INTO ?", (copy,))
        _settle(copy)
        found = identity(path)
        if found == own:
            os.unlink(path)
        elif found is not None:
            raise FileExistsError(errno.EEXIST, "another file took its place", path)
        for suffix in ("-wal", "-shm"):
            _remove(path + suffix)
        os.link(copy, path)
    finally:
        with contextlib.suppress(OSError):
            _remove(copy)


def _settle(path: str) -> None:
    """Put a finished copy into WAL mode, so that nobody has to while others use it, and bring it to the disk."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = wal")
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def is_corrupt(path: str) -> str | None:
    """Why the SQLite file can't be used, or None for a sound, missing or locked one. For a process that does not have it open."""
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return None
    try:
        connection = sqlite3.connect(path, timeout=5.0)
        try:
            result = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError as error:
        # Nobody could open it for as long as workers have it open.
        return "its log was cut" if "disk I/O" in str(error) and openfile.is_cut(path) else None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if result is None or result[0] == "ok" else str(result[0])


def set_aside(path: str) -> str:
    """Rename a file, and what belongs to it, out of the way; returns the new name. Raises OSError."""
    aside = f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


def set_aside_if_corrupt(path: str | None) -> str | None:
    """Rename a corrupt file, and what belongs to it, out of the way; the new name, or None. For the lock's holder alone."""
    if path is None:
        return None
    reason = is_corrupt(path)
    if reason is None:
        return None
    aside = set_aside(path)
    log.critical("the database %s is corrupt (%s): set aside as %s, starting with an empty one and the site files; "
                 "scripts/restore brings a backup back", path, reason, aside)
    return aside
