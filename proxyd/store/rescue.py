"""A database that is corrupt at start is set aside, so that the system starts: with the sites' routes, and whoever registers."""

from __future__ import annotations

import logging
import os
import sqlite3
import time

log = logging.getLogger("proxyd.master")


def is_corrupt(path: str) -> str | None:
    """Why the SQLite file can't be used, or None for a sound, missing or locked one."""
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return None
    try:
        connection = sqlite3.connect(path, timeout=5.0)
        try:
            result = connection.execute("PRAGMA quick_check(1)").fetchone()
        finally:
            connection.close()
    except sqlite3.OperationalError:
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    return None if result is None or result[0] == "ok" else str(result[0])


def set_aside_if_corrupt(path: str | None) -> str | None:
    """Rename a corrupt file, and what belongs to it, out of the way; the new name, or None. For the lock's holder alone."""
    if path is None:
        return None
    reason = is_corrupt(path)
    if reason is None:
        return None
    aside = f"{path}.corrupt-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    for suffix in ("", "-wal", "-shm"):
        if os.path.exists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    log.critical("the database %s is corrupt (%s): set aside as %s, starting with an empty one and the site files; "
                 "scripts/restore brings a backup back", path, reason, aside)
    return aside
