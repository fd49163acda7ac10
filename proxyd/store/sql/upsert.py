"""Insert or update by primary key, in the SQL that SQLite and PostgreSQL share.

Not REPLACE: that deletes the old row, and with it everything that refers to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from peewee import CompositeKey

from proxyd.store.sql.database import database
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.query import is_sqlite, pieces

#: Rows in one statement for a server: a round trip costs more than a row.
_SERVER_CHUNK = 100
#: What a server calls the types of fields, where that is another word.
_SERVER_TYPES = {"DOUBLE": "DOUBLE PRECISION"}


def upsert(model: type[StoredTable], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows, by names of fields, all with the same ones; a row that is there takes the new values."""
    if not rows:
        return
    key = _key(model)
    changed = [name for name in rows[0] if name not in key]
    if changed:
        _write(model, rows, _on_conflict(model, key, changed))
    else:
        model.insert_many(rows).on_conflict_ignore().execute()


def insert(model: type[StoredTable], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write new rows, by names of fields, all with the same ones."""
    if rows:
        _write(model, rows, "")


def change(model: type[StoredTable], key: tuple[str, ...], names: tuple[str, ...], rows: Sequence[tuple[Any, ...]]) -> None:
    """Change the fields `names` of the rows that have given values in the fields `key`. `rows`: the values of the key, then the new ones.
    Those that are not there are left out."""
    fields: Any = model._meta.fields
    table = f'"{model._meta.table_name}"'
    found, changed = ([fields[name].column_name for name in part] for part in (key, names))
    if is_sqlite():
        if rows:
            values = [(*row[len(key):], *row[:len(key)]) for row in rows]
            database.cursor().executemany(f"UPDATE {table} SET {_equal(changed, ', ')} WHERE {_equal(found, ' AND ')}", values)
        return
    # A server can't tell the type of a column of values that are all NULL.
    types = [_SERVER_TYPES.get(fields[name].field_type, fields[name].field_type) for name in (*key, *names)]
    one = f"({', '.join([f'CAST(%s AS {kind})' for kind in types])})"
    sets = ", ".join([f'"{column}" = v."{column}"' for column in changed])
    same = " AND ".join([f't."{column}" = v."{column}"' for column in found])
    for piece in pieces(rows, _SERVER_CHUNK):
        database.execute_sql(f"UPDATE {table} t SET {sets} FROM (VALUES {', '.join([one] * len(piece))}) v ({_quoted([*found, *changed])}) "
                             f"WHERE {same}", [value for row in piece for value in row])


def delete(model: type[StoredTable], names: tuple[str, ...], keys: Sequence[tuple[Any, ...]]) -> None:
    """Delete the rows that have one of the combinations of values in the fields `names`."""
    columns = [model._meta.fields[name].column_name for name in names]
    table = model._meta.table_name
    if is_sqlite():
        if keys:
            database.cursor().executemany(f'DELETE FROM "{table}" WHERE {_equal(columns, " AND ")}', keys)
        return
    one = f"({', '.join(['%s'] * len(columns))})"
    for piece in pieces(keys, _SERVER_CHUNK):
        database.execute_sql(f'DELETE FROM "{table}" WHERE ({_quoted(columns)}) IN ({", ".join([one] * len(piece))})',
                             [value for key in piece for value in key])


@dataclass(frozen=True, slots=True)
class Merging:
    """The columns whose values a row that is there does not just take: they are added to its own, or the smaller or the larger of both
    stays. NULL plus something is NULL; beside another value, NULL is neither the smaller nor the larger."""

    sums: tuple[str, ...] = ()
    least: tuple[str, ...] = ()
    most: tuple[str, ...] = ()


def add(model: type[StoredTable], columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], sums: tuple[str, ...] = ()) -> None:
    """Write rows of these columns, which must be all of the table's, each key once. A row that is there takes the new values; those
    of the columns `sums` are added to its own.

    It is for what workers write twice a second, many rows at a time: peewee takes many times as long to put a statement together
    as the database takes for a row.
    """
    merge(model, columns, rows, Merging(sums))


def merge(model: type[StoredTable], columns: tuple[str, ...], rows: Sequence[tuple[Any, ...]], merging: Merging) -> None:
    """The same, where some columns are merged otherwise."""
    head, tail = _statement(model, columns, merging)
    _execute(head, tail, len(columns), rows)


def _write(model: type[StoredTable], rows: Sequence[Mapping[str, Any]], tail: str) -> None:
    """Insert rows by names of fields. peewee's fields make the values and the defaults, but not the statement: that takes it longer than
    the database takes for the row. `tail` stands behind the values."""
    meta: Any = model._meta
    names = list(rows[0])
    defaults = [(field, value) for field, value in meta.defaults.items() if field.name not in rows[0]]
    columns = [meta.fields[name].column_name for name in names] + [field.column_name for field, _ in defaults]
    converted = [(name, meta.fields[name].db_value) for name in names]
    rest = [field.db_value(value() if callable(value) else value) for field, value in defaults]
    values = [(*[convert(row[name]) for name, convert in converted], *rest) for row in rows]
    _execute(f'INSERT INTO "{meta.table_name}" ({_quoted(columns)}) VALUES', tail, len(columns), values)


def _on_conflict(model: type[StoredTable], key: Sequence[str], changed: Sequence[str]) -> str:
    fields: Any = model._meta.fields
    target = _quoted([fields[name].column_name for name in key])
    values = ", ".join([f'"{column}" = EXCLUDED."{column}"' for column in (fields[name].column_name for name in changed)])
    return f"ON CONFLICT ({target}) DO UPDATE SET {values}"


def _execute(head: str, tail: str, width: int, rows: Sequence[tuple[Any, ...]]) -> None:
    if is_sqlite():
        if rows:
            database.cursor().executemany(f"{head} ({', '.join('?' * width)}) {tail}", rows)
        return
    values = f"({', '.join(['%s'] * width)})"
    for piece in pieces(rows, _SERVER_CHUNK):
        database.execute_sql(f"{head} {', '.join([values] * len(piece))} {tail}", [value for row in piece for value in row])


@lru_cache(maxsize=64)
def _statement(model: type[StoredTable], columns: tuple[str, ...], merging: Merging) -> tuple[str, str]:
    """What stands before the values, and what stands behind them. All names are those of a declared table."""
    table, key = f'"{model._meta.table_name}"', _key(model)
    changes = [f'"{name}" = {_merged(table, name, merging)}' for name in columns if name not in key]
    return (f"INSERT INTO {table} ({_quoted(columns)}) VALUES",
            f"ON CONFLICT ({_quoted(key)}) DO UPDATE SET {', '.join(changes)}")


def _merged(table: str, name: str, merging: Merging) -> str:
    old, new = f'{table}."{name}"', f'EXCLUDED."{name}"'
    if name in merging.sums:
        return f"{old} + {new}"
    if name in merging.least or name in merging.most:
        return f"CASE WHEN {old} IS NULL OR {new} {'<' if name in merging.least else '>'} {old} THEN {new} ELSE {old} END"
    return new


def _key(model: type[StoredTable]) -> list[str]:
    primary: Any = model._meta.primary_key
    return list(primary.field_names) if isinstance(primary, CompositeKey) else [primary.name]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join([f'"{name}"' for name in names])


def _equal(names: Sequence[str], between: str) -> str:
    return between.join([f'"{name}" = ?' for name in names])
