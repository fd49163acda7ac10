"""What the terminal gets: tables that fit its width, colours where they help, JSON for programs."""

from __future__ import annotations

import json
import os
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "bold": "1", "dim": "2"}
_GOOD = {"healthy", "up", "closed", "connected", "ok", "yes"}
_BAD = {"unhealthy", "down", "open", "disconnected", "failed", "ended"}
_MIDDLE = {"half_open", "unknown", "maintenance", "draining", "disabled", "starting", "pending"}
_LEAST = 6


class Screen:
    """Where output goes, how wide it may be, and whether colours and JSON are wanted. Width 0: not bounded."""

    def __init__(self, as_json: bool = False, out: TextIO | None = None, width: int | None = None) -> None:
        self.as_json = as_json
        self.out = out or sys.stdout
        self.is_terminal = self.out.isatty()
        self.colours = self.is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = width

    @property
    def width(self) -> int:
        """Columns there are; a pipe has no end, unless COLUMNS says so."""
        if self._width is not None:
            return self._width
        if self.is_terminal or os.environ.get("COLUMNS", "").isdigit():
            return shutil.get_terminal_size((100, 24)).columns
        return 0

    def paint(self, text: str, colour: str) -> str:
        """The text in a colour, where colours are wanted."""
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m" if self.colours and colour else text

    def line(self, text: str = "") -> None:
        """One line, at once."""
        self.out.write(text + "\n")
        self.out.flush()

    def json(self, value: Any) -> None:
        """A value as JSON for programs."""
        self.line(json.dumps(value, indent=2, ensure_ascii=False))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
        """Rows under a header, or a sentence where there are none."""
        for text in self.table_lines(header, list(rows), empty):
            self.line(text)

    def table_lines(self, header: Sequence[str], rows: Sequence[Sequence[object]], empty: str) -> list[str]:
        """The table's lines, cut to the width: the widest columns give way first."""
        if not rows:
            return [empty]
        cells = [[printable(value) for value in row] for row in rows]
        widths = [max(columns(row[index]) for row in [list(header), *cells]) for index in range(len(header))]
        while self.width and sum(widths) + 2 * (len(widths) - 1) > self.width and max(widths) > _LEAST:
            widths[widths.index(max(widths))] -= 1
        lines = [self.paint(_row(header, widths), "bold")]
        for row in cells:
            painted = [self.paint(fit(cell, width), tone(cell)) for cell, width in zip(row, widths, strict=True)]
            lines.append("  ".join(painted).rstrip())
        return lines

    def pairs(self, values: Mapping[str, object]) -> None:
        """Names and values below each other."""
        longest = max((len(name) for name in values), default=0)
        for name, value in values.items():
            text = printable(value)
            self.line(f"{self.paint(name.ljust(longest), 'dim')}  {self.paint(text, tone(text))}")


def _row(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(fit(cell, width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def tone(text: str) -> str:
    """The colour of a word that says how something is, or empty."""
    word = text.lower()
    if word in _GOOD:
        return "green"
    if word in _BAD:
        return "red"
    return "yellow" if word in _MIDDLE or word.startswith("drain ") else ""


def columns(text: str) -> int:
    """How many columns a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def fit(text: str, width: int) -> str:
    """The text in exactly so many columns, its end given up for an ellipsis."""
    if columns(text) > width:
        while text and columns(text) > width - 1:
            text = text[:-1]
        text += "…"
    return text + " " * (width - columns(text))


def printable(value: object) -> str:
    """A value for people. Control characters are taken out: names come from services, and terminals obey them."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.1f}".removesuffix(".0")
    if isinstance(value, (list, tuple)):
        return ", ".join(printable(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{printable(name)}={printable(item)}" for name, item in value.items()) or "-"
    return "".join(char if char.isprintable() else "�" for char in str(value))


def ago(instant: object, now: float) -> str:
    """How long ago an RFC 3339 instant was (`12s`, `3m`, `2h`, `5d`), or `-`; one to come is `in 12s`."""
    try:
        moment = datetime.fromisoformat(str(instant))
    except ValueError:
        return printable(instant)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    seconds = now - moment.timestamp()
    return f"in {span(-seconds)}" if seconds < -1 else span(max(seconds, 0))


def span(seconds: float) -> str:
    """A length of time in its largest unit."""
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"
