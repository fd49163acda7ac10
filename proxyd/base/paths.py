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
_PARAMETERS = re.compile(r";[^/]*")
_ALL_PARAMETERS = re.compile(r"(?:;|%3B)[^/]*")
#: What backends take for slashes: some decode, some turn backslashes, some do both.
_SEPARATORS = (("%2F",), ("\\",), ("\\", "%5C"), ("%2F", "\\"), ("%2F", "\\", "%5C"))
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


def request_path(target: str) -> tuple[str, tuple[str, ...]]:
    """The normal path of a request target, and what else backends may read it as, without what is clear.

    Backends differ on `%2F`, on backslashes and on what stands behind a semicolon: some decode, turn or cut it before they
    look where a path leads, in this order or another. They also differ on whether they resolve dot segments that appear then.
    A reader that does less may arrive elsewhere than the most lenient one, so each of them counts. The most lenient is first.
    """
    if len(target) <= _CACHED_PATH:
        return _cached(target)
    return _request_path(target)


def climbs(path: str) -> bool:
    """Whether some backend may read a path as one that leads above its own root, as `/..%2fx` or `/a/..;/..;/x` does."""
    if "%" in path:
        path = _ESCAPE.sub(_decode, path)
    return _AMBIGUOUS.search(path) is not None and any("/.." in reading and _leads_up(reading) for reading in _readings(path))


def _leads_up(path: str) -> bool:
    depth = 0
    for segment in path.split("/")[1:]:
        if segment == "..":
            depth -= 1
            if depth < 0:
                return True
        elif segment not in ("", "."):
            depth += 1
    return False


def _request_path(target: str) -> tuple[str, tuple[str, ...]]:
    path = target.partition("?")[0]
    if not path.startswith("/"):
        return "/", ()
    if "%" in path:
        path = _ESCAPE.sub(_decode, path)
    normal = _clean(path)
    if not _AMBIGUOUS.search(path):
        return normal, ()
    readings = _readings(path)
    found = {_remove_dots(reading) if "/." in reading else reading: None for reading in readings}
    # The backend gets the normal form, or with raw_path the other one.
    found.update(dict.fromkeys(readings if path == normal else _readings(normal)))
    return normal, tuple(reading for reading in found if reading != normal)


def _readings(path: str) -> list[str]:
    """What a path may be read as, dot segments left alone: with its parameters cut before separators are decoded, behind that,
    or not at all."""
    whole = {_separated(path, kinds): None for kinds in reversed(_SEPARATORS)}
    cut = _PARAMETERS.sub("", path)
    early = {_separated(cut, kinds): None for kinds in reversed(_SEPARATORS)} if cut != path else {}
    late = {cutter.sub("", reading): None for reading in whole for cutter in (_ALL_PARAMETERS, _PARAMETERS)}
    return [_SLASHES.sub("/", reading) if "//" in reading else reading for reading in dict.fromkeys((*late, *early, *whole, cut))]


def _separated(path: str, kinds: tuple[str, ...]) -> str:
    for kind in kinds:
        path = path.replace(kind, "/")
    return path


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
