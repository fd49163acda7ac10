"""The first message of a TLS client, looked at where it still lies in the socket.

Python's ssl tells nobody what a client offers by ALPN before it chooses a certificate, and whether a client is asked for a certificate is
settled when its handshake begins, before it has said whom it wants. Where one of that matters, the ClientHello is read ahead.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

import gevent.socket

_RECORD_HEAD = 5
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN = 0, 16
#: RFC 8446 5.1: longest record in the clear.
_LONGEST = 1 << 14


class Hello(NamedTuple):
    """`name`: the server name in lower case, empty if there is none. `protocols`: what is offered by ALPN, as it is in the message
    (RFC 7301 3.1), without the length of the whole."""

    name: str
    protocols: bytes


def peek_hello(sock: Any) -> Hello | None:
    """What a client asks for on a new connection. It waits for the client's first record, and takes nothing off the gevent socket. None
    for whoever sends no TLS, and for a message in several records, which nobody needs. Raises OSError."""
    head = _peek(sock, _RECORD_HEAD)
    if len(head) < _RECORD_HEAD or head[0] != _HANDSHAKE:
        return None
    length = int.from_bytes(head[3:5])
    if length > _LONGEST:
        return None
    return parse_hello(_peek(sock, _RECORD_HEAD + length)[_RECORD_HEAD:])


def _peek(sock: Any, size: int) -> bytes:
    """So many bytes, fewer of a client that has ended."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    try:
        gevent.socket.wait_read(sock.fileno())
        return bytes(sock.recv(size, socket.MSG_PEEK))
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def parse_hello(message: bytes) -> Hello | None:
    """A ClientHello (RFC 8446 4.1.2); None for any other message, and for one that is cut or malformed."""
    try:
        if message[0] != _CLIENT_HELLO or len(message) < 4 + int.from_bytes(message[1:4]):
            return None
        at = 4 + 2 + 32
        at += 1 + message[at]
        at += 2 + _short(message, at)
        at += 1 + message[at]
        end = at + 2 + _short(message, at)
        at += 2
        found: dict[int, bytes] = {}
        while at < end:
            kind, size = _short(message, at), _short(message, at + 2)
            found[kind] = message[at + 4:at + 4 + size]
            at += 4 + size
        return Hello(_name(found.get(_SERVER_NAME, b"")), found.get(_ALPN, b"")[2:])
    except (IndexError, struct.error, UnicodeDecodeError):
        return None


def _name(extension: bytes) -> str:
    """The only name of the extension (RFC 6066 3)."""
    if not extension:
        return ""
    if extension[2] != 0 or len(extension) != 5 + _short(extension, 3):
        return ""
    return extension[5:].decode("ascii").lower()


def _short(message: bytes, at: int) -> int:
    return int(struct.unpack_from("!H", message, at)[0])
