"""What a route asks of a request beside host and path: options match_method, match_header, match_query and match_cookie.

Here are their syntax and their meaning, without I/O. `proxy/route/table.py` groups routes by them, and the registry holds two services
apart by them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol
from urllib.parse import unquote_plus

METHOD, HEADER, QUERY, COOKIE = NAMES = ("match_method", "match_header", "match_query", "match_cookie")
_MOST_RULES, _LONGEST = 8, 256
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}")
_FIELD = re.compile(r"[!#$%&'*+.^`|~0-9A-Za-z-]{1,64}")
_PARAMETER = re.compile(r"[^\x00-\x20=&;\x7f]{1,64}")
_STANDARD = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))

#: A value with `*` in it, cut at each: what stands between may be anything.
Pattern = tuple[str, ...]


class Asked(Protocol):
    """A request's head. `path`: its target, with the query."""

    method: str
    path: str

    def get_all(self, name_lower: str) -> list[str]:
        """Every value of a field."""


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """A field, parameter or cookie that must be there, with one of the values if there are any."""

    name: str
    values: tuple[Pattern, ...] = ()

    def holds(self, found: Iterable[str]) -> bool:
        """Whether one of the values that a request has for the name will do."""
        if not self.values:
            return any(True for _ in found)
        return any(_fits(pattern, value) for value in found for pattern in self.values)

    def written(self, mark: str) -> str:
        """As the option has it."""
        return self.name + (mark + " | ".join("*".join(pattern) for pattern in self.values) if self.values else "")


def _fits(pattern: Pattern, value: str) -> bool:
    """Whether a value is the text of a pattern. The time grows with the value's length alone: each piece is taken where it comes first."""
    if len(pattern) == 1:
        return value == pattern[0]
    first, last = pattern[0], pattern[-1]
    if len(value) < len(first) + len(last) or not value.startswith(first) or not value.endswith(last):
        return False
    at, end = len(first), len(value) - len(last)
    for piece in pattern[1:-1]:
        at = value.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


@dataclass(frozen=True, slots=True)
class Conditions:
    """All that a route asks; each of them must hold. `text` says so in words, and is the same for the same conditions."""

    methods: tuple[str, ...] = ()
    headers: tuple[Rule, ...] = ()
    queries: tuple[Rule, ...] = ()
    cookies: tuple[Rule, ...] = ()
    text: str = ""

    @property
    def count(self) -> int:
        """How many there are: a route with more of them is asked first."""
        return bool(self.methods) + len(self.headers) + len(self.queries) + len(self.cookies)

    def hold(self, request: Request) -> bool:
        """Whether a request has all of it."""
        if self.methods and request.head.method not in self.methods:
            return False
        return (all(rule.holds(request.head.get_all(rule.name)) for rule in self.headers)
                and all(rule.holds(value for name, value in request.parameters() if name == rule.name) for rule in self.queries)
                and all(rule.holds(value for name, value in request.cookies() if name == rule.name) for rule in self.cookies))


class Request:
    """A request while routes with conditions are held against it: query and cookies are read when the first of them asks, and once."""

    __slots__ = ("_cookies", "_parameters", "head")

    def __init__(self, head: Asked) -> None:
        self.head = head
        self._parameters: list[tuple[str, str]] | None = None
        self._cookies: list[tuple[str, str]] | None = None

    def parameters(self) -> list[tuple[str, str]]:
        """Names and values of the query (WHATWG URL 5.1), decoded."""
        if self._parameters is None:
            pairs = (part.partition("=") for part in self.head.path.partition("?")[2].split("&") if part)
            self._parameters = [(unquote_plus(name), unquote_plus(value)) for name, _, value in pairs]
        return self._parameters

    def cookies(self) -> list[tuple[str, str]]:
        """Names and values of all cookies (RFC 6265 5.4)."""
        if self._cookies is None:
            pairs = (part.partition("=") for field in self.head.get_all("cookie") for part in field.split(";"))
            self._cookies = [(name.strip(), value.strip()) for name, _, value in pairs]
        return self._cookies


def parse_methods(value: str) -> tuple[str, ...]:
    """Methods, sorted. They are case-sensitive (RFC 9110 9.1), so standard ones in small letters are a mistake. Raises ValueError."""
    methods = sorted({item for item in re.split(r"[,\s]+", value) if item})
    for method in methods:
        if not _TOKEN.fullmatch(method):
            raise ValueError(f'"{method[:80]}" is not a method (like GET)')
        if method not in _STANDARD and method.upper() in _STANDARD:
            raise ValueError(f'"{method}" is not a method: write {method.upper()}')
        if method == "CONNECT":
            raise ValueError("CONNECT is never passed to a route")
    if len(methods) > _MOST_RULES:
        raise ValueError(f"more than {_MOST_RULES} methods")
    return tuple(methods)


def _rules(value: str, mark: str, name_of: Callable[[str], str]) -> tuple[Rule, ...]:
    """`NAME`, `NAME<mark>VALUE`, `NAME<mark>ONE | OTHER`, several with `;` between them, sorted."""
    found: dict[str, Rule] = {}
    for item in filter(None, (part.strip() for part in value.split(";"))):
        written, marked, wanted = item.partition(mark)
        name = name_of(written.strip())
        if name in found:
            raise ValueError(f'"{name}" is there twice: write its values with | between them')
        values = tuple(sorted({_pattern(one.strip()) for one in wanted.split(" | ")})) if marked else ()
        found[name] = Rule(name, () if ("", "") in values else values)
    if len(found) > _MOST_RULES:
        raise ValueError(f"more than {_MOST_RULES} conditions")
    return tuple(sorted(found.values()))


def _pattern(value: str) -> Pattern:
    if len(value) > _LONGEST or any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError(f'"{value[:80]}" is longer than {_LONGEST} characters, or has a control character in it')
    return tuple(re.sub(r"\*+", "*", value).split("*"))


def parse_headers(value: str) -> tuple[Rule, ...]:
    """`X-Version: 2; X-Canary`. Raises ValueError."""

    def name_of(name: str) -> str:
        if not _FIELD.fullmatch(name):
            raise ValueError(f'"{name[:80]}" is not the name of a request field (NAME, or NAME: VALUE; several with ;)')
        return name.lower()

    rules = _rules(value, ":", name_of)
    for rule in rules:
        if any(ord(char) > 255 for pattern in rule.values for piece in pattern for char in piece):
            raise ValueError(f'"{rule.written(": ")[:80]}" holds characters beyond Latin-1, which no field can carry')
    return rules


def parse_queries(value: str) -> tuple[Rule, ...]:
    """`version=2; debug`: decoded, as they are meant. Raises ValueError."""

    def name_of(name: str) -> str:
        if not _PARAMETER.fullmatch(name):
            raise ValueError(f'"{name[:80]}" is not the name of a parameter (NAME, or NAME=VALUE; several with ;)')
        return name

    return _rules(value, "=", name_of)


def parse_cookies(value: str) -> tuple[Rule, ...]:
    """`canary=1; beta`. Raises ValueError."""

    def name_of(name: str) -> str:
        if not _TOKEN.fullmatch(name):
            raise ValueError(f'"{name[:80]}" is not the name of a cookie (NAME, or NAME=VALUE; several with ;)')
        return name

    return _rules(value, "=", name_of)


def conditions(methods: Sequence[str], headers: Sequence[Rule], queries: Sequence[Rule], cookies: Sequence[Rule]) -> Conditions | None:
    """What these options ask together, or None if nothing."""
    said = [f"method {' or '.join(methods)}"] if methods else []
    said += [f"header {rule.written(': ')}" for rule in headers]
    said += [f"query {rule.written('=')}" for rule in queries]
    said += [f"cookie {rule.written('=')}" for rule in cookies]
    if not said:
        return None
    return Conditions(tuple(methods), tuple(headers), tuple(queries), tuple(cookies), "; ".join(said))


class Declared(Protocol):
    """The options of a route, those that are conditions."""

    @property
    def match_method(self) -> tuple[str, ...]: ...
    @property
    def match_header(self) -> tuple[Rule, ...]: ...
    @property
    def match_query(self) -> tuple[Rule, ...]: ...
    @property
    def match_cookie(self) -> tuple[Rule, ...]: ...


def conditions_of(options: Declared) -> Conditions | None:
    """What the options of a route ask of a request beside host and path, or None."""
    if not (options.match_method or options.match_header or options.match_query or options.match_cookie):
        return None
    return conditions(options.match_method, options.match_header, options.match_query, options.match_cookie)


def conditions_text(options: Mapping[str, str]) -> str:
    """The conditions among a route's options in words, empty without any; what can't be read is none."""
    try:
        made = conditions(parse_methods(options.get(METHOD, "")), parse_headers(options.get(HEADER, "")),
                          parse_queries(options.get(QUERY, "")), parse_cookies(options.get(COOKIE, "")))
    except ValueError:
        return ""
    return made.text if made is not None else ""


def conditions_of_row(options: str) -> str:
    """The same of options as a route's row has them: a JSON object."""
    return _read(options) if '"match_' in options else ""


@lru_cache(maxsize=4096)
def _read(options: str) -> str:
    return conditions_text(json.loads(options))


def with_conditions(place: str, text: str) -> str:
    """A place (domain and path) with its conditions, for people."""
    return f"{place} ({text})" if text else place
