"""Request heads: what is read out of a good one, and the reason each bad one is refused with."""

from __future__ import annotations

import time

import pytest

from proxyd.http1 import HeadLimits, ProtocolError, RequestHead, fieldnames, find_head_end, parse_request_head

from .readers import read_request


def parse(*fields: str, line: str = "GET / HTTP/1.1", host: str | None = "Host: example.com") -> RequestHead:
    lines = [line, *([host] if host is not None else []), *fields, "", ""]
    return read_request("\r\n".join(lines).encode("latin-1"))


def refused(head: bytes, limits: HeadLimits | None = None) -> tuple[int, str]:
    with pytest.raises(ProtocolError) as caught:
        read_request(head, limits or HeadLimits())
    assert caught.value.detail
    return caught.value.status, caught.value.code


def test_a_plain_request_is_read_as_sent() -> None:
    head = parse("X-Mixed-Case:  two  words \t", "Accept:", line="get /a//b?x=1&y=%20 HTTP/1.1")
    assert (head.method, head.target, head.path) == ("get", "/a//b?x=1&y=%20", "/a//b?x=1&y=%20")
    assert (head.version, head.host, head.scheme) == (11, "example.com", "")
    assert head.headers == [("Host", "example.com"), ("X-Mixed-Case", "two  words"), ("Accept", "")]
    assert (head.content_length, head.chunked, head.keep_alive) == (-1, False, True)
    assert (head.upgrade, head.expect_continue, head.te_trailers) == ("", False, False)
    assert head.get("x-mixed-case") == "two  words"
    assert head.get("x-missing") is None


def test_bytes_above_ascii_in_values_survive() -> None:
    assert parse("X-Name: J\xf6rg").get("x-name") == "J\xf6rg"


def test_repeated_fields_keep_their_order() -> None:
    head = parse("Cookie: a=1", "X: y", "cookie: b=2")
    assert head.get_all("cookie") == ["a=1", "b=2"]
    assert head.get("cookie") == "a=1"


@pytest.mark.parametrize(("value", "length"), [("0", 0), ("5", 5), ("007", 7), ("9" * 18, 10**18 - 1)])
def test_content_length_is_read(value: str, length: int) -> None:
    assert parse(f"Content-Length: {value}").content_length == length


@pytest.mark.parametrize("value", ["chunked", "Chunked", "CHUNKED", "\tchunked "])
def test_chunked_is_the_coding_that_is_read(value: str) -> None:
    assert parse(f"Transfer-Encoding: {value}").chunked


@pytest.mark.parametrize(
    ("version", "fields", "kept"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: keep-alive, Close"], False),
        ("1.1", ["Connection: keep-alive", "Connection: close"], False),
        ("1.0", [], False),
        ("1.0", ["Connection: Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
        ("1.1", ["Proxy-Connection: close"], True),
        ("1.1", ["Connection: ,"], True),
    ],
)
def test_keep_alive_follows_version_and_connection(version: str, fields: list[str], kept: bool) -> None:
    assert parse(*fields, line=f"GET / HTTP/{version}").keep_alive is kept


def test_end_to_end_fields_leave_out_what_the_proxy_writes_or_keeps() -> None:
    head = parse(
        "Connection: keep-alive, X-Hop", "Keep-Alive: timeout=5", "X-Hop: 1", "Content-Length: 3", "TE: trailers, deflate",
        "Proxy-Connection: keep-alive", "Proxy-Authorization: Basic eA==", "X-Forwarded-For: 1.2.3.4", "Via: 1.1 edge",
        "X-Request-ID: abc", "X_Under: 1", "Accept: */*", "X-Hop: 2", "Trailer: X-Sum",
    )  # fmt: skip
    assert head.end_to_end() == [("Accept", "*/*"), ("Trailer", "X-Sum")]
    assert head.edge == [("x-forwarded-for", "1.2.3.4"), ("via", "1.1 edge"), ("x-request-id", "abc")]
    assert head.connection == {"keep-alive", "x-hop"}
    assert head.dropped == ["X_Under"]
    assert head.te_trailers


@pytest.mark.parametrize("name", ["X-Forwarded-For", "x-forwarded-prefix", "FORWARDED", "X-Real-Ip", "via"])
def test_fields_about_the_way_so_far_are_set_apart_in_any_case(name: str) -> None:
    head = parse(f"{name}: 1")
    assert head.edge == [(name.lower(), "1")]
    assert head.end_to_end() == []


def test_names_with_underscores_are_left_out_and_told() -> None:
    head = parse("Content_Length: 5", "X-Real: 1", "Transfer_Encoding: chunked", "X_REAL_IP: 6.6.6.6")
    assert head.headers == [("Host", "example.com"), ("X-Real", "1")]
    assert head.dropped == ["Content_Length", "Transfer_Encoding", "X_REAL_IP"]
    assert (head.content_length, head.chunked) == (-1, False)
    assert head.end_to_end() == [("X-Real", "1")]


@pytest.mark.parametrize(
    ("fields", "upgrade"),
    [
        (["Connection: Upgrade", "Upgrade: WebSocket"], "websocket"),
        (["Connection: keep-alive, upgrade", "Upgrade: websocket", "Content-Length: 0"], "websocket"),
        (["Connection: upgrade", "Upgrade: a/1", "Upgrade: b"], "a/1, b"),
        (["Upgrade: websocket"], ""),
        (["Connection: upgrade"], ""),
        (["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Content-Length: 4"], ""),
    ],
)
def test_upgrade_counts_only_when_connection_lists_it(fields: list[str], upgrade: str) -> None:
    assert parse(*fields).upgrade == upgrade


def test_upgrade_is_ignored_in_http10() -> None:
    assert parse("Connection: upgrade", "Upgrade: websocket", line="GET / HTTP/1.0").upgrade == ""


@pytest.mark.parametrize(
    ("version", "fields", "waits"),
    [
        ("1.1", ["Expect: 100-continue", "Content-Length: 5"], True),
        ("1.1", ["Expect: 100-Continue", "Transfer-Encoding: chunked"], True),
        ("1.1", ["Expect: 100-continue"], False),
        ("1.1", ["Expect: 100-continue", "Content-Length: 0"], False),
        ("1.0", ["Expect: 100-continue", "Content-Length: 5"], False),
    ],
)
def test_a_client_waits_for_100_only_with_a_body_in_http11(version: str, fields: list[str], waits: bool) -> None:
    assert parse(*fields, line=f"POST / HTTP/{version}").expect_continue is waits


@pytest.mark.parametrize(
    ("line", "host", "expected"),
    [
        ("GET http://example.com/a?b HTTP/1.1", "example.com", ("http", "example.com", "/a?b")),
        ("GET HTTPS://Example.com HTTP/1.1", "example.com", ("https", "Example.com", "/")),
        ("GET http://example.com?q HTTP/1.1", "example.com", ("http", "example.com", "/?q")),
        ("GET http://example.com:80/ HTTP/1.1", "example.com", ("http", "example.com:80", "/")),
        ("GET https://[::1]:443/ HTTP/1.1", "[::1]", ("https", "[::1]:443", "/")),
        ("OPTIONS http://example.com HTTP/1.1", "example.com", ("http", "example.com", "*")),
        ("OPTIONS * HTTP/1.1", "example.com", ("", "example.com", "*")),
        ("CONNECT example.com:443 HTTP/1.1", "example.com:443", ("", "example.com:443", "example.com:443")),
        ("CONNECT [::1]:443 HTTP/1.1", "[::1]:443", ("", "[::1]:443", "[::1]:443")),
        ("GET http://other/ HTTP/1.0", None, ("http", "other", "/")),
        ("GET / HTTP/1.0", None, ("", None, "/")),
        ("GET //two/slashes HTTP/1.1", "example.com", ("", "example.com", "//two/slashes")),
    ],
)
def test_every_form_of_target_gives_scheme_host_and_path(
    line: str, host: str | None, expected: tuple[str, str | None, str]
) -> None:
    head = parse(line=line, host=None if host is None else f"Host: {host}")
    assert (head.scheme, head.host, head.path) == expected
    assert head.target == line.split(" ")[1]


@pytest.mark.parametrize(
    "host", ["a", "a.b.", "A-1.example:8080", "my_service", "127.0.0.1:1", "[::1]", "[2001:db8::1]:65535", "xn--bcher-kva.de"]
)
def test_valid_hosts_pass_twice(host: str) -> None:
    assert parse(host=f"Host: {host}").host == parse(host=f"Host: {host}").host == host


@pytest.mark.parametrize(
    "host",
    ["", "a b", "a,b", "user@a", "u:p@a", "a:x", "a:65536", "a:123456", ":80", "a:80:80", "http://a", "a/b", "a?b",
     "a#b", "a..b", ".a", "[::1", "::1", "[g::1]", "[1:2:3]", "[::1%25eth0]", "b\xfccher.de", "a\\b", "%61", "a" * 300, "[::1]x",
     "a\tb"],
)  # fmt: skip
def test_an_invalid_host_is_refused(host: str) -> None:
    assert refused(f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")) == (400, "bad_host")
    # And by the authority of a target, where a slash or question mark ends it.
    if host not in ("a/b", "a?b", "http://a") and not set(host) & set(" \t#\xfc"):
        request = f"GET http://{host}/ HTTP/1.1\r\nHost: a\r\n\r\n"
        assert refused(request.encode("latin-1")) == (400, "bad_target")


HOST = "Host: a\r\n"
REFUSED = {
    # one framing only
    "CL and TE": (f"{HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", 400, "conflicting_lengths"),
    "TE and CL": (f"{HOST}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", 400, "conflicting_lengths"),
    "CL and bad TE": (f"{HOST}Content-Length: 5\r\nTransfer-Encoding: x\r\n", 400, "conflicting_lengths"),
    "CL CL": (f"{HOST}Content-Length: 5\r\nContent-Length: 6\r\n", 400, "duplicate_content_length"),
    "equal CL CL": (f"{HOST}Content-Length: 5\r\ncontent-length: 5\r\n", 400, "duplicate_content_length"),
    "CL list": (f"{HOST}Content-Length: 5, 5\r\n", 400, "duplicate_content_length"),
    "CL plus": (f"{HOST}Content-Length: +5\r\n", 400, "bad_content_length"),
    "CL minus": (f"{HOST}Content-Length: -5\r\n", 400, "bad_content_length"),
    "CL empty": (f"{HOST}Content-Length:\r\n", 400, "bad_content_length"),
    "CL hex": (f"{HOST}Content-Length: 0x5\r\n", 400, "bad_content_length"),
    "CL spaces": (f"{HOST}Content-Length: 1 2\r\n", 400, "bad_content_length"),
    "CL underscore": (f"{HOST}Content-Length: 1_0\r\n", 400, "bad_content_length"),
    "CL fraction": (f"{HOST}Content-Length: 5.0\r\n", 400, "bad_content_length"),
    "CL superscript": (f"{HOST}Content-Length: \xb2\r\n", 400, "bad_content_length"),
    "CL nbsp": (f"{HOST}Content-Length: 5\xa0\r\n", 400, "bad_content_length"),
    "CL huge": (f"{HOST}Content-Length: {'9' * 19}\r\n", 413, "content_length_too_large"),
    "TE gzip": (f"{HOST}Transfer-Encoding: gzip\r\n", 400, "bad_transfer_encoding"),
    "TE gzip, chunked": (f"{HOST}Transfer-Encoding: gzip, chunked\r\n", 501, "unsupported_transfer_coding"),
    "TE chunked, gzip": (f"{HOST}Transfer-Encoding: chunked, gzip\r\n", 400, "bad_transfer_encoding"),
    "TE chunked, chunked": (f"{HOST}Transfer-Encoding: chunked, chunked\r\n", 400, "bad_transfer_encoding"),
    "TE x, chunked": (f"{HOST}Transfer-Encoding: x, chunked\r\n", 400, "bad_transfer_encoding"),
    "TE identity": (f"{HOST}Transfer-Encoding: identity\r\n", 400, "bad_transfer_encoding"),
    "TE xchunked": (f"{HOST}Transfer-Encoding: xchunked\r\n", 400, "bad_transfer_encoding"),
    "TE chunked with parameter": (f"{HOST}Transfer-Encoding: chunked;q=1\r\n", 400, "bad_transfer_encoding"),
    "TE quoted": (f'{HOST}Transfer-Encoding: "chunked"\r\n', 400, "bad_transfer_encoding"),
    "TE empty": (f"{HOST}Transfer-Encoding:\r\n", 400, "bad_transfer_encoding"),
    "TE comma": (f"{HOST}Transfer-Encoding: ,chunked\r\n", 400, "bad_transfer_encoding"),
    "TE vertical tab": (f"{HOST}Transfer-Encoding: \x0bchunked\r\n", 400, "control_character"),
    "TE TE": (f"{HOST}Transfer-Encoding: chunked\r\nTransfer-encoding: x\r\n", 400, "duplicate_transfer_encoding"),
    "TE TE equal": (f"{HOST}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", 400, "duplicate_transfer_encoding"),
    # lines
    "obs-fold": (f"{HOST}X: a\r\n b\r\n", 400, "obs_fold"),
    "obs-fold tab": (f"{HOST}Transfer-Encoding:\r\n\tchunked\r\n", 400, "obs_fold"),
    "fold first": (" Host: a\r\n", 400, "obs_fold"),
    "space before colon": (f"{HOST}Content-Length : 5\r\n", 400, "space_before_colon"),
    "tab before colon": (f"{HOST}Transfer-Encoding\t: chunked\r\n", 400, "space_before_colon"),
    "bare CR": (f"{HOST}X: a\rContent-Length: 5\r\n", 400, "bare_cr"),
    "CR CR LF": (f"{HOST}X: a\r\r\n", 400, "bare_cr"),
    "bare LF": (f"{HOST}X: a\nContent-Length: 5\r\n", 400, "bare_lf"),
    "LF in a name": (f"{HOST}X\nY: a\r\n", 400, "bare_lf"),
    "NUL": (f"{HOST}X: a\0b\r\n", 400, "nul_byte"),
    "control": (f"{HOST}X: a\x01b\r\n", 400, "control_character"),
    "DEL": (f"{HOST}X: a\x7fb\r\n", 400, "control_character"),
    "form feed": (f"{HOST}X: a\x0cb\r\n", 400, "control_character"),
    "no name": (f"{HOST}: a\r\n", 400, "empty_field_name"),
    "no colon": (f"{HOST}chunked\r\n", 400, "bad_field_line"),
    "space in name": (f"{HOST}X Y: a\r\n", 400, "bad_field_name"),
    "latin-1 in name": (f"{HOST}X\xe4: a\r\n", 400, "bad_field_name"),
    "separator in name": (f"{HOST}X(Y): a\r\n", 400, "bad_field_name"),
    # routing and hop-by-hop
    "no Host": ("X: a\r\n", 400, "missing_host"),
    "Host Host": ("Host: a\r\nHost: b\r\n", 400, "duplicate_host"),
    "equal Host Host": ("Host: a\r\nhost: a\r\n", 400, "duplicate_host"),
    "Connection: content-length": (f"{HOST}Connection: Content-Length\r\n", 400, "forbidden_connection_option"),
    "Connection: host": (f"{HOST}Connection: close, host\r\n", 400, "forbidden_connection_option"),
    "Connection: te field": (f"{HOST}Connection: transfer-encoding\r\n", 400, "forbidden_connection_option"),
    "Connection: authorization": (f"{HOST}Connection: authorization\r\n", 400, "forbidden_connection_option"),
    "Connection: cookie": (f"{HOST}Connection: x\r\nConnection: cookie\r\n", 400, "forbidden_connection_option"),
    "Connection: x-forwarded-for": (f"{HOST}Connection: X-Forwarded-For\r\n", 400, "forbidden_connection_option"),
    "Connection not tokens": (f"{HOST}Connection: keep alive\r\n", 400, "bad_connection"),
    "Expect other": (f"{HOST}Expect: 200-ok\r\n", 417, "unsupported_expectation"),
    "Expect twice": (f"{HOST}Expect: 100-continue\r\nExpect: x\r\n", 417, "unsupported_expectation"),
    "Upgrade with CL": (f"{HOST}Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n", 400, "upgrade_with_body"),
    "Upgrade with TE": (
        f"{HOST}Connection: upgrade\r\nUpgrade: websocket, h2c\r\nTransfer-Encoding: chunked\r\n", 400, "upgrade_with_body",
    ),
    "Upgrade not protocols": (f"{HOST}Connection: upgrade\r\nUpgrade: web socket\r\n", 400, "bad_upgrade"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_an_ambiguous_or_malformed_head_is_refused_with_its_reason(case: str) -> None:
    fields, status, code = REFUSED[case]
    assert refused(f"POST / HTTP/1.1\r\n{fields}\r\n".encode("latin-1")) == (status, code)


@pytest.mark.parametrize(
    ("line", "status", "code"),
    [
        ("GET /", 400, "bad_request_line"),
        ("GET", 400, "bad_request_line"),
        ("", 400, "bad_request_line"),
        ("GET  / HTTP/1.1", 400, "bad_request_line"),
        ("GET / HTTP/1.1 ", 400, "bad_request_line"),
        (" GET / HTTP/1.1", 400, "bad_request_line"),
        ("GET\t/ HTTP/1.1", 400, "bad_request_line"),
        ("GET / http/1.1", 400, "bad_request_line"),
        ("GET / HTTP/1.1x", 400, "bad_request_line"),
        ("G@T / HTTP/1.1", 400, "bad_request_line"),
        ("GET /a b HTTP/1.1", 400, "bad_request_line"),
        ("GET / HTTP/1.2", 505, "unsupported_version"),
        ("GET / HTTP/2.0", 505, "unsupported_version"),
        ("PRI * HTTP/2.0", 505, "unsupported_version"),
        ("GET / HTTP/0.9", 505, "unsupported_version"),
        ("GET / HTTP/11", 505, "unsupported_version"),
        ("GET / HTTP/01.1", 505, "unsupported_version"),
        ("GET /a#b HTTP/1.1", 400, "fragment_in_target"),
        ("GET /\xe4 HTTP/1.1", 400, "bad_target"),
        ("GET /\x7f HTTP/1.1", 400, "control_character"),
        ("GET /\0 HTTP/1.1", 400, "nul_byte"),
        ("GET / HTTP/1.1\r", 400, "bare_cr"),
        ("GET a HTTP/1.1", 400, "bad_target"),
        ("GET * HTTP/1.1", 400, "bad_target"),
        ("GET ftp://a/ HTTP/1.1", 400, "bad_target"),
        ("GET http:/a HTTP/1.1", 400, "bad_target"),
        ("GET http:///a HTTP/1.1", 400, "bad_target"),
        ("GET a:443 HTTP/1.1", 400, "bad_target"),
        ("CONNECT a HTTP/1.1", 400, "bad_target"),
        ("CONNECT /a HTTP/1.1", 400, "bad_target"),
        ("CONNECT [::1] HTTP/1.1", 400, "bad_target"),
        ("GET http://b/ HTTP/1.1", 400, "host_mismatch"),
        ("GET http://a:8080/ HTTP/1.1", 400, "host_mismatch"),
        ("GET http://a:443/ HTTP/1.1", 400, "host_mismatch"),
    ],
)
def test_a_bad_request_line_is_refused_with_its_reason(line: str, status: int, code: str) -> None:
    assert refused(f"{line}\r\nHost: a\r\n\r\n".encode("latin-1")) == (status, code)


def test_transfer_encoding_in_http10_is_refused() -> None:
    head = b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert refused(head) == (400, "transfer_encoding_in_http10")


def test_each_limit_holds_at_its_edge() -> None:
    limits = HeadLimits(request_line=20, field_count=2, field_size=12, head_size=60)
    assert parse_request_head(b"GET /abcdef HTTP/1.1\r\nHost: abcdef\r\nX: 456789012\r\n\r\n", limits).host == "abcdef"
    assert refused(b"GET /abcdefg HTTP/1.1\r\nHost: a\r\n\r\n", limits) == (414, "request_line_too_long")
    assert refused(b"GET / HTTP/1.1\r\nHost: abcdefg\r\nX: 1\r\n\r\n", limits) == (431, "field_too_large")
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nY: 2\r\n\r\n", limits) == (431, "too_many_fields")
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 40 + b"\r\n\r\n", limits) == (431, "head_too_large")


def test_a_head_without_its_empty_line_is_refused() -> None:
    assert refused(b"") == (400, "incomplete_head")
    assert refused(b"GET / HTTP/1.1\r\nHost: a\r\n") == (400, "incomplete_head")


def test_empty_lines_before_a_request_are_passed_over_within_bounds() -> None:
    request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for count in (0, 1, 2):
        data = b"\r\n" * count + request
        assert find_head_end(data + b"body") == len(data)
        assert parse_request_head(data).target == "/"
    data = b"\r\n" * 3 + request
    assert refused(data[: find_head_end(data)]) == (400, "bad_request_line")


def test_the_end_of_a_head_is_found_however_it_arrives() -> None:
    data = b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\nrest"
    buffer = bytearray()
    ends = []
    for byte in data:
        searched = len(buffer)
        buffer.append(byte)
        ends.append(find_head_end(buffer, searched))
    assert ends.index(len(data) - 4) == len(data) - 5
    assert set(ends[: len(data) - 5]) == {-1}


def test_a_bare_line_feed_is_told_before_the_head_is_complete() -> None:
    data = b"GET / HTTP/1.1\nHost: a\n\n"
    end = find_head_end(data)
    assert end == 15
    assert refused(data[:end]) == (400, "bare_lf")


def test_invented_names_neither_grow_the_name_table_nor_change_what_names_mean() -> None:
    for batch in range(40):
        parse(*[f"X-{batch}-{number}: 1" for number in range(90)])
    assert len(fieldnames.KINDS) <= 1024
    assert fieldnames.remembered_rows.cache_info().currsize <= 512
    before = fieldnames.remembered_rows.cache_info().currsize
    parse("X-Large: " + "a" * 2048)
    assert fieldnames.remembered_rows.cache_info().currsize == before
    assert parse("Content-Length: 3").content_length == 3
    assert parse("CONTENT-length: 3").content_length == 3


def test_a_hostile_head_takes_linear_time() -> None:
    started = time.thread_time()
    for filler in (b"a" * 60000, b" " * 60000, b"a:" * 30000, b"a: b\n" * 12000, b"\t:" * 30000, b"a\r" * 30000):
        refused(b"GET / HTTP/1.1\r\nHost: a\r\n" + filler + b"\r\n\r\n")
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize(("sent", "target"), [(b"/caf\xc3\xa9?q=\xe6\x97\xa5", "/caf%C3%A9?q=%E6%97%A5"),
                                              (b"http://a/\xc3\xa9", "/%C3%A9")])
def test_raw_utf_8_in_a_target_is_percent_encoded(sent: bytes, target: str) -> None:
    assert parse_request_head(b"GET " + sent + b" HTTP/1.1\r\nHost: a\r\n\r\n").path == target


@pytest.mark.parametrize(("sent", "reason"), [
    (b"/caf\xe9", (400, "bad_target")), (b"/\xc3", (400, "bad_target")), (b"/\xed\xa0\x80", (400, "bad_target")),
    (b"http://\xc3\xa9/", (400, "bad_target")), (b"/" + b"\xc3\xa9" * 2000, (414, "request_line_too_long"))])
def test_other_bytes_in_a_target_are_refused(sent: bytes, reason: tuple[int, str]) -> None:
    assert refused(b"GET " + sent + b" HTTP/1.1\r\nHost: a\r\n\r\n") == reason


@pytest.mark.parametrize("target", ["a:", "[::1]:", "a"])
def test_connect_needs_a_port(target: str) -> None:
    assert refused(f"CONNECT {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()) == (400, "bad_target")


def test_an_empty_port_is_none() -> None:
    assert parse_request_head(b"GET http://a/ HTTP/1.1\r\nHost: a:\r\n\r\n").host == "a"
    assert parse_request_head(b"GET / HTTP/1.1\r\nHost: [::1]:\r\n\r\n").host == "[::1]:"
