"""What the operator gives a name for routes to use: lists of networks (`[lists]`) and files of users (`[users]`). An option of a route
names one, never a file.

A service declares its options over the network, so it must not choose which files of this host are read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from proxyd.base import text
from proxyd.base.networks import NetworkSet, Range, range_of

NAME = re.compile(r"[a-z][a-z0-9_-]{0,63}")
FILE = "file:"


@dataclass(frozen=True, slots=True)
class NetworkList:
    """A list of `[lists]`: networks, and files with more of them, which are read again when they change. `source`: as written."""

    source: str
    ranges: tuple[Range, ...] = ()
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AddressRule:
    """What `allow` and `deny` of a route name: networks, and lists by their names. False if it names nothing."""

    networks: NetworkSet = NetworkSet()
    lists: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.networks or self.lists)


def parse_list(value: str) -> NetworkList:
    """A list of networks and `file:` names. Raises ValueError."""
    ranges, files = [], []
    for word in text.split_list(value):
        if word.startswith(FILE):
            if word == FILE:
                raise ValueError(f'"{word}" names no file (like file:/etc/proxyd/office.txt)')
            files.append(word.removeprefix(FILE))
        else:
            ranges.append(range_of(word))
    return NetworkList(" ".join(value.split()), tuple(ranges), tuple(files))


def parse_rule(value: str) -> AddressRule:
    """Networks and names of lists, in any mix. Raises ValueError."""
    ranges, names = [], []
    for word in text.split_list(value):
        if NAME.fullmatch(word.lower()):
            names.append(word.lower())
        else:
            try:
                ranges.append(range_of(word))
            except ValueError:
                raise ValueError(f'"{word[:80]}" is neither an address or network (like 10.0.0.0/8 or ::1) nor the name of a list '
                                 "of [lists]") from None
    return AddressRule(NetworkSet(ranges), tuple(dict.fromkeys(names)))


def parse_file(value: str) -> str:
    """The name of a file. Raises ValueError."""
    path = value.strip().removeprefix(FILE)
    if not path or "\0" in path:
        raise ValueError(f'"{value}" names no file (like /etc/proxyd/staff.users)')
    return path


class UsersName(str):
    """The name of a file of users, as an option holds it. Empty for none."""


def parse_users_name(value: str) -> UsersName:
    """The name of a file of users, or nothing. Raises ValueError."""
    name = value.strip().lower()
    if name and not NAME.fullmatch(name):
        raise ValueError(f'"{value[:80]}" is not the name of a file of [users]')
    return UsersName(name)


@dataclass(frozen=True, slots=True)
class Named:
    """The names that there are."""

    lists: frozenset[str] = frozenset()
    users: frozenset[str] = frozenset()

    def check(self, value: object) -> None:
        """Raises ValueError if the value of an option names what there is not."""
        if isinstance(value, AddressRule):
            _check(value.lists, self.lists, "lists")
        elif isinstance(value, UsersName) and value:
            _check((value,), self.users, "users")


def _check(names: Iterable[str], known: Iterable[str], section: str) -> None:
    for name in names:
        if name not in known:
            there = f"known: {', '.join(sorted(known))}" if known else "there is none"
            raise ValueError(f'"{name}" is not in [{section}] of the settings{text.suggest(name, known)} ({there})')


_named = Named()


def named() -> Named:
    """The names that this process knows."""
    return _named


def use_named(made: Named) -> None:
    """Know other names from now on: a process that has read its settings says so once."""
    global _named
    _named = made
