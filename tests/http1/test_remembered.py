"""Fields of requests that are remembered: they spare the reading, and never change what is read."""

from __future__ import annotations

import itertools

import pytest

from proxyd.http1 import HeadLimits, ProtocolError, RequestHead, parse_request_head, request

FIELDS = b"Host: a.example\r\nUser-Agent: known\r\nX-Forwarded-For: 1.2.3.4\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\n\r\n"


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    request.forget_fields()


def known(fields: bytes = FIELDS, limits: HeadLimits = request.REQUEST_LIMITS) -> None:
    """Have fields remembered, and see that they are."""
    heads = [parse_request_head(b"GET / HTTP/1.1\r\n" + fields, limits) for _ in range(4)]
    assert heads[3].headers is heads[2].headers


def refusal(head: bytes, limits: HeadLimits = request.REQUEST_LIMITS) -> str:
    with pytest.raises(ProtocolError) as caught:
        parse_request_head(head, limits)
    return caught.value.code


def test_the_first_line_is_read_each_time() -> None:
    known()
    head = parse_request_head(b"DELETE /b?c HTTP/1.1\r\n" + FIELDS)
    assert (head.method, head.target, head.path, head.host) == ("DELETE", "/b?c", "/b?c", "a.example")
    assert head.edge == [("x-forwarded-for", "1.2.3.4")]
    assert head.passed_on() == "User-Agent: known\r\n"


@pytest.mark.parametrize(("line", "code"), [
    (b"GET / HTTP/1.1\r", "bare_cr"), (b"GET /\x01 HTTP/1.1", "control_character"), (b"GET  / HTTP/1.1", "bad_request_line"),
    (b"GET / HTTP/1.1\nX: y", "bare_lf"), (b"GET /#x HTTP/1.1", "fragment_in_target"), (b"GET / HTTP/2.0", "unsupported_version"),
    (b"", "bad_request_line"), (b"G\0T / HTTP/1.1", "nul_byte"), (b"GET /" + b"x" * 9000 + b" HTTP/1.1", "request_line_too_long"),
    (b"GET /\xff HTTP/1.1", "bad_target"), (b"CONNECT a.example HTTP/1.1", "bad_target"),
])  # fmt: skip
def test_a_bad_first_line_is_refused_before_known_fields(line: bytes, code: str) -> None:
    known()
    assert refusal(line + b"\r\n" + FIELDS) == code


def test_a_request_behind_an_empty_line_is_not_remembered_as_fields() -> None:
    inner = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
    for _ in range(4):
        assert parse_request_head(b"\r\n" + inner).host == "a.example"
    assert refusal(b"GET /first HTTP/1.1\r\n" + inner) == "bad_field_line"


def test_other_forms_of_targets_and_versions_are_read_as_ever() -> None:
    known()
    absolute = parse_request_head(b"GET http://a.example:80/x HTTP/1.1\r\n" + FIELDS)
    assert (absolute.scheme, absolute.host, absolute.path) == ("http", "a.example:80", "/x")
    assert refusal(b"GET http://b.example/x HTTP/1.1\r\n" + FIELDS) == "host_mismatch"
    assert parse_request_head(b"OPTIONS * HTTP/1.1\r\n" + FIELDS).path == "*"
    assert parse_request_head(b"GET /\xc3\xa4 HTTP/1.1\r\n" + FIELDS).path == "/%C3%A4"
    old = parse_request_head(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n")
    for _ in range(4):
        assert parse_request_head(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n").keep_alive
    assert not old.keep_alive
    assert not parse_request_head(b"GET / HTTP/1.0\r\nHost: a.example\r\n\r\n").keep_alive


def test_a_request_without_host_is_refused_after_one_that_may_lack_it() -> None:
    for _ in range(4):
        assert parse_request_head(b"GET / HTTP/1.0\r\nX: 1\r\n\r\n").host is None
    assert refusal(b"GET / HTTP/1.1\r\nX: 1\r\n\r\n") == "missing_host"


def test_an_absolute_target_is_not_remembered_as_the_host() -> None:
    for _ in range(4):
        assert parse_request_head(b"GET http://c.example:80/ HTTP/1.1\r\nHost: c.example\r\n\r\n").host == "c.example:80"
    assert parse_request_head(b"GET / HTTP/1.1\r\nHost: c.example\r\n\r\n").host == "c.example"


def test_fields_pass_the_limits_that_hold() -> None:
    known()
    assert refusal(b"GET / HTTP/1.1\r\n" + FIELDS, HeadLimits(field_count=2)) == "too_many_fields"
    assert refusal(b"GET / HTTP/1.1\r\n" + FIELDS, HeadLimits(field_size=9)) == "field_too_large"
    small = HeadLimits(head_size=len(FIELDS) + 22)
    known(limits=small)
    assert refusal(b"GET /abcdefgh HTTP/1.1\r\n" + FIELDS, small) == "head_too_large"
    narrow = HeadLimits(request_line=20)
    known(limits=narrow)
    assert refusal(b"GET /abcdefgh HTTP/1.1\r\n" + FIELDS, narrow) == "request_line_too_long"


def test_what_one_request_changes_is_not_in_the_next() -> None:
    known()
    changed = parse_request_head(b"GET / HTTP/1.1\r\n" + FIELDS)
    changed.passed_on()
    changed.replace([*changed.headers, ("X-New", "1")], changed.skip)
    changed.version, changed.upgrade, changed.chunked, changed.host = 20, "websocket", True, "other"
    assert changed.passed_on() == "User-Agent: known\r\nX-New: 1\r\n"
    after = parse_request_head(b"GET / HTTP/1.1\r\n" + FIELDS)
    assert (after.version, after.upgrade, after.chunked, after.host, after.get("x-new")) == (11, "", False, "a.example", None)
    assert after.passed_on() == "User-Agent: known\r\n"


def test_another_head_has_every_attribute() -> None:
    first = RequestHead("GET", "/a", 11, [("A", "b")], [])
    for number, name in enumerate(name for name in RequestHead.__slots__ if name not in ("method", "target", "path", "scheme")):
        setattr(first, name, number)
    other = first.another("PUT", "/c")
    assert (other.method, other.target, other.path, other.scheme) == ("PUT", "/c", "/c", "")
    assert all(getattr(other, name) == getattr(first, name) for name in RequestHead.__slots__
               if name not in ("method", "target", "path", "scheme"))


def test_what_is_remembered_is_bounded() -> None:
    for number in range(5000):
        for _ in range(2):
            parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\nX: %d\r\n\r\n" % number)
        assert len(request._known) <= 256
    for fields in (b"X: " + b"y" * 2100, b"\r\n".join(b"X-%d: y" % number for number in range(33))):
        heads = [parse_request_head(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n") for _ in range(4)]
        assert all(one.headers is not two.headers for one, two in itertools.pairwise(heads))


def test_they_can_be_forgotten() -> None:
    known()
    first = parse_request_head(b"GET / HTTP/1.1\r\n" + FIELDS)
    request.forget_fields()
    assert not request._known
    assert parse_request_head(b"GET / HTTP/1.1\r\n" + FIELDS).headers is not first.headers
