"""Which page is shown for which error: `5xx -> down; 404 -> /errors/404.html`. The first rule that has the status counts.

A page is the name of files of the operator's (`down` stands for down.html and down.json), or a path of the route's backend.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from proxyd.base.text import parse_status_set

#: What may stand in a file, in braces, and what it stands for.
PAGE_VARIABLES: dict[str, str] = {
    "status": "The status, like 503.",
    "phrase": "What the status is called, like Service Unavailable.",
    "code": "The reason code (docs/reasons.md).",
    "detail": "A sentence on what went wrong.",
    "host": "Host of the request in lower case, without port.",
    "path": "Path of the request as the client sent it, without the query.",
    "request_id": "The X-Request-ID of the request.",
}
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_-]{0,63}")
_PATH = re.compile(r"/(?:[!$-;=@-Z_a-z~%]|\{status\}){0,255}")
_MOST_RULES = 20


@dataclass(frozen=True, slots=True)
class ErrorPage:
    """A rule. `page`: a name of files, or a path (which begins with a slash)."""

    statuses: frozenset[int]
    page: str


ErrorPages = tuple[ErrorPage, ...]


@lru_cache(maxsize=1024)
def parse_error_pages(value: str) -> ErrorPages:
    """The rules in a text. Raises ValueError."""
    items = [item for item in (part.strip() for part in value.split(";")) if item]
    if len(items) > _MOST_RULES:
        raise ValueError(f"more than {_MOST_RULES} rules")
    return tuple(_rule(item) for item in items)


def parse_error_files(value: str) -> ErrorPages:
    """The same where no backend is meant."""
    rules = parse_error_pages(value)
    for rule in rules:
        if rule.page.startswith("/"):
            raise ValueError(f'"{rule.page}" is a path of a backend, which only a route has; name a file')
    return rules


def page_for(rules: ErrorPages, status: int) -> str:
    """The page for a status. Empty if there is none."""
    return next((rule.page for rule in rules if status in rule.statuses), "")


@lru_cache(maxsize=1024)
def replaced_statuses(rules: ErrorPages) -> frozenset[int]:
    """The statuses whose answers from a backend may be replaced: 401 asks a client to log in, which a page can't say."""
    return frozenset().union(*(rule.statuses for rule in rules)) - {401}


def _rule(item: str) -> ErrorPage:
    left, arrow, page = (part.strip() for part in item.partition("->"))
    if not arrow:
        raise ValueError(f'"{item[:80]}" is not STATUSES -> PAGE (like 5xx -> down, or 404 -> /errors/404.html)')
    statuses = parse_status_set(left)
    if not statuses or min(statuses) < 400:
        raise ValueError(f'"{left[:80]}" has a status that is no error (400 to 599)')
    if not (_PATH if page.startswith("/") else _NAME).fullmatch(page):
        raise ValueError(f'"{page[:80]}" is neither the name of a page (letters, digits, dash and underscore; down stands for down.html '
                         "and down.json) nor a path of the backend (like /errors/404.html)")
    return ErrorPage(statuses, page)
