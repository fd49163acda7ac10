"""What the operator sets for all routes, beneath what each says itself: `[defaults.options]`, `[defaults.headers]` and
`[defaults.request_headers]`.

They are part of the settings, never of a route's rows: workers put them in when they make their table, the master when it checks a backend
or tells of a route. So a reload changes them for all routes at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxyd.base import conditions
from proxyd.config import routechecks
from proxyd.config.options import OPTIONS, parse_option, use_option_defaults

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Defaults:
    """Options, response fields and request fields by name, as they are written."""

    options: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    request_headers: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.options or self.headers or self.request_headers)

    def left(self, options: Iterable[str], headers: Iterable[str], request_headers: Iterable[str]) -> dict[str, dict[str, str]]:
        """Those that hold for a route which sets these names itself; kinds without any are left out."""
        found = {"options": _without(self.options, options), "headers": _without(self.headers, headers),
                 "request_headers": _without(self.request_headers, request_headers)}
        return {kind: values for kind, values in found.items() if values}


#: The sections of the config file, with the field of Defaults that each fills.
SECTIONS = {f"defaults.{kind}": kind for kind in ("options", "headers", "request_headers")}
_FIELD_NAMES = {"headers": routechecks.header_name, "request_headers": routechecks.request_header_name}


def parse_default(section: str, key: str, value: str) -> tuple[str, str]:
    """Name and value of one entry. Raises ValueError."""
    kind = SECTIONS[section]
    if kind == "options":
        if key in conditions.NAMES:
            raise ValueError(f"{key} tells one route from another, so it can't hold for all of them")
        parse_option(key, value)
        return key, value.strip()
    name = _FIELD_NAMES[kind](key)
    try:
        return name, routechecks.header_value(value)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def is_free(section: str, key: str) -> bool:
    """Whether a value is free text, behind which no comment can stand."""
    return SECTIONS[section] != "options" or (key in OPTIONS and OPTIONS[key].kind.free)


_defaults = Defaults()


def defaults() -> Defaults:
    """Those of this process."""
    return _defaults


def use_defaults(made: Defaults) -> None:
    """Go by others from now on: a process that has read its settings says so."""
    global _defaults
    _defaults = made
    use_option_defaults(made.options)


def beneath(own: Pairs, of_all: Mapping[str, str]) -> Pairs:
    """The fields of a route, and those of all routes that it does not set itself."""
    return (*own, *_without(of_all, (name for name, _ in own)).items()) if of_all else own


def _without(values: Mapping[str, str], own: Iterable[str]) -> dict[str, Any]:
    names = {name.lower() for name in own}
    return {name: value for name, value in values.items() if name.lower() not in names}
