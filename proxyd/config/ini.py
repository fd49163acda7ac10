"""INI text with line numbers: what config file, site files and tokens file are read with.

Not configparser: that keeps no line numbers, and a mistake is to be told with its line.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with the configuration; `line` is 0 where it has none (environment)."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}" if self.line else f"{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class IniEntry:
    """One `key = value`, with its line; `name` is the key as written, `key` in lower case."""

    section: str
    key: str
    value: str
    line: int
    name: str


#: What begins a comment behind white space, unless the value is free text.
COMMENTS = "#;"
_LINE_END = re.compile(r"\r\n|\n|\r")


def _all_comments(section: str, key: str) -> str:
    return COMMENTS


def read_ini(
    content: str, file: str, unknown: Callable[[str], str | None], sections: dict[str, int] | None = None,
    comments: Callable[[str, str], str] = _all_comments,
) -> tuple[list[IniEntry], list[Problem]]:
    """The entries of INI text, in order, and what can't be read or is said twice; indented lines continue a value.

    `unknown` says what is wrong with the name of a section, None for a known one: that is told once, with the section's
    line, and what stands in it is passed over. `sections`, where given, gets the first line of each known one, empty ones
    included. `comments` says which characters begin a comment behind a value: none where it is free text.
    """
    entries: list[IniEntry] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], int] = {}
    written: dict[str, tuple[str, int]] = {}
    section: str | None = ""
    # Some editors begin a file with a byte order mark. A form feed ends no line: editors don't count it.
    for line_number, raw in enumerate(_LINE_END.split(content.removeprefix("\ufeff")), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if raw[0] in " \t" and (section is None or (entries and entries[-1].section == section)):
            if section is not None:
                last = entries[-1]
                more = _without_comment(line, comments(section, last.key))
                entries[-1] = dataclasses.replace(last, value=f"{last.value} {more}".strip())
        elif line[0] == "[" and line[-1] == "]":
            name = line[1:-1].strip()
            section = " ".join(name.split(maxsplit=1))
            wrong = unknown(section)
            first_name, first = written.setdefault(section, (name, line_number))
            if not wrong and first_name != name:
                wrong = f"[{name}] is the section [{first_name}] of line {first}, written in another way"
            if wrong:
                problems.append(Problem(file, line_number, wrong))
                section = None
            elif sections is not None:
                sections.setdefault(section, line_number)
        elif "=" in line:
            if section is None:
                continue
            name, value = (part.strip() for part in line.split("=", 1))
            key = name.lower()
            if not section:
                problems.append(Problem(file, line_number, f'"{name}" stands before any [section]'))
                continue
            value = _without_comment(value, comments(section, key))
            first = seen.setdefault((section, key), line_number)
            if first != line_number:
                problems.append(Problem(file, line_number, f'[{section}] {name} is set twice (first in line {first})'))
            entries.append(IniEntry(section, key, value, line_number, name))
        else:
            problems.append(Problem(file, line_number, f'"{line[:60]}" is neither [section] nor key = value'))
    return entries, problems


def _without_comment(value: str, comments: str) -> str:
    return re.sub(rf"\s[{comments}].*$", "", " " + value).strip() if comments else value
