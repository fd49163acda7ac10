"""Moves the sums of minutes of an older SQLite file into a table whose rows lie by their time. Everything here runs in the database thread,
inside one transaction of the caller."""

from __future__ import annotations

from typing import Any

from proxyd.store.sql.database import database
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.rollups import HealthMinute

_OLD, _NEW = HealthMinute._meta.table_name, "health_minutes_by_time"


class MinutesByTime:
    """Moves the rows minute by minute, the oldest first, and puts the new table into the place of the old one in the end. Another one goes
    on where this one was cut off. A server's table stays as it is: its rows have a place of their own anyway."""

    #: Rows that a piece is to have; one minute at least is moved in each.
    rows = 5000

    def __init__(self) -> None:
        #: Rows that were moved.
        self.done = 0

    def piece(self) -> bool:
        """Move some minutes. Returns whether more is left."""
        if not is_sqlite() or "WITHOUT ROWID" in str(database.execute_sql(
                "SELECT sql FROM sqlite_master WHERE name = ?", [_OLD]).fetchone()[0]):
            return False
        columns = ", ".join(column.name for column in database.get_columns(_OLD))
        if not database.table_exists(_NEW):
            model: Any = HealthMinute
            model._meta.without_rowid = True
            made = str(model._schema._create_table(safe=False).query()[0])
            database.execute_sql(made.replace(f'"{_OLD}"', f'"{_NEW}"', 1))
        enough = self.done + self.rows
        while self.done < enough:
            oldest = database.execute_sql(f"SELECT MIN(minute) FROM {_OLD}").fetchone()[0]
            if oldest is None:
                self._change_places()
                return False
            database.execute_sql(f"INSERT INTO {_NEW} ({columns}) SELECT {columns} FROM {_OLD} WHERE minute = ?", [oldest])
            self.done += database.execute_sql(f"DELETE FROM {_OLD} WHERE minute = ?", [oldest]).rowcount
        return True

    def _change_places(self) -> None:
        database.execute_sql(f"DROP TABLE {_OLD}")
        # Else SQLite would read all views, and those of an older version may name what is not there any more.
        database.execute_sql("PRAGMA legacy_alter_table = ON")
        try:
            database.execute_sql(f"ALTER TABLE {_NEW} RENAME TO {_OLD}")
        finally:
            database.execute_sql("PRAGMA legacy_alter_table = OFF")
