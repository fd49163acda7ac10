"""The PROXY protocol, versions 1 and 2: a header in front of a connection's bytes, by which a proxy says whose connection it passes on.

Specification: haproxy.org, proxy-protocol.txt. What is read is bounded, and nothing beyond the header is taken.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import struct
from typing import Any, NamedTuple

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
#: Longest header of version 1, and longest rest of one of version 2 (addresses, and what else the front tells of the client).
_LONGEST_TEXT, _LONGEST_REST = 107, 4096
_TEXT = re.compile(r"PROXY (?:UNKNOWN(?: [ -~]*)?|TCP([46]) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+) (\d{1,5}) (\d{1,5}))\r\n")
_LOCAL, _PROXIED = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
#: Bytes of the addresses and ports of each family.
_ADDRESSES = {_TCP4: 12, _TCP6: 36}
#: What is added to a header of version 2 (2.2.7: types from 0xE0 on are free to use): the proxyd host that passes the connection on, and
#: which process of it.
_HOST, _PROCESS, _EXTRA = 0xE0, 0xE1, struct.Struct("!BH")
_LONGEST_EXTRA = 64


class ProxyHeaderError(Exception):
    """A connection does not begin with a header of the protocol, or with a malformed one."""


class Via(NamedTuple):
    """The name of the proxyd host that passes a connection on, and a mark of its process: another process has another one. Both are empty
    if none does."""

    host: str = ""
    process: str = ""


def read_header(sock: Any) -> str | None:
    """Read the header from a socket, and nothing more. Returns the address of the client; None if the header names none: then the
    connection is the front's own. Sets no time limit. Raises ProxyHeaderError and OSError."""
    return read_relayed(sock)[0]


def read_relayed(sock: Any) -> tuple[str | None, Via]:
    """The same, and who passes the connection on."""
    begin = _exactly(sock, len(_SIGNATURE))
    if begin == _SIGNATURE:
        kind, family, length = struct.unpack("!BBH", _exactly(sock, 4))
        if length > _LONGEST_REST:
            raise ProxyHeaderError("the header is too long")
        rest = _exactly(sock, length)
        return _address(kind, family, rest), _relaying(rest[_ADDRESSES.get(family, length):])
    if not begin.startswith(b"PROXY "):
        raise ProxyHeaderError("the connection does not begin with a header of the PROXY protocol")
    while not begin.endswith(b"\r\n"):
        seen = sock.recv(_LONGEST_TEXT - len(begin), socket.MSG_PEEK) if len(begin) < _LONGEST_TEXT else b""
        if not seen:
            raise ProxyHeaderError("the header has no end")
        end = seen.find(b"\n")
        begin += _exactly(sock, end + 1 if end >= 0 else len(seen))
        if end >= 0:
            break
    return _address_in_text(begin), Via()


def _relaying(extras: bytes) -> Via:
    at, found = 0, {}
    while len(extras) - at >= _EXTRA.size:
        kind, length = _EXTRA.unpack_from(extras, at)
        at += _EXTRA.size
        if length <= _LONGEST_EXTRA:
            found[kind] = extras[at:at + length].decode("ascii", "replace")
        at += length
    return Via(found.get(_HOST, ""), found.get(_PROCESS, ""))


def header(version: str, client: str, target: tuple[str, int] | None, via: Via | None = None) -> bytes:
    """The header for a connection of a client: its address, of which no port is known, and where the connection goes (None: to a UNIX
    socket). Without an address of the client, the header says that the connection is the proxy's own.
    `via`: the proxyd host that passes the connection on, with version 2."""
    try:
        source: Any = ipaddress.ip_address(client)
    except ValueError:
        return b"PROXY UNKNOWN\r\n" if version == "v1" else _SIGNATURE + struct.pack("!BBH", _LOCAL, 0, 0)
    place, port = target if target is not None else (client, 0)
    to: Any = ipaddress.ip_address(place.partition("%")[0])
    if source.version != to.version:
        source, to = _as_six(source), _as_six(to)
    if version == "v1":
        return f"PROXY TCP{source.version} {_text(source)} {_text(to)} 0 {port}\r\n".encode()
    addresses: bytes = source.packed + to.packed + struct.pack("!HH", 0, port)
    for kind, text in zip((_HOST, _PROCESS), via or (), strict=False):
        data = text.encode()[:_LONGEST_EXTRA]
        addresses += _EXTRA.pack(kind, len(data)) + data
    return _SIGNATURE + struct.pack("!BBH", _PROXIED, _TCP4 if source.version == 4 else _TCP6, len(addresses)) + addresses


def _text(ip: Any) -> str:
    return str(ip) if getattr(ip, "ipv4_mapped", None) is None else f"::ffff:{ip.ipv4_mapped}"


def _as_six(ip: Any) -> Any:
    return ip if ip.version == 6 else ipaddress.IPv6Address(f"::ffff:{ip}")


def _exactly(sock: Any, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise ProxyHeaderError("the connection ended in the header")
        data += piece
    return data


def _address_in_text(line: bytes) -> str | None:
    found = _TEXT.fullmatch(line.decode("latin-1"))
    if found is None:
        raise ProxyHeaderError("the header of version 1 is malformed")
    if found[1] is None:
        return None
    try:
        source, target = ipaddress.ip_address(found[2]), ipaddress.ip_address(found[3])
    except ValueError:
        raise ProxyHeaderError("the header of version 1 has an address that is none") from None
    if {source.version, target.version} != {int(found[1])} or int(found[4]) > 65535 or int(found[5]) > 65535:
        raise ProxyHeaderError("the header of version 1 contradicts itself")
    return str(getattr(source, "ipv4_mapped", None) or source)


def _address(kind: int, family: int, rest: bytes) -> str | None:
    if kind == _LOCAL:
        return None
    if kind != _PROXIED:
        raise ProxyHeaderError("the header of version 2 has an unknown command")
    size = {_TCP4: 4, _TCP6: 16}.get(family)
    if size is None:
        return None
    if len(rest) < 2 * size + 4:
        raise ProxyHeaderError("the header of version 2 is too short for its addresses")
    source = ipaddress.ip_address(rest[:size])
    return str(getattr(source, "ipv4_mapped", None) or source)
