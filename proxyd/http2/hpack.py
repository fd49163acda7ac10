"""HPACK (RFC 7541): the fields of a block, and what both directions share. `encoder` writes blocks.

The static table and the Huffman code are the library hpack's. Its coders are not used: a request of eight fields costs theirs 60 µs,
and these 10. jh2's native ones would cost 10 too, but they end in a panic where a block is cut short, and take padding that RFC 7541
5.2 forbids. The tests compare these with hpack's.
"""

from __future__ import annotations

from typing import NoReturn

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

#: Bytes of the dynamic table, ours and at most the client's (RFC 9113 6.5.2).
TABLE_SIZE = 4096
#: What an entry counts besides its bytes.
OVERHEAD = 32
STATIC: tuple[tuple[bytes, bytes], ...] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
#: The index of the newest entry of the dynamic table.
FIRST = len(STATIC) + 1
#: A number beyond this has no use, and more bytes of it are not read.
_MOST = 1 << 24

Field = tuple[bytes, bytes]


class HpackError(Exception):
    """A block that can't be read. The table is lost with it, and so is the connection."""


class ListTooLarge(HpackError):
    """The fields of a block are many times larger than allowed."""


# -- Huffman

#: By state and byte: the next state (-1: not a code), what was decoded, and whether the string may end here. Filled as bytes come.
_Step = tuple[int, bytes, bool]
_steps: list[list[_Step | None]] = [[None] * 256 for _ in range(256)]


def _learn(state: int, byte: int) -> _Step:
    emitted = bytearray()
    flags = 0
    at = state
    for nibble in (byte >> 4, byte & 15):
        at, flags, symbol = HUFFMAN_TABLE[at * 16 + nibble]
        if flags & HUFFMAN_FAIL:
            at = -1
            break
        if flags & HUFFMAN_EMIT_SYMBOL:
            emitted.append(symbol)
    step = (at, bytes(emitted), bool(flags & HUFFMAN_COMPLETE))
    _steps[state][byte] = step
    return step


def decode_huffman(data: bytes) -> bytes:
    """A string from its Huffman code. Raises HpackError."""
    state, whole = 0, True
    steps = _steps
    out = []
    for byte in data:
        state, emitted, whole = steps[state][byte] or _learn(state, byte)
        if state < 0:
            break
        out.append(emitted)
    if state < 0 or not whole:
        raise HpackError("a string is not in the Huffman code")
    return b"".join(out)


# -- reading


def _integer(block: bytes, at: int, prefix: int) -> tuple[int, int]:
    """The rest of a number whose prefix is all ones, and where it ends (RFC 7541 5.1)."""
    value, shift = prefix, 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > _MOST or shift > 28:
            raise HpackError("a number is too large")
        if byte < 0x80:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    first = block[at]
    at += 1
    length = first & 0x7F
    if length == 0x7F:
        length, at = _integer(block, at, 0x7F)
    end = at + length
    if end > len(block):
        raise HpackError("the block ends within a string")
    data = block[at:end]
    return (decode_huffman(data) if first & 0x80 else data), end


class Decoder:
    """Reads the blocks of one connection, in order. `limit`: bytes of a list of fields (RFC 9113 6.5.2) from which on fields are
    left out; a list of four times as much is an error."""

    __slots__ = ("_allowed", "_entries", "_limit", "_size")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._allowed = TABLE_SIZE
        self._entries: list[Field] = []
        self._size = 0

    def decode(self, block: bytes) -> tuple[list[Field], int]:
        """The fields of a block, and the size of all of them. Beyond `limit` the list is not whole. Raises HpackError."""
        try:
            return self._decode(block)
        except IndexError:
            raise HpackError("the block ends within a field, or names an entry that is not there") from None

    def _decode(self, block: bytes) -> tuple[list[Field], int]:
        entries = self._entries
        fields: list[Field] = []
        limit, bound = self._limit, 4 * self._limit
        total = at = 0
        end = len(block)
        while at < end:
            byte = block[at]
            at += 1
            if byte & 0x80:
                index = byte & 0x7F
                if index == 0x7F:
                    index, at = _integer(block, at, 0x7F)
                if index >= FIRST:
                    field = entries[FIRST - 1 - index]
                elif index:
                    field = STATIC[index - 1]
                else:
                    _refuse_zero()
            elif byte & 0xE0 == 0x20:
                at = self._resize(block, at, byte, bool(total))
                continue
            else:
                mask = 0x3F if byte & 0x40 else 0x0F
                index = byte & mask
                if index == mask:
                    index, at = _integer(block, at, mask)
                if index >= FIRST:
                    name = entries[FIRST - 1 - index][0]
                elif index:
                    name = STATIC[index - 1][0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                field = (name, value)
                if byte & 0x40:
                    self._add(field)
            total += len(field[0]) + len(field[1]) + OVERHEAD
            if total <= limit:
                fields.append(field)
            elif total > bound:
                raise ListTooLarge(f"the fields are larger than {bound} bytes")
        return fields, total

    def _resize(self, block: bytes, at: int, byte: int, late: bool) -> int:
        """A change of the table's size (RFC 7541 6.3), which comes before all fields. Returns where it ends."""
        size = byte & 0x1F
        if size == 0x1F:
            size, at = _integer(block, at, 0x1F)
        if late or size > TABLE_SIZE:
            raise HpackError("the size of the table changes where it must not, or to more than allowed")
        self._allowed = size
        self._evict(size)
        return at

    def _add(self, field: Field) -> None:
        size = len(field[0]) + len(field[1]) + OVERHEAD
        self._evict(self._allowed - size)
        if size <= self._allowed:
            self._entries.append(field)
            self._size += size

    def _evict(self, room: int) -> None:
        """Drop the oldest entries until those left have no more bytes than `room`."""
        entries = self._entries
        gone = 0
        while self._size > room and gone < len(entries):
            name, value = entries[gone]
            self._size -= len(name) + len(value) + OVERHEAD
            gone += 1
        if gone:
            del entries[:gone]


def _refuse_zero() -> NoReturn:
    raise HpackError("the index 0 names no field")
