"""The migration that takes the session ids out of the database: whoever reads one could RECONNECT with it.

A session gets a public number, and the hash of its id is kept, so that clients that are running can still RECONNECT.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3

from proxyd.base.text import hash_of
from proxyd.store.sql.database import database
from proxyd.store.sql.kept import PREFIX
from proxyd.store.sql.models import SITE_PREFIX, StoredCounter
from proxyd.store.sql.query import is_sqlite

_NUMBER = re.compile(r"s(\d+)", re.ASCII)
_CHUNK = 200


def hide_session_ids() -> None:
    """Replace the ids in all tables. Runs in the database thread, in one transaction."""
    sqlite = is_sqlite()
    if sqlite:
        # What is deleted is overwritten: an id must not be readable in a free page either.
        database.execute_sql("PRAGMA secure_delete = ON")
    columns = [column.name for column in database.get_columns("sessions")]
    if "secret_hash" not in columns:
        database.execute_sql("ALTER TABLE sessions ADD COLUMN secret_hash TEXT NOT NULL DEFAULT ''")
        columns.append("secret_hash")
    database.execute_sql("CREATE TEMPORARY TABLE numbered (old TEXT PRIMARY KEY, new TEXT NOT NULL, hashed TEXT NOT NULL)")
    known = [row[0] for row in database.execute_sql("SELECT session_id FROM sessions ORDER BY connected_at, session_id").fetchall()]
    number = max((int(found[1]) for name in known if (found := _NUMBER.fullmatch(name))), default=0)
    rows: list[tuple[str, str, str]] = []
    for name in known:
        if not name.startswith((SITE_PREFIX, PREFIX)) and not _NUMBER.fullmatch(name):
            number += 1
            rows.append((name, f"s{number}", hash_of(name)))
    mark = "?" if sqlite else "%s"
    for start in range(0, len(rows), _CHUNK):
        piece = rows[start:start + _CHUNK]
        places = ", ".join([f"({mark}, {mark}, {mark})"] * len(piece))
        database.execute_sql(f"INSERT INTO numbered VALUES {places}", [value for row in piece for value in row])
    others = ", ".join(name for name in columns if name not in ("session_id", "secret_hash"))
    database.execute_sql(f"INSERT INTO sessions (session_id, secret_hash, {others}) "
                         f"SELECT new, hashed, {others} FROM sessions JOIN numbered ON old = session_id")
    for table in ("session_settings", "staged_changes", "routes", "events"):
        database.execute_sql(f"UPDATE {table} SET session_id = (SELECT new FROM numbered WHERE old = session_id) "
                             "WHERE session_id IN (SELECT old FROM numbered)")
    # Events outlive their sessions.
    database.execute_sql(f"UPDATE events SET session_id = NULL WHERE substr(session_id, 1, 5) NOT IN ('{SITE_PREFIX}', '{PREFIX}') "
                         "AND session_id NOT IN (SELECT session_id FROM sessions)")
    database.execute_sql("DELETE FROM sessions WHERE session_id IN (SELECT old FROM numbered)")
    database.execute_sql("DROP TABLE numbered")
    if StoredCounter.get_or_none(StoredCounter.name == "next_session_number") is None:
        StoredCounter.create(name="next_session_number", value=number + 1)


def forget_log(path: str) -> None:
    """Empty the write-ahead log of the SQLite file, which still has what was replaced. If a reader is in the way, SQLite does it later."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=1.0)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
