"""Backend urls, domains and route paths: what registry, site files and data plane all read the same way."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import idna

from proxyd.base.ownanswers import OwnAnswer, parse_answer
from proxyd.base.paths import normalize_path

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_PATH = re.compile(r"/[!$-;=@-_a-z~%]*")
_VISIBLE = re.compile(r"[!-~]{0,2048}")
_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<rest>.*)", re.DOTALL)
_AUTHORITY = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,5}))?")
#: The name of a gRPC service. One byte tells its length to the health service.
_SERVICE = re.compile(r"[A-Za-z0-9_.-]{0,127}")
#: A backend on a UNIX socket. Alone, or behind the scheme, as nginx writes it; its own path stands behind a second colon.
_UNIX = re.compile(r"(?:(?P<scheme>[A-Za-z][A-Za-z0-9]*)://)?unix:(?://(?=/))?(?P<socket>/[^:?#]*)(?::(?P<rest>/.*)?)?", re.DOTALL)
_SOCKET = re.compile(r"(?:/(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~+@=,-]+)+")
#: Bytes that the path of a UNIX socket may have (sun_path of sockaddr_un, less its end).
_SOCKET_MAX = 107
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}")
#: What some programs read as an address in another notation.
_NUMBERS = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)(?:\.(?:[0-9]+|0x[0-9a-f]*))*")


#: How HTTP/2 is spoken to a backend: where it takes it, or without asking.
IF_OFFERED, ALWAYS = 1, 2


@dataclass(frozen=True, slots=True)
class Backend:
    """A backend url taken apart: scheme http or https, host without brackets, port, path without a trailing slash,
    whether it said ws or wss, the authority as a Host field has it, and whether it said h2c (HTTP/2 in the clear).

    Of a UNIX socket, `host` is its path (which begins with a slash, as no host does) and `port` is 0. `answer`: what the proxy itself
    answers; then there is no host, and `scheme` is the url."""

    scheme: str
    host: str
    port: int
    path: str
    websocket: bool
    authority: str
    http2: bool = False
    answer: OwnAnswer | None = None

    def spoken(self, wished: bool) -> int:
        """Whether HTTP/2 is spoken to it: 0, IF_OFFERED or ALWAYS. `wished`: the route's option http2."""
        return ALWAYS if self.http2 else IF_OFFERED if wished else 0

    @property
    def place(self) -> str:
        """Where it is, for logs and people: the authority, or `unix:` and the socket's path."""
        return self.authority if self.port or self.answer is not None else f"unix:{self.host}"

    def url(self, target: str) -> str:
        """The url of a path (and query) at this backend."""
        word = "h2c" if self.http2 else self.scheme
        return f"{word}://{self.authority}{target}" if self.port else f"{word}://unix:{self.host}:{target}"


def parse_backend(url: str) -> Backend:
    """The backend that an http, https, h2c, ws or wss url names. Raises ValueError saying what is wrong with it."""
    if not _VISIBLE.fullmatch(url):
        raise ValueError(f'"{url[:80]}" is not a url (too long, or with spaces or control characters)')
    if (answer := parse_answer(url)) is not None:
        return Backend(url, "", 0, "", False, "", False, answer)
    if (unix := _UNIX.fullmatch(url)) is not None:
        return _on_socket(url, (unix["scheme"] or "http").lower(), unix["socket"], unix["rest"] or "")
    parts = _URL.fullmatch(url)
    word = parts["scheme"].lower() if parts is not None else ""
    if parts is None or word not in ("http", "https", "h2c", "ws", "wss"):
        raise ValueError(f'"{url}" is not an http, https, h2c, ws or wss url (like http://127.0.0.1:3000, or unix:/run/app.sock)')
    scheme = {"h2c": "http", "ws": "http", "wss": "https"}.get(word, word)
    host, port = _authority(parts["authority"], url)
    chosen = port or _PORTS[scheme]
    path = _own_path(url, parts["rest"])
    shown = f"[{host}]" if ":" in host else host
    authority = shown if chosen == _PORTS[scheme] else f"{shown}:{chosen}"
    return Backend(scheme, host, chosen, path, word in ("ws", "wss"), authority, word == "h2c")


def _own_path(url: str, rest: str) -> str:
    if "?" in rest or "#" in rest:
        raise ValueError(f'"{url}" has a query or fragment; a backend url ends with its path')
    if rest and not _PATH.fullmatch(rest):
        raise ValueError(f'"{url}" has a path with characters it can\'t have')
    return rest.rstrip("/")


def _on_socket(url: str, word: str, socket: str, rest: str) -> Backend:
    """The backend on a UNIX socket. Its Host is localhost where the client's is not kept."""
    if word not in ("http", "h2c", "ws"):
        raise ValueError(f'"{url}" is not an http, h2c or ws url: on a UNIX socket there is no TLS (like unix:/run/app.sock)')
    if not _SOCKET.fullmatch(socket) or len(socket) > _SOCKET_MAX:
        raise ValueError(f'"{url}" names no UNIX socket (like unix:/run/app.sock, or unix:/run/app.sock:/path): a full path of at most '
                         f"{_SOCKET_MAX} characters, without . and .. in it")
    return Backend("http", socket, 0, _own_path(url, rest), word == "ws", "localhost", word == "h2c")


def split_unix(url: str) -> tuple[str, str] | None:
    """The socket's path and the target (path and query) of a url that names a UNIX socket; None for other urls."""
    found = re.fullmatch(r"(?:[A-Za-z0-9]+://)?unix:(?://(?=/))?(/[^:]*)(?::(/.*)?)?", url)
    return (found[1], found[2] or "/") if found is not None else None


def parse_web_url(url: str) -> str:
    """An http or https url with any path and query, or nothing. Raises ValueError."""
    value = url.strip()
    if not value:
        return ""
    parts = _URL.fullmatch(value)
    if parts is None or parts["scheme"].lower() not in _PORTS:
        raise ValueError("not an http:// or https:// url")
    if any(ord(char) <= 32 or ord(char) == 127 for char in value):
        raise ValueError("a url has no spaces and no control characters")
    # A name and a password may stand before the host of a webhook. They are not repeated in an error.
    host = parts["authority"].rpartition("@")[2]
    _authority(host, f"{parts['scheme']}://{host}/...")
    return value


def parse_check(text: str) -> str:
    """What a health check asks for: a path with its query, `tcp://` to connect to the backend only, `tcp://host:port`
    to connect elsewhere, or gRPC's health service: `grpc://`, `grpc://service`, `grpc://host:port/service`. Raises ValueError."""
    value = text.strip()
    expected = "a path (like /healthz), tcp:// or tcp://host:port, or grpc:// or grpc://service"
    if value.startswith("grpc://"):
        where, service = split_grpc_check(value)
        if not _SERVICE.fullmatch(service) or (where and parse_backend("http://" + where).path):
            raise ValueError(f'"{text[:80]}" is not {expected}')
        return value
    if value.startswith("tcp://"):
        if value != "tcp://":
            where = value.removeprefix("tcp://")
            if not re.search(r":[0-9]+\Z", where) or "/" in where or parse_backend("http://" + where).path:
                raise ValueError(f'"{text[:80]}" is not {expected}')
        return value
    if not value.startswith("/") or len(value) > 1024 or any(ord(char) <= 32 or ord(char) >= 127 or char == "#" for char in value):
        raise ValueError(f'"{text[:80]}" is not {expected}')
    return value


def split_grpc_check(value: str) -> tuple[str, str]:
    """Host and port (empty: the backend's) and service (empty: the server) of a `grpc://` check."""
    where, slash, service = value.removeprefix("grpc://").partition("/")
    if where and not re.search(r":[0-9]+\Z", where):
        # Without a port it is no address, and means a service.
        return "", where + slash + service
    return where, service


def parse_check_or_none(text: str) -> str:
    """The same, or nothing for no check."""
    return parse_check(text) if text.strip() else ""


def same_server(one: str, other: str) -> bool:
    """Whether two backend urls name the same server, whatever their paths. Raises ValueError for what is no backend."""
    if one == other:
        return True
    first, second = parse_backend(one), parse_backend(other)
    return (first.scheme, first.host, first.port) == (second.scheme, second.host, second.port)


def _authority(text: str, url: str) -> tuple[str, int]:
    """Host (lower case, no brackets) and port (0: none was given) of an authority, read as one expression. Raises ValueError."""
    if "@" in text:
        raise ValueError(f'"{url}" carries a user name; credentials do not belong into a backend url')
    parts = _AUTHORITY.fullmatch(text)
    if parts is None:
        raise ValueError(f'"{url}" names no host (like http://127.0.0.1:3000)' if text[:1] in ("", ":")
                         else f'"{url}" names no single host, with a port or without: "{text}"')
    host = parts["six"] or parts["name"]
    if (parts["six"] and not _is_ipv6(host)) or (parts["name"] and not _is_backend_host(host.lower())):
        raise ValueError(f'"{url}" names a host that is none: "{host}"')
    port = int(parts["port"] or 0)
    if parts["port"] and not 0 < port < 65536:
        raise ValueError(f'"{url}" has port {parts["port"]}, which is not from 1 to 65535')
    return str(ipaddress.ip_address(host)) if parts["six"] else host.lower(), port


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_host(name: str) -> bool:
    """Whether a text in lower case is an IPv4 address, or a name that nobody takes for one. `127.1`, `2130706433` and `0x7f.0.0.1` mean
    an address to some and a name to others."""
    if _IPV4.fullmatch(name):
        return True
    if _NUMBERS.fullmatch(name):
        return False
    return len(name) <= 253 and all(_LABEL.fullmatch(label) for label in name.split("."))


def _is_backend_host(name: str) -> bool:
    """The same, where a name may end in a dot: no search domains are tried then."""
    return _is_host(name.removesuffix(".")) and not (name.endswith(".") and _IPV4.fullmatch(name[:-1]))


def normalize_domain(text: str) -> str:
    """A route's domain in the form that is matched: lower case, punycode; `*.example.com` and `*` are wildcards.

    Raises ValueError.
    """
    domain = text.strip()
    if domain == "*":
        return domain
    wildcard, name = ("*.", domain[2:]) if domain.startswith("*.") else ("", domain)
    six = name[1:-1] if name.startswith("[") and name.endswith("]") else name
    if "%" not in six and _is_ipv6(six):
        if wildcard:
            raise ValueError(f'"{text}" is not a domain: an address has no subdomains')
        return f"[{ipaddress.IPv6Address(six)}]"
    name = name.removesuffix(".")
    try:
        ascii_name = name.lower() if name.isascii() else idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError(f'"{text}" is not a domain (like app.example.com, *.example.com or *)') from None
    if not _is_host(ascii_name):
        raise ValueError(f'"{text}" is not a domain (like app.example.com, *.example.com or *; no port, no path)')
    if wildcard and _IPV4.fullmatch(ascii_name):
        raise ValueError(f'"{text}" is not a domain: an address has no subdomains')
    return wildcard + ascii_name


def normalize_route_path(text: str) -> str:
    """A route's path in the form that is matched: starts with a slash, ends without one, dot segments resolved. A path covers what is
    below it, so `/*` at its end, which other proxies need for that, changes nothing. Raises ValueError.
    """
    path = text.strip() or "/"
    if not path.startswith("/"):
        raise ValueError(f'"{text}" is not a path (it starts with /, like /api)')
    if len(path) > 1024 or not _PATH.fullmatch(path):
        raise ValueError(f'"{text[:80]}" is not a path (no query, no spaces, other characters percent-encoded, 1024 at most)')
    path = normalize_path(path).rstrip("/")
    while path.endswith("/*"):
        path = path.removesuffix("/*").rstrip("/")
    return path or "/"


_LOCAL_NAMES = ("localhost", "test", "internal")


def is_local_name(domain: str) -> bool:
    """Whether no public CA can have a certificate for a domain: an address, or a name below localhost, test or internal."""
    return domain.startswith("[") or domain.rpartition(".")[2] in _LOCAL_NAMES or _IPV4.fullmatch(domain) is not None
