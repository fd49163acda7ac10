"""Ours against h11 and llhttp: what we accept, they read with the same fields, the same body and the same end.

The other direction is deliberate strictness: we refuse much that they resolve silently, each in its own way.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .readers import Incomplete, Reading, Refused, h11_request, h11_response, llhttp_request, our_request, our_response
from .test_request import REFUSED

NEXT = b"GET /next HTTP/1.1\r\nHost: n\r\n\r\n"

FIELDS = [
    "Host: a", "Host: a:80", "host: b", "Host:", "Content-Length: 5", "content-length: 5", "Content-Length: 0",
    "Content-Length: 6", "Content-Length: 05", "Content-Length: +5", "Content-Length: 5,5", "Content-Length : 5",
    "Content-Length: 5 ", "Content_Length: 3", "Transfer-Encoding: chunked", "Transfer-Encoding: Chunked",
    "Transfer-Encoding:\tchunked", "transfer-encoding: gzip, chunked", "Transfer-Encoding: identity",
    "Transfer-Encoding : chunked", "Transfer_Encoding: chunked", "Transfer-Encoding: chunked;", "Connection: close",
    "Connection: keep-alive, X", "Connection: content-length", "Connection: Upgrade", "Upgrade: websocket", "X: y",
    "X:", "X: a  b", " folded", "X: \xe4", "Expect: 100-continue", "TE: trailers", "Cookie: a=b; c=d", "no colon", ": x",
    "X: a\nY: b", "X: a\rY: b", "X: a\0", "X\x0b: a",
]  # fmt: skip
HARMLESS = ["X: y", "X:", "X: a  b ", "X: \xe4", "X_Y: z", "TE: trailers", "Connection: close", "Connection: X", "Cookie: a=b"]
LINES = [
    "POST / HTTP/1.1", "GET /a?b HTTP/1.1", "POST / HTTP/1.0", "get /x HTTP/1.1", "GET http://a/x HTTP/1.1", "OPTIONS * HTTP/1.1",
    "PUT /%20 HTTP/1.1", "GET /a#b HTTP/1.1", "GET  / HTTP/1.1", "GET / HTTP/1.2", "GET / HTTP/2.0", "GET /\t HTTP/1.1", "GET /",
]  # fmt: skip
BODIES = [
    b"", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n", b"5\nhello\n0\n\n",
    b"5 \r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n",
]  # fmt: skip
FRAMINGS = [([], b""), (["Content-Length: 5"], b"hello"), (["Transfer-Encoding: chunked"], BODIES[4])]
BYTES = [b"", b" ", b"\r", b"\n", b"\0", b":", b"\t", b"5", b"\xff"]
ENDS = ["\n", "\r", "\r\r\n"]


@st.composite
def messages(draw: st.DrawFn, lines: list[str]) -> bytes:
    """A well-formed message, or one with a nasty field, line end, body or byte in it; each about as often."""
    framing, body = draw(st.sampled_from(FRAMINGS))
    fields = ["Host: a", *framing, *draw(st.lists(st.sampled_from(HARMLESS), max_size=3))]
    line, end, kind = draw(st.sampled_from(lines[:4])), "\r\n", draw(st.integers(0, 7))
    if kind == 1:
        line = draw(st.sampled_from(lines))
    elif kind == 2:
        end = draw(st.sampled_from(ENDS))
    elif kind == 3:
        body = draw(st.sampled_from(BODIES))
    elif kind in (4, 5):
        fields.insert(draw(st.integers(0, len(fields))), draw(st.sampled_from(FIELDS)))
    elif kind == 6:
        fields = draw(st.lists(st.sampled_from(FIELDS), max_size=5))
    data = bytearray("".join([part + end for part in [line, *fields]]).encode("latin-1") + b"\r\n" + body)
    if kind == 7:
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 1))] = draw(st.sampled_from(BYTES))
    return bytes(data)


def outcome(read: Callable[..., Reading], *arguments: object) -> Reading | str:
    try:
        return read(*arguments)
    except Refused:
        return "refused"
    except Incomplete:
        return "incomplete"


@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(messages(LINES))
def test_a_request_that_we_accept_means_the_same_to_another_reader(data: bytes) -> None:
    ours = outcome(our_request, data + NEXT)
    if not isinstance(ours, Reading):
        return
    theirs = [outcome(h11_request, data + NEXT), outcome(llhttp_request, data + NEXT)]
    read = [reading for reading in theirs if isinstance(reading, Reading)]
    assert read, theirs
    for reading in read:
        assert (ours.start, ours.body, ours.rest) == (reading.start, reading.body, reading.rest)
        assert ours.fields == reading.fields


@settings(max_examples=800, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    messages(["HTTP/1.1 200 OK", "HTTP/1.0 200 OK", "HTTP/1.1 304 x", "HTTP/1.1 204 ", "HTTP/1.1 500 \xe4", "HTTP/1.1 20 x"]),
    st.sampled_from(["GET", "HEAD", "POST"]),
)
def test_a_response_that_we_accept_means_the_same_to_another_reader(data: bytes, method: str) -> None:
    ours = outcome(our_response, data, method)
    if not isinstance(ours, Reading):
        return
    theirs = outcome(h11_response, data, method)
    assert isinstance(theirs, Reading), theirs
    assert (ours.start, ours.fields, ours.body, ours.rest) == (theirs.start, theirs.fields, theirs.body, theirs.rest)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80))
def test_arbitrary_bytes_are_refused_or_waited_for_but_never_break_the_parser(data: bytes) -> None:
    outcome(our_request, data + b"\r\n\r\n")
    outcome(our_response, b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n", "GET")
    outcome(our_request, b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" + data)


@pytest.mark.parametrize("case", REFUSED)
def test_what_h11_refuses_for_its_framing_we_refuse(case: str) -> None:
    data = f"POST / HTTP/1.1\r\n{REFUSED[case][0]}\r\n".encode("latin-1") + b"hello" + NEXT
    if outcome(h11_request, data) == "refused":
        assert outcome(our_request, data) == "refused"


@pytest.mark.parametrize(
    ("fields", "body"),
    [
        (("Content-Length: 5",), b"hello"),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        ((), b""),
        (("Connection: close", "Content-Length: 5"), b"hello"),
        (("Expect: 100-continue", "Content-Length: 5"), b"hello"),
        (("Cookie: a", "Cookie: b"), b""),
    ],
)
def test_ordinary_requests_mean_the_same_to_all_three(fields: tuple[str, ...], body: bytes) -> None:
    data = "\r\n".join(["POST /x HTTP/1.1", "Host: a", *fields, "", ""]).encode() + body + NEXT
    assert our_request(data) == h11_request(data)
    if "Connection: close" not in fields:
        assert our_request(data) == llhttp_request(data)
