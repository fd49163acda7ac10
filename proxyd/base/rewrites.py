"""Rewriting of paths (option rewrite): a prefix for a prefix, or one regular expression over the whole path.

A regular expression runs for each request, on a path that its client chose. So its syntax is a part of Python's: characters, classes,
groups, alternatives, and repetition of single characters. For that part the most steps that a match can take follow from the text, and what
takes too many on a path of 8 KiB is refused. An engine of linear time (RE2) would not do: many states at once cost it milliseconds, too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from proxyd.base.urls import normalize_route_path

#: The longest path that is reckoned with, and the most steps on it: they take less than a millisecond.
LONGEST, MOST_STEPS = 8192, 120_000
_MOST_PATTERN = 256
_TEMPLATE = re.compile(r"/(?:[!$-;=@-Z_a-z~%]|\\[1-9])*(?:\?(?:[!$-;=?@-Z_a-z~%]|\\[1-9])*)?")
_REFERENCE = re.compile(r"\\([1-9])")
_COUNT = re.compile(r"\{(\d{1,4})(?:(,)(\d{0,4}))?\}")
_CLASS = re.compile(r"\[\^?(?:\\[\\dw.^$*+?(){}\[\]|/-]|[^\\\[\]])(?:\\[\\dw.^$*+?(){}\[\]|/-]|[^\\\[\]])*\]")
_ESCAPES = frozenset(r"\dw.^$*+?(){}[]|/-~")


@dataclass(frozen=True, slots=True)
class Rewrite:
    """What becomes of a path: `prefix` (of whole segments) becomes `new`, or what `pattern` matches as a whole becomes `template`: texts
    and numbers of groups in turn. A path that does not match stays as it is."""

    prefix: str = ""
    new: str = ""
    pattern: re.Pattern[str] | None = None
    template: tuple[str | int, ...] = ()

    def apply(self, path: str) -> str | None:
        """The target (with a query, if the template has one) for a path, by the pattern. None if it does not match."""
        found = self.pattern.fullmatch(path) if self.pattern is not None else None
        if found is None:
            return None
        return "".join([part if isinstance(part, str) else found[part] or "" for part in self.template])


@lru_cache(maxsize=1024)
def parse_rewrite(value: str) -> Rewrite | None:
    """`/old -> /new`, `~ EXPRESSION -> /new/\\1`, or nothing. Raises ValueError."""
    text = value.strip()
    if not text:
        return None
    left, arrow, right = (part.strip() for part in text.rpartition(" -> "))
    if not arrow or not left:
        raise ValueError(f'"{value[:80]}" is neither /old -> /new nor ~ EXPRESSION -> /new')
    if not left.startswith("~"):
        prefix, new = normalize_route_path(left), normalize_route_path(right)
        if prefix == "/":
            raise ValueError("every path begins with /: give the backend's url a path instead")
        return Rewrite(prefix, "" if new == "/" else new)
    pattern = left[1:].strip().removeprefix("^")
    pattern = pattern[:-1] if re.search(r"(?<!\\)(?:\\\\)*\$\Z", pattern) else pattern
    if len(pattern) > _MOST_PATTERN or any(ord(char) <= 32 or ord(char) >= 127 for char in pattern):
        raise ValueError(f"an expression has {_MOST_PATTERN} characters at most, all visible ASCII")
    groups = _Reader(pattern).check()
    if not _TEMPLATE.fullmatch(right):
        raise ValueError(f'"{right[:80]}" is not a path (like /new/\\1), with a query or without')
    pieces = _REFERENCE.split(right)
    template = tuple(int(piece) if index % 2 else piece for index, piece in enumerate(pieces))
    if (missing := max([0, *(part for part in template if isinstance(part, int))])) > groups:
        raise ValueError(f"\\{missing} stands for a group that the expression does not have")
    return Rewrite(pattern=re.compile(pattern, re.ASCII), template=template)


@dataclass(frozen=True, slots=True)
class _Repeat:
    """A character of a set, from `least` to `most` times."""

    chars: frozenset[int]
    least: int
    most: int


@dataclass(frozen=True, slots=True)
class _Group:
    """Alternatives. `optional`: it may be left out."""

    alternatives: tuple[_Sequence, ...]
    optional: bool


_Sequence = tuple["_Repeat | _Group", ...]


class _Reader:
    """Reads an expression. Raises ValueError for what is not in the syntax, and for what could take too many steps."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._groups = 0

    def check(self) -> int:
        """Returns the number of groups."""
        alternatives = self._alternatives()
        if self._at < len(self._pattern):
            raise ValueError("the expression has a ) without its (")
        try:
            re.compile(self._pattern, re.ASCII)
        except (re.error, OverflowError) as error:
            raise ValueError(f"the expression can't be read: {error}") from None
        if _steps((_Group(alternatives, False),), MOST_STEPS) > MOST_STEPS:
            raise ValueError("the expression could take too long on a long path: behind a repeated character that the next one may be, too "
                             "(like .*), there may be a few fixed characters, and nothing that repeats. [^/]* instead of .* often helps")
        return self._groups

    def _alternatives(self) -> tuple[_Sequence, ...]:
        found = [self._sequence()]
        while self._peek() == "|":
            self._at += 1
            found.append(self._sequence())
        return tuple(found)

    def _sequence(self) -> _Sequence:
        items: list[_Repeat | _Group] = []
        while (char := self._peek()) and char not in "|)":
            items.append(self._group() if char == "(" else self._repeat())
        return tuple(items)

    def _peek(self) -> str:
        return self._pattern[self._at:self._at + 1]

    def _group(self) -> _Group:
        self._at += 1
        if self._pattern.startswith("?:", self._at):
            self._at += 2
        elif self._peek() == "?":
            raise ValueError("of groups that begin with (? only (?:...) is known")
        else:
            self._groups += 1
        alternatives = self._alternatives()
        if not self._peek():
            raise ValueError("the expression has a ( without its )")
        self._at += 1
        optional = self._peek() == "?"
        self._at += optional
        if (self._peek() and self._peek() in "*+?") or _COUNT.match(self._pattern, self._at):
            raise ValueError("a group can't be repeated, only be optional; repeat a character or a class")
        return _Group(alternatives, optional)

    def _repeat(self) -> _Repeat:
        chars = self._characters()
        least, most = 1, 1
        if (sign := self._peek()) and sign in "*+?":
            self._at += 1
            least, most = {"*": (0, LONGEST), "+": (1, LONGEST), "?": (0, 1)}[sign]
        elif (count := _COUNT.match(self._pattern, self._at)) is not None:
            self._at = count.end()
            least = int(count[1])
            most = least if not count[2] else int(count[3]) if count[3] else LONGEST
        if (sign := self._peek()) and sign in "*+?":
            raise ValueError(f"a repetition can't be followed by {sign}")
        return _Repeat(chars, least, most)

    def _characters(self) -> frozenset[int]:
        """The characters that stand for the next piece of the expression."""
        pattern, begin = self._pattern, self._at
        if pattern[begin] == "[":
            found = _CLASS.match(pattern, begin)
            if found is None or re.search(r"--|\|\||&&|~~", found[0]):
                raise ValueError("a class has characters, ranges, and escapes of such (like [a-z0-9._-])")
            self._at = found.end()
        elif pattern[begin] == "\\":
            if pattern[begin + 1:begin + 2] not in _ESCAPES or begin + 1 == len(pattern):
                raise ValueError(f"{pattern[begin:begin + 2]} is not known (known: \\d, \\w, and \\ before a sign)")
            self._at += 2
        elif pattern[begin] in "^$":
            raise ValueError("the whole path is matched: ^ and $ stand at its ends or nowhere")
        elif pattern[begin] in "*+?{}]":
            raise ValueError(f"{pattern[begin]} repeats nothing; write \\{pattern[begin]} for the character")
        else:
            self._at += 1
        try:
            piece = re.compile(pattern[begin:self._at], re.ASCII)
        except re.error as error:
            raise ValueError(f"the expression can't be read: {error}") from None
        return frozenset(code for code in range(256) if piece.fullmatch(chr(code)))


def _steps(items: _Sequence, enough: int) -> int:
    """The most steps to find that the rest of an expression does not match, from one place on, counted until they are `enough`."""
    if not items:
        return 1
    head, rest = items[0], items[1:]
    if isinstance(head, _Group):
        ways = [*head.alternatives, *([()] if head.optional else [])]
        total = 0
        for way in ways:
            total += _steps((*way, *rest), enough)
            if total > enough:
                break
        return total
    behind = _steps(rest, enough)
    spread = min(head.most, LONGEST) - head.least
    if spread <= 0:
        return head.least + behind
    if head.chars & _first(rest):
        return min(head.least + (spread + 1) * (1 + behind), enough + 1)
    # Giving back a character helps nothing: what follows can't begin with it.
    return head.least + 2 * spread + behind


def _first(items: _Sequence) -> frozenset[int]:
    """The characters with which the rest of an expression may begin."""
    found: frozenset[int] = frozenset()
    for item in items:
        if isinstance(item, _Repeat):
            found |= item.chars
            if item.least:
                return found
        else:
            for way in item.alternatives:
                found |= _first(way)
            if not item.optional and all(_needs(way) for way in item.alternatives):
                return found
    return found


def _needs(items: _Sequence) -> bool:
    """Whether a sequence matches no empty text."""
    return any(item.least > 0 if isinstance(item, _Repeat) else
               not item.optional and all(_needs(way) for way in item.alternatives) for item in items)
