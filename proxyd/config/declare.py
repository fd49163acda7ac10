"""How a setting or an option is declared: once, with kind, default and help; parsing and docs follow from it.

A declaration is a dataclass field: `timeout: float = declare(DURATION, "60s", "How long ...")`. The class
gives typed access, `declarations(cls)` gives everything else (config file, environment, docs, checks).
"""

from __future__ import annotations

import dataclasses
import keyword
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from proxyd.base import text


@dataclass(frozen=True, slots=True)
class Kind:
    """A type of value: `parse` turns a text into it (ValueError says what was expected), `name` is for docs.

    `free`: any text is a value, so that nothing behind it in a file can be a comment.
    """

    name: str
    parse: Callable[[str], Any]
    free: bool = False


@dataclass(frozen=True, slots=True)
class Declaration:
    """One declared setting or option: its key, kind, default as text, help, and `effect` for docs."""

    key: str
    kind: Kind
    default: str
    help: str


def declare(kind: Kind, default: str, help: str) -> Any:
    """A dataclass field of that kind; the default is written as a user would write it."""
    return dataclasses.field(default=kind.parse(default), metadata={"kind": kind, "default": default, "help": help})


def field_of(key: str) -> str:
    """The name of the field that has the value of a key."""
    return f"{key}_" if keyword.iskeyword(key) else key


def declarations(cls: type) -> dict[str, Declaration]:
    """The declarations of a dataclass made with `declare`, by key, in order. A key that is a word of Python has a field with an underscore
    behind it."""
    return {
        (key := field.name.rstrip("_")): Declaration(key, field.metadata["kind"], field.metadata["default"], field.metadata["help"])
        for field in dataclasses.fields(cls)
        if "kind" in field.metadata
    }


def integer(low: int, high: int) -> Kind:
    """A whole number between low and high, both allowed."""

    def parse(value: str) -> int:
        number = text.parse_int(value)
        if not low <= number <= high:
            raise ValueError(f'"{value}" is not between {low} and {high}')
        return number

    return Kind(f"whole number, {low} to {high}", parse)


def number(low: float, high: float) -> Kind:
    """A decimal number between low and high, both allowed."""

    def parse(value: str) -> float:
        try:
            result = float(value)
        except ValueError:
            raise ValueError(f'"{value}" is not a number') from None
        if not low <= result <= high:
            raise ValueError(f'"{value}" is not between {low:g} and {high:g}')
        return result

    return Kind(f"number, {low:g} to {high:g}", parse)


def size_between(low: str, high: str) -> Kind:
    """A size between two bounds, both allowed."""
    least, most = text.parse_size(low), text.parse_size(high)

    def parse(value: str) -> int:
        size = text.parse_size(value)
        if not least <= size <= most:
            raise ValueError(f'"{value}" is not between {low} and {high}')
        return size

    return Kind(f"size, {low} to {high}", parse)


def duration_or_off(longest: str) -> Kind:
    """A duration up to a bound, or 0 for off."""
    most = text.parse_duration(longest)

    def parse(value: str) -> float:
        seconds = text.parse_duration_or_zero(value)
        if seconds > most:
            raise ValueError(f'"{value}" is longer than {longest}')
        return seconds

    return Kind(f"duration up to {longest}, 0 for off", parse)


def choice(*words: str) -> Kind:
    """One of the words."""

    def parse(value: str) -> str:
        word = value.strip().lower()
        if word not in words:
            raise ValueError(f'"{value}" is not one of {", ".join(words)}{text.suggest(word, words)}')
        return word

    return Kind(" or ".join(words), parse)


def words(*known: str) -> Kind:
    """A list of words, each one of the known."""

    def parse(value: str) -> tuple[str, ...]:
        items = tuple(item.lower() for item in text.split_list(value))
        for item in items:
            if item not in known:
                raise ValueError(f'"{item}" is not one of {", ".join(known)}{text.suggest(item, known)}')
        return items

    return Kind(f"list of {', '.join(known)}", parse)


def bounded_text(limit: int = 1024) -> Kind:
    """A line of text of at most `limit` characters, without control characters."""

    def parse(value: str) -> str:
        if len(value) > limit:
            raise ValueError(f"text of {len(value)} characters is longer than {limit}")
        if any(ord(char) < 32 or ord(char) == 127 for char in value):
            raise ValueError("text holds a control character")
        return value.strip()

    return Kind("text", parse, free=True)


TEXT = bounded_text()
BOOL = Kind("yes or no", text.parse_bool)
DURATION = Kind("duration", text.parse_duration)
DURATION_OR_OFF = Kind("duration, 0 for off", text.parse_duration_or_zero)
SIZE = Kind("size", text.parse_size)
ADDRESS = Kind("address", text.parse_address)
ADDRESS_OR_NONE = Kind("address, empty for none", lambda value: text.parse_address(value) if value.strip() else "")
NETWORKS = Kind("list of networks", text.parse_networks)
STATUSES = Kind("status codes", text.parse_status_set)
LIST = Kind("list", text.split_list)
