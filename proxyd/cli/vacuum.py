"""`proxyd db vacuum`: give free space back to the disk, and stop no writer for more than a moment.

SQLite's VACUUM writes the whole file anew in one transaction: whoever writes meanwhile waits for all of it. So while other processes use
the file, free pages are cut off in steps, each in a transaction of its own and of some milliseconds. A file that was made without
`auto_vacuum` can't be cut, and is refused until nobody uses it.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing

import peewee

from proxyd.store.sql import walreaders
from proxyd.store.sql.database import Store, StoreBusy, StoreError, connect, explain

_PATIENCE = 30.0
#: Seconds after which a step ends, and pages between two looks at the time.
_STEP, _AT_ONCE = 0.02, 8
#: How long the log's end may keep writers, in milliseconds.
_LOG_WAIT = 50
#: What `PRAGMA auto_vacuum` says of a file that can be cut.
_INCREMENTAL = 2
_MOST_NAMED = 3


def vacuum_file(store: Store) -> None:
    """Give the free space of an SQLite file back. Raises StoreError, and StoreBusy if a writer does not end."""
    assert store.path is not None
    users = walreaders.users(store.path)
    try:
        with closing(sqlite3.connect(store.path, timeout=max(store.busy_timeout, _PATIENCE), isolation_level=None)) as connection:
            if not users:
                # So that the retention gives space back by itself from now on.
                connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
                connection.execute("VACUUM")
            elif _number(connection, "auto_vacuum") == _INCREMENTAL:
                cut(connection)
            else:
                raise StoreError(_why_not(store.path, users))
            _shorten_log(connection)
    except sqlite3.Error as error:
        if "locked" in str(error) or "busy" in str(error):
            raise StoreBusy(str(error)) from None
        if "full" in str(error):
            raise StoreError(f"VACUUM needs as much free disk as the database is large ({error}); nothing was changed") from None
        raise StoreError(f"VACUUM failed ({error}); see: proxyd db check") from None


def cut(connection: sqlite3.Connection) -> float:
    """Cut all free pages off the file, in steps between which others write. Returns the seconds of the longest step."""
    longest = 0.0
    while _number(connection, "freelist_count"):
        connection.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        try:
            while _number(connection, "freelist_count") and time.monotonic() - began < _STEP:
                for _ in range(_AT_ONCE):
                    # However many pages it is asked for, `execute` stops at the first: the statement has no columns.
                    connection.execute("PRAGMA incremental_vacuum(1)")
        finally:
            connection.execute("COMMIT")
        took = time.monotonic() - began
        longest = max(longest, took)
        # As long as the step, so that whoever waits gets the lock.
        time.sleep(max(0.005, took))
    return longest


def _why_not(path: str, users: list[walreaders.Reader]) -> str:
    who = ", ".join(map(str, users[:_MOST_NAMED])) + (f" and {len(users) - _MOST_NAMED} more" if len(users) > _MOST_NAMED else "")
    return (f"the database {path} was made by an older proxyd: it can only be written anew as a whole, and everybody who writes would wait "
            f"for that. It is in use by {who}. Stop proxyd and run this again, once: after that it works while everything runs. Free space "
            "is not lost until then, it is used for what is written next")


def _shorten_log(connection: sqlite3.Connection) -> None:
    """Bring the log into the file, which gets its size by that; readers may keep part of it in the log for now."""
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    connection.execute(f"PRAGMA busy_timeout = {_LOG_WAIT}").fetchall()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


def vacuum_server(store: Store) -> None:
    """Let PostgreSQL make the space of deleted rows usable again, which stops nobody. Raises StoreError."""
    server = connect(store.url, store.busy_timeout)
    server.connect()
    try:
        server.connection().autocommit = True  # type: ignore[no-untyped-call]
        server.execute_sql("VACUUM ANALYZE")  # type: ignore[no-untyped-call]
    except peewee.PeeweeException as error:
        raise explain(error, store.name) from None
    finally:
        server.close()
