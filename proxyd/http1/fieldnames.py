"""What each field name means to a proxy, looked up by the name exactly as it was sent.

A proxy sees the same few spellings over and over, so the lower-casing and the decision are made once per
spelling and kept in a bounded table. It also sees the same names in the same order, message after message: which
of them are not plain is kept for the whole row of names, so that the parser looks at those alone.
"""

from __future__ import annotations

from functools import lru_cache
from operator import itemgetter

# Kinds are plain ints, because they are compared once per field of every message. The lower ones need no
# work of the parser beyond the lookup.
PLAIN = 0  # end to end: passed on as it is
HOP = 1  # hop by hop (RFC 9110 7.6.1): never passed on
EDGE = 2  # says who the client is or which way it came: the proxy decides what to believe of it
HOST = 3
CONTENT_LENGTH = 4
TRANSFER_ENCODING = 5
CONNECTION = 6
UPGRADE = 7
EXPECT = 8
TE = 9
OURS = 11  # X-Proxyd-*: only the proxy says these, so they are dropped from requests and answers
UNDERSCORE = 10  # reads as another name once in a CGI-like environment: dropped from requests

OWN_PREFIX = "x-proxyd-"

_BY_NAME = {
    "keep-alive": HOP,
    "proxy-connection": HOP,
    "proxy-authorization": HOP,
    "proxy-authenticate": HOP,
    "proxy-authentication-info": HOP,
    "http2-settings": HOP,
    # CGI-like environments read it as HTTP_PROXY, by which many HTTP clients choose their proxy.
    "proxy": HOP,
    "forwarded": EDGE,
    "via": EDGE,
    "x-real-ip": EDGE,
    "x-request-id": EDGE,
    "host": HOST,
    "content-length": CONTENT_LENGTH,
    "transfer-encoding": TRANSFER_ENCODING,
    "connection": CONNECTION,
    "upgrade": UPGRADE,
    "expect": EXPECT,
    "te": TE,
}

_CACHE_ENTRIES = 1024
_CACHE_NAME_LENGTH = 64

# Fields that a Connection header must not remove on the way: whoever does so wants the next hop to see another
# framing, another route or another user than this one did (RFC 9110 7.6.1: not for end-to-end fields).
_NOT_NOMINATED = frozenset({
    "authorization", "cache-control", "content-encoding", "content-length", "content-range", "content-type",
    "cookie", "expect", "forwarded", "host", "max-forwards", "origin", "range", "set-cookie",
    "traceparent", "transfer-encoding", "via", "x-real-ip", "x-request-id",
})  # fmt: skip

# Fields that mean nothing, or something dangerous, once the body is over (RFC 9110 6.5.1).
_NOT_IN_TRAILERS = _NOT_NOMINATED | frozenset({
    "age", "connection", "date", "expires", "http2-settings", "if-match", "if-modified-since", "if-none-match",
    "if-range", "if-unmodified-since", "keep-alive", "location", "pragma", "proxy", "proxy-authenticate",
    "proxy-authorization", "proxy-connection", "retry-after", "te", "trailer", "upgrade", "vary",
    "www-authenticate",
})  # fmt: skip


def _classify(name: str) -> int:
    lowered = name.lower()
    kind = _BY_NAME.get(lowered)
    if kind is not None:
        return kind
    if "_" in name:
        return UNDERSCORE
    if lowered.startswith(OWN_PREFIX):
        return OURS
    return EDGE if lowered.startswith("x-forwarded-") else PLAIN


_COMMON = (
    "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Cache-Control", "Content-Type", "Cookie",
    "Date", "ETag", "Last-Modified", "Location", "Origin", "Referer", "Server", "Set-Cookie", "User-Agent", "Vary",
    "accept", "accept-encoding", "authorization", "content-type", "cookie", "date", "origin", "referer", "server",
    "user-agent",
)  # fmt: skip
_SEED = {name: _classify(name) for name in _COMMON}
for _name in _BY_NAME:
    _SEED[_name] = _SEED[_name.title()] = _BY_NAME[_name]

KINDS: dict[str, int] = dict(_SEED)
_name_of = itemgetter(0)
#: Rows of names are remembered of heads up to this size, in bytes, and so many: a megabyte or two at most.
_CACHED_HEAD = 2048
_CACHED_ROWS = 512


def _learn(name: str) -> int:
    """The kind of `name`, a valid token in any case, which was not known yet; remembered within bounds."""
    kind = _classify(name)
    if len(name) <= _CACHE_NAME_LENGTH:
        if len(KINDS) >= _CACHE_ENTRIES:
            # Someone sends invented names: start again, so that the usual ones are never locked out.
            KINDS.clear()
            KINDS.update(_SEED)
        KINDS[name] = kind
    return kind


def _special(names: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    found = []
    for index, name in enumerate(names):
        try:
            kind = KINDS[name]
        except KeyError:
            kind = _learn(name)
        if kind:
            found.append((index, kind))
    return tuple(found)


remembered_rows = lru_cache(maxsize=_CACHED_ROWS)(_special)


def special_fields(headers: list[tuple[str, str]], size: int) -> tuple[tuple[int, int], ...]:
    """The fields that are not plain: the index of each, ascending, and its kind. `size`: the head's, in bytes."""
    names = tuple(map(_name_of, headers))
    return remembered_rows(names) if size <= _CACHED_HEAD else _special(names)


def may_be_nominated(option: str) -> bool:
    """Whether a request's Connection header may list `option` (lower case)."""
    return option not in _NOT_NOMINATED and not option.startswith("x-forwarded-")


def may_be_trailer(lowered: str) -> bool:
    """Whether a field of this name (lower case) may stand in a trailer section."""
    return lowered not in _NOT_IN_TRAILERS and not lowered.startswith("x-forwarded-")
