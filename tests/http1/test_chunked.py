"""The chunked coding: every split of the bytes gives the same payload, and nothing sloppy is let through."""

from __future__ import annotations

import time

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.http1 import LAST_CHUNK, ChunkedDecoder, ProtocolError, encode_chunk, encode_last_chunk
from tests.http1.readers import fed


def decode(*pieces: bytes, decoder: ChunkedDecoder | None = None) -> tuple[bytes, list[tuple[str, str]], bytes]:
    decoder = decoder or ChunkedDecoder()
    payload = b"".join([fed(decoder, piece) for piece in pieces])
    assert decoder.done
    return payload, decoder.trailers, decoder.leftover


def refused(*pieces: bytes, decoder: ChunkedDecoder | None = None) -> str:
    decoder = decoder or ChunkedDecoder()
    with pytest.raises(ProtocolError) as caught:
        for piece in pieces:
            fed(decoder, piece)
    assert caught.value.status == 400
    assert caught.value.detail
    return caught.value.code


BODY = (
    b"5\r\nhello\r\n"
    b'00A;x=1; y="q;\\" z"\r\n0123\r\n789A\r\n'
    b"0;last\r\nX-Sum:  a b \t\r\nY:\r\n\r\n"
)
READ = (b"hello0123\r\n789A", [("X-Sum", "a b"), ("Y", "")])


def test_chunks_extensions_and_trailers_are_read() -> None:
    assert decode(BODY + b"GET / HTTP/1.1\r\n") == (*READ, b"GET / HTTP/1.1\r\n")


def test_every_split_in_two_and_single_bytes_give_the_same() -> None:
    data = BODY + b"next"
    for at in range(len(data) + 1):
        assert decode(data[:at], data[at:]) == (*READ, b"next")
    assert decode(*[data[at : at + 1] for at in range(len(data))]) == (*READ, b"next")


@pytest.mark.parametrize(
    "body",
    [b"0\r\n\r\n", b"000\r\n\r\n", b"a\r\n0123456789\r\n0\r\n\r\n", b"1; x\r\na\r\n0\r\n\r\n",
     b'1;x = y ;z="\t;"\r\na\r\n0\r\n\r\n'],
)  # fmt: skip
def test_valid_bodies_are_read_as_h11_reads_them(body: bytes) -> None:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"rest")
    theirs = b""
    while not isinstance(event := connection.next_event(), h11.EndOfMessage):
        if isinstance(event, h11.Data):
            theirs += bytes(event.data)
    assert decode(body + b"rest") == (theirs, [], b"rest")


MALFORMED = {
    "no size": (b"\r\n", "bad_chunk_size"),
    "not hexadecimal": (b"g\r\n", "bad_chunk_size"),
    "0x": (b"0x5\r\nhello\r\n", "bad_chunk_size"),
    "plus": (b"+5\r\nhello\r\n", "bad_chunk_size"),
    "minus": (b"-5\r\nhello\r\n", "bad_chunk_size"),
    "underscore": (b"1_0\r\n", "bad_chunk_size"),
    "space before": (b" 5\r\nhello\r\n", "bad_chunk_size"),
    "space after": (b"5 \r\nhello\r\n", "bad_chunk_size"),
    "space before an extension": (b"5 ;a\r\nhello\r\n", "bad_chunk_size"),
    "space after an extension": (b"5;a \r\nhello\r\n", "bad_chunk_size"),
    "tab after": (b"5\t\r\nhello\r\n", "bad_chunk_size"),
    "17 digits": (b"00000000000000005\r\nhello\r\n", "bad_chunk_size"),
    "size that wraps at 64 bits": (b"10000000000000005\r\nhello\r\n", "bad_chunk_size"),
    "superscript": (b"\xb2\r\n", "bad_chunk_size"),
    "bare LF after size": (b"5\nhello\r\n", "bare_lf"),
    "bare LF in an extension": (b"5;a\nhello\r\n", "bare_lf"),
    "bare CR after size": (b"5\rhello\r\n", "bad_chunk_size"),
    "bare CR in an extension": (b"5;a\rb\r\nhello\r\n", "bad_chunk_size"),
    "CR CR LF after size": (b"5\r\r\nhello\r\n", "bad_chunk_size"),
    "empty extension": (b"5;\r\nhello\r\n", "bad_chunk_size"),
    "extension not a token": (b"5;a b\r\nhello\r\n", "bad_chunk_size"),
    "extension without value": (b"5;a=\r\nhello\r\n", "bad_chunk_size"),
    "open quote": (b'5;a="b\r\nhello\r\n', "bad_chunk_size"),
    "control in a quote": (b'5;a="\x01"\r\nhello\r\n', "bad_chunk_size"),
    "NUL": (b"5\0\r\nhello\r\n", "bad_chunk_size"),
    "comma": (b"5,5\r\nhello\r\n", "bad_chunk_size"),
    "data too long": (b"5\r\nhello!\r\n0\r\n\r\n", "bad_chunk_end"),
    "data ends in LF": (b"5\r\nhello\n0\r\n\r\n", "bad_chunk_end"),
    "data ends in CR": (b"5\r\nhello\r0\r\n\r\n", "bad_chunk_end"),
    "data without end": (b"5\r\nhello0\r\n\r\n", "bad_chunk_end"),
    "line too long": (b"5;" + b"a" * 300 + b"\r\n", "chunk_line_too_long"),
    "zeros without end": (b"0" * 300, "chunk_line_too_long"),
    "trailer is a fold": (b"0\r\nX: a\r\n b\r\n\r\n", "bad_trailer"),
    "trailer without colon": (b"0\r\nGET / HTTP/1.1\r\n\r\n", "bad_trailer"),
    "space before a trailer's colon": (b"0\r\nX : a\r\n\r\n", "bad_trailer"),
    "trailer without name": (b"0\r\n: a\r\n\r\n", "bad_trailer"),
    "bare CR in a trailer": (b"0\r\nX: a\rb\r\n\r\n", "bad_trailer"),
    "CR after the last chunk": (b"0\r\n\rX: a\r\n\r\n", "bad_trailer"),
    "bare LF in a trailer": (b"0\r\nX: a\n\r\n", "bare_lf"),
    "LF after the last chunk": (b"0\r\n\n", "bare_lf"),
    "NUL in a trailer": (b"0\r\nX: a\0\r\n\r\n", "bad_trailer"),
    "trailers too large": (b"0\r\nX: " + b"a" * 20000 + b"\r\n\r\n", "trailers_too_large"),
    "trailers too large together": (b"0\r\n" + b"X: 0123456789\r\n" * 99 + b"X: " + b"a" * 16000, "trailers_too_large"),
    "too many trailers": (b"0\r\n" + b"X: 1\r\n" * 101 + b"\r\n", "trailers_too_large"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_body_is_refused_however_it_is_split(case: str) -> None:
    data, code = MALFORMED[case]
    assert refused(data) == code
    assert refused(*[data[at : at + 1] for at in range(len(data))]) == code


@pytest.mark.parametrize(
    "name",
    ["Content-Length", "transfer-encoding", "HOST", "Trailer", "Authorization", "Cookie", "Set-Cookie", "Connection", "TE",
     "Content-Type", "X-Forwarded-For", "Via", "Expect"],
)  # fmt: skip
def test_fields_that_frame_route_or_authorise_are_no_trailers(name: str) -> None:
    assert refused(b"0\r\n" + name.encode() + b": 1\r\n\r\n") == "forbidden_trailer"


def test_trailers_with_underscores_are_left_out() -> None:
    assert decode(b"0\r\ncontent_length: 1\r\nX: 2\r\n\r\n") == (b"", [("X", "2")], b"")


def test_the_error_carries_the_status_it_was_made_with() -> None:
    with pytest.raises(ProtocolError) as caught:
        ChunkedDecoder(status=502).feed(b"x\r\n")
    assert caught.value.status == 502


def test_lines_of_exactly_the_limit_pass_in_every_split() -> None:
    data = b"1;" + b"a" * 8 + b"\r\nx\r\n0\r\nX: 4567\r\n\r\nrest"
    for at in range(len(data) + 1):
        decoder = ChunkedDecoder(max_line=10, max_trailer=9)
        assert decode(data[:at], data[at:], decoder=decoder) == (b"x", [("X", "4567")], b"rest")
    for bounds in ((9, 9), (10, 8)):
        for at in range(len(data) + 1):
            refused(data[:at], data[at:], decoder=ChunkedDecoder(*bounds))


def test_extensions_are_bounded_by_the_data_they_come_with() -> None:
    signed = b"400;chunk-signature=" + b"a" * 64 + b"\r\n" + b"x" * 1024 + b"\r\n"
    assert len(decode(signed * 500 + LAST_CHUNK)[0]) == 500 * 1024
    assert refused((b"1;" + b"a" * 200 + b"\r\nx\r\n") * 500) == "chunk_extensions_too_large"


def test_data_of_an_unfinished_chunk_is_given_out_at_once() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"a\r\n012") == b"012"
    assert decoder.feed(b"345") == b"345"
    assert decoder.feed(b"6789\r\n0\r\n") == b"6789"
    assert not decoder.done
    assert decoder.feed(b"\r\n") == b""
    assert decoder.done


def test_time_is_linear_in_large_and_in_tiny_chunks() -> None:
    large = encode_chunk(b"x" * 65536) * 256 + LAST_CHUNK
    tiny = encode_chunk(b"x") * 20000 + LAST_CHUNK
    trickled = b"0\r\nX: " + b"a" * 15000
    started = time.thread_time()
    assert len(decode(large)[0]) == 256 * 65536
    assert len(decode(tiny)[0]) == 20000
    decoder = ChunkedDecoder()
    for at in range(len(trickled)):
        decoder.feed(trickled[at : at + 1])
    assert time.thread_time() - started < 2.0


def test_no_data_is_no_chunk() -> None:
    assert encode_chunk(b"") == b""
    assert encode_last_chunk([]) == LAST_CHUNK


PIECES = [b"\r\n", b"\r", b"\n", b"0", b"1", b"a", b";", b"=", b'"', b" ", b"x", b":", b"X: y\r\n"]
VALUES = st.text("aZ09 \t;:,\"\xe4", max_size=12).map(lambda text: text.strip(" \t"))
TRAILERS = st.lists(st.tuples(st.sampled_from(["X-Sum", "x", "Server-Timing"]), VALUES), max_size=4)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=8), TRAILERS, st.binary(max_size=6), st.data())
def test_what_is_encoded_is_decoded_in_any_pieces(
    chunks: list[bytes], trailers: list[tuple[str, str]], after: bytes, data: st.DataObject
) -> None:
    wire = b"".join(map(encode_chunk, chunks)) + encode_last_chunk(trailers) + after
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=6)))
    pieces = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    assert decode(*pieces) == (b"".join(chunks), trailers, after)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=24))
def test_any_bytes_end_the_same_whole_and_byte_by_byte(parts: list[bytes]) -> None:
    wire = b"".join(parts)

    def run(pieces: list[bytes]) -> object:
        decoder = ChunkedDecoder()
        try:
            payload = b"".join([fed(decoder, piece) for piece in pieces])
        except ProtocolError as error:
            return error.code
        return payload, decoder.done, decoder.trailers, decoder.leftover

    assert run([wire]) == run([wire[at : at + 1] for at in range(len(wire))])


def test_many_small_chunks_are_taken_in_turns_of_a_few_hundred() -> None:
    decoder = ChunkedDecoder()
    pieces = [decoder.feed(b"1\r\nx\r\n" * 5000 + LAST_CHUNK + b"next")]
    while decoder.more:
        pieces.append(decoder.resume())
    assert (b"".join(pieces), decoder.done, decoder.leftover) == (b"x" * 5000, True, b"next")
    assert max(map(len, pieces)) <= 500
