"""Checks of what a route declares beside urls and options, the same for registry commands and site files.

Each takes the text as it was written and returns the value, or raises ValueError saying what was expected.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from proxyd.base import text, variables

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`~0-9A-Za-z-]{1,128}")
#: Response fields that frame or encode the message, belong to the connection, or are true only where they come from: nobody
#: else may set them.
_OWN_HEADERS = frozenset((
    "connection", "content-encoding", "content-length", "date", "http2-settings", "keep-alive", "proxy", "proxy-authenticate",
    "proxy-authentication-info", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "via"))
_OWN_PREFIXES = ("x-proxyd-", "sec-websocket-")
#: The same of requests, with those that say where the request goes, who sent it and which way it came.
_OWN_REQUEST_HEADERS = _OWN_HEADERS | {"expect", "forwarded", "host", "max-forwards", "x-real-ip", "x-request-id"}
_OWN_REQUEST_PREFIXES = (*_OWN_PREFIXES, "x-forwarded-")
_MAX_HEADER_VALUE = 4096
MAX_REQUESTS = 1_000_000_000
MIN_CHECK_INTERVAL = 0.01
_PER = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86400.0}


def whole_number(low: int, high: int) -> Callable[[str], int]:
    """A check for a whole number from low to high."""

    def parse(value: str) -> int:
        number = text.parse_int(value)
        if not low <= number <= high:
            raise ValueError(f'"{value}" is not a whole number from {low} to {high}')
        return number

    return parse


priority = whole_number(-1_000_000, 1_000_000)
#: Requests that a rate limit allows in its window.
requests = whole_number(1, MAX_REQUESTS)


def limits(value: str) -> list[tuple[int, float]]:
    """(requests, window in seconds) of each bound in `100/minute; 1000/hour; 5/10s`. Raises ValueError."""
    found: list[tuple[int, float]] = []
    for item in filter(None, (part.strip() for part in value.split(";"))):
        count, slash, window = item.partition("/")
        if not slash:
            raise ValueError(f'"{item}" is not requests/window (like 100/minute or 20/10s)')
        allowed = requests(count.strip())
        word = window.strip().lower()
        seconds = _PER[word] if word in _PER else text.parse_duration(word)
        if any(seconds == known for _, known in found):
            raise ValueError(f'"{item}" is a second limit for the same window')
        found.append((allowed, seconds))
    if not found:
        raise ValueError("no limit given (like 100/minute)")
    return found


def check_interval(value: str) -> float:
    """Seconds between two health checks: not so few that one target keeps the checker busy."""
    seconds = text.parse_duration(value)
    if seconds < MIN_CHECK_INTERVAL:
        raise ValueError(f'"{value}" is shorter than {text.format_duration(MIN_CHECK_INTERVAL)}')
    return seconds


def header_name(value: str) -> str:
    """A response header that may be set, in the customary capitals: names are one whatever their case."""
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError(f'"{value}" is not a header name')
    if value.lower() in _OWN_HEADERS or value.lower().startswith(_OWN_PREFIXES):
        raise ValueError(f'"{value}" is the proxy\'s own: it frames or encodes the response, belongs to the connection, or says what '
                         "only the proxy can know")
    return "-".join(part.capitalize() for part in value.split("-"))


def request_header_name(value: str) -> str:
    """A request header that may be set, in the customary capitals."""
    if not _HEADER_NAME.fullmatch(value):
        raise ValueError(f'"{value}" is not a header name')
    if value.lower() in _OWN_REQUEST_HEADERS or value.lower().startswith(_OWN_REQUEST_PREFIXES):
        raise ValueError(f'"{value}" is the proxy\'s own: it frames or encodes the request, steers the connection, or says who the '
                         "client is and which way the request came")
    if "_" in value:
        raise ValueError(f'"{value}" has a "_": many backends read it as "{value.replace("_", "-")}", which the client could send too')
    return "-".join(part.capitalize() for part in value.split("-"))


def header_value(value: str) -> str:
    """A header value: one line of Latin-1 without control characters, with the variables of `base/variables.py` or none."""
    checked = plain_value(value)
    variables.check(value)
    return checked


def plain_value(value: str) -> str:
    """A header value in which braces are nothing but braces."""
    if len(value) > _MAX_HEADER_VALUE:
        raise ValueError(f"a value of {len(value)} characters is longer than {_MAX_HEADER_VALUE}")
    if any(ord(char) < 32 or ord(char) == 127 for char in value):
        raise ValueError("the value holds a control character")
    try:
        value.encode("latin-1")
    except UnicodeEncodeError:
        raise ValueError(f'"{value[:60]}" holds characters beyond Latin-1, which no header can carry') from None
    return value.strip()
