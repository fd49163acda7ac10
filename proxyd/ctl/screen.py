"""What the terminal gets: tables that fit its width, colours where they help, JSON for programs."""

from __future__ import annotations

import itertools
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
#: Columns that a text needs to say something; where a table has less for each, some of its columns go.
_USEFUL = 14
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

    def wrapped(self, text: str, indent: int = 0, colour: str = "") -> None:
        """A text over as many lines as the width asks for, those after the first indented."""
        for line in wrap(text, self.width, indent):
            self.line(self.paint(line, colour))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]], empty: str, spare: Sequence[str] = ()) -> None:
        """Rows under a header, or a sentence where there are none. `spare`: see table_lines."""
        for text in self.table_lines(header, list(rows), empty, spare):
            self.line(text)

    def table_lines(
        self, header: Sequence[str], rows: Sequence[Sequence[object]], empty: str, spare: Sequence[str] = (),
    ) -> list[str]:
        """The table's lines, none wider than the screen: first the columns in `spare` go, in that order, as long as the
        others would have too little room; then the widest give up their ends."""
        if not rows:
            return [empty]
        cells = [[printable(value) for value in row] for row in rows]
        widths = [max(columns(row[index]) for row in [list(header), *cells]) for index in range(len(header))]
        kept = self._kept(header, widths, spare)
        widths = [widths[index] for index in kept]
        while self.width and _taken(widths) > self.width and max(widths) > min(_LEAST, self.width):
            widths[widths.index(max(widths))] -= 1
        lines = [self.paint(_row([header[index] for index in kept], widths), "bold")]
        for row in cells:
            fitted = [(fit(row[index], width), tone(row[index])) for index, width in zip(kept, widths, strict=True)]
            painted = [self.paint(text.rstrip(), colour) + " " * (len(text) - len(text.rstrip())) for text, colour in fitted]
            lines.append("  ".join(painted).rstrip())
        return lines

    def _kept(self, header: Sequence[str], widths: Sequence[int], spare: Sequence[str]) -> list[int]:
        kept = list(range(len(header)))
        for name in spare:
            if not self.width or _taken([min(widths[index], _USEFUL) for index in kept]) <= self.width:
                return kept
            kept.remove(header.index(name))
        while len(kept) > 1 and self.width and _taken([min(widths[index], _LEAST) for index in kept]) > self.width:
            kept.pop()
        return kept

    def pairs(self, values: Mapping[str, object]) -> None:
        """Names and values below each other; a value that does not fit goes on below its beginning."""
        longest = max((len(name) for name in values), default=0)
        room = self.width - longest - 2
        for name, value in values.items():
            text = printable(value)
            colour = tone(text)
            if self.width and room < 2 * _USEFUL:
                self.line(self.paint(fit(name, min(len(name), self.width)), "dim"))
                lines, margin = wrap(text, max(self.width - 2, 1)), "  "
            else:
                lines, margin = wrap(text, room if self.width else 0), " " * (longest + 2)
                self.line(f"{self.paint(name.ljust(longest), 'dim')}  {self.paint(lines.pop(0), colour)}")
            for line in lines:
                self.line(margin + self.paint(line, colour))


def _taken(widths: Sequence[int]) -> int:
    """Columns of a table with these columns, two blanks between them."""
    return sum(widths) + 2 * (len(widths) - 1)


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


def wrap(text: str, width: int, indent: int = 0) -> list[str]:
    """The text in lines of at most `width` columns (0: one line), broken at blanks where there are some, those after the
    first indented."""
    if not width or columns(text) <= width:
        return [text]
    indent = min(indent, width // 4)
    lines, line = [], ""
    for piece in itertools.chain.from_iterable(_pieces(word, width - indent) for word in text.split(" ")):
        longer = f"{line} {piece}" if line.strip() else line + piece
        if line.strip() and columns(longer) > width:
            lines.append(line.rstrip())
            longer = " " * indent + piece
        line = longer
    return [*lines, line]


def _pieces(word: str, width: int) -> list[str]:
    """A word that is wider than a line in parts that are not."""
    pieces = [""]
    for char in word if columns(word) > width else ():
        if pieces[-1] and columns(pieces[-1] + char) > width:
            pieces.append("")
        pieces[-1] += char
    return pieces if pieces[-1] else [word]


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
