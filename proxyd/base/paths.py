"""Hosts and paths of requests in the form in which routes are matched; the request itself is forwarded as sent."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

import idna

_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_CACHED_PATH = 256


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
    """The path of a request target (RFC 3986 6.2.2): no query, dot segments resolved, unreserved characters decoded,
    other escapes in upper case. Encoded slashes stay encoded: they are no separators."""
    if len(target) <= _CACHED_PATH:
        return _cached(target)
    return _normalize(target)


def _normalize(target: str) -> str:
    path = target.partition("?")[0]
    if not path.startswith("/"):
        return "/"
    if "%" in path:
        path = _ESCAPE.sub(_decode, path)
    if "/." in path:
        path = _remove_dots(path)
    return path


_cached = lru_cache(maxsize=4096)(_normalize)


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
