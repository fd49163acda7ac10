"""proxyctl sql: the database of the settings, opened for reading, where neither sqlite3 nor psql is at hand."""

from __future__ import annotations

import argparse
import contextlib
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from itertools import chain
from typing import TYPE_CHECKING, Any

from proxyd.ctl.adminhttp import Refused
from proxyd.ctl.screen import Screen, columns, printable

if TYPE_CHECKING:
    from proxyd.store.sql.readonly import Found, Reader

_TABLE_INFO = "PRAGMA table_info"
_PROMPT, _MORE = "sql> ", "...> "
_HELP = "A statement ends with ;   tables: the tables and views   describe NAME: its columns   quit: leave"
#: Longest statement that is read, in characters.
_LONGEST = 1 << 20


def sql(screen: Screen, options: argparse.Namespace, url: str) -> int:
    """Run the statements of the command line or of standard input, or ask for them on a terminal. Raises Refused."""
    from proxyd.store.sql.database import StoreError
    from proxyd.store.sql.readonly import reader

    try:
        with reader(url, options.timeout) as opened:
            if options.statement:
                texts: Iterator[str] = chain.from_iterable(statements(text) for text in options.statement)
            elif sys.stdin.isatty():
                return _talk(screen, options, opened)
            else:
                texts = statements(sys.stdin.read(_LONGEST))
            for text in texts:
                _show(screen, options.json, _run(opened, text, _spoken(text, url), options.rows))
    except StoreError as error:
        raise Refused(str(error)) from None
    return 0


def statements(text: str) -> Iterator[str]:
    """The statements of a text, each with the semicolon at its end, the last one without one perhaps."""
    start = 0
    for place, char in enumerate(text):
        if char == ";" and sqlite3.complete_statement(text[start:place + 1]):
            if text[start:place].strip():
                yield text[start:place + 1].strip()
            start = place + 1
    if text[start:].strip():
        yield text[start:].strip()


def _talk(screen: Screen, options: argparse.Namespace, opened: Reader) -> int:
    """Ask for statements until the end of input. A statement that fails is told, and the next one asked for."""
    from proxyd.store.sql.database import StoreError

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() has editing and history with it
    screen.line(_HELP)
    text = ""
    while True:
        try:
            line = input(_MORE if text else _PROMPT)
        except EOFError:
            return 0
        except KeyboardInterrupt:
            screen.line()
            text = ""
            continue
        word = line.strip().rstrip(";").lower()
        if not text and word in ("quit", "exit", ".quit", "\\q"):
            return 0
        text = f"{text}\n{line}".strip()
        spoken = _spoken(text, options.url)
        if len(text) > _LONGEST or not (spoken != text or sqlite3.complete_statement(text)):
            text = text[:_LONGEST]
            continue
        try:
            _show(screen, options.json, _run(opened, text, spoken, options.rows))
        except StoreError as error:
            screen.line(f"error: {error}")
        text = ""


def _run(opened: Reader, text: str, spoken: str, rows: int) -> Found:
    """Run what was asked for, as SQL. Raises StoreError, for a table that there is not, too."""
    from proxyd.store.sql.database import StoreError

    found = opened.run(spoken, rows)
    if spoken != text and not found.rows:
        raise StoreError(f"there is no table or view {text.strip().rstrip(';').split()[-1]} (tables lists them)")
    if spoken.startswith(_TABLE_INFO):
        # As a server tells it. SQLite knows no type of a computed column.
        return replace(found, columns=["name", "type"], rows=[(row[1], str(row[2]).lower()) for row in found.rows])
    return found


def _spoken(text: str, url: str) -> str:
    """The statement for `tables` and `describe NAME`; another text is one already."""
    words = text.strip().rstrip(";").split()
    file = url.startswith("sqlite:")
    if [word.lower() for word in words] in (["tables"], [".tables"], ["\\d"]):
        return ("SELECT name, type FROM sqlite_master WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite_%' ORDER BY type DESC, name"
                if file else "SELECT table_name AS name, CASE table_type WHEN 'VIEW' THEN 'view' ELSE 'table' END AS type "
                "FROM information_schema.tables WHERE table_schema = current_schema() ORDER BY type DESC, name")
    if len(words) == 2 and words[0].lower() in ("describe", "\\d") and words[1].replace("_", "").isalnum():
        name = words[1].lower()
        return (f"{_TABLE_INFO}('{name}')" if file else
                "SELECT column_name AS name, data_type AS type FROM information_schema.columns WHERE table_schema = current_schema() "
                f"AND table_name = '{name}' ORDER BY ordinal_position")
    return text


def _show(screen: Screen, as_json: bool, found: Found) -> None:
    if as_json:
        screen.json([dict(zip(found.columns, map(_plain, row), strict=True)) for row in found.rows])
        return
    cells = [["" if value is None else printable(_plain(value)) for value in row] for row in found.rows]
    widths = [max(map(columns, column)) for column in zip(found.columns, *cells, strict=True)]
    if not screen.is_bounded:
        _lines(screen, [found.columns, ["-" * width for width in widths], *cells], widths)
    elif sum(widths) + 3 * len(widths) + 1 <= screen.width:
        _box(screen, found.columns, cells, widths)
    else:
        # Too wide for a table: one value a line.
        for number, row in enumerate(cells, 1):
            screen.line(f"{number}.")
            screen.pairs(dict(zip(found.columns, row, strict=True)))
    if not cells:
        screen.line("no rows")
    if found.more:
        screen.line(f"... and more rows: only the first {len(cells)} are shown (--rows)")


def _lines(screen: Screen, rows: list[list[str]], widths: list[int]) -> None:
    for row in rows:
        screen.line("  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)).rstrip())


def _box(screen: Screen, head: list[str], rows: list[list[str]], widths: list[int]) -> None:
    def rule(left: str, middle: str, right: str) -> str:
        return left + middle.join("─" * (width + 2) for width in widths) + right

    def line(row: list[str]) -> str:
        return "│" + "│".join(f" {cell}{' ' * (width - columns(cell))} " for cell, width in zip(row, widths, strict=True)) + "│"

    screen.line(rule("┌", "┬", "┐"))
    screen.line(line(head))
    screen.line(rule("├", "┼", "┤"))
    for row in rows:
        screen.line(line(row))
    screen.line(rule("└", "┴", "┘"))


def _plain(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else value if isinstance(value, str | int | float | None) else str(value)
