"""Sums that run on: each row of an hour or a day also has what all earlier rows of its endpoint, or of its service, add up to.

So the sum over any span is a difference of two rows, however long the span is: what `v_uptime` asks of a year would else be read from
hundreds of thousands of rows. Where rows between the two are missing, or the oldest are deleted, the difference is still the sum of
what there is. Everything here runs in the database thread, inside one transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from peewee import chunked

from proxyd.store.sql import upsert
from proxyd.store.sql.database import database
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.query import among, is_sqlite
from proxyd.store.sql.rollups import HealthDay, HealthHour, ServiceDay, ServiceHour

#: Rows of a statement for a server: a round trip costs more than a row.
_SERVER_CHUNK = 100


@dataclass(frozen=True, slots=True)
class Kind:
    """What is summed up: the columns of its key, those that are summed, and the tables with the column of their span. `whole`: a select of
    all keys, and `by` the column of it by which they are looked up. `beside`: columns that are merged in each span, but do not run on."""

    key: tuple[str, ...]
    sums: tuple[str, ...]
    tables: tuple[tuple[type[StoredTable], str], ...]
    whole: str
    by: str
    beside: upsert.Merging = upsert.Merging()

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that a batch has values for, behind the key and the span."""
        return (*self.sums, *self.beside.sums, *self.beside.least, *self.beside.most)

    @property
    def merging(self) -> upsert.Merging:
        """How a row takes them."""
        return upsert.Merging((*self.sums, *self.beside.sums), self.beside.least, self.beside.most)


ENDPOINTS = Kind(("endpoint_id",), ("up_seconds", "down_seconds", "maintenance_seconds", "good", "bad", "in_maintenance"),
                 ((HealthHour, "hour"), (HealthDay, "day")), "endpoints", "endpoint_id",
                 upsert.Merging(("response_us_sum",), ("response_us_min",), ("response_us_max",)))
SERVICES = Kind(("service_name", "domain", "path"), ("up_seconds", "down_seconds", "maintenance_seconds"),
                ((ServiceHour, "hour"), (ServiceDay, "day")), "(SELECT DISTINCT service_name, domain, path FROM endpoints)", "service_name")
KINDS = (ENDPOINTS, SERVICES)


def before(name: str) -> str:
    """The column with what the earlier rows add up to."""
    return f"{name}_before"


def same(kind: Kind, one: str, other: str) -> str:
    """The condition that two tables, by their short names, have the same key."""
    return " AND ".join([f"{one}.{column} = {other}.{column}" for column in kind.key])


def add(kind: Kind, model: type[StoredTable], column: str, span: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Add to the rows of a span, which are made where they are not there. `rows`: of each key once, its values and those of `columns`."""
    if not rows:
        return
    table, mark, width = model._meta.table_name, database.obj.param, len(kind.key)
    found = database.execute_sql(f"SELECT {', '.join(kind.key)} FROM {table} WHERE {column} = {mark}", [span])
    there = {tuple(key) for key in found.fetchall()}
    newest = database.execute_sql(f"SELECT MAX({column}) FROM {table}").fetchone()[0]
    old = [(*row[:width], span, *row[width:]) for row in rows if row[:width] in there]
    upsert.merge(model, (*kind.key, column, *kind.columns), old, kind.merging)
    new = [row for row in rows if row[:width] not in there]
    if new:
        earlier = _earlier(kind, table, column, span, new)
        none = (0,) * len(kind.sums)
        upsert.add(model, (*kind.key, column, *kind.columns, *map(before, kind.sums)),
                   [(*row[:width], span, *row[width:], *earlier.get(row[:width], none)) for row in new])
    if newest is not None and newest > span:
        # The time of day was set back.
        _add_to_later(kind, table, column, span, [row[:width + len(kind.sums)] for row in rows])


def _earlier(kind: Kind, table: str, column: str, span: str, rows: Sequence[tuple[Any, ...]]) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    """What the rows before a span add up to, by key."""
    sums = ", ".join([f"COALESCE(p.{before(name)}, 0) + p.{name}" for name in kind.sums])
    statement = (f"SELECT {', '.join([f'p.{name}' for name in kind.key])}, {sums} FROM {kind.whole} e CROSS JOIN {table} p "
                 f"WHERE {same(kind, 'p', 'e')} AND p.{column} = "
                 f"(SELECT MAX(x.{column}) FROM {table} x WHERE {same(kind, 'x', 'e')} AND x.{column} < ?) AND e.{kind.by} IN")
    width = len(kind.key)
    return {tuple(row[:width]): tuple(row[width:]) for row in among(statement, sorted({row[0] for row in rows}), span)}


def _add_to_later(kind: Kind, table: str, column: str, span: str, rows: Sequence[tuple[Any, ...]]) -> None:
    width = len(kind.key)
    if is_sqlite():
        changes = ", ".join([f"{before(name)} = {before(name)} + ?" for name in kind.sums])
        found = " AND ".join([f"{name} = ?" for name in (*kind.key,)])
        database.cursor().executemany(f"UPDATE {table} SET {changes} WHERE {found} AND {column} > ?",
                                      [(*row[width:], *row[:width], span) for row in rows])
        return
    changes = ", ".join([f"{before(name)} = t.{before(name)} + v.{name}" for name in kind.sums])
    one = f"({', '.join(['%s'] * len(rows[0]))})"
    for piece in chunked(rows, _SERVER_CHUNK):
        database.execute_sql(f"UPDATE {table} t SET {changes} FROM (VALUES {', '.join([one] * len(piece))}) "
                             f"v ({', '.join((*kind.key, *kind.sums))}) WHERE {same(kind, 't', 'v')} AND t.{column} > %s",
                             [*(value for row in piece for value in row), span])


def reckoning(kind: Kind, model: type[StoredTable], column: str, mark: str) -> tuple[str, str]:
    """Statements that fill the columns of earlier sums of one span, where they are NULL, if those of all spans before it are filled: from
    each key's row before, and then of keys without one. `mark` stands for the span."""
    table = model._meta.table_name
    changes = ", ".join([f"{before(name)} = p.{before(name)} + p.{name}" for name in kind.sums])
    lacking = f"{table}.{column} = {mark} AND {table}.{before(kind.sums[0])} IS NULL"
    return (f"UPDATE {table} SET {changes} FROM {table} p WHERE {lacking} AND {same(kind, 'p', table)} AND p.{column} = "
            f"(SELECT MAX(x.{column}) FROM {table} x WHERE {same(kind, 'x', table)} AND x.{column} < {table}.{column})",
            f"UPDATE {table} SET {', '.join([f'{before(name)} = 0' for name in kind.sums])} WHERE {lacking}")


class Reckoning:
    """Reckons the columns of earlier sums for rows of older versions, which have NULL there, span by span: rows were written by their time,
    and lie so. It leaves what is done: another one goes on where this one was cut off."""

    #: Rows that a piece is to have; one span at least is done in each, whatever it has.
    rows = 2000

    def __init__(self) -> None:
        self._left = [(kind, model, column) for kind in KINDS for model, column in kind.tables]
        self._next: str | None = None
        #: Rows that were written.
        self.done = 0

    def piece(self) -> bool:
        """Reckon some spans. Returns whether more is left."""
        if not self._left:
            return False
        kind, model, column = self._left[0]
        table, mark = model._meta.table_name, database.obj.param
        if self._next is None:
            self._next = database.execute_sql(f"SELECT MIN({column}) FROM {table} WHERE {before(kind.sums[0])} IS NULL").fetchone()[0]
        enough = self.done + self.rows
        while self._next is not None and self.done < enough:
            self.done += sum(database.execute_sql(statement, [self._next]).rowcount for statement in reckoning(kind, model, column, mark))
            self._next = database.execute_sql(f"SELECT MIN({column}) FROM {table} WHERE {column} > {mark}", [self._next]).fetchone()[0]
        if self._next is None:
            del self._left[0]
        return bool(self._left)
