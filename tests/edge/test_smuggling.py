"""Request smuggling: whatever a client sends, a backend gets nothing, or one request that can be read in one way only.

The corpus is data. `{host}` stands for the domain, `{mark}` for what tells the requests of a case from all others.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Message, Recorder, Wire
from tests.support.system import System

INNER = "GET /smuggled{mark} HTTP/1.1\r\nHost: {host}\r\n\r\n"
CHUNKED_END = "0\r\n\r\n"
#: Ends the head of the request under test, so that a proxy that ignored the trick would wait for nothing.
POST = "POST /one{mark} HTTP/1.1\r\nHost: {host}\r\n"
GET = "GET /one{mark} HTTP/1.1\r\nHost: {host}\r\n"


@dataclass(frozen=True)
class Case:
    """`status` is the only answer; `body` what the backend reads, None where it may get no complete request."""

    name: str
    sent: str
    status: int = 400
    body: bytes | None = None
    absent: tuple[str, ...] = ()


def refused(name: str, sent: str, status: int = 400) -> Case:
    return Case(name, sent, status)


def passed(name: str, sent: str, body: bytes = b"", absent: tuple[str, ...] = ()) -> Case:
    return Case(name, sent, 200, body, absent)


def te(name: str, line: str, status: int = 400) -> Case:
    """A Transfer-Encoding in disguise, with a request hidden where the other reading ends."""
    return refused(f"TE.TE {name}", f"{POST}{line}\r\n\r\n{CHUNKED_END}{INNER}", status)


def size(name: str, line: str) -> Case:
    """A chunk-size line that parsers read differently."""
    return refused(f"chunk size {name}", f"{POST}Transfer-Encoding: chunked\r\n\r\n{line}\r\nhello\r\n{CHUNKED_END}{INNER}")


def length(name: str, value: str, status: int = 400) -> Case:
    return refused(f"length {name}", f"{POST}Content-Length: {value}\r\n\r\nhello{INNER}", status)


def field(name: str, lines: str, status: int = 400) -> Case:
    return refused(f"field {name}", f"{GET}{lines}\r\n\r\n{INNER}", status)


def line(name: str, first: str, status: int = 400) -> Case:
    return refused(f"line {name}", f"{first}\r\nHost: {{host}}\r\n\r\n{INNER}", status)


CASES = [
    refused("CL.TE", f"{POST}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED_END}{INNER}"),
    refused("TE.CL", f"{POST}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n{CHUNKED_END}{INNER}"),
    refused("CL.0", f"{GET}Content-Length: 0\r\nContent-Length: 40\r\n\r\n{INNER}"),
    refused("CL.CL differing", f"{POST}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello{INNER}"),
    refused("CL.CL the same", f"{POST}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello{INNER}"),
    refused("CL.CL spelled apart", f"{POST}content-length: 5\r\nCONTENT-LENGTH: 5\r\n\r\nhello{INNER}"),
    te("xchunked", "Transfer-Encoding: xchunked"),
    te("space before the colon", "Transfer-Encoding : chunked"),
    te("tab before the colon", "Transfer-Encoding\t: chunked"),
    te("quoted", 'Transfer-Encoding: "chunked"', 400),
    te("chunked then identity", "Transfer-Encoding: chunked, identity", 400),
    te("identity", "Transfer-Encoding: identity"),
    te("identity then chunked", "Transfer-Encoding: identity, chunked"),
    te("gzip then chunked", "Transfer-Encoding: gzip, chunked", 501),
    te("chunked twice", "Transfer-Encoding: chunked, chunked"),
    te("two fields", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    te("two fields, one in disguise", "Transfer-Encoding: chunked\r\nTransfer-encoding: cow"),
    te("empty", "Transfer-Encoding:"),
    te("only a comma", "Transfer-Encoding: ,"),
    te("comma behind", "Transfer-Encoding: chunked,"),
    te("parameter", "Transfer-Encoding: chunked;q=1"),
    te("folded", "Transfer-Encoding:\r\n chunked"),
    te("folded with tab", "Transfer-Encoding:\r\n\tchunked"),
    te("vertical tab", "Transfer-Encoding:\x0bchunked"),
    te("form feed", "Transfer-Encoding: chunked\x0c"),
    te("NUL", "Transfer-Encoding: chunked\0"),
    te("no-break space", "Transfer-Encoding:\xa0chunked", 400),
    te("bare CR", "Transfer-Encoding: chunked\rX: y"),
    te("bare LF before", "X: y\nTransfer-Encoding: chunked"),
    te("first line of fields begins with space", " Transfer-Encoding: chunked"),
    te("HTTP/1.0 style name", "Transfer Encoding: chunked"),
    refused("TE in HTTP/1.0", f"POST /one{{mark}} HTTP/1.0\r\nHost: {{host}}\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKED_END}{INNER}"),
    size("with 0x", "0x5"),
    size("negative", "-5"),
    size("signed", "+5"),
    size("empty", ""),
    size("with space before", " 5"),
    size("not hexadecimal", "5g"),
    size("huge", "FFFFFFFFFFFFFFFF5"),
    size("overflow to 5", "10000000000000005"),
    size("underscore", "0_5"),
    size("bare LF", "5\n"),
    size("bare CR in the extension", "5;a\rb"),
    size("LF in the extension", "5;a\nb"),
    size("NUL in the extension", "5;\0"),
    size("endless zeros", "0" * 300 + "5"),
    refused("chunk longer than its size", f"{POST}Transfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n{CHUNKED_END}{INNER}"),
    refused("chunk data without CRLF", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello{CHUNKED_END}{INNER}"),
    refused("chunk data followed by two other bytes", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX{CHUNKED_END}{INNER}"),
    refused("chunk data followed by CR and another byte", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\rX{CHUNKED_END}{INNER}"),
    refused("chunk data followed by LF LF", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n\n{CHUNKED_END}{INNER}"),
    refused("chunk size and data on one line", f"{POST}Transfer-Encoding: chunked\r\n\r\n5 hello\r\n{CHUNKED_END}{INNER}"),
    refused("chunk size followed by CR alone", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\rhello\r\n{CHUNKED_END}{INNER}"),
    refused("last chunk followed by a line that is no trailer", f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\n{INNER}"),
    refused("last chunk with an open quote", f'{POST}Transfer-Encoding: chunked\r\n\r\n0;a="\r\n\r\n{INNER}'),
    refused("Transfer-Encoding in the trailers", f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n{INNER}"),
    refused("fold in the trailers", f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: b\r\n c\r\n\r\n{INNER}"),
    refused("chunk data ended by LF", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\n{CHUNKED_END}{INNER}"),
    refused("trailer section ended by LF", f"{POST}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\n\n{INNER}"),
    refused("framing in the trailers", f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 50\r\n\r\n{INNER}"),
    refused("Host in the trailers", f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nHost: other.test\r\n\r\n{INNER}"),
    refused("NUL in the trailers", f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nX-A: \0\r\n\r\n{INNER}"),
    length("negative", "-5"),
    length("signed", "+5"),
    length("list of the same", "5, 5"),
    length("list", "5, 6"),
    length("empty", ""),
    length("hexadecimal", "0x5"),
    length("decimal point", "5.0"),
    length("space within", "5 5"),
    length("exponent", "5e0"),
    length("superscript", "\xb2"),
    length("underscore", "0_5"),
    length("beyond 64 bits", "18446744073709551621", 413),
    length("endless", "9" * 400, 413),
    length("NUL behind", "5\0"),
    length("vertical tab", "\x0b5"),
    refused("space before the colon of CL", f"{POST}Content-Length : 5\r\n\r\nhello{INNER}"),
    refused("folded CL", f"{POST}Content-Length:\r\n 5\r\n\r\nhello{INNER}"),
    field("obs-fold", "X-A: b\r\n c"),
    field("obs-fold at once", " X-A: b"),
    field("without colon", "X-A"),
    field("without name", ": b"),
    field("NUL in the value", "X-A: b\0c"),
    field("NUL in the name", "X\0A: b"),
    field("escape in the value", "X-A: \x1b[0m"),
    field("backspace in the value", "X-A: \x08"),
    field("DEL in the value", "X-A: \x7f"),
    field("bare CR in the value", "X-A: b\rContent-Length: 5"),
    field("bare LF in the value", "X-A: b\nContent-Length: 5"),
    field("bare LF at the end of all", "X-A: b\n\n"),
    field("space in the name", "X A: b"),
    field("parenthesis in the name", "X(A): b"),
    field("letters beyond ASCII in the name", "X\xe9: b"),
    field("two hosts", "Host: other.test"),
    field("two hosts, the same", "host: {host}"),
    field("Connection: content-length", "Connection: content-length\r\nContent-Length: 0"),
    field("Connection: transfer-encoding", "Connection: transfer-encoding, close"),
    field("Connection: host", "Connection: close, host"),
    field("Connection: x-forwarded-for", "Connection: close, X-Forwarded-For"),
    field("Connection: authorization", "Connection: authorization"),
    field("Connection: cookie", "Connection: cookie"),
    field("Connection of no tokens", "Connection: a b"),
    field("Upgrade with a body", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5"),
    field("Upgrade with a chunked body", "Connection: Upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked"),
    field("unknown expectation", "Expect: 200-ok", 417),
    field("two expectations", "Expect: 100-continue\r\nExpect: 100-continue", 417),
    field("expectation in disguise", "Expect: y 100-continue\r\nContent-Length: 5", 417),
    field("folded expectation", "Expect:\r\n 100-continue\r\nContent-Length: 5"),
    field("Connection: forwarded", "Connection: close, Forwarded"),
    field("Connection: via", "Connection: via"),
    field("Connection: expect", "Connection: expect"),
    field("Upgrade of no protocols", "Connection: Upgrade\r\nUpgrade: a b"),
    field("CR CR LF at the end of a field", "X-A: b\r"),
    field("line separator of Unicode in a name", "X\xe2\x80\xa8A: b"),
    refused("no Host", f"GET /one{{mark}} HTTP/1.1\r\n\r\n{INNER}"),
    *(refused(f"Host {value!r}", f"GET /one{{mark}} HTTP/1.1\r\nHost: {value}\r\n\r\n{INNER}") for value in (
        "", "{host}, other.test", "{host} other.test", "other@{host}", "{host}/path", "{host}:80:80", "{host}:port", "{host}:99999",
        "{host}?x", "{host}#x", "{host}\\x", "{host}%00", "[::1", "[{host}]", "a..b", "{host}\x00", "http://{host}")),
    line("absolute form elsewhere", "GET http://other.test/one{mark} HTTP/1.1"),
    line("absolute form with a user", "GET http://user@{host}/one{mark} HTTP/1.1"),
    line("absolute form, Host with another port", "GET http://{host}:80/one{mark} HTTP/1.1\r\nHost: {host}:81"),
    line("absolute form without a host", "GET http:///one{mark} HTTP/1.1"),
    line("absolute form with a space in the host", "GET http://{host} /one{mark} HTTP/1.1"),
    line("absolute form with a backslash", "GET http://{host}\\@other.test/one{mark} HTTP/1.1"),
    line("authority as the target", "GET {host}:80 HTTP/1.1"),
    line("scheme without slashes", "GET http:{host}/one{mark} HTTP/1.1"),
    line("absolute form of ftp", "GET ftp://{host}/one{mark} HTTP/1.1"),
    line("absolute form with another port", "GET http://{host}:81/one{mark} HTTP/1.1"),
    line("target without slash", "GET one{mark} HTTP/1.1"),
    line("asterisk with GET", "GET * HTTP/1.1"),
    line("fragment", "GET /one{mark}#two HTTP/1.1"),
    line("two spaces", "GET  /one{mark} HTTP/1.1"),
    line("tab", "GET\t/one{mark} HTTP/1.1"),
    line("space in the target", "GET /one{mark} two HTTP/1.1"),
    line("space behind", "GET /one{mark} HTTP/1.1 "),
    line("space before", " GET /one{mark} HTTP/1.1"),
    line("target beyond ASCII", "GET /\xe9 HTTP/1.1"),
    line("NUL in the target", "GET /\0 HTTP/1.1"),
    line("CR in the target", "GET /\r HTTP/1.1"),
    line("method of no token", "GE(T /one{mark} HTTP/1.1"),
    line("HTTP/0.9", "GET /one{mark}"),
    line("HTTP/2 by hand", "GET /one{mark} HTTP/2.0", 505),
    line("HTTP/1.2", "GET /one{mark} HTTP/1.2", 505),
    line("HTTP/1.10", "GET /one{mark} HTTP/1.10", 505),
    line("lower-case version", "GET /one{mark} http/1.1"),
    line("version without number", "GET /one{mark} HTTP/1."),
    line("HTTP/2 preface", "PRI * HTTP/2.0", 505),
    line("CONNECT without port", "CONNECT {host} HTTP/1.1"),
    line("CONNECT to a path", "CONNECT /one{mark} HTTP/1.1"),
    refused("bare LF everywhere", f"{GET}\r\n{INNER}".replace("\r\n", "\n")),
    refused("bare CR everywhere", "GET /one{mark} HTTP/1.1\rHost: {host}\r\r\r\n\r\n"),
    refused("TLS to the plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + "a" * 30 + "\r\n\r\n"),
    refused("three empty lines before", f"\r\n\r\n\r\n{GET}\r\n"),
    # What may look odd but has one meaning passes, and reaches the backend in plain words.
    passed("chunk extension", f"{POST}Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n{CHUNKED_END}", b"hello"),
    passed("chunk extension in quotes", f'{POST}Transfer-Encoding: chunked\r\n\r\n5;a="b;c"\r\nhello\r\n{CHUNKED_END}', b"hello"),
    passed("chunk sizes in both cases", f"{POST}Transfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\nA\r\n0123456789\r\n{CHUNKED_END}",
           b"0123456789" * 2),
    passed("leading zeros of a chunk size", f"{POST}Transfer-Encoding: chunked\r\n\r\n0005\r\nhello\r\n00\r\n\r\n", b"hello"),
    passed("CHUNKED in capitals", f"{POST}Transfer-Encoding: CHUNKED\r\n\r\n5\r\nhello\r\n{CHUNKED_END}", b"hello"),
    passed("request in a body", f"{POST}Content-Length: {len(INNER)}\r\n\r\n{INNER}", INNER.encode()),
    passed("request in a chunk", f"{POST}Transfer-Encoding: chunked\r\n\r\n{len(INNER):x}\r\n{INNER}\r\n{CHUNKED_END}", INNER.encode()),
    passed("white space around a length", f"{POST}Content-Length: \t 5 \t\r\n\r\nhello", b"hello"),
    passed("zeros before a length", f"{POST}Content-Length: 005\r\n\r\nhello", b"hello"),
    passed("GET with a body", f"{GET}Content-Length: 5\r\n\r\nhello", b"hello"),
    passed("underscore names are left out",
           f"{POST}Content_Length: 9\r\nTransfer_Encoding: chunked\r\nX_Forwarded_For: 1.2.3.4\r\nContent-Length: 5\r\n\r\nhello", b"hello",
           ("content_length", "transfer_encoding", "x_forwarded_for")),
    passed("a field named by Connection is left out", f"{GET}Connection: close, X-Secret\r\nX-Secret: 1\r\n\r\n", b"", ("x-secret",)),
    passed("absolute form", "GET http://{host}/one{mark} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    passed("absolute form, port said once", "GET http://{host}:80/one{mark} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    passed("expectation with the body at once", f"{POST}Expect: 100-continue\r\nContent-Length: 5\r\n\r\nhello", b"hello", ("expect",)),
    passed("expectation without a body", f"{GET}Expect: 100-continue\r\n\r\n", b"", ("expect",)),
    passed("fields that only look like framing",
           f"{POST}Content-Encoding: chunked\r\nX-Content-Length: 9\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    passed("empty line before", f"\r\n{GET}\r\n"),
    passed("h2c is not offered on", f"{GET}Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", b"",
           ("upgrade", "http2-settings", "connection")),
    passed("Upgrade without Connection", f"{GET}Upgrade: websocket\r\n\r\n", b"", ("upgrade",)),
    passed("UTF-8 in a value", f"{GET}X-A: caf\xc3\xa9\r\n\r\n"),
]


@pytest.fixture(scope="module")
def host(edge: System, recorder: Recorder) -> str:
    return make_route(edge, recorder.url)


@pytest.mark.parametrize("number", range(len(CASES)), ids=[case.name for case in CASES])
def test_a_backend_gets_nothing_or_one_request_of_one_meaning(number: int, edge: System, recorder: Recorder, host: str) -> None:
    case, mark = CASES[number], f"-{number:03}-"
    sent, wanted = _filled(case, host, mark)
    with Wire(edge.proxy_port) as wire:
        wire.send(sent)
        response = wire.response()
        assert response.status == case.status, response
        if wanted is None:
            assert response.get("connection") == "close"
            assert wire.ended(), f"more than one answer: {wire.data!r}"
            # A body that turned out bad may have begun its way: it never looks whole.
            assert not [request for request in recorder.requests() if mark in request.line and request.complete]
            return
    requests = [request for request in recorder.requests() if mark in request.line]
    assert len(requests) == 1, requests
    _check_plain(requests[0], host, mark)
    assert requests[0].body == wanted
    assert requests[0].complete
    assert not {name.lower() for name, _ in requests[0].fields} & set(case.absent)


def test_all_that_was_recorded_holds_no_request_that_was_hidden_or_refused(edge: System, recorder: Recorder, host: str) -> None:
    assert edge.get("/last", host).status == 200
    bad = [f"-{number:03}-" for number, case in enumerate(CASES) if case.body is None]
    for request in recorder.requests():
        assert not request.line.startswith("GET /smuggled")
        assert not (request.complete and any(mark in request.line for mark in bad)), request


def _filled(case: Case, host: str, mark: str) -> tuple[str, bytes | None]:
    """What is sent and what must arrive, with host and mark in place; lengths counted before are made right."""
    inner = INNER.replace("{host}", host).replace("{mark}", mark)
    sent = case.sent
    if case.body == INNER.encode():
        sent = sent.replace(f"Content-Length: {len(INNER)}", f"Content-Length: {len(inner)}")
        sent = sent.replace(f"\r\n{len(INNER):x}\r\n", f"\r\n{len(inner):x}\r\n")
    sent = sent.replace("{host}", host).replace("{mark}", mark)
    return sent, inner.encode() if case.body == INNER.encode() else case.body


def _check_plain(request: Message, host: str, mark: str) -> None:
    assert request.line.split(" ")[1:] == [f"/one{mark}", "HTTP/1.1"]
    assert (request.get("host") or "").removesuffix(":80") == host
    assert not [name for name, _ in request.fields if "_" in name]


def _below(recorder: Recorder, path: str) -> list[Message]:
    """The recorded requests below a path."""
    return [request for request in recorder.requests() if request.line.split(" ")[1].startswith(path)]


def test_connect_is_refused(edge: System, recorder: Recorder, host: str) -> None:
    with Wire(edge.proxy_port) as wire:
        response = wire.send(f"CONNECT {host}:80 HTTP/1.1\r\nHost: {host}:80\r\n\r\n").response()
        assert (response.status, response.get("x-proxyd-reason")) == (405, "connect_refused")
    assert not [request for request in recorder.requests() if request.line.startswith("CONNECT")]


def test_absolute_form_to_a_host_that_is_no_route_goes_nowhere(edge: System, recorder: Recorder) -> None:
    with Wire(edge.proxy_port) as wire:
        address = recorder.url.removeprefix("http://")
        assert wire.send(f"GET http://{address}/open HTTP/1.1\r\nHost: {address}\r\n\r\n").response().status == 404
    assert not _below(recorder, "/open")


def test_pipelined_requests_are_answered_in_order_and_each_is_whole(edge: System, recorder: Recorder, host: str) -> None:
    with Wire(edge.proxy_port) as wire:
        wire.send(f"POST /pipe/a HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\none"
                  f"POST /pipe/b HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n"
                  f"GET /pipe/c HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert [wire.response().status for _ in range(3)] == [200, 200, 200]
        assert wire.ended()
    assert {(request.line, request.body) for request in _below(recorder, "/pipe/")} == {
        ("POST /pipe/a HTTP/1.1", b"one"), ("POST /pipe/b HTTP/1.1", b"two"), ("GET /pipe/c HTTP/1.1", b"")}


def test_nothing_behind_a_refused_request_is_read_as_one(edge: System, recorder: Recorder, host: str) -> None:
    with Wire(edge.proxy_port) as wire:
        wire.send(f"GET /behind/a HTTP/1.1\r\nHost: {host}\r\nBad : field\r\n\r\n" + f"GET /behind/b HTTP/1.1\r\nHost: {host}\r\n\r\n" * 5)
        assert wire.response().status == 400
        assert wire.ended()
    assert not _below(recorder, "/behind/")


def test_a_request_sent_byte_by_byte_means_the_same(edge: System, recorder: Recorder, host: str) -> None:
    with Wire(edge.proxy_port) as wire:
        for byte in f"POST /one-bytes HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nX-T: 1\r\n\r\n":
            wire.send(byte)
        assert wire.response().status == 200
    (request,) = _below(recorder, "/one-bytes")
    _check_plain(request, host, "-bytes")
    assert (request.body, request.trailers) == (b"hello", [("X-T", "1")])


def test_an_undeclared_body_behind_a_request_is_a_request_of_its_own_and_bad(edge: System, recorder: Recorder, host: str) -> None:
    with Wire(edge.proxy_port) as wire:
        wire.send(f"GET /undeclared HTTP/1.1\r\nHost: {host}\r\n\r\nhello=1\r\n\r\n")
        assert [wire.response().status, wire.response().status] == [200, 400]
        assert wire.ended()
    assert [request.line for request in _below(recorder, "/undeclared")] == ["GET /undeclared HTTP/1.1"]
