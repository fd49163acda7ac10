"""The database for people who only read: a connection that can't write, shows no secrets, and leaves no transaction open behind it."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from proxyd.base.text import hide_password
from proxyd.store.sql.database import StoreError, sqlite_path
from proxyd.store.sql.openfile import LOG

#: Columns that are shown as NULL, by table: who has them can do more than read. Fields of requests may hold a backend's password.
HIDDEN: frozenset[tuple[str, str]] = frozenset((
    ("sessions", "secret_hash"), ("certificates", "private_key"), ("certificate_orders", "private_key"),
    ("acme_accounts", "private_key"), ("acme_challenges", "answer"),
    ("routes", "request_headers"), ("session_settings", "value"), ("staged_changes", "value")))
#: What SQLite may be asked for: rows, functions on them, recursion, and pragmas that tell about tables.
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
_PRAGMAS = {"table_info", "table_xinfo", "table_list", "index_list", "index_info", "user_version"}
_CONNECT_SECONDS = 5
#: What a server can keep the rows of, and send as many as are asked for.
_QUERY = re.compile(r"(?:SELECT|WITH|VALUES|TABLE)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Found:
    """What a statement found: the names of the columns and the rows, at most as many as were asked for. `more`: there are others."""

    columns: list[str]
    rows: list[tuple[Any, ...]]
    more: bool


class Reader(Protocol):
    """An open database."""

    def run(self, statement: str, most: int) -> Found:
        """Run one statement that reads. Raises StoreError with what the database says."""

    def close(self) -> None: ...


@contextlib.contextmanager
def reader(url: str, seconds: float) -> Iterator[Reader]:
    """Open the database of a url for reading. `seconds`: the longest time that a statement may take. Raises StoreError."""
    path = sqlite_path(url)
    opened: Reader = _File(path, seconds) if path is not None else _Server(url, seconds)
    try:
        yield opened
    finally:
        opened.close()


class _File:
    def __init__(self, path: str, seconds: float) -> None:
        self._seconds = seconds
        if not os.path.exists(path):
            raise StoreError(f"there is no database {path}; the master makes it when it starts, or: proxyd migrate")
        name = f"file:{quote(os.path.abspath(path))}?mode=ro"
        try:
            self._connection = self._open(name)
        except sqlite3.Error as error:
            # Without its index, which this user may not make, a file can be read as it is while nobody has it open.
            if os.path.exists(path + LOG):
                raise StoreError(f"the database {path} can't be opened: {error}") from None
            try:
                self._connection = self._open(f"{name}&immutable=1")
            except sqlite3.Error:
                raise StoreError(f"the database {path} can't be opened: {error}") from None
        self._connection.set_authorizer(_allow)

    @staticmethod
    def _open(name: str) -> sqlite3.Connection:
        connection = sqlite3.connect(name, uri=True, isolation_level=None, timeout=_CONNECT_SECONDS, check_same_thread=False)
        try:
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def run(self, statement: str, most: int) -> Found:
        timer = threading.Timer(self._seconds, self._connection.interrupt)
        timer.start()
        cursor = self._connection.cursor()
        try:
            cursor.execute(statement)
            rows = cursor.fetchmany(most + 1)
            return Found([item[0] for item in cursor.description or ()], rows[:most], len(rows) > most)
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise StoreError(_said(str(error), self._seconds)) from None
        finally:
            timer.cancel()
            # What is left open would keep the log from being used anew.
            cursor.close()

    def close(self) -> None:
        self._connection.close()


def _said(message: str, seconds: float) -> str:
    if message == "interrupted":
        return f"the statement took longer than {seconds:g} s"
    if "not authorized" in message or "prohibited" in message:
        return f"{message}: this connection only reads"
    return message


def _allow(action: int, first: str | None, second: str | None, _database: str | None, _trigger: str | None) -> int:
    if action == sqlite3.SQLITE_READ:
        return sqlite3.SQLITE_IGNORE if (first, second) in HIDDEN else sqlite3.SQLITE_OK
    if action in _ALLOWED or action == sqlite3.SQLITE_PRAGMA and first in _PRAGMAS:
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


class _Server:
    def __init__(self, url: str, seconds: float) -> None:
        try:
            import psycopg2
        except ImportError:
            raise StoreError("PostgreSQL needs the psycopg2 package: pip install psycopg2-binary") from None
        self._error: Any = psycopg2.Error
        self._seconds = seconds
        try:
            self._connection: Any = psycopg2.connect(url, connect_timeout=_CONNECT_SECONDS, application_name="proxyctl sql",
                                                     options=f"-c statement_timeout={round(seconds * 1000)}")
            self._connection.set_session(autocommit=True)
            # It takes the server longer to compile a question than to answer it. Old ones know no such setting.
            with self._connection.cursor() as cursor:
                cursor.execute("SELECT set_config('jit', 'off', FALSE) FROM pg_settings WHERE name = 'jit'")
            self._hide()
            self._connection.set_session(readonly=True, autocommit=True)
            self._hidden = self._places()
        except self._error as error:
            raise StoreError(f"the database {hide_password(url)} can't be opened: {str(error).strip()}") from None

    def _hide(self) -> None:
        """Put views of this connection in the place of tables with secrets, so that no expression over one shows it either. A server that
        takes none (a standby, or a role without the right) still gives NULL for the columns themselves."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), quote_ident(n.nspname) FROM pg_class c "
                           "JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_attribute a ON a.attrelid = c.oid "
                           "WHERE c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped AND n.nspname = current_schema() "
                           "ORDER BY a.attnum")
            columns: dict[str, list[str]] = {}
            schemas = {}
            for table, column, kind, schema in cursor.fetchall():
                secret = (table, column) in HIDDEN
                columns.setdefault(table, []).append(f'CAST(NULL AS {kind}) AS "{column}"' if secret else f'"{column}"')
                schemas[table] = schema
            try:
                for table in sorted({table for table, _ in HIDDEN} & columns.keys()):
                    cursor.execute(f'CREATE TEMP VIEW "{table}" AS SELECT {", ".join(columns[table])} FROM {schemas[table]}."{table}"')
            except self._error:
                pass

    def _places(self) -> set[tuple[int, int]]:
        """The hidden columns, as the server numbers tables and columns."""
        with self._connection.cursor() as cursor:
            cursor.execute("SELECT c.relname, a.attname, c.oid, a.attnum FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
                           "WHERE c.relkind = 'r' AND a.attnum > 0")
            return {(table, number) for name, column, table, number in cursor.fetchall() if (name, column) in HIDDEN}

    def run(self, statement: str, most: int) -> Found:
        try:
            described, rows = self._some(statement, most + 1) if _QUERY.match(statement) else self._all(statement, most + 1)
        except self._error as error:
            text = str(error).strip()
            raise StoreError(f"the statement took longer than {self._seconds:g} s" if "statement timeout" in text else text) from None
        secret = [(item.table_oid, item.table_column) in self._hidden for item in described]
        if any(secret):
            rows = [tuple(None if hidden else value for value, hidden in zip(row, secret, strict=True)) for row in rows]
        return Found([item.name for item in described], rows[:most], len(rows) > most)

    def _some(self, query: str, most: int) -> tuple[Any, list[tuple[Any, ...]]]:
        """The columns and the first rows of a query. The server keeps the others, which may be millions."""
        self._connection.autocommit = False
        try:
            cursor = self._connection.cursor(name="proxyctl")
            cursor.execute(query)
            rows = cursor.fetchmany(most)
            return cursor.description or (), rows
        finally:
            if not self._connection.closed:
                self._connection.rollback()
                self._connection.autocommit = True

    def _all(self, statement: str, most: int) -> tuple[Any, list[tuple[Any, ...]]]:
        """The same of what is no query, like EXPLAIN and SHOW."""
        with self._connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.description or (), cursor.fetchmany(most) if cursor.description else []

    def close(self) -> None:
        self._connection.close()
