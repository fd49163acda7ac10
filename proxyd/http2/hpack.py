"""HPACK (RFC 7541): fields to bytes and back.

The static table and the Huffman code are the library hpack's. Its coders are not used: a request of eight fields costs theirs 60 µs,
and these 10. jh2's native ones would cost 10 too, but they end in a panic where a block is cut short, and take padding that RFC 7541
5.2 forbids. The tests compare these with hpack's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import NoReturn

from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE
from hpack.table import HeaderTable

#: Bytes of the dynamic table, ours and at most the client's (RFC 9113 6.5.2).
TABLE_SIZE = 4096
_OVERHEAD = 32
_STATIC: tuple[tuple[bytes, bytes], ...] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_FIRST = len(_STATIC) + 1
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
                if index >= _FIRST:
                    field = entries[_FIRST - 1 - index]
                elif index:
                    field = _STATIC[index - 1]
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
                if index >= _FIRST:
                    name = entries[_FIRST - 1 - index][0]
                elif index:
                    name = _STATIC[index - 1][0]
                else:
                    name, at = _string(block, at)
                value, at = _string(block, at)
                field = (name, value)
                if byte & 0x40:
                    self._add(field)
            total += len(field[0]) + len(field[1]) + _OVERHEAD
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
        size = len(field[0]) + len(field[1]) + _OVERHEAD
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
            self._size -= len(name) + len(value) + _OVERHEAD
            gone += 1
        if gone:
            del entries[:gone]


def _refuse_zero() -> NoReturn:
    raise HpackError("the index 0 names no field")


# -- writing

_LENGTHS = [bytes((length,)) for length in range(127)]
_INDEXED = [bytes((0x80 | index,)) for index in range(127)]
#: The values of these differ from answer to answer: in the table they would only push out others.
_VOLATILE = frozenset((
    "content-length", "content-range", "etag", "expires", "last-modified", "location", "set-cookie", "x-request-id", "retry-after",
    "age", "grpc-message", "traceparent"))
#: Those of HTTP/1.1's connections, which have no meaning here (RFC 9113 8.2.2).
_FORBIDDEN = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_LONGEST_ENTRY = 512
_NAMES_KEPT = 1024

_static_names: dict[str, int] = {}
for _index, (_name, _value) in reversed(list(enumerate(_STATIC, 1))):
    _static_names[_name.decode()] = _index
_static_fields = {(name.decode(), value.decode()): _INDEXED[index] for index, (name, value) in enumerate(_STATIC, 1) if value}


class _Name:
    """What is known of a field's name: how a field of it begins with and without an entry in the table, its size, what is done."""

    __slots__ = ("forbidden", "indexed", "lower", "plain", "size", "volatile")

    def __init__(self, name: str) -> None:
        lower = self.lower = name.lower()
        index = _static_names.get(lower, 0)
        encoded = lower.encode("latin-1")
        string = b"" if index else _text(encoded)
        self.indexed = bytes((0x40 | index,)) + string
        self.plain = (bytes((index,)) if index < 15 else bytes((15, index - 15))) + string
        self.size = len(encoded) + _OVERHEAD
        self.volatile = lower in _VOLATILE
        self.forbidden = lower in _FORBIDDEN


_names: dict[str, _Name] = {}


def _known(name: str) -> _Name:
    known = _Name(name)
    if len(name) <= 64:
        if len(_names) >= _NAMES_KEPT:
            _names.clear()
        _names[name] = known
    return known


def _number(value: int, prefix: int, first: int) -> bytes:
    """A number behind the bits `first` of its first byte, whose other bits are `prefix` (RFC 7541 5.1)."""
    if value < prefix:
        return bytes((first | value,))
    out = bytearray((first | prefix,))
    value -= prefix
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _text(data: bytes) -> bytes:
    length = len(data)
    return (_LENGTHS[length] if length < 127 else _number(length, 0x7F, 0)) + data


class Encoder:
    """Writes the blocks of one connection, in the order in which they are sent. Strings are not Huffman-coded: that costs more
    processor time than the bytes are worth."""

    __slots__ = ("_count", "_limit", "_order", "_size", "_sizes", "_table")

    def __init__(self) -> None:
        self._limit = TABLE_SIZE
        self._size = 0
        #: Which entry a field is (the first that was ever made is 1), and the entries by age with their sizes.
        self._table: dict[tuple[str, str], int] = {}
        self._order: deque[tuple[tuple[str, str], int]] = deque()
        self._count = 0
        self._sizes: list[int] = []

    def resize(self, size: int) -> None:
        """The peer's table has this size now (its SETTINGS_HEADER_TABLE_SIZE)."""
        size = min(size, TABLE_SIZE)
        if size == self._limit and not self._sizes:
            return
        self._limit = size
        self._evict(0)
        # The smallest and the last since the block before are told, in this order (RFC 7541 4.2).
        self._sizes = [size] if not self._sizes or size <= self._sizes[0] else [self._sizes[0], size]

    def encode(self, fields: Iterable[tuple[str, str]], status: int = 0) -> bytes:
        """The block of a response's head with a `status`, or of trailers."""
        out: list[bytes] = []
        if self._sizes:
            out += [_number(size, 0x1F, 0x20) for size in self._sizes]
            self._sizes = []
        if status:
            self._put((":status", str(status)), out)
        table = self._table
        for field in fields:
            place = table.get(field)
            if place is None:
                self._put(field, out)
            else:
                index = _FIRST + self._count - place
                out.append(_INDEXED[index] if index < 127 else _number(index, 0x7F, 0x80))
        return b"".join(out)

    def _put(self, field: tuple[str, str], out: list[bytes]) -> None:
        """Write a field that is not in the table, or perhaps only under another spelling."""
        name, value = field
        known = _names.get(name) or _known(name)
        if known.forbidden:
            return
        static = _static_fields.get((known.lower, value))
        if static is not None:
            out.append(static)
            return
        data = value.encode("latin-1")
        size = known.size + len(data)
        if known.volatile or size > _LONGEST_ENTRY or size > self._limit:
            out += (known.plain, _text(data))
            return
        place = self._table.get(field)
        if place is not None:
            out.append(_number(_FIRST + self._count - place, 0x7F, 0x80))
            return
        out += (known.indexed, _text(data))
        self._evict(size)
        self._count += 1
        self._table[field] = self._count
        self._order.append((field, size))
        self._size += size

    def _evict(self, room: int) -> None:
        """Drop the oldest entries until there is that much room."""
        while self._order and self._size + room > self._limit:
            field, size = self._order.popleft()
            self._size -= size
            del self._table[field]
