"""The bounds of a PROXY protocol header, and that nothing behind it is read."""

from __future__ import annotations

import socket
import struct

import pytest

from proxyd.net.proxyprotocol import ProxyHeaderError, read_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = socket.inet_aton("203.0.113.7") + socket.inet_aton("10.0.0.1") + struct.pack("!HH", 4711, 80)


def second(rest: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11, len(rest)) + rest


def read(data: bytes) -> str | None:
    """What read_header says of these bytes, which another request follows."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(data + b"GET / ")
        theirs.shutdown(socket.SHUT_WR)
        found = read_header(ours)
        assert ours.recv(100) == b"GET / ", "nothing beyond the header is taken"
        return found


@pytest.mark.parametrize(("data", "client"), [
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None),
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 65535 65535\r\n", "203.0.113.7"),
    (second(FOUR), "203.0.113.7"),
    (second(FOUR + b"\0" * (4096 - len(FOUR))), "203.0.113.7"),
])
def test_the_longest_and_the_shortest_are_read(data: bytes, client: str | None) -> None:
    assert read(data) == client


@pytest.mark.parametrize(("data", "what"), [
    (b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n", "malformed|no end"),
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 65536 80\r\n", "contradicts"),
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 80 65536\r\n", "contradicts"),
    (b"PROXY TCP6 203.0.113.7 10.0.0.1 80 80\r\n", "contradicts"),
    (second(FOUR[:-1]), "too short"),
    (second(FOUR + b"\0" * (4097 - len(FOUR))), "too long"),
    (SIGNATURE + struct.pack("!BBH", 0x11, 0x11, 12) + FOUR, "unknown command"),
])
def test_one_more_or_one_less_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ProxyHeaderError, match=what):
        read(data)
