"""Frames as bytes (RFC 9113 4 and 6): numbers of types, flags and settings, and what makes frames."""

from __future__ import annotations

import struct
from collections.abc import Sequence

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9
#: The largest payload that is sent and taken: the one that everybody takes. Larger ones would make turns longer.
MAX_PAYLOAD = 16384
MAX_WINDOW = 2**31 - 1
FIRST_WINDOW = 65535

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
PRIORITY_UPDATE = 16

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)
ENABLE_CONNECT_PROTOCOL = 8
NO_RFC7540_PRIORITIES = 9

_HEADER = struct.Struct(">BHBBL")
_SETTING = struct.Struct(">HL")
_LONG = struct.Struct(">L")
_TWO_LONGS = struct.Struct(">LL")


def frame_header(length: int, kind: int, flags: int, stream: int) -> bytes:
    """The nine bytes before a payload."""
    return _HEADER.pack(length >> 16, length & 0xFFFF, kind, flags, stream)


def settings(pairs: Sequence[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    payload = b"".join([_SETTING.pack(key, value) for key, value in pairs])
    return frame_header(len(payload), SETTINGS, 0, 0) + payload


SETTINGS_ACK = frame_header(0, SETTINGS, ACK, 0)


def window_update(stream: int, size: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame_header(4, WINDOW_UPDATE, 0, stream) + _LONG.pack(size)


def reset(stream: int, code: int) -> bytes:
    """A RST_STREAM frame."""
    return frame_header(4, RST_STREAM, 0, stream) + _LONG.pack(code)


def ping(payload: bytes, flags: int = 0) -> bytes:
    """A PING frame."""
    return frame_header(8, PING, flags, 0) + payload


def goaway(last_stream: int, code: int, detail: str = "") -> bytes:
    """A GOAWAY frame."""
    payload = _TWO_LONGS.pack(last_stream, code) + detail.encode("ascii", "replace")
    return frame_header(len(payload), GOAWAY, 0, 0) + payload


def headers(stream: int, block: bytes, end: bool) -> bytes:
    """A HEADERS frame, and as many CONTINUATION frames as the block takes."""
    flags = END_STREAM if end else 0
    if len(block) <= MAX_PAYLOAD:
        return frame_header(len(block), HEADERS, flags | END_HEADERS, stream) + block
    pieces = [block[at : at + MAX_PAYLOAD] for at in range(0, len(block), MAX_PAYLOAD)]
    parts = [frame_header(MAX_PAYLOAD, HEADERS, flags, stream), pieces[0]]
    for piece in pieces[1:-1]:
        parts += (frame_header(MAX_PAYLOAD, CONTINUATION, 0, stream), piece)
    parts += (frame_header(len(pieces[-1]), CONTINUATION, END_HEADERS, stream), pieces[-1])
    return b"".join(parts)


def number(payload: bytes) -> int:
    """A payload of four bytes as the number that it is."""
    value: int = _LONG.unpack(payload)[0]
    return value


def pairs(payload: bytes) -> list[tuple[int, int]]:
    """The payload of a SETTINGS frame."""
    return list(_SETTING.iter_unpack(payload))
