"""Rows of queries as plain values; peewee's own types say model where dicts and tuples come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

from peewee import BooleanField, Model

from proxyd.store.sql.database import database

Item = TypeVar("Item")

#: Values in one statement: SQLite takes 999 in all where it is old.
_AT_ONCE = 500


def dicts(query: Any) -> list[dict[str, Any]]:
    """The rows of a select as dicts by column."""
    return list(query.dicts())


def rows_of(model: type[Model], where: str = "", values: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """The rows of a table as dicts by field, all or those that a condition holds for: SQL by names of columns, with `?` for each of
    `values`.

    It is for very many rows, and for what is asked all the time: peewee takes half as long again for a row as the database and a dict, and
    longer for a statement than the database for one row.
    """
    names, select, flags = _plain(model)
    found = database.execute_sql(f"{select} WHERE {where.replace('?', database.obj.param)}" if where else select, values)
    rows = [dict(zip(names, row, strict=True)) for row in found]
    if is_sqlite():
        for flag in flags:
            for row in rows:
                row[flag] = bool(row[flag])
    return rows


@lru_cache(maxsize=64)
def _plain(model: Any) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """The names of a table's fields, the select of all their columns, and which of them are true or false: SQLite says 1 or 0."""
    fields = model._meta.sorted_fields
    columns = ", ".join([f'"{field.column_name}"' for field in fields])
    return (tuple(field.name for field in fields), f'SELECT {columns} FROM "{model._meta.table_name}"',
            tuple(field.name for field in fields if isinstance(field, BooleanField) and not field.null))


def tuples(query: Any) -> Iterable[tuple[Any, ...]]:
    """The rows of a select as tuples, as they come."""
    return cast(Iterable[tuple[Any, ...]], query.tuples())


def plain(query: Any) -> Iterable[tuple[Any, ...]]:
    """The same as the driver has them, for the many rows of a whole table: peewee takes four times as long for the values of a row as the
    database. SQLite has 0 and 1 for booleans, and a server Decimals for sums."""
    return cast(Iterable[tuple[Any, ...]], database.execute(query))


def column(query: Any) -> list[Any]:
    """The first column of a select."""
    return [row[0] for row in query.tuples()]


def among(statement: str, values: Iterable[Any], *before: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a select that ends in IN, for any number of values. `statement` has `?` for the values `before`.

    It is for thousands of values: peewee takes longer for each of them than the database takes to find its row.
    """
    mark = database.obj.param
    head = statement.replace("?", mark)
    for piece in pieces(list(values), _AT_ONCE):
        yield from database.execute_sql(f"{head} ({', '.join([mark] * len(piece))})", [*before, *piece])


def rows_among(model: type[Model], column: str, values: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """The rows of a table as dicts by field whose `column` has one of the values, any number of them."""
    for piece in pieces(values, _AT_ONCE):
        yield from rows_of(model, f"{column} IN ({', '.join('?' * len(piece))})", piece)


def among_pairs(statement: str, pairs: Sequence[tuple[Any, Any]]) -> Iterator[tuple[Any, ...]]:
    """The same for pairs of values. `statement` joins them as a table `pairs` with column1 and column2: the other table's rows are then
    found by their index, which SQLite does not use for pairs IN a list."""
    mark = database.obj.param
    for piece in pieces(pairs, _AT_ONCE // 2):
        table = f"(VALUES {', '.join([f'({mark}, {mark})'] * len(piece))}) AS pairs"
        yield from database.execute_sql(statement.replace("JOIN pairs", f"JOIN {table}"), [value for pair in piece for value in pair])


def pieces(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Pieces of a sequence, each of `size` but the last. peewee's `chunked` fills each up to its size first, however few there are."""
    return (items[first:first + size] for first in range(0, len(items), size))


def is_sqlite() -> bool:
    """Whether the open database is an SQLite file, not a server's."""
    return type(database.obj).__name__.startswith("Sqlite")
