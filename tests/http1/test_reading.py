"""A whole response: every split of its bytes gives the same, and another reader finds the same in it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyd.http1 import RESPONSE_LIMITS, BodyReader, HeadLimits, HeadReader, ProtocolError, whole_head
from proxyd.http1.reading import MAX_INFORMATIONAL

from .readers import h11_response, our_response

EARLY = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = OK + b"Content-Length: 5\r\n\r\nhello"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-Sum: 1\r\n\r\n"
WHOLE = {
    "length": LENGTH,
    "length, more behind it": LENGTH + b"more",
    "no body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "no body, more behind it": b"HTTP/1.1 304 x\r\nContent-Length: 5\r\n\r\nhello",
    "an empty body": OK + b"Content-Length: 0\r\n\r\n",
    "an empty body, more behind it": OK + b"Content-Length: 0\r\n\r\nmore",
    "chunked": CHUNKED,
    "chunked, more behind it": CHUNKED + b"more",
    "informational answers first": b"HTTP/1.1 100 Continue\r\n\r\n" + EARLY + LENGTH,
}
TO_THE_END = {"to the end": OK + b"\r\nhello", "to the end, nothing": OK + b"\r\n", "HTTP/1.0": b"HTTP/1.0 200 OK\r\n\r\nhello"}

Read = tuple[list[int], int, bytes, bool, bytes, list[tuple[str, str]], bool]


def read(pieces: Iterable[bytes], method: str = "GET", upgrade: bool = False) -> Read:
    """Statuses passed over, final status, payload, whether it is done before the end, leftover, trailers, whether the connection
    can be used again."""
    heads = HeadReader(method, upgrade=upgrade)
    passed: list[int] = []
    body: BodyReader | None = None
    status, payload = 0, b""
    for piece in pieces:
        if body is not None:
            payload += body.feed(piece)
            continue
        head = heads.feed(piece)
        passed += [informational.status for informational in heads.informational]
        if head is not None:
            status, body = head.status, BodyReader(head)
            payload += body.feed(heads.rest)
    assert body is not None
    return passed, status, payload, body.done, body.leftover, body.trailers, body.reusable


def splits(data: bytes) -> Iterable[list[bytes]]:
    """The data as single bytes, and cut in two at every place."""
    yield [data[at : at + 1] for at in range(len(data))]
    for at in range(len(data) + 1):
        yield [data[:at], data[at:]]


@pytest.mark.parametrize("data", (WHOLE | TO_THE_END).values(), ids=(WHOLE | TO_THE_END).keys())
def test_every_split_of_the_bytes_gives_the_same(data: bytes) -> None:
    expected = read([data])
    for pieces in splits(data):
        assert read(pieces) == expected


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted((WHOLE | TO_THE_END).values())), st.lists(st.integers(0, 150), max_size=12))
def test_any_number_of_pieces_gives_the_same(data: bytes, cuts: list[int]) -> None:
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert read(data[start:stop] for start, stop in zip(places, places[1:], strict=False)) == read([data])


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("data", (WHOLE | TO_THE_END).values(), ids=(WHOLE | TO_THE_END).keys())
def test_h11_finds_the_same(data: bytes, method: str) -> None:
    assert our_response(data, method) == h11_response(data, method)


def test_what_was_read_is_told() -> None:
    assert read([LENGTH]) == ([], 200, b"hello", True, b"", [], True)
    assert read([CHUNKED]) == ([], 200, b"hello", True, b"", [("X-Sum", "1")], True)
    assert read([WHOLE["informational answers first"]]) == ([100, 103], 200, b"hello", True, b"", [], True)
    assert read([TO_THE_END["to the end"]]) == ([], 200, b"hello", False, b"", [], False)


@pytest.mark.parametrize("data", [value for name, value in WHOLE.items() if "behind" in name])
def test_a_connection_with_bytes_behind_the_body_is_not_used_again(data: bytes) -> None:
    _, _, _, done, leftover, _, reusable = read([data])
    assert (done, leftover, reusable) == (True, data[-len(leftover):], False)


@pytest.mark.parametrize("data", [OK + b"Connection: close\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
                                  LENGTH[:-1], CHUNKED[:-1]], ids=["close", "HTTP/1.0", "length cut short", "chunked cut short"])
def test_a_connection_that_ends_or_whose_body_is_not_done_is_not_used_again(data: bytes) -> None:
    assert read([data])[-1] is False


@pytest.mark.parametrize(("data", "complete"), [(OK + b"\r\nhel", True), (LENGTH, True), (LENGTH[:-1], False), (CHUNKED[:-1], False),
                                                (OK + b"Transfer-Encoding: chunked\r\n\r\n", False)])
def test_the_end_of_the_connection_completes_only_a_body_without_framing(data: bytes, complete: bool) -> None:
    heads = HeadReader("GET")
    head = heads.feed(data)
    assert head is not None
    body = BodyReader(head)
    body.feed(heads.rest)
    assert body.end() is complete
    assert body.done is complete
    assert body.reusable is (data == LENGTH)


@pytest.mark.parametrize("data", [LENGTH, CHUNKED, OK + b"\r\nhel", OK, EARLY + LENGTH, b"HTTP/1.1 101 Switching Protocols\r\n\r\n"])
def test_a_head_in_one_piece_is_read_the_same_without_a_reader(data: bytes) -> None:
    reader = HeadReader("GET", upgrade=True)
    expected = reader.feed(data)
    found = whole_head(data, "GET", RESPONSE_LIMITS)
    if expected is None or expected.status == 101 or data.startswith(EARLY):
        assert found is None
    else:
        assert found is not None
        assert (found[0].status, found[0].headers, found[0].body_kind, found[1]) == (
            expected.status, expected.headers, expected.body_kind, reader.rest)


def test_a_head_that_is_not_complete_is_waited_for_and_known_to_have_begun() -> None:
    heads = HeadReader("GET")
    assert heads.feed(b"") is None and not heads.partial
    assert heads.feed(EARLY) is None and not heads.partial
    assert heads.feed(OK) is None and heads.partial
    assert heads.feed(b"\r\n") is not None


def test_informational_answers_are_told_with_the_piece_that_completes_them() -> None:
    heads = HeadReader("GET")
    seen = []
    for piece in (EARLY, EARLY[:9], EARLY[9:] + EARLY, b"HT"):
        heads.feed(piece)
        seen.append(len(heads.informational))
    assert seen == [1, 0, 2, 0]


def test_more_informational_answers_than_the_limit_are_refused() -> None:
    assert read([EARLY * MAX_INFORMATIONAL + LENGTH])[1] == 200
    for pieces in ([EARLY * (MAX_INFORMATIONAL + 1)], [EARLY] * (MAX_INFORMATIONAL + 1)):
        with pytest.raises(ProtocolError, match="too_many_informational"):
            read(pieces)


def test_a_continue_is_not_one_of_those_that_are_passed_on() -> None:
    goes_on = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert read([goes_on + EARLY * MAX_INFORMATIONAL + LENGTH])[1] == 200
    with pytest.raises(ProtocolError, match="too_many_informational"):
        read([goes_on * (MAX_INFORMATIONAL + 1)])


def test_switching_protocols_is_final_where_it_was_asked_for_and_refused_elsewhere() -> None:
    switching = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02hi"
    for pieces in splits(switching):
        passed, status, _, done, leftover, _, reusable = read(pieces, upgrade=True)
        assert (passed, status, done, leftover, reusable) == ([], 101, True, b"\x81\x02hi", False)
        with pytest.raises(ProtocolError, match="unasked_upgrade"):
            read(pieces)


def test_a_head_without_end_is_refused_once_it_passes_the_limit() -> None:
    heads = HeadReader("GET", HeadLimits(head_size=100))
    assert heads.feed(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 13) is None
    with pytest.raises(ProtocolError, match="head_too_large"):
        heads.feed(b"X: y\r\n")


def test_what_is_no_response_is_refused_however_it_is_cut() -> None:
    for pieces in splits(b"SSH-2.0-OpenSSH_9.6\r\n\r\n"):
        with pytest.raises(ProtocolError, match="bad_status_line"):
            read(pieces)
    for pieces in splits(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n"):
        with pytest.raises(ProtocolError, match="bad_chunk_size"):
            read(pieces)
