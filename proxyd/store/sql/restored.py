"""Finds out that a backup took the place of the database, and lets no client resume a session of it.

A backup has what a client declared at its time. If the client could resume its session, it would route by that, and could not know. So
it is told to register again, and replays. Until then, or until the grace for reconnecting has passed, the routes of the backup serve:
their sessions are held like those of the kept table.

Each master writes a new mark into the database, and onto the board beside it. A database with another mark than the board's was
brought from elsewhere, and so was one with a lower version than the one that was posted last. `scripts/restore` takes the mark away.
Only for SQLite: there the board is that of the only master.

The versions of a backup go on above all that was posted. If one of them stood for two configurations, a worker that still has the older
one of them would be taken for one that has the newer, and `OK` would be said too early.
"""

from __future__ import annotations

import secrets
import time

from peewee import SQL

from proxyd.base.text import rfc3339
from proxyd.store.memory.board import Board
from proxyd.store.sql.changes import end
from proxyd.store.sql.database import Store, StoreError, database
from proxyd.store.sql.kept import PREFIX
from proxyd.store.sql.models import CLIENTLESS, Route, Session, StoredCounter
from proxyd.store.sql.snapshot import counter
from proxyd.store.sql.upsert import upsert

#: The counter that holds the mark; 0: the database was restored.
MARK = "mark"


def look(store: Store, board: Board) -> int:
    """Set the sessions of a database that was restored aside, and mark the database. Returns how many there are. Raises StoreError."""
    if store.path is None:
        return 0
    mark, version = store.read(_state)
    found = store.call(_set_aside, board.newest(), durable=True) if _was_restored(mark, version, board) else 0
    fresh = secrets.randbits(53) or 1
    try:
        # Both are valid until the transaction is over, however this process ends.
        board.mark((mark or fresh, fresh))
        store.call(upsert, StoredCounter, [{"name": MARK, "value": fresh}], durable=True)
        board.mark((fresh, fresh))
    except StoreError:
        # A locked database or a full disk must not keep a master from starting: the old mark does as well.
        board.mark((mark or 0, mark or 0))
    return found


def _was_restored(mark: int | None, version: int, board: Board) -> bool:
    marks = board.marks()
    if mark == 0:
        return True
    if marks[0] and mark not in marks:
        return True
    return board.version > version and board.is_of_this_boot()


def mark() -> int:
    """The mark of the database. Runs in the database thread."""
    return counter(MARK)


def _state() -> tuple[int | None, int]:
    values = {row.name: row.value for row in StoredCounter.select().where(StoredCounter.name.in_((MARK, "config_version")))}
    return values.get(MARK), values["config_version"]


def _set_aside(newest: int) -> int:
    """Give the sessions ids that nobody can resume, and go on above the version `newest`. Runs in the database thread, inside a
    transaction."""
    version = max(newest, counter("config_version")) + 1
    # What was removed since an older version is not known: workers read all of it.
    StoredCounter.update(value=version).where(StoredCounter.name.in_(("config_version", "removals_from"))).execute()
    database.execute_sql("PRAGMA defer_foreign_keys = ON")
    database.execute_sql("DELETE FROM staged_changes")
    mine = " AND ".join(["state <> 'ended'", *(f"session_id NOT LIKE '{prefix}%'" for prefix in (*CLIENTLESS, PREFIX))])
    count = Session.select().where(SQL(mine)).count()
    # One that had taken another's place, and had not applied yet, has nothing to hold: the routes are the other's, and a service that is
    # back takes the place of one.
    for session in Session.select().where(SQL(mine), Session.session_id.not_in(Route.select(Route.session))):
        end(session.session_id, rfc3339(time.time()))
    for table in ("routes", "session_settings", "route_history"):
        database.execute_sql(f"UPDATE {table} SET session_id = '{PREFIX}' || session_id "
                             f"WHERE session_id IN (SELECT session_id FROM sessions WHERE {mine})")
    database.execute_sql(f"UPDATE sessions SET session_id = '{PREFIX}' || session_id, secret_hash = '', state = 'connected', "
                         f"disconnected_at = NULL, disconnected_clock = NULL WHERE {mine}")
    return count
