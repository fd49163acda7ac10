"""Reads one response from bytes as they arrive: the head, past informational answers, then the body by its framing.

There is no I/O here. The caller feeds what it received, in pieces of any size, and what comes out does not depend on
how the bytes were cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from proxyd.http1.chunked import ChunkedDecoder
from proxyd.http1.errors import ProtocolError
from proxyd.http1.grammar import RESPONSE_LIMITS, HeadLimits, find_head_end, head_too_large
from proxyd.http1.response import CHUNKED, CLOSE, LENGTH, NONE, ResponseHead, parse_response_head

#: A backend that sends more informational answers than this to one request never comes to an end.
MAX_INFORMATIONAL = 16

_EMPTY_LINE = re.compile(rb"\n\r?\n")
_LINE_FEED = re.compile(rb"\r?\n")
_NO_HEADS: tuple[ResponseHead, ...] = ()


def _lines_end(buffer: bytes) -> int:
    """Like find_head_end, for lines that may end in a line feed alone."""
    found = _EMPTY_LINE.search(buffer)
    return found.end() if found else -1


def whole_head(data: bytes, method: str, limits: HeadLimits) -> tuple[ResponseHead, bytes] | None:
    """The final head, and what came behind it, if the first piece of a response has all of it. None where it takes a HeadReader: the head
    goes on in the next piece, or is informational. Raises ProtocolError 502."""
    end = find_head_end(data)
    if end < 0:
        return None
    head = parse_response_head(data[:end], method, limits)
    return (head, data[end:]) if head.status >= 200 else None


class HeadReader:
    """Finds the head of the final response.

    `informational` are the 1xx heads that ended in the last piece fed, in order. `rest` is what came behind the final
    head. `partial` tells that part of a head has arrived and its end has not.
    """

    __slots__ = ("_bare_lf", "_continues", "_count", "_limits", "_method", "_pending", "_upgrade", "informational", "rest")

    def __init__(self, method: str, limits: HeadLimits = RESPONSE_LIMITS, upgrade: bool = False, bare_lf: bool = False) -> None:
        """`method` is that of the request; `upgrade` tells that it asked to switch protocols, which makes 101 final. `bare_lf`:
        lines may end in a line feed alone, as those of old devices do."""
        self.informational: Sequence[ResponseHead] = _NO_HEADS
        self.rest = b""
        self._method = method
        self._limits = limits
        self._upgrade = upgrade
        self._pending = b""
        self._bare_lf = bare_lf
        self._count = 0
        self._continues = 0

    @property
    def partial(self) -> bool:
        """Whether the connection would end in the middle of a head if it ended now."""
        return bool(self._pending)

    def feed(self, data: bytes) -> ResponseHead | None:
        """The final head once `data` completes it, else None. Raises ProtocolError 502. Must not be fed again after either."""
        known = len(self._pending)
        buffer = self._pending + data if known else data
        self.informational = _NO_HEADS
        bare = self._bare_lf
        end = _lines_end(buffer) if bare else find_head_end(buffer, known)
        while end >= 0:
            raw = buffer[:end]
            head = parse_response_head(_LINE_FEED.sub(b"\r\n", raw) if bare else raw, self._method, self._limits)
            buffer = buffer[end:]
            if head.status >= 200 or (head.status == 101 and self._upgrade):
                self.rest = buffer
                return head
            self._pass_over(head)
            end = _lines_end(buffer) if bare else find_head_end(buffer)
        if len(buffer) > self._limits.head_size:
            raise head_too_large(buffer, self._limits, 502)
        self._pending = buffer
        return None

    def _pass_over(self, head: ResponseHead) -> None:
        if head.status == 101:
            raise ProtocolError(502, "unasked_upgrade", "the upstream switched protocols without being asked")
        # 100 is for the proxy alone, and does not count among those that are passed on.
        if head.status == 100:
            self._continues += 1
        else:
            self._count += 1
        if max(self._count, self._continues) > MAX_INFORMATIONAL:
            raise ProtocolError(502, "too_many_informational", "the upstream sent too many informational responses")
        self.informational = (*self.informational, head)


class BodyReader:
    """Takes the body out of the bytes behind a final head.

    `done` tells that the body is complete; then `leftover` is what came behind it.
    """

    __slots__ = ("_decoder", "_keep_alive", "_kind", "_left", "done", "leftover")

    def __init__(self, head: ResponseHead) -> None:
        self._kind = head.body_kind
        self._keep_alive = head.keep_alive
        self._decoder = ChunkedDecoder(status=502) if head.body_kind == CHUNKED else None
        self._left = head.content_length if head.body_kind == LENGTH else 0
        self.done = head.body_kind == NONE or (head.body_kind == LENGTH and not head.content_length)
        self.leftover = b""

    @property
    def more(self) -> bool:
        """Whether the last piece has not been worked off: feed nothing (b"") then. Many small chunks are taken in turns."""
        return self._decoder is not None and self._decoder.more

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`, which continues what was fed before; perhaps empty. Raises ProtocolError 502."""
        if self.done:
            self.leftover += data
            return b""
        decoder = self._decoder
        if decoder is not None:
            payload = decoder.resume() if decoder.more else decoder.feed(data)
            if decoder.done:
                self.done = True
                self.leftover = decoder.leftover
            return payload
        if self._kind == CLOSE:
            return data
        left = self._left
        if len(data) < left:
            self._left = left - len(data)
            return data
        self.done = True
        self.leftover = data[left:]
        return data[:left]

    def end(self) -> bool:
        """The connection has ended: whether the body is complete with that."""
        if self._kind == CLOSE:
            self.done = True
        return self.done

    @property
    def trailers(self) -> list[tuple[str, str]]:
        """The trailer fields of a chunked body that is done."""
        return self._decoder.trailers if self._decoder is not None else []

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request: the body is done and nothing came behind it."""
        return self._keep_alive and self.done and not self.leftover
