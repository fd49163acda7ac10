"""Backend urls, domains and route paths: what registry, site files and data plane all read the same way."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import idna

from proxyd.base.paths import normalize_path

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"/[!$-;=@-_a-z~%]*")
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend url taken apart: scheme http or https, host without brackets, port, path without a trailing slash,
    whether it said ws or wss, and the authority as a Host field has it."""

    scheme: str
    host: str
    port: int
    path: str
    websocket: bool
    authority: str


def parse_backend(url: str) -> Backend:
    """The backend that an http, https, ws or wss url names. Raises ValueError saying what is wrong with it."""
    if len(url) > 2048 or any(ord(char) <= 32 or ord(char) >= 127 for char in url):
        raise ValueError(f'"{url[:80]}" is not a url (too long, or with spaces or control characters)')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f'"{url}" is not a url: {error}') from None
    if parts.scheme not in ("http", "https", "ws", "wss"):
        raise ValueError(f'"{url}" is not an http, https, ws or wss url (like http://127.0.0.1:3000)')
    if not parts.hostname:
        raise ValueError(f'"{url}" names no host (like http://127.0.0.1:3000)')
    if "@" in parts.netloc:
        raise ValueError(f'"{url}" carries a user name; credentials do not belong into a backend url')
    if parts.query or parts.fragment:
        raise ValueError(f'"{url}" has a query or fragment; a backend url ends with its path')
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    host = _host(parts.hostname, url)
    if port == 0:
        raise ValueError(f'"{url}" has port 0')
    chosen = port or _PORTS[scheme]
    if parts.path and not _PATH.fullmatch(parts.path):
        raise ValueError(f'"{url}" has a path with characters it can\'t have')
    shown = f"[{host}]" if ":" in host else host
    authority = shown if chosen == _PORTS[scheme] else f"{shown}:{chosen}"
    return Backend(scheme, host, chosen, parts.path.rstrip("/"), parts.scheme in ("ws", "wss"), authority)


def parse_check(text: str) -> str:
    """What a health check asks for: a path with its query, `tcp://` to connect to the backend only, or `tcp://host:port`
    to connect elsewhere. Raises ValueError."""
    value = text.strip()
    expected = "a path (like /healthz), tcp:// or tcp://host:port"
    if value.startswith("tcp://"):
        if value != "tcp://":
            where = value.removeprefix("tcp://")
            if not re.search(r":\d+$", where) or "/" in where or parse_backend("http://" + where).path:
                raise ValueError(f'"{text[:80]}" is not {expected}')
        return value
    if not value.startswith("/") or len(value) > 1024 or any(ord(char) <= 32 or ord(char) >= 127 or char == "#" for char in value):
        raise ValueError(f'"{text[:80]}" is not {expected}')
    return value


def parse_check_or_none(text: str) -> str:
    """The same, or nothing for no check."""
    return parse_check(text) if text.strip() else ""


def same_server(one: str, other: str) -> bool:
    """Whether two backend urls name the same server, whatever their paths. Raises ValueError for what is no backend."""
    if one == other:
        return True
    first, second = parse_backend(one), parse_backend(other)
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port)


def _host(host: str, url: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not all(_LABEL.fullmatch(label) for label in host.lower().rstrip(".").split(".")) or len(host) > 253:
        raise ValueError(f'"{url}" names a host that is none: "{host}"')
    return host.lower()


def normalize_domain(text: str) -> str:
    """A route's domain in the form that is matched: lower case, punycode; `*.example.com` and `*` are wildcards.

    Raises ValueError.
    """
    domain = text.strip()
    if domain == "*":
        return domain
    domain = domain.rstrip(".")
    wildcard, name = ("*.", domain[2:]) if domain.startswith("*.") else ("", domain)
    if name.startswith("["):
        name = name.strip("[]")
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        pass
    else:
        if wildcard:
            raise ValueError(f'"{text}" is not a domain: an address has no subdomains')
        return f"[{address}]" if address.version == 6 else str(address)
    if not name:
        raise ValueError(f'"{text}" is not a domain (like app.example.com, *.example.com or *)')
    try:
        ascii_name = name.lower() if name.isascii() else idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError(f'"{text}" is not a domain (like app.example.com, *.example.com or *)') from None
    if len(ascii_name) > 253 or not all(_LABEL.fullmatch(label) for label in ascii_name.split(".")):
        raise ValueError(f'"{text}" is not a domain (like app.example.com, *.example.com or *; no port, no path)')
    return wildcard + ascii_name


def normalize_route_path(text: str) -> str:
    """A route's path in the form that is matched: starts with a slash, ends without one, dot segments resolved.

    Raises ValueError.
    """
    path = text.strip() or "/"
    if not path.startswith("/"):
        raise ValueError(f'"{text}" is not a path (it starts with /, like /api)')
    if len(path) > 1024 or not _PATH.fullmatch(path):
        raise ValueError(f'"{text[:80]}" is not a path (no query, no spaces, other characters percent-encoded, 1024 at most)')
    return normalize_path(path).rstrip("/") or "/"
