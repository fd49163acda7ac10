"""Parsing and printing of the small texts that config, registry and command line share.

Every parser takes the text a person wrote and returns a value, or raises ValueError with a sentence
that names what was wrong and what was expected; the caller adds where it stood.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import math
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
#: The name of whoever connects by a UNIX socket, where others have an address.
UNIX = "unix"
#: A network, or UNIX.
TrustedPeer = Network | str

#: Decimals, so that 2300us is read as the same float as 0.0023s.
_DURATION_UNITS = {unit: Decimal(size) for unit, size in (
    ("ns", "1e-9"), ("us", "1e-6"), ("µs", "1e-6"), ("μs", "1e-6"), ("ms", "1e-3"), ("s", "1"), ("m", "60"), ("h", "3600"),
    ("d", "86400"))}
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h|d)", re.ASCII)
_SIZE = re.compile(r"(\d{1,15})\s*([kmgt]?)(?:i?b)?", re.IGNORECASE | re.ASCII)
_SIZE_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_MAX_DURATION = 10 * 365 * 86400.0


def hash_of(secret: str) -> str:
    """The form in which a random secret (a token, a session's id) is stored. One that can't be guessed needs no salt."""
    return "sha256:" + hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


def parse_duration(text: str) -> float:
    """Seconds in a duration of Go's syntax (`1h30m`, `1.5s`, `250us`; also `7d`) or a bare whole number of seconds.

    Raises ValueError for anything else, for zero, and for more than ten years.
    """
    seconds = _duration_seconds(text)
    if seconds <= 0:
        raise ValueError(f'"{text}" is not a duration above zero (like 30s, 1h30m, 500ms)')
    if seconds > _MAX_DURATION:
        raise ValueError(f'"{text}" is longer than ten years')
    return seconds


def parse_duration_or_zero(text: str) -> float:
    """Like parse_duration, but `0` (and `off`, `none`) is allowed and means that the bound is off: 0.0."""
    if text.strip().lower() in ("0", "0s", "off", "none"):
        return 0.0
    return parse_duration(text)


def _duration_seconds(text: str) -> float:
    stripped = text.strip().removeprefix("+")
    if re.fullmatch(r"\d{1,12}", stripped, re.ASCII):
        return float(stripped)
    position, seconds = 0, Decimal(0)
    for part in _DURATION_PART.finditer(stripped):
        if part.start() != position:
            break
        seconds += Decimal(part[1]) * _DURATION_UNITS[part[2]]
        position = part.end()
    if not stripped or position != len(stripped):
        raise ValueError(f'"{text}" is not a duration (like 30s, 1h30m, 500ms, or whole seconds)')
    return float(seconds)


@lru_cache(maxsize=1024)
def format_duration(seconds: float) -> str:
    """The shortest text that parse_duration reads back as exactly this: 5400.0 -> `1h30m`, 0.25 -> `250ms`, 0 -> `0`."""
    # The shortest decimal that is read as this float: repr's promise.
    exact = Decimal(repr(seconds))
    if exact == 0:
        return "0"
    if exact == exact.to_integral_value():
        rest, text = int(exact), ""
        for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
            count, rest = divmod(rest, size)
            text += f"{count}{unit}" if count else ""
        return text
    for unit, count in (("ms", 1_000), ("us", 1_000_000), ("ns", 1_000_000_000)):
        scaled = exact * count
        if scaled == scaled.to_integral_value():
            return f"{int(scaled)}{unit}"
    return f"{exact:f}s"


def parse_size(text: str) -> int:
    """Bytes in a size (`16384`, `64k`, `10m`, `1g`; powers of 1024). Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'"{text}" is not a size (like 16384, 64k, 10m, 1g)')
    return int(match[1]) * _SIZE_UNITS[match[2].lower()]


def format_size(size: int) -> str:
    """The shortest exact text of a size: 65536 -> `64k`."""
    for unit, factor in (("g", 1 << 30), ("m", 1 << 20), ("k", 1 << 10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def about_size(size: float) -> str:
    """A number of bytes for people: 1288490189 -> `1.2 GiB`."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size:.0f} bytes"


def parse_bool(text: str) -> bool:
    """True or False from true/false, yes/no, on/off, 1/0 in any case. Raises ValueError."""
    value = {"true": True, "yes": True, "on": True, "1": True,
             "false": False, "no": False, "off": False, "0": False}.get(text.strip().lower())
    if value is None:
        raise ValueError(f'"{text}" is not a yes or no (true, false, yes, no, on, off)')
    return value


def parse_int(text: str) -> int:
    """A whole number, with sign, of at most 15 digits. Raises ValueError."""
    if not re.fullmatch(r"[+-]?\d{1,15}", text.strip(), re.ASCII):
        raise ValueError(f'"{text}" is not a whole number')
    return int(text)


def split_list(text: str) -> tuple[str, ...]:
    """The non-empty items of a list written with commas or white space."""
    return tuple(item for item in re.split(r"[,\s]+", text) if item)


def parse_networks(text: str) -> tuple[Network, ...]:
    """Networks and addresses in a list (`10.0.0.0/8, ::1`). Raises ValueError naming the bad item."""
    networks = []
    for item in split_list(text):
        try:
            networks.append(ipaddress.ip_network(item, strict=False))
        except ValueError:
            raise ValueError(f'"{item}" is not an address or network (like 10.0.0.0/8 or ::1)') from None
    return tuple(networks)


def parse_trusted_peers(text: str) -> tuple[TrustedPeer, ...]:
    """Networks and addresses, and the word `unix` for all peers of UNIX sockets. Raises ValueError naming the bad item."""
    words = split_list(text)
    peers: list[TrustedPeer] = [UNIX] if UNIX in map(str.lower, words) else []
    for word in words:
        if word.lower() != UNIX:
            try:
                peers += parse_networks(word)
            except ValueError:
                raise ValueError(f'"{word}" is neither an address or network (like 10.0.0.0/8 or ::1) nor the word unix') from None
    return tuple(peers)


def parse_status_set(text: str) -> frozenset[int]:
    """HTTP status codes in a list of codes, ranges and classes (`200, 300-399, 2xx`). Raises ValueError."""
    codes: set[int] = set()
    for item in split_list(text):
        if re.fullmatch(r"[1-5]xx", item, re.IGNORECASE):
            first = int(item[0]) * 100
            codes.update(range(first, first + 100))
            continue
        match = re.fullmatch(r"([1-5]\d\d)(?:-([1-5]\d\d))?", item, re.ASCII)
        if not match or (match[2] and int(match[2]) < int(match[1])):
            raise ValueError(f'"{item}" is not a status code, range or class (like 200, 200-399, 2xx)')
        codes.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not codes:
        raise ValueError("no status code given (like 200, 200-399, 2xx)")
    return frozenset(codes)


def format_status_set(codes: Iterable[int]) -> str:
    """The shortest text that parse_status_set reads back: {200..299, 404} -> `2xx,404`."""
    rest, parts = sorted(codes), []
    while rest:
        first = last = rest[0]
        while last + 1 in rest[:600]:
            last += 1
        if first % 100 == 0 and last == first + 99:
            parts.append(f"{first // 100}xx")
        else:
            parts.append(str(first) if first == last else f"{first}-{last}")
        rest = [code for code in rest if code > last]
    return ",".join(parts)


def parse_address(text: str) -> str:
    """A listening address in normal form: `host:port`, `[v6]:port` or `unix:/path`. Raises ValueError."""
    value = text.strip()
    if value.startswith("unix:"):
        if len(value) == 5:
            raise ValueError(f'"{text}" names no socket path (like unix:/run/proxyd/registry.sock)')
        return value
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\s]*):(\d{1,5})", value, re.ASCII)
    if not match or int(match[2]) > 65535:
        raise ValueError(f'"{text}" is not an address (like 127.0.0.1:8000, [::1]:8000 or unix:/path)')
    return f"{match[1] or '0.0.0.0'}:{int(match[2])}"


def split_address(address: str) -> tuple[str, int]:
    """Host (brackets removed) and port of a normal-form TCP address."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def parse_name_servers(text: str) -> tuple[tuple[str, int], ...]:
    """Addresses of name servers and their ports, 53 where none is said. Raises ValueError."""
    servers = []
    for word in split_list(text):
        alone = word.removeprefix("[").removesuffix("]")
        try:
            host, port = (alone, 53) if _is_ip(alone) else split_address(parse_address(word))
            servers.append((str(ipaddress.ip_address(host)), port))
        except ValueError:
            raise ValueError(f'"{word}" is not the address of a name server '
                             "(like 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53)") from None
    return tuple(servers)


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def hide_password(url: str) -> str:
    """A url as it may be shown and logged."""
    return re.sub(r"([?&]password=)[^&]*", r"\1***", re.sub(r"(://[^:@/?#]*):.*@", r"\1:***@", url))


def hide_token(message: str) -> str:
    """A message without the registry token that the text it repeats may hold."""
    return re.sub(r"""(token["']?\s*[:=]\s*\[?\s*["']?)[^"',}\]]+""", r"\1***", message)


def is_loopback(address: str) -> bool:
    """Whether a normal-form listening address can be reached from this host alone."""
    if address.startswith("unix:"):
        return True
    host = split_address(address)[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def rfc3339(seconds: float) -> str:
    """An instant (Unix seconds) as RFC 3339 UTC with milliseconds: `2026-01-31T23:59:59.125Z`."""
    whole = math.floor(seconds)
    millionths = round((seconds - whole) * 1e6)
    if millionths == 1_000_000:
        whole, millionths = whole + 1, 0
    return f"{_to_the_second(whole)}.{millionths // 1000:03d}Z"


@lru_cache(maxsize=256)
def _to_the_second(whole: int) -> str:
    """Most instants that are written lie in a second of which others were written just now."""
    return f"{datetime.fromtimestamp(whole, UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(text: str) -> float:
    """Unix seconds of an instant that rfc3339 wrote. Raises ValueError."""
    return datetime.fromisoformat(text).timestamp()


def suggest(word: str, known: Iterable[str]) -> str:
    """` (did you mean a, b?)` for the known words that come close, else an empty text."""
    close = get_close_matches(word, list(known), n=3, cutoff=0.6)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def route_number(route_id: str) -> int:
    """The number in a route id (`r12`: 12), by which ids sort and the shared memory knows whose a slot is; 0 where there is none."""
    digits = route_id[1:]
    return int(digits) if digits.isascii() and digits.isdigit() else 0


def names_of_row(domains: str) -> list[str]:
    """The domains of a route, which its row has as a JSON array. Nothing in them is escaped there, and for very many rows JSON takes five
    times as long."""
    return domains.split('"')[1::2]


def read_json(source: str | bytes) -> Any:
    """JSON as RFC 8259 has it, without what Python alone takes for it: NaN and Infinity, numbers beyond a double, and halves of
    characters (`"\\ud800"`), which can be written into no file and no answer. Raises ValueError, RecursionError."""
    found = json.loads(source, parse_constant=_no_number, parse_float=_finite)
    try:
        json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("it holds half of a character (a lone surrogate, like \\ud800)") from None
    return found


def _no_number(word: str) -> Any:
    raise ValueError(f"{word} is no JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"{digits[:40]} is too large a number")
    return number
