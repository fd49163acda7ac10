"""Request targets and Host (RFC 9112 3.2, RFC 9110 4.2 and 7.2): one authority, one path."""

from __future__ import annotations

import ipaddress
import re

from proxyd.http1.errors import ProtocolError, shown

# A registered name as DNS and container networks use it. RFC 3986 would also allow percent-encoding and sub-delims
# such as commas, which no name resolves and which other parsers split or decode: refused. A port may be empty.
_HOST = re.compile(
    r"(?:(?P<name>[A-Za-z0-9_~-]+(?:\.[A-Za-z0-9_~-]+)*\.?)|\[(?P<six>[0-9A-Fa-f:.]{2,45})\])(?::(?P<port>[0-9]{0,5}))?"
)
_ABSOLUTE = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/?]*)(.*)")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_HOST_LENGTH = 261  # a name of 255 and the longest port

_HOST_ENTRIES = 1024
_valid_hosts: set[str] = set()


def check_host(value: str, code: str = "bad_host") -> None:
    """Refuse `value` unless it is a host with an optional port: no user, no space, no list, not empty."""
    if value in _valid_hosts:
        return
    found = _HOST.fullmatch(value) if len(value) <= _HOST_LENGTH else None
    if found is None or int(found["port"] or 0) > 65535 or (found["six"] and not _is_ipv6(found["six"])):
        raise ProtocolError(400, code, f"{shown(value)} is not a host with an optional port")
    if len(_valid_hosts) >= _HOST_ENTRIES:
        _valid_hosts.clear()
    _valid_hosts.add(value)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def split_target(method: str, target: str, host: str | None) -> tuple[str, str | None, str]:
    """The parts of a `target` that does not begin with a slash: (scheme, host, path).

    `host` is the Host field's value, already checked. Absolute form gives its own authority as host, which must
    agree with `host`; CONNECT gives the authority as path; `OPTIONS *` gives `*`. Raises ProtocolError 400.
    """
    if method == "CONNECT":
        check_host(target, "bad_target")
        if not target.rpartition("]")[2].partition(":")[2]:
            raise ProtocolError(400, "bad_target", f"the CONNECT target {shown(target)} has no port")
        return "", host, target
    if target == "*":
        if method != "OPTIONS":
            raise ProtocolError(400, "bad_target", f"the target * belongs to OPTIONS, not to {shown(method)}")
        return "", host, "*"
    found = _ABSOLUTE.fullmatch(target)
    if found is None or found[1].lower() not in _DEFAULT_PORTS:
        detail = f"the request target {shown(target)} is neither a path nor an http URI"
        raise ProtocolError(400, "bad_target", detail)
    scheme, authority, rest = found[1].lower(), found[2], found[3]
    check_host(authority, "bad_target")
    if host is not None and not _same(authority, host, _DEFAULT_PORTS[scheme]):
        detail = f"the target is on {shown(authority)}, the Host field says {shown(host)}"
        raise ProtocolError(400, "host_mismatch", detail)
    if not rest:
        # RFC 9112 3.2.4: OPTIONS on an absolute URI without a path is forwarded as `*`.
        rest = "*" if method == "OPTIONS" else "/"
    elif rest[0] == "?":
        rest = "/" + rest
    return scheme, authority, rest


def _same(one: str, other: str, default_port: str) -> bool:
    first, second = (name.lower().removesuffix(default_port).removesuffix(":") for name in (one, other))
    return first == second
