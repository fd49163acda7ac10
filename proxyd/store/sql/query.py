"""Rows of queries as plain values; peewee's own types say model where dicts and tuples come out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from peewee import chunked

from proxyd.store.sql.database import database

#: Values in one statement: SQLite takes 999 in all where it is old.
_AT_ONCE = 500


def dicts(query: Any) -> list[dict[str, Any]]:
    """The rows of a select as dicts by column."""
    return list(query.dicts())


def tuples(query: Any) -> Iterable[tuple[Any, ...]]:
    """The rows of a select as tuples, as they come."""
    return cast(Iterable[tuple[Any, ...]], query.tuples())


def column(query: Any) -> list[Any]:
    """The first column of a select."""
    return [row[0] for row in query.tuples()]


def among(statement: str, values: Iterable[Any], *before: Any) -> Iterator[tuple[Any, ...]]:
    """The rows of a select that ends in IN, for any number of values. `statement` has `?` for the values `before`.

    It is for thousands of values: peewee takes longer for each of them than the database takes to find its row.
    """
    mark = database.obj.param
    head = statement.replace("?", mark)
    for piece in chunked(values, _AT_ONCE):
        yield from database.execute_sql(f"{head} ({', '.join([mark] * len(piece))})", [*before, *piece])


def is_sqlite() -> bool:
    """Whether the open database is an SQLite file, not a server's."""
    return type(database.obj).__name__.startswith("Sqlite")
