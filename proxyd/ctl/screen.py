"""Output: tables and colours that fit a terminal (by rich), plain text in a pipe, JSON for programs.

rich is imported only if the output has a width. Help, pipes and JSON do not need it, and start faster without it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

_GOOD = {"healthy", "up", "closed", "connected", "ok", "yes"}
_BAD = {"unhealthy", "down", "open", "disconnected", "failed", "ended"}
_MIDDLE = {"half_open", "unknown", "maintenance", "draining", "disabled", "starting", "pending"}
#: Characters that a text needs to be useful. If a table has less for each column, it drops some columns.
_USEFUL = 14
_LEAST = 6
#: Control characters above those that JSON escapes, and those that turn the direction of a text.
_OBEYED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
#: Rows that rich lays out together. It takes seconds for ten thousand, but the first rows must appear at once.
_AT_ONCE = 200


class Screen:
    """Where output goes, how wide it may be, and whether colours and JSON are wanted."""

    def __init__(self, as_json: bool = False, out: TextIO | None = None, width: int | None = None) -> None:
        self.as_json = as_json
        self.out = out or sys.stdout
        self.is_terminal = self.out.isatty()
        #: Whether lines have a width: on a terminal, and in a pipe if COLUMNS is set.
        self.is_bounded = self.is_terminal or width is not None or os.environ.get("COLUMNS", "").isdigit()
        self._given = width
        self._frame: list[RenderableType] | None = None

    @cached_property
    def console(self) -> Console:
        """rich's console for this screen."""
        from rich.console import Console

        dumb = os.environ.get("TERM") == "dumb"
        # rich follows the size of a terminal by itself, but assumes 80 columns for a pipe and a dumb terminal.
        width = shutil.get_terminal_size((100, 24)).columns if dumb or not self.is_terminal else None
        # NO_COLOR alone would leave bold and dim.
        plain = dumb or not self.is_terminal or bool(os.environ.get("NO_COLOR"))
        return Console(file=self.out, width=self._given or width, force_terminal=self.is_terminal, highlight=False, markup=False,
                       emoji=False, color_system=None if plain else "auto")

    @property
    def width(self) -> int:
        """Columns of a line. 0 if lines have no width."""
        return self.console.width if self.is_bounded else 0

    def frame(self) -> list[RenderableType]:
        """Collect what is shown from now on in a new list, for one picture of a full screen. Returns the list."""
        self._frame = []
        return self._frame

    def _put(self, renderable: RenderableType) -> None:
        if self._frame is not None:
            self._frame.append(renderable)
        else:
            self.console.print(renderable)

    def line(self, text: str = "") -> None:
        """Write one line at once, whatever its length."""
        if self._frame is not None:
            self._frame.append(text)
            return
        self.out.write(text + "\n")
        self.out.flush()

    def json(self, value: Any) -> None:
        """A value as JSON for programs. What a terminal would obey is escaped: JSON itself escapes only what ASCII has of that."""
        self.line(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, indent=2, ensure_ascii=False)))

    def cut(self, text: str) -> None:
        """Write a text on one line. Its end is cut if it is too wide."""
        if not self.is_bounded:
            self.line(text)
            return
        from rich.text import Text

        self._put(Text(text, no_wrap=True, overflow="ellipsis"))

    def wrapped(self, text: str, indent: int = 0, colour: str = "") -> None:
        """Write a text on as many lines as the width demands. Lines after the first are indented."""
        if not self.is_bounded:
            self.line(text)
            return
        from rich.text import Text

        indent = min(indent, self.width // 4)
        for number, line in enumerate(Text(text).wrap(self.console, self.width - indent, overflow="fold")):
            self._put(Text(" " * indent * bool(number) + line.plain, colour))

    def table(self, header: Sequence[str], rows: Iterable[Sequence[object]], empty: str, spare: Sequence[str] = ()) -> None:
        """Write rows under a header, or the sentence `empty` if there are none.

        If the screen is too narrow, the columns in `spare` are dropped in that order, until the others have enough room. Then the
        widest columns are cut.
        """
        cells = [[printable(value) for value in row] for row in rows]
        if not cells:
            self.line(empty)
            return
        widths = [max(columns(row[index]) for row in [list(header), *cells]) for index in range(len(header))]
        if not self.is_bounded:
            # A pipe may get many thousand rows, for which rich is too slow.
            for row in [list(header), *cells]:
                self.line("  ".join(cell + " " * (width - columns(cell)) for cell, width in zip(row, widths, strict=True)).rstrip())
            return
        kept = self._kept(header, widths, spare)
        room = [widths[index] for index in kept]
        while _taken(room) > self.width and max(room) > 1:
            room[room.index(max(room))] -= 1
        for start in range(0, len(cells), _AT_ONCE):
            some = [[row[index] for index in kept] for row in cells[start:start + _AT_ONCE]]
            self._put(_table([header[index] for index in kept], some, room, first=start == 0))

    def _kept(self, header: Sequence[str], widths: Sequence[int], spare: Sequence[str]) -> list[int]:
        kept = list(range(len(header)))
        for name in spare:
            if _taken([min(widths[index], _USEFUL) for index in kept]) <= self.width:
                return kept
            kept.remove(header.index(name))
        while len(kept) > 1 and _taken([min(widths[index], _LEAST) for index in kept]) > self.width:
            kept.pop()
        return kept

    def pairs(self, values: Mapping[str, object]) -> None:
        """Write names and values below each other. A value that does not fit is wrapped."""
        longest = max((len(name) for name in values), default=0)
        if not self.is_bounded:
            for name, value in values.items():
                self.line(f"{name.ljust(longest)}  {printable(value)}")
            return
        from rich.padding import Padding
        from rich.table import Table
        from rich.text import Text

        shown = {name: printable(value) for name, value in values.items()}
        if self.width - longest - 2 < 2 * _USEFUL:
            for name, text in shown.items():
                self._put(Text(name, "dim", overflow="fold"))
                self._put(Padding(Text(text, tone(text), overflow="fold"), (0, 0, 0, 2), expand=False))
            return
        grid = Table.grid(padding=(0, 2, 0, 0))
        grid.add_column(no_wrap=True)
        grid.add_column(overflow="fold")
        for name, text in shown.items():
            grid.add_row(Text(name, "dim"), Text(text, tone(text)))
        self._put(grid)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], first: bool) -> Table:
    from rich.table import Table
    from rich.text import Text

    def cell(text: str, width: int, colour: str = "") -> Text:
        made = Text(no_wrap=True).append(text, colour)
        made.truncate(width, overflow="ellipsis")
        return made

    # The blanks between columns are part of the widths, because rich before version 15 adds padding after the last column too.
    table = Table(box=None, padding=0, header_style="bold", show_header=first)
    for index, (name, width) in enumerate(zip(header, widths, strict=True), 1):
        table.add_column(cell(name, width), width=width + 2 * (index < len(widths)))
    for row in rows:
        table.add_row(*(cell(text, width, tone(text)) for text, width in zip(row, widths, strict=True)))
    return table


def _taken(widths: Sequence[int]) -> int:
    """Columns of a table with these columns, two blanks between them."""
    return sum(widths) + 2 * (len(widths) - 1)


def columns(text: str) -> int:
    """How many columns a text takes: two for a wide character, none for a combining one."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)


def tone(text: str) -> str:
    """The colour of a word that describes a state, or empty."""
    word = text.lower()
    if word in _GOOD:
        return "green"
    if word in _BAD:
        return "red"
    return "yellow" if word in _MIDDLE or word.startswith("drain ") else ""


def printable(value: object) -> str:
    """A value for people, on one line. Control characters are shown as a program's text has them (`\\n`, `\\x1b`), because names come from
    services, and terminals obey them."""
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
    shown = str(value)
    if shown.isprintable():
        return shown
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in shown)


def ago(instant: object, now: float) -> str:
    """How long ago an RFC 3339 instant was (`12s`, `3m`, `2h`, `5d`), or `-`. A future one is `in 12s`."""
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
