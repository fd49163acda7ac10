"""Sets of networks in which an address is found in a microsecond, however many there are."""

from __future__ import annotations

import ipaddress
import re
import socket
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache

#: An address as a number: 4 or 6, and the number.
Number = tuple[int, int]
#: The first and the last address of a network.
Range = tuple[int, int, int]

_WORD = re.compile(r"[^\s,]+")
#: The part of IPv6 in which IPv4 addresses are written (RFC 4291 2.5.5.2): `::ffff:0:0/96`.
_MAPPED, _MAPPED_BITS = 0xFFFF, 96


@lru_cache(maxsize=16384)
def number_of(address: str) -> Number | None:
    """The address as a number, or None for a text that is none, such as the peer of a UNIX socket. An IPv4 address written as IPv6 is
    the IPv4 one."""
    try:
        if ":" not in address:
            return 4, int.from_bytes(socket.inet_pton(socket.AF_INET, address))
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, address))
    except (OSError, ValueError):
        return None
    return (4, number & 0xFFFFFFFF) if number >> 32 == _MAPPED else (6, number)


def range_of(text: str) -> Range:
    """The range of a network or an address (`10.0.0.0/8`, `::1`): 4 or 6, first and last address. Bits behind the prefix are ignored.
    Raises ValueError."""
    address, slash, prefix = text.partition("/")
    family, size = (socket.AF_INET6, 128) if ":" in address else (socket.AF_INET, 32)
    try:
        number = int.from_bytes(socket.inet_pton(family, address))
    except (OSError, ValueError):
        raise ValueError(f'"{text[:80]}" is not an address or network (like 10.0.0.0/8 or ::1)') from None
    bits = size
    if slash:
        bits = int(prefix) if prefix.isascii() and prefix.isdigit() and len(prefix) <= 3 else _mask(text)
        if bits > size:
            raise ValueError(f'"{text[:80]}" is not a network: its prefix is longer than {size} bits')
    if size == 128 and bits >= _MAPPED_BITS and number >> 32 == _MAPPED:
        number, bits, size = number & 0xFFFFFFFF, bits - _MAPPED_BITS, 32
    rest = (1 << (size - bits)) - 1
    return (4 if size == 32 else 6), number & ~rest, number | rest


def _mask(text: str) -> int:
    """The prefix of a network that is written with a mask (`10.0.0.0/255.0.0.0`). Raises ValueError."""
    try:
        return ipaddress.ip_network(text, strict=False).prefixlen
    except ValueError:
        raise ValueError(f'"{text[:80]}" is not an address or network (like 10.0.0.0/8 or ::1)') from None


class NetworkSet:
    """Networks, merged into ranges that do not touch one another. It never changes."""

    __slots__ = ("_ranges", "count")

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        by_version: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        self.count = 0
        for version, first, last in ranges:
            by_version[version].append((first, last))
            self.count += 1
        self._ranges = {version: _merged(version, found) for version, found in by_version.items()}

    def __contains__(self, number: Number) -> bool:
        version, address = number
        firsts, lasts = self._ranges[version]
        at = bisect_right(firsts, address)
        return at > 0 and address <= lasts[at - 1]

    def __bool__(self) -> bool:
        return self.count > 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NetworkSet) and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash(tuple((version, *map(tuple, ranges)) for version, ranges in self._ranges.items()))


def _merged(version: int, ranges: list[tuple[int, int]]) -> tuple[Sequence[int], Sequence[int]]:
    ranges.sort()
    firsts: list[int] = []
    lasts: list[int] = []
    for first, last in ranges:
        if lasts and first <= lasts[-1] + 1:
            lasts[-1] = max(lasts[-1], last)
        else:
            firsts.append(first)
            lasts.append(last)
    # Numbers side by side are in the processor's cache where those of a list are all over the memory.
    return (array("I", firsts), array("I", lasts)) if version == 4 else (firsts, lasts)


def read_networks(content: str, most: int) -> NetworkSet:
    """The networks of a list's file: with line ends, blanks or commas between them, `#` and `;` begin comments. Raises ValueError with
    the line of a word that is none, and for more than `most`."""
    ranges: list[Range] = []
    for line_number, line in enumerate(content.splitlines(), 1):
        if "#" in line or ";" in line:
            line = re.split("[#;]", line, maxsplit=1)[0]
        for word in _WORD.findall(line):
            try:
                ranges.append(range_of(word))
            except ValueError as error:
                raise ValueError(f"line {line_number}: {error}") from None
        if len(ranges) > most:
            raise ValueError(f"more than {most} networks")
    return NetworkSet(ranges)
