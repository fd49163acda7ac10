"""What a route may name in place of a backend: an answer that the proxy gives itself, `redirect:` to another place or `respond:`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxyd.base import variables

_WORDS = re.compile(r"(?:redirect|respond):", re.IGNORECASE)
_REDIRECT = re.compile(r"redirect:(?:(?P<status>[0-9]{3}):)?(?P<target>.*)", re.IGNORECASE)
_RESPOND = re.compile(r"respond:([2-5][0-9]{2})", re.IGNORECASE)
_STATUSES = (301, 302, 307, 308)
#: The host may be that of the request. Behind it comes something that no client can make a part of it.
_TARGET = re.compile(
    r"(?:https?://(?:\{host\}|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?(?=[/?#]|\{path\}|\{uri\}|\Z)|/(?![/{]))"
    r"""[^\s"<>\\^`|\x00-\x20\x7f-\U0010ffff]*""")
_KNOWN = ("host", "path", "query", "uri")
_DEFAULT_STATUS = 302


@dataclass(frozen=True, slots=True)
class OwnAnswer:
    """Status of the answer, and where it redirects to: a text with variables, empty for none."""

    status: int
    location: str = ""


def parse_answer(url: str) -> OwnAnswer | None:
    """The answer that stands in place of a backend, or None for a text that means a backend. Raises ValueError."""
    if not _WORDS.match(url):
        return None
    if (found := _RESPOND.fullmatch(url)) is not None:
        return OwnAnswer(int(found[1]))
    found = _REDIRECT.fullmatch(url)
    if found is None:
        raise ValueError(f'"{url[:80]}" is not an answer (like respond:503; the option respond_text has its text)')
    status = int(found["status"] or _DEFAULT_STATUS)
    if status not in _STATUSES:
        raise ValueError(f'"{url[:80]}" redirects with {status}, which is not one of {", ".join(map(str, _STATUSES))}')
    target = found["target"]
    if not _TARGET.fullmatch(target):
        raise ValueError(f'"{url[:80]}" redirects to no http or https url and no path (like redirect:308:https://example.com{{uri}})')
    variables.check(target)
    parts = variables.parse(target)
    for name in parts[1::2] if not isinstance(parts, str) else ():
        if name not in _KNOWN:
            raise ValueError(f'"{url[:80]}" redirects by "{{{name}}}"; of the variables these may be in it: {", ".join(_KNOWN)}')
    return OwnAnswer(status, target)
