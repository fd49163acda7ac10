"""The chunked transfer coding, both ways (RFC 9112 7.1): a decoder fed with whatever arrived, and its inverse."""

from __future__ import annotations

import re

from proxyd.http1.errors import ProtocolError, shown
from proxyd.http1.fieldnames import OWN_PREFIX, may_be_trailer
from proxyd.http1.grammar import TOKEN

LAST_CHUNK = b"0\r\n\r\n"

_TOKEN = TOKEN.encode()
_QUOTED = rb'"(?:[\t !#-\[\]-~\x80-\xff]|\\[\t -~\x80-\xff])*"'
# No possessive quantifiers: Python 3.11.2, which Debian 12 has, takes an optional part for matched where they gave up.
_EXTENSION = re.compile(rb";[ \t]*%s(?:[ \t]*=[ \t]*(?:%s|%s))?(?:[ \t]+(?=;))?(?=;|\Z)" % (_TOKEN, _TOKEN, _QUOTED))
# 16 digits are all that a 64-bit length can have. White space right after them is "bad" in RFC 9112's own grammar
# (BWS), readers differ on it, and no client sends it: refused.
_PLAIN_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})\r\n")
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(;[^\r\n]*)?\r\n")
# The value begins after white space, so that there is one way alone to read a line, and none to try again and again.
_TRAILER_LINE = re.compile(rb"(%s):[ \t]*((?:[^\x00-\x20\x7f][^\x00-\x08\x0a-\x1f\x7f]*)?)\r\n" % _TOKEN)

_MAX_TRAILERS = 100
# Chunk extensions carry signatures (16 bytes a chunk are free, and as many as there is data); beyond that they are
# bytes that cost us work and never reach a backend.
_MAX_EXCESS = 16384

# Half a millisecond of work.
_CHUNKS_A_TURN = 400

_SIZE, _DATA, _DATA_END, _TRAILERS, _DONE = range(5)


class ChunkedDecoder:
    """Takes a chunked body apart as it arrives; never holds more than one unfinished line.

    `done` tells that the last chunk and its trailer section are complete; then `trailers` are the trailer fields
    (name as sent, value stripped; names with an underscore left out) and `leftover` is what came after.

    A piece of many small chunks is worked off in turns: while `more` is true, `resume` goes on with what `feed` left. A
    megabyte of one-byte chunks takes a quarter of a second, and others wait for the same processor.

    `max_line`: bytes of a chunk-size line with its extensions; `max_trailer`: bytes of the whole trailer section;
    `status`: of the ProtocolErrors raised, 400 for requests and 502 for responses.
    """

    __slots__ = (
        "_at", "_data_left", "_excess", "_held", "_max_line", "_max_trailer", "_pending", "_state", "_status", "_trailer_left",
        "done", "leftover", "more", "trailers",
    )  # fmt: skip

    def __init__(self, max_line: int = 256, max_trailer: int = 16384, status: int = 400) -> None:
        self.done = False
        self.trailers: list[tuple[str, str]] = []
        self.leftover = b""
        self._max_line = max_line
        self._max_trailer = max_trailer
        self._status = status
        self._state = _SIZE
        self._pending = b""  # the unfinished line, or the CR after a chunk's data
        self._data_left = 0
        self._trailer_left = max_trailer
        self._excess = 0
        self.more = False
        self._held = b""  # the piece that `resume` goes on with, and where
        self._at = 0

    def feed(self, data: bytes) -> bytes:
        """The payload in `data`, which continues what was fed before; perhaps empty. Raises ProtocolError.

        After an error, and while `more` is true, the decoder must not be fed again.
        """
        if self._state == _DATA:
            size = len(data)
            if size <= self._data_left:
                self._data_left -= size
                if not self._data_left:
                    self._state = _DATA_END
                return data
        elif self._pending:
            data = self._pending + data
            self._pending = b""
        elif self._state == _SIZE and (found := _PLAIN_SIZE.match(data)) is not None:
            # An event comes alone mostly: one whole chunk, and nothing else.
            start, end = found.end(), len(data) - 2
            if 0 < int(found[1], 16) == end - start and data.endswith(b"\r\n"):
                return data[start:end]
        return self._take(data, 0)

    def resume(self) -> bytes:
        """Go on with the last piece fed; like `feed`."""
        data, self._held = self._held, b""
        self.more = False
        return self._take(data, self._at)

    def _take(self, data: bytes, at: int) -> bytes:
        parts: list[bytes] = []
        end = len(data)
        chunks = 0
        while at < end:
            if self._state == _SIZE:
                if chunks == _CHUNKS_A_TURN:
                    self.more, self._held, self._at = True, data, at
                    break
                chunks += 1
                at = self._read_size(data, at)
            elif self._state == _DATA:
                stop = min(at + self._data_left, end)
                parts.append(data[at:stop])
                self._data_left -= stop - at
                at = stop
                if not self._data_left:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                at = self._read_data_end(data, at)
            elif self._state == _TRAILERS:
                at = self._read_trailer(data, at)
            else:
                self.leftover += data[at:]
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _read_size(self, data: bytes, at: int) -> int:
        """Read the chunk-size line at `at`, or keep what there is of it; returns where to go on."""
        found = _SIZE_LINE.match(data, at, at + self._max_line + 2)
        if found is None or (found[2] and not _well_formed(found[2])):
            return self._keep_line(data, at, self._max_line, "chunk_line_too_long", "bad_chunk_size")
        size = int(found[1], 16)
        self._data_left = size
        self._state = _DATA if size else _TRAILERS
        if found[2]:
            extension = len(found[2])
            self._excess = max(0, self._excess + extension - 16 - size)
            if self._excess > _MAX_EXCESS:
                raise ProtocolError(self._status, "chunk_extensions_too_large", "more chunk extensions than data")
        return found.end()

    def _read_data_end(self, data: bytes, at: int) -> int:
        ending = data[at : at + 2]
        if ending == b"\r\n":
            self._state = _SIZE
            return at + 2
        if ending != b"\r":
            raise ProtocolError(self._status, "bad_chunk_end", "a chunk's data is not followed by CRLF")
        self._pending = ending
        return at + 1

    def _read_trailer(self, data: bytes, at: int) -> int:
        """Read one trailer line, or the empty line that ends the body; returns where to go on."""
        if data[at : at + 2] == b"\r\n":
            self._state = _DONE
            self.done = True
            self.leftover = data[at + 2 :]
            return len(data)
        bound = at + self._trailer_left + 2
        # Looked for first, so that a line which trickles in is not matched again from its beginning each time.
        found = _TRAILER_LINE.match(data, at, bound) if data.find(b"\n", at, bound) >= 0 else None
        if found is None:
            return self._keep_line(data, at, self._trailer_left, "trailers_too_large", "bad_trailer")
        self._trailer_left -= found.end() - at
        name = found[1].decode("latin-1")
        if not may_be_trailer(name.lower()):
            raise ProtocolError(self._status, "forbidden_trailer", f"the field {shown(name)} can't be a trailer")
        if len(self.trailers) >= _MAX_TRAILERS or self._trailer_left < 0:
            raise ProtocolError(self._status, "trailers_too_large", "the trailer section is too large")
        if "_" not in name and not name.lower().startswith(OWN_PREFIX):
            self.trailers.append((name, found[2].decode("latin-1").rstrip(" \t")))
        return found.end()

    def _keep_line(self, data: bytes, at: int, limit: int, too_long: str, malformed: str) -> int:
        """Keep the unfinished line at `at` for the next feed; refuse it if it has ended or is past `limit`."""
        ending = data.find(b"\n", at, at + limit + 2)
        if ending >= 0 and data[ending - 1 : ending] != b"\r":
            raise ProtocolError(self._status, "bare_lf", "a line of the chunked body ends in LF without CR")
        line = data[at : at + 60].partition(b"\r\n")[0].decode("latin-1")
        if ending >= 0:
            raise ProtocolError(self._status, malformed, f"malformed line in the chunked body: {shown(line)}")
        if len(data) - at >= limit + 2:
            raise ProtocolError(self._status, too_long, f"a line of the chunked body is too long: {shown(line)}")
        self._pending = data[at:]
        return len(data)


def _well_formed(extensions: bytes) -> bool:
    """Whether chunk extensions keep to the grammar (RFC 9112 7.1.1)."""
    at = 0
    while at < len(extensions):
        found = _EXTENSION.match(extensions, at)
        if found is None:
            return False
        at = found.end()
    return True


def encode_chunk(data: bytes) -> bytes:
    """`data` as one chunk; nothing for no data, because an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def encode_last_chunk(trailers: list[tuple[str, str]]) -> bytes:
    """The end of a chunked body with trailer fields, which must come from a ChunkedDecoder or be as clean."""
    if not trailers:
        return LAST_CHUNK
    lines = "".join([f"{name}: {value}\r\n" for name, value in trailers])
    return b"0\r\n" + lines.encode("latin-1") + b"\r\n"
