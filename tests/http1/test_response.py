"""Response heads: how the body ends by method and status, and the reason each bad one is refused with."""

from __future__ import annotations

import h11
import pytest

from proxyd.config.routechecks import header_name
from proxyd.http1 import HeadLimits, ProtocolError, parse_response_head
from proxyd.http1 import fieldnames as kinds
from proxyd.http1.response import CHUNKED, CLOSE, LENGTH, NONE

from .readers import h11_response, our_response


def head(*fields: str, line: str = "HTTP/1.1 200 OK") -> bytes:
    return "\r\n".join([line, *fields, "", ""]).encode("latin-1")


def refused(data: bytes, method: str = "GET", limits: HeadLimits | None = None) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse_response_head(data, method, limits or HeadLimits())
    assert caught.value.status == 502
    assert caught.value.detail
    return caught.value.code


def test_no_route_may_set_what_only_this_hop_may_say() -> None:
    hop = (kinds.HOP, kinds.CONTENT_LENGTH, kinds.TRANSFER_ENCODING, kinds.CONNECTION, kinds.UPGRADE, kinds.TE)
    names = [name for name, kind in kinds.KINDS.items() if kind in hop]
    assert len(names) > 10
    for name in names:
        with pytest.raises(ValueError, match="the proxy's own"):
            header_name(name)


def test_a_plain_response_is_read_as_sent() -> None:
    response = parse_response_head(head("Server: x", "set_cookie: y", "X-J:  J\xf6rg ", line="HTTP/1.1 404 Not  F\xf6und"), "GET")
    assert (response.version, response.status, response.reason) == (11, 404, "Not  F\xf6und")
    assert response.headers == [("Server", "x"), ("set_cookie", "y"), ("X-J", "J\xf6rg")]
    assert response.get("server") == "x"
    assert response.get("date") is None
    assert response.end_to_end() == response.headers


@pytest.mark.parametrize("line", ["HTTP/1.1 200 ", "HTTP/1.1 200"])
def test_the_reason_may_be_missing(line: str) -> None:
    assert parse_response_head(head(line=line), "GET").reason == ""


CL5, CL0, TE = "Content-Length: 5", "Content-Length: 0", "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    ("method", "status", "field", "kind", "length", "chunked", "keep_alive"),
    [
        ("GET", 200, CL5, LENGTH, 5, False, True),
        ("GET", 200, CL0, LENGTH, 0, False, True),
        ("GET", 200, TE, CHUNKED, -1, True, True),
        ("GET", 200, "X: y", CLOSE, -1, False, False),
        ("HEAD", 200, CL5, NONE, 5, False, True),
        ("HEAD", 200, TE, NONE, -1, True, True),
        ("HEAD", 200, "X: y", NONE, -1, False, True),
        ("GET", 304, CL5, NONE, 5, False, True),
        ("GET", 304, "X: y", NONE, -1, False, True),
        ("GET", 204, "X: y", NONE, -1, False, True),
        ("GET", 204, CL0, NONE, -1, False, True),
        ("GET", 100, "X: y", NONE, -1, False, True),
        ("GET", 103, "Link: </x>", NONE, -1, False, True),
        ("GET", 101, "X: y", NONE, -1, False, False),
        ("CONNECT", 200, "X: y", NONE, -1, False, True),
        ("CONNECT", 403, CL5, LENGTH, 5, False, True),
    ],
)
def test_the_end_of_the_body_follows_method_status_and_fields(
    method: str, status: int, field: str, kind: int, length: int, chunked: bool, keep_alive: bool
) -> None:
    response = parse_response_head(head(field, line=f"HTTP/1.1 {status} x"), method)
    found = (response.body_kind, response.content_length, response.chunked, response.keep_alive)
    assert found == (kind, length, chunked, keep_alive)


@pytest.mark.parametrize(
    ("line", "fields", "kept"),
    [
        ("HTTP/1.1 200 OK", [CL5, "Connection: close"], False),
        ("HTTP/1.1 200 OK", [CL5, "connection: Keep-Alive"], True),
        ("HTTP/1.0 200 OK", [CL5], False),
        ("HTTP/1.0 200 OK", [CL5, "Connection: keep-alive"], True),
        ("HTTP/1.0 200 OK", ["Connection: keep-alive"], False),
    ],
)
def test_keep_alive_follows_version_connection_and_framing(line: str, fields: list[str], kept: bool) -> None:
    assert parse_response_head(head(*fields, line=line), "GET").keep_alive is kept


def test_end_to_end_fields_leave_out_framing_and_hop_by_hop() -> None:
    response = parse_response_head(
        head(CL5, "Connection: X-Hop, close", "X-Hop: 1", "Keep-Alive: timeout=5", "Via: 1.1 b", "Proxy-Authenticate: x",
             "Upgrade: h2", "Set-Cookie: a=1", "Set-Cookie: b=2", "TE: x", "x-hop: 2", "Host: odd", "Expect: odd"), "GET",
    )  # fmt: skip
    assert response.end_to_end() == [
        ("Via", "1.1 b"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("Host", "odd"), ("Expect", "odd"),
    ]  # fmt: skip
    assert response.connection == {"x-hop", "close"}
    assert response.upgrade == ""


def test_a_switch_of_protocols_names_them() -> None:
    response = parse_response_head(head("Connection: Upgrade", "Upgrade: WebSocket", line="HTTP/1.1 101 Go"), "GET")
    assert (response.upgrade, response.body_kind, response.keep_alive) == ("websocket", NONE, False)


REFUSED = {
    "CL and TE": (head(CL5, TE), "conflicting_lengths"),
    "CL and TE, HEAD": (head(TE, CL5), "conflicting_lengths"),
    "CL CL": (head(CL5, "content-length: 6"), "duplicate_content_length"),
    "equal CL CL": (head(CL5, CL5), "duplicate_content_length"),
    "CL list": (head("Content-Length: 5, 5"), "duplicate_content_length"),
    "CL minus": (head("Content-Length: -1"), "bad_content_length"),
    "CL huge": (head("Content-Length: " + "9" * 30), "content_length_too_large"),
    "TE gzip, chunked": (head("Transfer-Encoding: gzip, chunked"), "bad_transfer_encoding"),
    "TE identity": (head("Transfer-Encoding: identity"), "bad_transfer_encoding"),
    "TE TE": (head(TE, "Transfer-Encoding: identity"), "duplicate_transfer_encoding"),
    "TE in 1.0": (head(TE, line="HTTP/1.0 200 OK"), "transfer_encoding_in_http10"),
    "CL with 204": (head(CL5, line="HTTP/1.1 204 x"), "body_not_allowed"),
    "TE with 101": (head(TE, line="HTTP/1.1 101 x"), "body_not_allowed"),
    "CL with 103": (head(CL5, line="HTTP/1.1 103 x"), "body_not_allowed"),
    "obs-fold": (head("X: a", " b"), "obs_fold"),
    "space before colon": (head("Content-Length : 5"), "space_before_colon"),
    "bare CR": (head("X: a\rSet-Cookie: b"), "bare_cr"),
    "bare LF": (head("X: a\nSet-Cookie: b"), "bare_lf"),
    "bare CR in the reason": (head(line="HTTP/1.1 200 O\rK"), "bare_cr"),
    "bare LF in the reason": (head(line="HTTP/1.1 200 O\nK: v"), "bare_lf"),
    "NUL": (head("X: a\0"), "nul_byte"),
    "NUL in the reason": (head(line="HTTP/1.1 200 \0"), "nul_byte"),
    "control": (head("X: \x1b[0m"), "control_character"),
    "control in the reason": (head(line="HTTP/1.1 200 \x08"), "control_character"),
    "bad name": (head("X Y: a"), "bad_field_name"),
    "empty name": (head(": a"), "empty_field_name"),
    "no colon": (head("HTTP/1.1 200 OK"), "bad_field_line"),
    "Connection: content-length": (head(CL5, "Connection: content-length"), "forbidden_connection_option"),
    "empty line first": (b"\r\n" + head(), "bad_status_line"),
    "version": (head(line="HTTP/2 200 OK"), "bad_status_line"),
    "version 1.2": (head(line="HTTP/1.2 200 OK"), "bad_status_line"),
    "ICY": (head(line="ICY 200 OK"), "bad_status_line"),
    "lower case": (head(line="http/1.1 200 OK"), "bad_status_line"),
    "two digits": (head(line="HTTP/1.1 99 OK"), "bad_status_line"),
    "four digits": (head(line="HTTP/1.1 2000 OK"), "bad_status_line"),
    "status 600": (head(line="HTTP/1.1 600 OK"), "bad_status_line"),
    "status 000": (head(line="HTTP/1.1 000 OK"), "bad_status_line"),
    "superscript status": (head(line="HTTP/1.1 2\xb2\xb2 OK"), "bad_status_line"),
    "two spaces": (head(line="HTTP/1.1  200 OK"), "bad_status_line"),
    "not HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", "bad_status_line"),
    "cut off": (b"HTTP/1.1 200 OK\r\nX: y\r\n", "incomplete_head"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_ambiguous_or_malformed_head_is_refused_with_its_reason(case: str) -> None:
    data, code = REFUSED[case]
    assert refused(data, "HEAD" if case.endswith("HEAD") else "GET") == code


def test_each_limit_holds_at_its_edge() -> None:
    limits = HeadLimits(request_line=15, field_count=2, field_size=12, head_size=60)
    assert parse_response_head(head("A: 456789012", "B: 2"), "GET", limits).get("a") == "456789012"
    assert refused(head(line="HTTP/1.1 200 OKAY"), limits=limits) == "status_line_too_long"
    assert refused(head("A: 4567890123"), limits=limits) == "field_too_large"
    assert refused(head("A: 1", "B: 2", "C: 3"), limits=limits) == "too_many_fields"
    assert refused(head("A: " + "x" * 60), limits=limits) == "head_too_large"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("status", [200, 201, 204, 205, 206, 301, 304, 404, 500])
@pytest.mark.parametrize("fields", [(CL5,), (CL0,), (TE,), ()])
def test_h11_finds_the_same_end_of_the_body(method: str, status: int, fields: tuple[str, ...]) -> None:
    body = b"5\r\nhello\r\n0\r\n\r\n" if TE in fields else b"hello"
    data = head(*fields, line=f"HTTP/1.1 {status} x") + body
    if status == 204 and fields == (CL5,):
        assert refused(head(*fields, line=f"HTTP/1.1 {status} x"), method) == "body_not_allowed"
        return
    ours, theirs = our_response(data, method), h11_response(data, method)
    assert (ours.start, ours.fields, ours.body, ours.rest) == (theirs.start, theirs.fields, theirs.body, theirs.rest)


def test_h11_refuses_what_we_refuse_for_its_framing_or_resolves_it_silently() -> None:
    """The reason to be stricter than a library: h11 takes one of two framings here, another reader the other."""
    both = head(CL5, TE) + b"0\r\n\r\n"
    assert h11_response(both, "GET").body == b""
    assert refused(head(CL5, TE)) == "conflicting_lengths"
    with pytest.raises(h11.LocalProtocolError):
        h11.Response(status_code=200, headers=[("Content-Length", "5"), ("Content-Length", "6")])
