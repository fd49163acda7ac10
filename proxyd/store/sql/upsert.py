"""Insert or update by primary key, in the SQL that SQLite and PostgreSQL share.

Not REPLACE: that deletes the old row, and with it everything that refers to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from peewee import CompositeKey, chunked

from proxyd.store.sql.database import database
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.query import is_sqlite

_CHUNK = 40
#: Rows in one statement for a server: a round trip costs more than a row.
_SERVER_CHUNK = 100


def upsert(model: type[StoredTable], rows: list[dict[str, Any]]) -> None:
    """Write rows, all with the same columns; a row that is there takes the new values."""
    if not rows:
        return
    meta: Any = model._meta
    key = _key(model)
    preserve = [meta.fields[name] for name in rows[0] if name not in key]
    target = [meta.fields[name] for name in key]
    for piece in chunked(rows, _CHUNK):
        query = model.insert_many(piece)
        (query.on_conflict(conflict_target=target, preserve=preserve) if preserve else query.on_conflict_ignore()).execute()


def add(model: type[StoredTable], columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], sums: tuple[str, ...] = ()) -> None:
    """Write rows of these columns, which must be all of the table's, each key once. A row that is there takes the new values; those
    of the columns `sums` are added to its own.

    It is for what workers write twice a second, many rows at a time: peewee takes many times as long to put a statement together
    as the database takes for a row.
    """
    head, tail = _statement(model, columns, sums)
    if is_sqlite():
        if rows:
            database.cursor().executemany(f"{head} ({', '.join('?' * len(columns))}) {tail}", rows)
        return
    values = f"({', '.join(['%s'] * len(columns))})"
    for piece in chunked(rows, _SERVER_CHUNK):
        database.execute_sql(f"{head} {', '.join([values] * len(piece))} {tail}", [value for row in piece for value in row])


@lru_cache(maxsize=64)
def _statement(model: type[StoredTable], columns: tuple[str, ...], sums: tuple[str, ...]) -> tuple[str, str]:
    """What stands before the values, and what stands behind them. All names are those of a declared table."""
    table, key = f'"{model._meta.table_name}"', _key(model)
    changes = [f'"{name}" = {table}."{name}" + EXCLUDED."{name}"' if name in sums else f'"{name}" = EXCLUDED."{name}"'
               for name in columns if name not in key]
    return (f"INSERT INTO {table} ({_quoted(columns)}) VALUES",
            f"ON CONFLICT ({_quoted(key)}) DO UPDATE SET {', '.join(changes)}")


def _key(model: type[StoredTable]) -> list[str]:
    primary: Any = model._meta.primary_key
    return list(primary.field_names) if isinstance(primary, CompositeKey) else [primary.name]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join([f'"{name}"' for name in names])
