"""The HPACK coder does what the library hpack does, and refuses what RFC 7541 forbids."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.http2.encoder import Encoder
from proxyd.http2.hpack import Decoder, HpackError, ListTooLarge

NAMES = st.sampled_from([b":path", b":status", b"cookie", b"x-a", b"x-long-name-" * 3, b"accept", b"", b"\xff\x00"])
VALUES = st.one_of(st.binary(max_size=40), st.text("abc019/-; =", max_size=400).map(str.encode), st.just(b"gzip, deflate"))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=8)


def told(block: bytes, decoder: Decoder) -> object:
    """What our decoder says to a block: its fields, or an error."""
    try:
        return decoder.decode(block)[0]
    except HpackError:
        return "error"


def expected(block: bytes, decoder: hpack.Decoder) -> object:
    """What hpack's says."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return "error"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(FIELDS, st.booleans()), min_size=1, max_size=6))
def test_what_hpack_writes_is_read(blocks: list[tuple[list[tuple[bytes, bytes]], bool]]) -> None:
    encoder, decoder = hpack.Encoder(), Decoder(1 << 20)
    for fields, huffman in blocks:
        assert decoder.decode(encoder.encode(fields, huffman=huffman))[0] == fields


@settings(max_examples=300, deadline=None)
@given(FIELDS, FIELDS, st.booleans(), st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=3), st.integers(0, 400))
def test_a_damaged_block_means_the_same_to_both(
        first: list[tuple[bytes, bytes]], second: list[tuple[bytes, bytes]], huffman: bool, damage: list[tuple[int, int]],
        cut: int) -> None:
    encoder, ours, theirs = hpack.Encoder(), Decoder(1 << 20), hpack.Decoder(1 << 20)
    block = encoder.encode(first, huffman=huffman)
    assert told(block, ours) == expected(block, theirs)
    damaged = bytearray(encoder.encode(second, huffman=huffman))
    for at, byte in damage:
        if damaged:
            damaged[at % len(damaged)] = byte
    del damaged[max(1, len(damaged) - cut % 7):]
    assert told(bytes(damaged), ours) == expected(bytes(damaged), theirs)


BAD = {
    "index 0": b"\x80", "index that is not there": b"\xc6", "size beyond the limit": b"\x3f\xe2\x1f\x82", "size after a field": b"\x82\x20",
    "number that never ends": b"\xff" + b"\x80" * 50 + b"\x01", "number too large": b"\x00\x7f\xff\xff\xff\xff\x7f",
    "cut in a name": b"\x40\x0ax", "cut before a value": b"\x40\x01x", "nothing behind a literal": b"\x40",
    "padding of a byte": b"\x00\x01a\x82\x1f\xff", "padding of zeros": b"\x00\x01a\x81\x18",
    "EOS in a string": b"\x00\x01a\x84\xff\xff\xff\xff",
    "entry that was too large for the table": b"\x40\x01a\x7f\xa1\x1f" + b"x" * 4128 + b"\xbe",
}  # fmt: skip


@pytest.mark.parametrize("block", BAD.values(), ids=BAD)
def test_what_is_no_block_is_refused(block: bytes) -> None:
    with pytest.raises(HpackError):
        Decoder(65536).decode(block)


def test_a_bomb_is_refused_before_it_is_unpacked_and_a_large_header_is_told_by_its_size() -> None:
    entry = b"\x40\x01a\x7f\x80\x1e" + b"x" * 3967
    with pytest.raises(ListTooLarge):
        Decoder(65536).decode(entry + b"\xbe" * 60_000)
    decoder = Decoder(65536)
    fields, size = decoder.decode(entry + b"\xbe" * 20)
    assert (len(fields), size) == (16, 21 * 4000)
    assert decoder.decode(b"\xbe")[0] == [(b"a", b"x" * 3967)], "the table is whole"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(
    st.sampled_from([0, 200, 404, 503]),
    st.lists(st.tuples(st.sampled_from(["Content-Type", "content-type", "Server", "Date", "ETag", "X-Odd", "x-" + "n" * 70]),
                       st.sampled_from(["", "a", "text/html", "\xe9\x80", "v" * 130, "v" * 600]) | st.text("xyz", max_size=9)), max_size=8),
    st.sampled_from([None, None, 0, 64, 4096])), max_size=12))
def test_what_is_written_is_read_by_hpack(answers: list[tuple[int, list[tuple[str, str]], int | None]]) -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    for status, fields, size in answers:
        if size is not None:
            encoder.resize(size)
            decoder.max_allowed_table_size = size
        wanted = [(":status", str(status))] if status else []
        wanted += [(name.lower(), value) for name, value in fields]
        got = [(bytes(name), bytes(value)) for name, value in decoder.decode(encoder.encode(fields, status), raw=True)]
        assert got == [(name.encode(), value.encode("latin-1")) for name, value in wanted]


def test_what_comes_again_takes_a_byte_and_the_fields_of_http1_connections_are_left_out() -> None:
    encoder = Encoder()
    fields = [("Server", "backend/1"), ("Connection", "close"), ("Transfer-Encoding", "chunked"), ("Content-Type", "text/html")]
    first = encoder.encode(fields, 200)
    assert len(encoder.encode(fields, 200)) == 3 < len(first)
