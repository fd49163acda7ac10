"""Every header field that the proxy adds, changes or drops, except for framing.

RFC 9110 7.6 (Connection, Via), RFC 7239 (Forwarded), and the X-Forwarded-* conventions.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyd.base.text import Network
from proxyd.http1 import PROTOCOLS

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=@:-]{1,128}")
_FORWARDED_FOR = re.compile(r"""for\s*=\s*(?:"\[?([0-9a-fA-F:.]+)\]?(?::\d+)?"|([0-9.]+))""", re.IGNORECASE)
#: Dot segments and repeated slashes: what is matched without them is forwarded without them.
_UNCLEAN = re.compile(r"/(?:\.|%2e|/)", re.IGNORECASE)


@lru_cache(maxsize=4)
def http_date(second: int) -> str:
    """A Date value (RFC 9110 5.6.7) for an instant in Unix seconds."""
    return formatdate(second, usegmt=True)


def trust_check(networks: tuple[Network, ...]) -> Callable[[str], bool]:
    """A cached function that tells whether an address lies in one of the networks."""

    @lru_cache(maxsize=4096)
    def trusted(address: str) -> bool:
        if not networks:
            return False
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in networks)

    return trusted


def forwarded_fields(peer: str, secure: bool) -> str:
    """The fields about the peer. They are the same for all requests of a connection whose peer is not trusted."""
    proto = "https" if secure else "http"
    return f"X-Forwarded-For: {peer}\r\nX-Real-IP: {peer}\r\nX-Forwarded-Proto: {proto}\r\n"


def client_address(ex: Exchange, trusted: Callable[[str], bool]) -> str:
    """The client's address: that of the peer. If the peer is trusted, the last address in X-Forwarded-For or Forwarded that is not
    a trusted proxy."""
    peer = ex.client.peer
    if not ex.client.trusted:
        return peer
    chain: list[str] = []
    for name, value in ex.head.edge:
        if name == "x-forwarded-for":
            chain += [item.strip().strip("[]") for item in value.split(",")]
    if not chain:
        for name, value in ex.head.edge:
            if name == "forwarded":
                chain += [quoted or plain for quoted, plain in _FORWARDED_FOR.findall(value)]
    for address in reversed(chain):
        try:
            ipaddress.ip_address(address)
        except ValueError:
            return peer
        if not trusted(address):
            return address
        peer = address
    return peer


def forwarded_secure(ex: Exchange) -> bool:
    """Whether a trusted front says that the client speaks HTTPS to it."""
    return any((name == "x-forwarded-proto" and value.rpartition(",")[2].strip().lower() == "https")
               or (name == "forwarded" and "proto=https" in value.lower()) for name, value in ex.head.edge)


def kept_request_id(ex: Exchange) -> str:
    """The request id that the client sent, if it can be passed on and logged. Otherwise an empty text."""
    for name, value in ex.head.edge:
        if name == "x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return ""


def loops(ex: Exchange, via: str) -> bool:
    """Whether the request has passed this proxy before: its Via contains our own name."""
    return any(name == "via" and via in value and any(via in hop.split() for hop in value.split(",")) for name, value in ex.head.edge)


def max_forwards(ex: Exchange) -> bool:
    """Count Max-Forwards down (RFC 9110 7.6.2). Returns whether the request may go on. A value that is no number stays unchanged."""
    fields = ex.head.headers
    for index, (name, value) in enumerate(fields):
        if name.lower() == "max-forwards" and value.isascii() and value.isdigit() and len(value) < 10:
            if not int(value):
                return False
            fields[index] = (name, str(int(value) - 1))
    return True


def request_head(ex: Exchange, upstream: Upstream, upgrade: str = "") -> bytes:
    """The head of the request for the upstream. `upgrade`: the protocol to upgrade to (RFC 9110 7.8), or empty."""
    head = ex.head
    client = ex.client
    host = ex.head.host if upstream.options.preserve_host and head.host else upstream.authority
    text = f"{head.method} {request_target(ex, upstream)} HTTP/1.1\r\nHost: {host}\r\n" + "".join(
        [f"{name}: {value}\r\n" for name, value in head.end_to_end()])
    if ex.body is not None:
        text += f"Content-Length: {len(ex.body)}\r\n"
    elif head.chunked:
        text += "Transfer-Encoding: chunked\r\n"
    elif head.content_length >= 0:
        text += f"Content-Length: {head.content_length}\r\n"
    if upgrade:
        text += f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n"
    elif head.te_trailers:
        text += "TE: trailers\r\nConnection: TE\r\n"
    if head.edge:
        text += _edge_fields(ex)
    else:
        text += (f"{client.forwarded}X-Forwarded-Host: {head.host or ''}\r\n{_forwarded(client.peer, head.host or '', client.secure)}"
                 f"Via: {PROTOCOLS[head.version]} {client.via}\r\n")
    return f"{text}X-Request-ID: {ex.request_id}\r\n\r\n".encode("latin-1")


def _edge_fields(ex: Exchange) -> str:
    """The forwarding fields for a request that already has some. They are extended if the peer is trusted, and replaced if not."""
    head, client = ex.head, ex.client
    sent: dict[str, list[str]] = {}
    for name, value in head.edge:
        sent.setdefault(name, []).append(value)
    via = ", ".join([*sent.get("via", []), f"{PROTOCOLS[head.version]} {client.via}"])
    if not client.trusted:
        return (f"{client.forwarded}X-Forwarded-Host: {head.host or ''}\r\n{_forwarded(client.peer, head.host or '', client.secure)}"
                f"Via: {via}\r\n")
    chain = ", ".join([*sent.get("x-forwarded-for", []), client.peer])
    proto = sent.get("x-forwarded-proto", ["https" if client.secure else "http"])[-1]
    host = sent.get("x-forwarded-host", [head.host or ""])[-1]
    own = _forwarded(client.peer, head.host or "", client.secure).removeprefix("Forwarded: ").rstrip()
    forwarded = ", ".join([*sent.get("forwarded", []), own])
    others = "".join(
        f"{name.title()}: {value}\r\n"
        for name, values in sent.items()
        if name.startswith("x-forwarded-") and name not in ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")
        for value in values)
    return (f"X-Forwarded-For: {chain}\r\nX-Real-IP: {ex.client_ip}\r\nX-Forwarded-Proto: {proto}\r\nX-Forwarded-Host: {host}\r\n"
            f"Forwarded: {forwarded}\r\nVia: {via}\r\n{others}")


@lru_cache(maxsize=4096)
def _forwarded(peer: str, host: str, secure: bool) -> str:
    """A Forwarded field (RFC 7239 4). IPv6 addresses and hosts with a port are quoted."""
    node = f'"[{peer}]"' if ":" in peer else peer or "unknown"
    named = f'"{host}"' if re.search(r"[^A-Za-z0-9.-]", host) or not host else host
    return f"Forwarded: for={node};host={named};proto={'https' if secure else 'http'}\r\n"


def request_target(ex: Exchange, upstream: Upstream) -> str:
    """The target for the upstream: the backend url's path, then the client's target without strip_prefix.

    Dot segments are resolved and slashes merged as for matching, so that the backend gets what was matched. The option raw_path
    leaves them, unless a prefix is removed or added, because they must not lead out of the prefix.
    """
    target = ex.head.path
    options = upstream.options
    plain = not options.strip_prefix and not upstream.base_path
    if (plain and (options.raw_path or target == ex.path)) or target == "*":
        return target
    path, mark, query = target.partition("?")
    if _UNCLEAN.search(path):
        path = ex.path
    if plain:
        return f"{path}{mark}{query}"
    prefix = upstream.path if options.strip_prefix == "true" else options.strip_prefix
    if prefix and prefix != "/":
        stripped = _without(path, prefix)
        path = _without(ex.path, prefix) or path if stripped is None else stripped
    return f"{upstream.base_path}{path}{mark}{query}"


def _without(path: str, prefix: str) -> str | None:
    """The path without a prefix of whole segments, or None if the path does not have that prefix."""
    if path == prefix:
        return "/"
    return path[len(prefix):] if path.startswith(prefix + "/") else None


def replace_fields(headers: list[tuple[str, str]], new: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """The response headers, in which the fields `new` replace all fields of the same names."""
    names = {name.lower() for name, _ in new}
    kept = [field for field in headers if field[0].lower() not in names]
    kept.extend(new)
    return kept
