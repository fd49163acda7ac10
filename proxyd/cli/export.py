"""`proxyd db export`: the rows of a table or view, of a span of time, as CSV, as SQL or as a Parquet file."""

from __future__ import annotations

import contextlib
import csv
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from typing import IO, Any

import peewee

from proxyd.store.sql.columnkinds import Kind, kinds_of
from proxyd.store.sql.database import Store, StoreError, connect, database, explain
from proxyd.store.sql.migrations import TABLES
from proxyd.store.sql.readonly import HIDDEN
from proxyd.store.sql.views import VIEWS

FORMATS = ("csv", "sql", "parquet")
#: The columns that say when something was, the first that a table has.
_INSTANTS = ("at", "minute", "hour", "day", "checked_at", "started_at", "added_at", "opened_at", "connected_at", "since")
_AT_ONCE = 5000
#: The beginning of an instant, up to any of its parts.
_INSTANT = re.compile(r"\d{4}(-(0[1-9]|1[0-2])(-(0[1-9]|[12]\d|3[01])(T([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d{1,6})?)?)?)?)?)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to export. `since` (included) and `until` are beginnings of instants as the tables have them (2026-11, 2026-11-02T10), or
    empty. `output`: a file, or empty for standard output."""

    name: str
    format: str = "csv"
    since: str = ""
    until: str = ""
    output: str = ""


def export(store: Store, wanted: Wanted) -> int:
    """Write the rows. Raises StoreError with what to do; returns how many rows there were."""
    models = {model._meta.table_name: model for model in TABLES}
    if wanted.name not in models and wanted.name not in VIEWS:
        raise StoreError(f"there is no table or view {wanted.name}; there are: {', '.join((*models, *VIEWS))}")
    if wanted.format == "parquet" and not wanted.output:
        raise StoreError("a Parquet file needs a name: --output FILE")
    columns = [name for name in store.read(_columns, wanted.name) if (wanted.name, name) not in HIDDEN]
    kinds = kinds_of(wanted.name, columns)
    where, values = _span(replace(wanted, since=_instant("--since", wanted.since), until=_instant("--until", wanted.until)), columns)
    rows = _rows(store, f"SELECT {_quoted(columns)} FROM {wanted.name}{where}", values, [kind is Kind.TRUTH for kind in kinds])
    try:
        if wanted.format == "parquet":
            return _parquet(wanted.output, columns, kinds, rows)
        with contextlib.ExitStack() as stack:
            out = stack.enter_context(open(wanted.output, "w", encoding="utf-8", newline="")) if wanted.output else sys.stdout
            write: Callable[..., int] = _csv if wanted.format == "csv" else _sql
            return write(out, wanted.name, columns, rows)
    except OSError as error:
        raise StoreError(f"can't write {wanted.output or 'the output'}: {error.strerror}") from None


def _columns(name: str) -> list[str]:
    return [item[0] for item in database.execute_sql(f"SELECT * FROM {name} LIMIT 0").description]


def _instant(option: str, text: str) -> str:
    """An instant as the tables have it, or the beginning of one: they are compared as text. Raises StoreError."""
    found = text.strip().removesuffix("Z").replace(" ", "T", 1)
    if found and not _INSTANT.fullmatch(found):
        raise StoreError(f"{option}: {text!r:.40} is no instant like 2026-11, 2026-11-01 or 2026-11-01T10:30 (UTC)")
    return found


def _span(wanted: Wanted, columns: Sequence[str]) -> tuple[str, list[str]]:
    """The condition for the span of time, and its values."""
    if not (wanted.since or wanted.until):
        return "", []
    instant = next((name for name in _INSTANTS if name in columns), None)
    if instant is None:
        raise StoreError(f"{wanted.name} has no column that says when, so --since and --until mean nothing there")
    if wanted.since and wanted.until and wanted.since >= wanted.until:
        raise StoreError(f"--until ({wanted.until}) is not after --since ({wanted.since})")
    tests = [(f'"{instant}" >= ', wanted.since), (f'"{instant}" < ', wanted.until)]
    given = [(test, value) for test, value in tests if value]
    return " WHERE " + " AND ".join(f"{test}$" for test, _ in given), [value for _, value in given]


def _rows(store: Store, sql: str, values: list[str], truths: list[bool]) -> Iterator[list[Any]]:
    """The rows, as they come, over a connection of their own. Booleans are so on every database."""
    reader: Any = connect(store.url, store.busy_timeout, "ro")
    try:
        reader.connect()
        sqlite = store.path is not None
        raw = reader.connection()
        if not sqlite:
            # A server keeps the rows for a cursor with a name, in a transaction, and sends a few thousand at a time.
            raw.autocommit = False
        cursor = raw.cursor() if sqlite else raw.cursor(name="proxyd_export")
        cursor.execute(sql.replace("$", "?" if sqlite else "%s"), values)
        for row in cursor:
            yield [bool(value) if truth and value is not None else value for value, truth in zip(row, truths, strict=True)]
    except (peewee.PeeweeException, sqlite3.Error) as error:
        raise explain(error, store.name) from None
    finally:
        reader.close()


def _csv(out: IO[str], _name: str, columns: Sequence[str], rows: Iterator[list[Any]]) -> int:
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    count = 0
    for row in rows:
        writer.writerow([int(value) if isinstance(value, bool) else value for value in row])
        count += 1
    return count


def _sql(out: IO[str], name: str, columns: Sequence[str], rows: Iterator[list[Any]]) -> int:
    head = f'INSERT INTO "{name}" ({_quoted(columns)}) VALUES'
    count = 0
    for row in rows:
        out.write(f"{head} ({', '.join(map(_literal, row))});\n")
        count += 1
    return count


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    return str(value) if isinstance(value, int | float) else "'" + str(value).replace("'", "''") + "'"


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


#: What makes a value that Parquet takes of one from a database: a server's exact numbers are Decimals, instants are text on both.
_MADE: dict[Kind, Callable[[Any], Any]] = {
    Kind.TRUTH: bool, Kind.WHOLE: int, Kind.REAL: float, Kind.INSTANT: lambda text: datetime.fromisoformat(text) if text else None,
    Kind.TEXT: str}


def _parquet(path: str, columns: Sequence[str], kinds: Sequence[Kind], rows: Iterator[list[Any]]) -> int:
    """Write a Parquet file, in which columns have the types of their kinds whatever is in them."""
    try:
        pyarrow: Any = import_module("pyarrow")
        parquet: Any = import_module("pyarrow.parquet")
    except ImportError:
        raise StoreError("Parquet needs pyarrow: pip install proxyd[parquet]") from None
    types = {Kind.TRUTH: pyarrow.bool_(), Kind.WHOLE: pyarrow.int64(), Kind.REAL: pyarrow.float64(),
             Kind.INSTANT: pyarrow.timestamp("ms", tz="UTC"), Kind.TEXT: pyarrow.string()}
    schema = pyarrow.schema([(name, types[kind]) for name, kind in zip(columns, kinds, strict=True)])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for piece in peewee.chunked(rows, _AT_ONCE):
            arrays = [pyarrow.array(_shaped(name, kind, [row[place] for row in piece]), types[kind])
                      for place, (name, kind) in enumerate(zip(columns, kinds, strict=True))]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            count += len(piece)
    return count


def _shaped(name: str, kind: Kind, values: list[Any]) -> list[Any]:
    made = _MADE[kind]
    try:
        return [None if value is None else made(value) for value in values]
    except ValueError as error:
        raise StoreError(f"{name} has a value that is no {kind.value}: {error}") from None
