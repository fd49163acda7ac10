"""Rows of queries as plain values; peewee's own types say model where dicts and tuples come out."""

from __future__ import annotations

from typing import Any


def dicts(query: Any) -> list[dict[str, Any]]:
    """The rows of a select as dicts by column."""
    return list(query.dicts())


def column(query: Any) -> list[Any]:
    """The first column of a select."""
    return [row[0] for row in query.tuples()]
