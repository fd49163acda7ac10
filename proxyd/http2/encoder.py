"""HPACK (RFC 7541), written: fields to blocks."""

from __future__ import annotations

from collections.abc import Iterable

from proxyd.http2.hpack import FIRST, OVERHEAD, STATIC, TABLE_SIZE

_LENGTHS = [bytes((length,)) for length in range(127)]
_INDEXED = [bytes((0x80 | index,)) for index in range(127)]
#: The values of these differ from message to message: in the table they would only push out others.
_VOLATILE = frozenset((
    "content-length", "content-range", "etag", "expires", "last-modified", "location", "set-cookie", "x-request-id", "retry-after",
    "age", "grpc-message", "traceparent",
    "authorization", "cookie", "forwarded", "x-forwarded-for", "x-real-ip", "grpc-timeout"))
#: Those of HTTP/1.1's connections, which have no meaning here (RFC 9113 8.2.2).
_FORBIDDEN = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_LONGEST_ENTRY = 512
_NAMES_KEPT = 1024

_static_names: dict[str, int] = {}
for _index, (_name, _value) in reversed(list(enumerate(STATIC, 1))):
    _static_names[_name.decode()] = _index
#: Statuses that are in the static table.
_STATUSES = {int(value): _INDEXED[index] for index, (name, value) in enumerate(STATIC, 1) if name == b":status"}
_static_fields = {(name.decode(), value.decode()): _INDEXED[index] for index, (name, value) in enumerate(STATIC, 1) if value}


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
        self.size = len(encoded) + OVERHEAD
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
        self._order: list[tuple[tuple[str, str], int]] = []
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
            known = _STATUSES.get(status)
            if known is None:
                self._put((":status", str(status)), out)
            else:
                out.append(known)
        table = self._table
        for field in fields:
            place = table.get(field)
            if place is None:
                self._put(field, out)
            else:
                index = FIRST + self._count - place
                out.append(_INDEXED[index] if index < 127 else _number(index, 0x7F, 0x80))
        return b"".join(out)

    def _put(self, field: tuple[str, str], out: list[bytes]) -> None:
        """Write a field that is not in the table, or perhaps only under another spelling."""
        name, value = field
        known = _names.get(name) or _known(name)
        if known.forbidden:
            return
        if known.volatile:
            # None of these has a value in the static table.
            out += (known.plain, _text(value.encode("latin-1")))
            return
        static = _static_fields.get((known.lower, value))
        if static is not None:
            out.append(static)
            return
        data = value.encode("latin-1")
        size = known.size + len(data)
        if size > _LONGEST_ENTRY or size > self._limit:
            out += (known.plain, _text(data))
            return
        place = self._table.get(field)
        if place is not None:
            out.append(_number(FIRST + self._count - place, 0x7F, 0x80))
            return
        out += (known.indexed, _text(data))
        self._evict(size)
        self._count += 1
        self._table[field] = self._count
        self._order.append((field, size))
        self._size += size

    def _evict(self, room: int) -> None:
        """Drop the oldest entries until there is that much room."""
        order = self._order
        gone = 0
        while gone < len(order) and self._size + room > self._limit:
            field, size = order[gone]
            self._size -= size
            del self._table[field]
            gone += 1
        if gone:
            del order[:gone]
