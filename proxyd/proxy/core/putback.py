"""Below a stripped prefix, or without the client's Host, a backend does not know its public address. What it says of its own is put back
in answers: Location, Content-Location, Refresh, and the paths of cookies."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

#: A url with a host: scheme (None for the client's), authority, and the rest.
_ABSOLUTE = re.compile(r"(?:(https?):)?//([^/?#\\]*)(.*)", re.IGNORECASE | re.DOTALL)
_REFRESH = re.compile(r"([ \t]*[0-9.]*[ \t]*[;,][ \t]*(?:url[ \t]*=[ \t]*)?[\"']?)(.*)", re.IGNORECASE | re.DOTALL)
_COOKIE_PATH = re.compile(r"(;[ \t]*path[ \t]*=[ \t]*)(/[^;]*)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_CHANGED = frozenset(("location", "content-location", "refresh", "set-cookie"))


def without_prefix(path: str, prefix: str) -> str | None:
    """The path without a prefix of whole segments, or None if the path does not have that prefix."""
    if path == prefix:
        return "/"
    return path[len(prefix):] if path.startswith(prefix + "/") else None


def stripped(ex: Exchange, upstream: Upstream) -> str:
    """The prefix that the request loses on its way to the upstream. Empty if it does not have it."""
    prefix = upstream.strip
    if not prefix:
        return ""
    has = without_prefix(ex.head.path.partition("?")[0], prefix) is not None or without_prefix(ex.path, prefix) is not None
    return prefix if has else ""


def told_prefix(ex: Exchange, upstream: Upstream) -> str:
    """The X-Forwarded-Prefix for the upstream: what was stripped here, behind what a trusted proxy in front has stripped. Empty if
    nothing was stripped here, or something took its place: then the backend does not see the rest of the client's path."""
    own = "" if upstream.instead else stripped(ex, upstream)
    if not own or not ex.client.trusted:
        return own
    return "".join([value.rstrip("/") for name, value in ex.head.edge if name == "x-forwarded-prefix"]) + own


def put_back(ex: Exchange, upstream: Upstream, fields: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The fields of an answer, in which what the backend says of itself is as the client has to ask for it."""
    if not any(name.lower() in _CHANGED for name, _ in fields):
        return fields
    way = _Way(ex, upstream)
    return [(name, way.field(name.lower(), value) if name.lower() in _CHANGED else value) for name, value in fields]


class _Way:
    """The way back from the upstream's addresses to those of the client, for one request."""

    __slots__ = ("_base", "_known", "_own", "_prefix", "_public", "_scheme", "_told", "_upstream_scheme")

    def __init__(self, ex: Exchange, upstream: Upstream) -> None:
        self._prefix = stripped(ex, upstream)
        self._told = told_prefix(ex, upstream)
        self._base = upstream.base_path + upstream.instead if self._prefix else upstream.base_path
        self._scheme = "https" if ex.secure else "http"
        sent = ex.head.host or ""
        self._public = sent if ex.origin is None else ex.origin.host or sent
        self._known = {_authority(host, scheme) for host in (sent, self._public) if host for scheme in _DEFAULT_PORTS}
        self._upstream_scheme = upstream.scheme
        #: A backend that gets the client's Host was told the public address: another one that it names may be meant.
        self._own = "" if upstream.keeps_host else upstream.host_field.lower()

    def field(self, name: str, value: str) -> str:
        """The value for the client of one of the fields that are changed."""
        if name == "set-cookie":
            return self._cookie(value)
        if name == "refresh":
            found = _REFRESH.fullmatch(value)
            return found[1] + self._url(found[2]) if found is not None else value
        return self._url(value)

    def _url(self, url: str) -> str:
        found = _ABSOLUTE.match(url)
        if found is None:
            return (self._path(url) or url) if url.startswith("/") else url
        said, authority, rest = found.groups()
        scheme = said.lower() if said else self._scheme
        path = self._path(rest if rest.startswith("/") else "/" + rest)
        if path is None:
            return url
        named = _authority(authority, scheme)
        if self._own and named == self._own and (not said or scheme == self._upstream_scheme):
            if not self._public:
                return path
            return f"{self._scheme}://{self._public}{path}" if said else f"//{self._public}{path}"
        if self._prefix and named in self._known:
            return url[:found.start(3)] + path
        return url

    def _path(self, target: str) -> str | None:
        """The client's path for one of the backend's, query and fragment behind it. None if no request leads there. A path that has the
        prefix already is the client's: its backend heeds X-Forwarded-Prefix."""
        path = re.split("[?#]", target, maxsplit=1)[0]
        if self._told and (without_prefix(path, self._prefix) is not None or without_prefix(path, self._told) is not None):
            return target
        inner = without_prefix(path, self._base) if self._base else path
        return None if inner is None else f"{self._prefix}{inner}{target[len(path):]}"

    def _cookie(self, value: str) -> str:
        # The prefix __Host- of a name asks for the path "/" (RFC 6265bis 4.1.3.2): with another one the cookie would be dropped.
        if not self._prefix or value.lstrip().lower().startswith("__host-"):
            return value
        return _COOKIE_PATH.sub(lambda found: found[1] + self._cookie_path(found[2].rstrip(" \t")), value)

    def _cookie_path(self, path: str) -> str:
        back = self._path(path)
        if back is None:
            return path
        # A cookie of "/api/" would not be sent for "/api".
        return back.rstrip("/") if path.rstrip("/") in ("", self._base) else back


def _authority(text: str, scheme: str) -> str:
    """An authority to compare: lower case, without the scheme's own port."""
    return text.lower().removesuffix(_DEFAULT_PORTS[scheme])
