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


def read_ini(
    content: str, file: str, unknown: Callable[[str], str | None], sections: dict[str, int] | None = None,
) -> tuple[list[IniEntry], list[Problem]]:
    """The entries of INI text, in order, and what can't be read or is said twice; indented lines continue a value.

    `unknown` says what is wrong with the name of a section, None for a known one: that is told once, with the section's
    line, and what stands in it is passed over. `sections`, where given, gets the first line of each known one, empty ones
    included.
    """
    entries: list[IniEntry] = []
    problems: list[Problem] = []
    seen: dict[tuple[str, str], int] = {}
    section: str | None = ""
    # Some editors begin a file with a byte order mark.
    for line_number, raw in enumerate(content.removeprefix("\ufeff").splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        if raw[0] in " \t" and (section is None or (entries and entries[-1].section == section)):
            if section is not None:
                last = entries[-1]
                entries[-1] = dataclasses.replace(last, value=f"{last.value} {line}".strip())
        elif line[0] == "[" and line[-1] == "]":
            section = line[1:-1].strip()
            wrong = unknown(section)
            if wrong:
                problems.append(Problem(file, line_number, wrong))
                section = None
            elif sections is not None:
                sections.setdefault(section, line_number)
        elif "=" in line:
            if section is None:
                continue
            name, value = (part.strip() for part in line.split("=", 1))
            value = re.sub(r"\s[#;].*$", "", " " + value).strip()
            key = name.lower()
            if not section:
                problems.append(Problem(file, line_number, f'"{name}" stands before any [section]'))
                continue
            first = seen.setdefault((section, key), line_number)
            if first != line_number:
                problems.append(Problem(file, line_number, f'[{section}] {name} is set twice (first in line {first})'))
            entries.append(IniEntry(section, key, value, line_number, name))
        else:
            problems.append(Problem(file, line_number, f'"{line[:60]}" is neither [section] nor key = value'))
    return entries, problems
