"""Rows of queries as plain values; peewee's own types say model where dicts and tuples come out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

from proxyd.store.sql.database import database


def dicts(query: Any) -> list[dict[str, Any]]:
    """The rows of a select as dicts by column."""
    return list(query.dicts())


def tuples(query: Any) -> Iterable[tuple[Any, ...]]:
    """The rows of a select as tuples, as they come."""
    return cast(Iterable[tuple[Any, ...]], query.tuples())


def column(query: Any) -> list[Any]:
    """The first column of a select."""
    return [row[0] for row in query.tuples()]


def is_sqlite() -> bool:
    """Whether the open database is an SQLite file, not a server's."""
    return type(database.obj).__name__.startswith("Sqlite")
