"""Hosts and paths of requests in the form in which routes are matched."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import idna

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CACHED_PATH = 256
_SLASHES = re.compile(r"/{2,}")
_SEPARATORS = re.compile(r"%2F|%5C|\\")
_PARAMETERS = re.compile(r"(?:;|%3B)[^/]*")
_AMBIGUOUS = re.compile(r"%2F|%5C|%3B|[\\;]")


@lru_cache(maxsize=4096)
def normalize_host(raw: str) -> str:
    """A Host value as routes name it: lower case, without port and trailing dot, punycode; `[v6]` shortened, in brackets."""
    host = raw.strip(" \t")
    if host.startswith("["):
        address = host[1:].partition("]")[0]
        try:
            return f"[{ipaddress.IPv6Address(address)}]"
        except ValueError:
            return f"[{address.lower()}]"
    host = host.partition(":")[0].rstrip(".")
    if host.isascii():
        return host.lower()
    try:
        # Lower case comes after decoding: a byte of UTF-8 looks like a capital of Latin-1.
        return idna.encode(host.encode("latin-1").decode("utf-8"), uts46=True).decode()
    except (idna.IDNAError, UnicodeError):
        return host.lower()


def normalize_path(target: str) -> str:
    """The path of a request target (RFC 3986 6.2.2): no query, slashes merged, dot segments resolved, unreserved characters
    decoded, other escapes in upper case. Encoded slashes stay encoded: they are no separators."""
    return request_path(target)[0]


def request_path(target: str) -> tuple[str, str]:
    """The normal path of a request target, and what else a backend may read it as; the latter is empty where it is clear.

    Backends differ on `%2F`, on backslashes and on what stands behind a semicolon: some decode, turn or cut it before they
    look where a path leads. The second path is what the most lenient of them would see.
    """
    if len(target) <= _CACHED_PATH:
        return _cached(target)
    return _request_path(target)


def _request_path(target: str) -> tuple[str, str]:
    path = target.partition("?")[0]
    if not path.startswith("/"):
        return "/", ""
    if "%" in path:
        path = _ESCAPE.sub(_decode, path)
    normal = _clean(path)
    if not _AMBIGUOUS.search(path):
        return normal, ""
    lenient = _clean(_PARAMETERS.sub("", _SEPARATORS.sub("/", path)))
    return normal, lenient if lenient != normal else ""


_cached = lru_cache(maxsize=4096)(_request_path)


def _clean(path: str) -> str:
    """Slashes merged, then dot segments resolved."""
    if "//" in path:
        path = _SLASHES.sub("/", path)
    return _remove_dots(path) if "/." in path else path


def _decode(match: re.Match[str]) -> str:
    code = int(match[1], 16)
    return chr(code) if code in _UNRESERVED else f"%{match[1].upper()}"


def _remove_dots(path: str) -> str:
    """RFC 3986 5.2.4; what would climb above the root stays at the root."""
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)
