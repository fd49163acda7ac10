"""What an option's value may be, where it is more than a number or a word: each function takes the text as it was written and returns the
value, or raises ValueError saying what was expected."""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxyd.base import text
from proxyd.base.urls import Backend, parse_backend
from proxyd.config.declare import Kind, integer
from proxyd.config.named import parse_rule
from proxyd.config.routechecks import plain_value, request_header_name

#: Files that options name: never a path, so that nobody leaves the directory.
FILE_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}"
RETRY_CAUSES = ("connection_refused", "reset", "timeout")


def retry_on(value: str) -> tuple[str, ...]:
    """Causes and status codes in any mix: `connection_refused, reset, 502, 503`."""
    items = tuple(item.lower() for item in text.split_list(value))
    for item in items:
        if item not in RETRY_CAUSES:
            try:
                text.parse_status_set(item)
            except ValueError:
                raise ValueError(f'"{item}" is neither one of {", ".join(RETRY_CAUSES)} nor a status code') from None
    return items


def strip_prefix(value: str) -> str:
    """A path prefix, `true` (the route's own path) or nothing."""
    word = value.strip()
    if word.lower() in ("", "false", "no", "off"):
        return ""
    if word.lower() in ("true", "yes", "on"):
        return "true"
    if not word.startswith("/") or any(ord(char) <= 32 or ord(char) >= 127 for char in word):
        raise ValueError(f'"{value}" is not a path (like /api) nor true or false')
    return word.rstrip("/")


def host_field(value: str) -> str:
    """A host as a Host field has it, or nothing."""
    host = value.strip()
    if host and parse_backend(f"http://{host}").path:
        raise ValueError(f'"{value}" is not a host (like app.internal or app.internal:8080)')
    return host


def server_name(value: str) -> str:
    """A host by name or address, without a port, or nothing."""
    host = value.strip()
    if not host:
        return ""
    found = parse_backend(f"http://{host}")
    if found.path or found.authority not in (found.host, f"[{found.host}]"):
        raise ValueError(f'"{value}" is not a host without a port (like app.internal)')
    return found.host


def file_name(value: str) -> str:
    """The name of a file in a directory that a setting names, or nothing."""
    name = value.strip()
    if name and not re.fullmatch(FILE_NAME, name):
        raise ValueError(f'"{value[:140]}" is not a file\'s name (letters, digits, dot, dash and underscore, without a directory)')
    return name


def cookie_name(value: str) -> str:
    """A cookie's name (RFC 6265 4.1.1: a token), or nothing."""
    name = value.strip()
    if name and not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}", name):
        raise ValueError(f'"{value[:64]}" is not a cookie name (letters, digits, dash, underscore; 64 at most)')
    return name


def protocols(value: str) -> tuple[str, ...]:
    """Names of protocols as an Upgrade field has them (RFC 9110 7.8), lower case."""
    names = tuple(name.lower() for name in text.split_list(value))
    for name in names:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9a-z-]{1,64}(?:/[!#$%&'*+.^_`|~0-9a-z-]{1,64})?", name):
            raise ValueError(f'"{name[:64]}" is not the name of a protocol (like tcp or spdy/3.1)')
        if name == "websocket":
            raise ValueError("websocket has an option of its own (websocket = true)")
        if name.startswith(("h2c", "http/", "tls/")):
            raise ValueError(f'"{name}" is the proxy\'s own matter: it speaks HTTP and TLS itself')
    return names


def origins(value: str) -> tuple[str, ...]:
    """Origins (RFC 6454 6.2) in lower case, with `*` for the first label or for any origin."""
    origins = tuple(origin.lower() for origin in text.split_list(value))
    for origin in origins:
        if origin not in ("*", "null") and not re.fullmatch(r"[a-z][a-z0-9+.-]*://(?:\*\.)?(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::[0-9]{1,5})?",
                                                           origin):
            raise ValueError(f'"{origin[:80]}" is not an origin (like https://app.example.com, without a path)')
    if "*" in origins and len(origins) > 1:
        raise ValueError("* is any origin, so it stands alone")
    return origins


def tokens(value: str) -> tuple[str, ...]:
    """Tokens (RFC 9110 5.6.2), such as methods and names of fields."""
    items = text.split_list(value)
    for item in items:
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}", item):
            raise ValueError(f'"{item[:80]}" is not a method or a name of a field')
    return items


@dataclass(frozen=True, slots=True)
class Within:
    """An objective for the time of requests: `percent` of them take at most `seconds`."""

    percent: float
    seconds: float


def _percent(value: str) -> float:
    """An objective in percent, with the sign or without."""
    number = value.strip().removesuffix("%").strip()
    if not re.fullmatch(r"\d{1,2}(?:\.\d{1,6})?", number, re.ASCII) or not float(number):
        raise ValueError(f'"{value[:40]}" is not a percentage above 0 and below 100 (like 99.9%)')
    return float(number)


def availability(value: str) -> float:
    return 0.0 if value.strip().lower() in ("", "0", "off") else _percent(value)


def within(value: str) -> Within | None:
    """`99% in 300ms`, or nothing."""
    if value.strip().lower() in ("", "0", "off"):
        return None
    percent, word, seconds = value.partition(" in ")
    if not word:
        raise ValueError(f'"{value[:80]}" is not a share and a time (like 99% in 300ms)')
    return Within(_percent(percent), text.parse_duration(seconds.strip()))


@dataclass(frozen=True, slots=True)
class AuthUrl:
    """The url of a service that decides who may pass: where it is, and the target of the requests to it."""

    backend: Backend
    target: str


def auth_url(value: str) -> AuthUrl | None:
    """An http or https url with a path and a query or without, or nothing."""
    url = value.strip()
    if not url:
        return None
    plain, mark, query = url.partition("?")
    if not plain.lower().startswith(("http://", "https://")) or "#" in query or any(not 32 < ord(char) < 127 for char in url):
        raise ValueError(f'"{url[:80]}" is not an http or https url (like http://127.0.0.1:9091/api/authz/forward-auth)')
    backend = parse_backend(plain)
    if not backend.port:
        raise ValueError(f'"{url[:80]}" is a UNIX socket, where no such service is asked')
    return AuthUrl(backend, "/" + "".join(plain.split("/", 3)[3:]) + mark + query)


_CHECK_METHODS = ("GET", "HEAD", "OPTIONS", "POST")
_MOST_CHECK_FIELDS = 16
#: Fields that say which way a request came. A check may say so itself, as an application behind TLS may want to hear it.
_WAY = ("x-forwarded-", "x-real-ip", "forwarded")


def check_method(value: str) -> str:
    """The method of health checks."""
    method = value.strip().upper()
    if method not in _CHECK_METHODS:
        raise ValueError(f'"{value[:40]}" is not one of {", ".join(_CHECK_METHODS)}')
    return method


def check_fields(value: str) -> tuple[tuple[str, str], ...]:
    """Fields of health checks. A `;` that no name and colon follow is part of a value."""
    found: dict[str, tuple[str, str]] = {}
    for item in filter(None, (part.strip() for part in re.split(r";(?=\s*[!#$%&'*+.^_`|~0-9A-Za-z-]+:|\s*$)", value))):
        name, colon, said = (part.strip() for part in item.partition(":"))
        if not colon or not said:
            raise ValueError(f'"{item[:80]}" is not NAME: VALUE')
        if name.lower() == "host":
            said, name = host_field(said), "Host"
        else:
            name = name if name.lower().startswith(_WAY) and _TOKEN.fullmatch(name) else request_header_name(name)
            said = plain_value(said)
        if name.lower() in found:
            raise ValueError(f'"{name}" is there twice')
        found[name.lower()] = name, said
    if len(found) > _MOST_CHECK_FIELDS:
        raise ValueError(f"more than {_MOST_CHECK_FIELDS} fields")
    return tuple(found.values())


def auth_names(value: str) -> tuple[str, ...]:
    """Names of request fields that a route may set."""
    return tuple(request_header_name(name) for name in text.split_list(value))


#: The key of rate limits where a route says nothing.
BY_ADDRESS = (("address", ""),)
#: The part of a key that is known only after the login.
BY_USER = ("user", "")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


def limit_key(value: str) -> tuple[tuple[str, str], ...]:
    """What makes the key of a rate limit: kinds, each with its name or number."""
    parts = []
    for word in value.split("+"):
        kind, colon, name = word.strip().partition(":")
        kind = kind.lower()
        sound = {"address": not colon, "user": not colon, "header": bool(_TOKEN.fullmatch(name)) and "_" not in name,
                 "cookie": bool(_TOKEN.fullmatch(name)), "path": name in tuple("12345678")}.get(kind, False)
        if not sound:
            raise ValueError(f'"{word.strip()[:80]}" is not address, user, header:NAME, cookie:NAME or path:N with N from 1 to 8')
        parts.append((kind, name.lower() if kind == "header" else name))
    if len(set(parts)) < len(parts):
        raise ValueError(f'"{value[:80]}" says the same twice')
    return tuple(parts)


def buffer(value: str) -> int:
    """A size, `off`, or `on` for a size that fits most services."""
    word = value.strip().lower()
    if word in ("", "0", "off", "no", "false"):
        return 0
    return _BUFFER if word in ("on", "yes", "true") else text.parse_size(value)


_BUFFER = 64 << 20
ADDRESSES = Kind("list of networks and names of [lists]", parse_rule)
BUFFER_SIZE = Kind("size, on (64m) or off", buffer)


def pool_size(value: str) -> int:
    """A number, or `auto` for as many as are in use."""
    return POOL_AUTO if value.strip().lower() == "auto" else integer(0, 10_000).parse(value)


POOL_AUTO = 1 << 20
