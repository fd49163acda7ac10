"""Who the client is: its address, and the scheme, host and port that it sees. Headers, logs, limits, cookies and redirects ask here.

For most requests that is what the connection shows. A peer in trusted_proxies tells it in fields instead: X-Forwarded-*, or
Forwarded (RFC 7239). Only one of the two forms is believed, because a front passes on the form that it does not know, as its
client wrote it. What is believed is told to the backend in both.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from proxyd.base.text import UNIX, TrustedPeer
from proxyd.http1 import ProtocolError
from proxyd.http1.target import check_host
from proxyd.net.clientcert import FINGERPRINT_FIELD, SUBJECT_FIELD

if TYPE_CHECKING:
    from proxyd.http1 import RequestHead
    from proxyd.net.clientcert import ClientCertificate
    from proxyd.proxy.core.clientside import ClientSide

_PORTS = {"http": 80, "https": 443}
_SCHEMES = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
#: A front that sends one of these speaks this form. Whatever Forwarded says then may be the client's.
_X_FORM = ("x-forwarded-for", "x-forwarded-proto", "x-forwarded-host")
#: The fields that `told_fields` makes. A trusted proxy's other X-Forwarded-* are passed on as they are.
TOLD = frozenset((*_X_FORM, "x-forwarded-port", SUBJECT_FIELD.lower(), FINGERPRINT_FIELD.lower()))
#: One parameter of Forwarded, or none, and what ends it. Unquoted colons and brackets are no tokens, but they are common.
_PARAMETER = re.compile(
    r"""[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^",;\s]*)))?[ \t]*([,;]|\Z)""")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f:.]+)\](?::([0-9]{1,5}))?")
_WITH_PORT = re.compile(r"([0-9.]+):([0-9]{1,5})")


class Hop(NamedTuple):
    """What one proxy on the way said of its own client. Empty where it said nothing, and where its words can't be used."""

    address: str
    port: str = ""
    scheme: str = ""
    host: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """The client as trusted proxies describe it.

    `address`: never empty; that of the last known proxy if it hides its client. `host`: as the client sent it, empty if unknown.
    `port`: the one that the client connected to. `way`: the believed hops, the client's first; empty if no proxy named any.
    `x_form`: whether X-Forwarded-* were believed. `agrees`: whether Forwarded, which came too, says the same.
    """

    address: str
    scheme: str
    host: str
    port: int
    way: tuple[Hop, ...]
    x_form: bool
    agrees: bool


def trust_check(trusted_peers: tuple[TrustedPeer, ...]) -> Callable[[str], bool]:
    """A cached function that tells whether an address is in one of the networks. `unix` stands for the peer of a UNIX socket."""
    networks = tuple(peer for peer in trusted_peers if not isinstance(peer, str))

    @lru_cache(maxsize=4096)
    def trusted(address: str) -> bool:
        if not networks or address == UNIX:
            return address in trusted_peers
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in networks)

    return trusted


def identify(client: ClientSide, head: RequestHead, trusted: Callable[[str], bool]) -> Origin | None:
    """The client of a request from a trusted peer, or None if the peer says nothing of another one."""
    sent: dict[str, list[str]] = {}
    for name, value in head.edge:
        sent.setdefault(name, []).append(value)
    x_form = any(name in sent for name in _X_FORM)
    if not x_form and "forwarded" not in sent:
        return None
    peer = client.peer
    told, tellers = _believed(peer, [hop for value in sent.get("forwarded", ()) for hop in parse_forwarded(value)], trusted)
    first = tellers[0] if tellers else Hop("")
    port = 0
    if x_form:
        address, way = _believed(peer, [Hop(*_node(item)) for item in _elements(sent.get("x-forwarded-for", ()))], trusted)
        depth = max(len(way) - 1, 0)
        scheme = _SCHEMES.get(_of_hop(sent, "x-forwarded-proto", depth).lower(), "")
        host = _host(_of_hop(sent, "x-forwarded-host", depth))
        port = _port(_of_hop(sent, "x-forwarded-port", depth))
    else:
        address, way, scheme, host = told, tellers, first.scheme, first.host
    scheme = scheme or ("https" if client.secure else "http")
    host = host or head.host or ""
    agrees = bool(tellers) and told == address and first.scheme in ("", scheme) and first.host.lower() in ("", host.lower())
    port = port or _port(host.rpartition("]")[2].partition(":")[2]) or _PORTS[scheme]
    return Origin(address, scheme, host, port, tuple(way), x_form, agrees)


def _believed(peer: str, way: list[Hop], trusted: Callable[[str], bool]) -> tuple[str, list[Hop]]:
    """The client's address, and the part of the way that begins with it: from the right, over all trusted proxies.

    What stands further left was written by the client. If a trusted proxy hides who its client is, nobody can tell, and that
    proxy counts as the client.
    """
    address = peer
    for index in range(len(way) - 1, -1, -1):
        if not way[index].address:
            return address, way[index:]
        address = way[index].address
        if not trusted(address):
            return address, way[index:]
    return address, way


def _elements(values: Sequence[str]) -> list[str]:
    return [item for value in values for item in (part.strip(" \t") for part in value.split(",")) if item]


def _of_hop(sent: dict[str, list[str]], name: str, depth: int) -> str:
    """The element of a field that belongs to the hop before `depth` trusted proxies. A proxy that does not add to the field leaves
    it shorter; then the first element is meant."""
    items = _elements(sent.get(name, ()))
    return items[-1 - min(depth, len(items) - 1)].strip('"') if items else ""


@lru_cache(maxsize=4096)
def _node(text: str) -> tuple[str, str]:
    """Address and port of an element of X-Forwarded-For or of a `for` (RFC 7239 6). Both are empty for `unknown`, hidden names, and
    what is no address."""
    text = text.strip('"')
    found = _BRACKETED.fullmatch(text) or _WITH_PORT.fullmatch(text)
    address, port = (found[1], found[2] or "") if found else (text, "")
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return "", ""
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.scope_id is not None:
            return "", ""
        ip = ip.ipv4_mapped or ip
    return str(ip), port


def _host(text: str) -> str:
    """The host, if it is one. A trusted front may pass on what its client wrote, so it is checked like Host."""
    try:
        check_host(text)
    except ProtocolError:
        return ""
    return text


def _port(text: str) -> int:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else 0
    return number if number <= 65535 else 0


@lru_cache(maxsize=1024)
def parse_forwarded(value: str) -> tuple[Hop, ...]:
    """The hops of a Forwarded value (RFC 7239 4). A value that can't be read counts as one hop of which nothing is known."""
    hops: list[Hop] = []
    found: dict[str, str] = {}
    at = 0
    while True:
        match = _PARAMETER.match(value, at)
        if match is None:
            return (Hop(""),)
        name, quoted, plain, end = match.groups()
        if name:
            if name.lower() in found:
                return (Hop(""),)
            found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
        if end != ";":
            if found:
                hops.append(Hop(*_node(found.get("for", "")), _SCHEMES.get(found.get("proto", "").lower(), ""),
                                _host(found.get("host", ""))))
            found = {}
        if not end:
            return tuple(hops)
        at = match.end()


# -- what the backend is told -----------------------------------------------------------------------------------------


def forwarded_fields(peer: str, secure: bool, certificate: ClientCertificate | None = None) -> str:
    """The fields about the peer. They are the same for all requests of a connection whose peer is not trusted."""
    proto = "https" if secure else "http"
    return f"X-Forwarded-For: {peer}\r\nX-Real-IP: {peer}\r\nX-Forwarded-Proto: {proto}\r\n{_certificate_fields(certificate)}"


def _certificate_fields(certificate: ClientCertificate | None) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in certificate.fields]) if certificate is not None else ""


@lru_cache(maxsize=4096)
def forwarded(peer: str, host: str, secure: bool) -> str:
    """The Forwarded field (RFC 7239 4) about the peer."""
    return f"Forwarded: {_hop_text(Hop(peer, '', 'https' if secure else 'http', host), True)}\r\n"


def _hop_text(hop: Hop, with_host: bool) -> str:
    """An element of Forwarded. IPv6 addresses, ports and hosts with a port are quoted. A UNIX socket has no address."""
    node = hop.address if hop.address and hop.address != UNIX else "unknown"
    if ":" in node or hop.port:
        node = f'"[{node}]' if ":" in node else f'"{node}'
        node += f':{hop.port}"' if hop.port else '"'
    if not with_host:
        return f"for={node}"
    named = f'"{hop.host}"' if re.search(r"[^A-Za-z0-9.-]", hop.host) or not hop.host else hop.host
    return f"for={node};host={named};proto={hop.scheme}"


def forwarded_chain(client: ClientSide, head: RequestHead, origin: Origin | None) -> str:
    """The X-Forwarded-For that a request to another service has: what trusted proxies said, and the peer."""
    if origin is None:
        return client.peer
    chain = [value for name, value in head.edge if name == "x-forwarded-for"]
    if not origin.x_form or not chain:
        chain = [hop.address or "unknown" for hop in origin.way]
    # The peer of a UNIX socket has no address. Backends that look for the first untrusted one from the right must not meet it.
    if client.peer != UNIX or not chain:
        chain.append(client.peer)
    return ", ".join(chain)


def told_fields(client: ClientSide, head: RequestHead, origin: Origin) -> str:
    """The forwarding fields for a request of a trusted proxy: those that it sent, with the peer added, and the same in the other
    form."""
    elements = [value for name, value in head.edge if name == "forwarded"]
    own = Hop(client.peer, "", "https" if client.secure else "http", head.host or "")
    if origin.x_form and not origin.agrees:
        first, *others = (*origin.way, own)
        elements = [_hop_text(Hop(first.address, first.port, origin.scheme, origin.host), True),
                    *(_hop_text(hop, hop is own) for hop in others)]
    else:
        elements.append(_hop_text(own, True))
    return (f"X-Forwarded-For: {forwarded_chain(client, head, origin)}\r\nX-Real-IP: {origin.address}\r\n"
            f"X-Forwarded-Proto: {origin.scheme}\r\nX-Forwarded-Host: {origin.host}\r\n"
            f"X-Forwarded-Port: {origin.port}\r\nForwarded: {', '.join(elements)}\r\n{_certificate_fields(client.certificate)}")
