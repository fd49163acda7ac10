"""How many rows the tables of history have, and what they cost, without reading them: the master looks once a minute, and a table may have
a hundred million rows. `proxyd db stats` counts. Everything here runs in the database thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from proxyd.base.text import parse_rfc3339
from proxyd.store.sql import cost
from proxyd.store.sql.database import database
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.retained import RETAINED

#: The tables that grow with time.
HISTORY: tuple[str, ...] = tuple(dict.fromkeys(kept.model._meta.table_name for kept in RETAINED))
#: Tables whose rows lie by a key that begins with their minute, and have no number.
_BY_MINUTE = {kept.model._meta.table_name for kept in RETAINED if getattr(kept.model._meta, "lies_by_key", False)}
#: Tables with fewer rows are counted; the newest rows whose length is taken.
_COUNTED, _SAMPLE = 10_000, 50
#: What SQLite stores beside the values of a row, and of an entry of an index.
_HEAD = 8


class TableSize(NamedTuple):
    """Rows and bytes of a table, its indexes included. Both are estimates, but for the rows of small tables."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class HistoryNumbers:
    """What the history costs. `used` and `bound`: bytes of the database that are in use, and that it may have (0: no bound). `dropped`:
    rows that went before their time, by table. `tables`: what each costs. `access_log`: bytes of its file; None if it is none. `log`:
    bytes of SQLite's log (`-wal`); None on a server."""

    used: int = 0
    bound: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    tables: dict[str, TableSize] = field(default_factory=dict)
    access_log: int | None = None
    log: int | None = None


def sizes() -> dict[str, TableSize]:
    """The tables of history by name. Of a file, bytes are its pages in use, shared out by rows and their lengths; a server tells what its
    statistics say."""
    if not is_sqlite():
        return {name: TableSize(int(rows), int(size)) for name, size, rows in cost.live_tables() if name in HISTORY}
    there = [name for name in database.get_tables() if not name.startswith("sqlite_")]
    counted = {name: _rows(name) for name in there}
    weights = {name: rows * _row_bytes(name) for name, rows in counted.items()}
    share = cost.used() / max(1.0, sum(weights.values()))
    return {name: TableSize(counted[name], round(weights[name] * share)) for name in HISTORY if name in counted}


def _rows(name: str) -> int:
    """Rows are numbered as they come, and the oldest go first. The newest tell how many numbers are left out."""
    if name in _BY_MINUTE:
        return _rows_by_minute(name)
    span = _one(f'SELECT (SELECT MAX(rowid) FROM "{name}") - (SELECT MIN(rowid) FROM "{name}") + 1') or 0
    if span > _COUNTED:
        return int(span * _one(f'SELECT COUNT(*) * 1.0 / (MAX(r) - MIN(r) + 1) FROM (SELECT rowid AS r FROM "{name}" '
                               f'ORDER BY rowid DESC LIMIT {_SAMPLE})'))
    return int(_one(f'SELECT COUNT(*) FROM "{name}"'))


def _rows_by_minute(name: str) -> int:
    """The last minute that is over tells how many rows each has."""
    newest, oldest, rows = database.execute_sql(
        f'SELECT n.newest, n.oldest, (SELECT COUNT(*) FROM "{name}" WHERE minute = '
        f'(SELECT MAX(minute) FROM "{name}" WHERE minute < n.newest OR minute = n.oldest)) '
        f'FROM (SELECT (SELECT MAX(minute) FROM "{name}") AS newest, (SELECT MIN(minute) FROM "{name}") AS oldest) n').fetchone()
    minutes = (parse_rfc3339(newest) - parse_rfc3339(oldest)) / 60 + 1 if newest else 0
    return int(minutes * rows) if minutes * rows > _COUNTED else int(_one(f'SELECT COUNT(*) FROM "{name}"'))


def _row_bytes(name: str) -> float:
    """Bytes of a row and of its entries in indexes, by the newest rows."""
    columns = [str(row[1]) for row in database.execute_sql(f'PRAGMA table_info("{name}")').fetchall()]
    lengths = ", ".join(f"AVG(CASE typeof({column}) WHEN 'text' THEN LENGTH(CAST({column} AS BLOB)) WHEN 'null' THEN 0 WHEN 'real' THEN 8 "
                        "ELSE 4 END)" for column in (f'"{column}"' for column in columns))
    newest = "minute" if name in _BY_MINUTE else "rowid"
    found = database.execute_sql(f'SELECT {lengths} FROM (SELECT * FROM "{name}" ORDER BY {newest} DESC LIMIT {_SAMPLE})').fetchone()
    by_column = dict(zip(columns, (length or 0.0 for length in found), strict=True))
    total = sum(by_column.values()) + len(columns) + _HEAD
    for index in database.execute_sql(f'PRAGMA index_list("{name}")').fetchall():
        if name in _BY_MINUTE and index[3] == "pk":
            continue
        indexed = [str(row[2]) for row in database.execute_sql(f'PRAGMA index_info("{index[1]}")').fetchall()]
        total += sum(by_column[column] for column in indexed) + len(indexed) + _HEAD
    return total


def _one(sql: str) -> Any:
    return database.execute_sql(sql).fetchone()[0]
