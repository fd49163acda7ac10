"""Finds where WebSocket frames end (RFC 6455 5.2), and makes the close frame. Payloads are never read."""

from __future__ import annotations

import os

from gevent.event import Event

#: Going away (RFC 6455 7.4.1).
GOING_AWAY = 1001


class FrameBoundary:
    """Follows the frames in a byte stream, so that a frame of the proxy can be put between two of them.

    `sending`: whether some of the bytes are still being sent. `heard`: whether some have come since it was set to False. `pinging`:
    is set while a ping of the proxy is being sent, and wakes those who wait for its end.
    """

    __slots__ = ("_header", "_left", "heard", "pinging", "sending")

    def __init__(self) -> None:
        self.sending = False
        self.heard = False
        self.pinging: Event | None = None
        self._header = b""
        self._left = 0

    @property
    def between(self) -> bool:
        """Whether the bytes so far end with a whole frame."""
        return not self._left and not self._header

    def skip(self, data: bytes) -> bool:
        """Follow bytes if all belong to one frame, of which more may come. Otherwise do nothing and return False."""
        size = len(data)
        left = self._left
        if not left and not self._header and 0 < (header := _header_size(data)) <= size:
            # A message mostly comes as one frame, and alone.
            left = header + _payload_size(data)
        if size > left:
            return False
        self._left = left - size
        return True

    def feed(self, data: bytes | memoryview) -> None:
        """Follow the next bytes of the stream."""
        at, size = 0, len(data)
        while at < size:
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            self._header += bytes(data[at : at + 1])
            at += 1
            needed = _header_size(self._header)
            if needed and len(self._header) < needed:
                take = bytes(data[at : at + needed - len(self._header)])
                self._header += take
                at += len(take)
            if needed and len(self._header) == needed:
                self._left = _payload_size(self._header)
                self._header = b""


def _header_size(header: bytes) -> int:
    """The length of the whole frame header in bytes, 0 if it is not known yet. `header`: its first bytes, or more."""
    if len(header) < 2:
        return 0
    length = header[1] & 0x7F
    return 2 + (2 if length == 126 else 8 if length == 127 else 0) + (4 if header[1] & 0x80 else 0)


def _payload_size(header: bytes) -> int:
    length = header[1] & 0x7F
    if length == 126:
        return int.from_bytes(header[2:4], "big")
    if length == 127:
        return int.from_bytes(header[2:10], "big")
    return length


def close_frame(code: int, masked: bool) -> bytes:
    """A close frame with a status code. `masked`: as frames to a server must be (RFC 6455 5.3)."""
    payload = code.to_bytes(2, "big")
    if not masked:
        return b"\x88\x02" + payload
    mask = os.urandom(4)
    return b"\x88\x82" + mask + bytes(byte ^ mask[index] for index, byte in enumerate(payload))


def ping_frame(masked: bool) -> bytes:
    """A ping without a payload. The pong goes on to the other side, which ignores it (RFC 6455 5.5.3)."""
    return b"\x89\x80" + os.urandom(4) if masked else b"\x89\x00"
