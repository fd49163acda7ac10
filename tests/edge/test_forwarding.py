"""What a request becomes on its way to the backend and a response on its way back: every field we add, change or drop, bodies,
early ends, and which connections are used again."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import RouteMaker, make_route
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.backends import RawBackend, SilentBackend
from tests.support.system import System
from tests.support.waiting import patience, wait_for

OK = "HTTP/1.1 200 OK\r\n"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def trusting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd that believes what 127.0.0.1 says about clients."""
    running = System(tmp_path_factory.mktemp("trusting"), workers=1, proxy__trusted_proxies="127.0.0.0/8 10.0.0.0/8", proxy__via="edge",
                     proxy__hsts="1h", ratelimit__headers="yes")
    yield running
    running.stop()


def forwarded(system: System, recorder: Recorder, host: str, *fields: str, path: str = "/", method: str = "GET") -> Message:
    """Send one request and return what the backend got."""
    with Wire(system.proxy_port) as wire:
        assert wire.send(get(host, path, *fields, method=method)).response(method).status == 200
    return recorder.requests()[-1]


# -- fields of the request


def test_hop_by_hop_fields_of_a_request_end_here(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    got = forwarded(edge, recorder, host, "Connection: keep-alive, X-Mine", "X-Mine: 1", "Keep-Alive: timeout=5", "Proxy-Connection: close",
                    "Proxy-Authorization: Basic eDp5", "TE: gzip", "Upgrade: foo", "X-Kept: 1", "Trailer: X-T")
    names = {name.lower() for name, _ in got.fields}
    assert not names & {"connection", "x-mine", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"}
    assert got.get("x-kept") == "1"


def test_te_trailers_is_passed_on_as_our_own(edge: System, recorder: Recorder) -> None:
    got = forwarded(edge, recorder, make_route(edge, recorder.url), "TE: trailers, deflate;q=0.5", "Connection: TE")
    assert (got.get("te"), got.get("connection")) == ("trailers", "TE")


def test_fields_keep_their_spelling_order_and_repetition(edge: System, recorder: Recorder) -> None:
    got = forwarded(edge, recorder, make_route(edge, recorder.url), "x-ONE: 1", "Cookie: a=b", "X-two: 2", "X-One: 3", "X-Empty: ")
    kept = [field for field in got.fields if field[0].lower() in ("x-one", "x-two", "x-empty", "cookie")]
    assert kept == [("x-ONE", "1"), ("Cookie", "a=b"), ("X-two", "2"), ("X-One", "3"), ("X-Empty", "")]


def test_an_untrusted_client_says_nothing_about_the_way_it_came(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    got = forwarded(edge, recorder, host, "X-Forwarded-For: 6.6.6.6", "X-FORWARDED-PROTO: https", "X-Forwarded-Host: evil.test",
                    "X-Forwarded-Port: 1", "Forwarded: for=6.6.6.6;proto=https", "X-Real-IP: 6.6.6.6", "X-Forwarded-Prefix: /evil")
    assert got.get("x-forwarded-for") == got.get("x-real-ip") == "127.0.0.1"
    assert (got.get("x-forwarded-proto"), got.get("x-forwarded-host")) == ("http", host)
    assert got.get("forwarded") == f"for=127.0.0.1;host={host};proto=http"
    assert not [name for name, value in got.fields if "6.6.6.6" in value or "evil" in value or name.lower() == "x-forwarded-port"]


def test_plain_requests_get_the_same_fields(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    got = forwarded(edge, recorder, host)
    assert got.get("x-forwarded-for") == got.get("x-real-ip") == "127.0.0.1"
    assert got.get("forwarded") == f"for=127.0.0.1;host={host};proto=http"
    assert re.fullmatch(r"1\.1 proxyd-[0-9a-f]{8}", got.get("via") or "")


def test_a_trusted_proxy_is_believed_and_added_to(trusting: System, recorder: Recorder) -> None:
    host = make_route(trusting, recorder.url)
    got = forwarded(trusting, recorder, host, "X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.1.1", "X-Forwarded-Proto: https",
                    "X-Forwarded-Host: front.test", "Forwarded: for=203.0.113.7", "X-Forwarded-Port: 443")
    assert got.get("x-forwarded-for") == "6.6.6.6, 203.0.113.7, 10.1.1.1, 127.0.0.1"
    assert got.get("x-real-ip") == "203.0.113.7", "the last address that is no proxy of ours"
    assert (got.get("x-forwarded-proto"), got.get("x-forwarded-host"), got.get("x-forwarded-port")) == ("https", "front.test", "443")
    assert got.get("forwarded") == f"for=203.0.113.7, for=127.0.0.1;host={host};proto=http"


def test_a_trusted_proxy_that_speaks_forwarded_alone_is_believed(trusting: System, recorder: Recorder) -> None:
    got = forwarded(trusting, recorder, make_route(trusting, recorder.url), 'Forwarded: for="[2001:db8::7]:4711";proto=https')
    assert got.get("x-real-ip") == "2001:db8::7"


def test_what_a_trusted_proxy_says_that_is_no_address_is_not_used(trusting: System, recorder: Recorder) -> None:
    got = forwarded(trusting, recorder, make_route(trusting, recorder.url), "X-Forwarded-For: 203.0.113.7, unknown")
    assert got.get("x-real-ip") == "127.0.0.1"


def test_via_grows_by_us_and_a_loop_ends_with_508(trusting: System, recorder: Recorder) -> None:
    host = make_route(trusting, recorder.url)
    assert forwarded(trusting, recorder, host, "Via: 1.0 fred, 1.1 edges").get("via") == "1.0 fred, 1.1 edges, 1.1 edge"
    with Wire(trusting.proxy_port) as wire:
        response = wire.send(get(host, "/", "Via: 1.0 fred, 1.1 edge, 1.1 other")).response()
        assert (response.status, response.get("x-proxyd-reason")) == (508, "loop")
    assert len(recorder.requests()) == 1


def test_a_route_to_the_proxy_itself_ends_at_once(edge: System) -> None:
    host = make_route(edge, f"http://127.0.0.1:{edge.proxy_port}")
    assert edge.get("/", host).status == 508


def test_a_request_id_is_kept_or_made_and_comes_back(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    for sent, kept in (("abc-123", True), ("a b", False), ("x" * 200, False), ('"><script>', False)):
        with Wire(edge.proxy_port) as wire:
            response = wire.send(get(host, "/", f"X-Request-ID: {sent}")).response()
        made = recorder.requests()[-1].get("x-request-id")
        assert made and made == response.get("x-request-id")
        assert (made == sent) is kept
    assert len({forwarded(edge, recorder, host).get("x-request-id") for _ in range(5)}) == 5


def test_a_backend_that_sends_the_request_id_back_does_not_double_it(edge: System) -> None:
    recorder = Recorder(f"{OK}Content-Length: 2\r\nX-Request-ID: sent-back\r\nVia: 1.1 inner\r\n\r\nok".encode())
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(make_route(edge, recorder.url), "/", "X-Request-ID: abc")).response()
    assert response.get("x-request-id") == "abc"
    assert response.all("via")[0] == "1.1 inner" and len(response.all("via")) == 2
    recorder.stop()


def test_trace_context_is_passed_as_it_is(edge: System, recorder: Recorder) -> None:
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    got = forwarded(edge, recorder, make_route(edge, recorder.url), f"traceparent: {parent}", "tracestate: a=b")
    assert (got.get("traceparent"), got.get("tracestate")) == (parent, "a=b")


def test_a_field_that_programs_read_as_their_proxy_is_dropped(edge: System, recorder: Recorder) -> None:
    got = forwarded(edge, recorder, make_route(edge, recorder.url), "Proxy: http://evil.test:3128", "PROXY: http://evil.test:3128")
    assert not got.all("proxy")


def test_only_we_say_why_we_refused(edge: System) -> None:
    recorder = Recorder(f"{OK}X-Proxyd-Reason: rate_limited\r\nx-proxyd-other: 1\r\nX-Proxy: kept\r\nTransfer-Encoding: chunked\r\n\r\n"
                        "2\r\nok\r\n0\r\nX-Proxyd-Reason: no_route\r\nX-Kept: 1\r\n\r\n".encode())
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(make_route(edge, recorder.url))).response()
    recorder.stop()
    assert [name for name, _ in (*response.fields, *response.trailers) if name.lower().startswith("x-proxyd")] == []
    assert (response.get("x-proxy"), response.trailers) == ("kept", [("X-Kept", "1")])


# -- targets and hosts


@pytest.mark.parametrize(("base", "options", "sent", "arrives"), [
    ("", {}, "/a%2Fb/../c?x=%20&y", "/c?x=%20&y"),
    ("", {}, "/a%2Fb/c?x=%20&/../y", "/a%2Fb/c?x=%20&/../y"),
    ("/base", {}, "/api/a?x=1", "/base/api/a?x=1"),
    ("/base/", {}, "/api", "/base/api"),
    ("", {"strip_prefix": "true"}, "/api/a?x=1", "/a?x=1"),
    ("", {"strip_prefix": "/api"}, "/api", "/"),
    ("/v1", {"strip_prefix": "true"}, "/api/a", "/v1/a"),
    ("/v1", {"strip_prefix": "true"}, "/api/../api/./a", "/v1/a"),
    ("/v1", {"strip_prefix": "true"}, "/%61pi/a", "/v1/a"),
    ("", {"strip_prefix": "/other"}, "/api/a", "/api/a"),
])
def test_where_a_target_arrives(base: str, options: dict[str, str], sent: str, arrives: str, edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url + base, path="/" if not options and not base else "/api", **options)
    assert forwarded(edge, recorder, host, path=sent).line == f"GET {arrives} HTTP/1.1"


def test_max_forwards_is_counted_down_and_ends_here_at_0(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    for method, path in (("OPTIONS", "*"), ("TRACE", "/")):
        assert forwarded(edge, recorder, host, "Max-Forwards: 2", path=path, method=method).get("max-forwards") == "1"
        assert forwarded(edge, recorder, host, "Max-Forwards: many", path=path, method=method).get("max-forwards") == "many"
    assert forwarded(edge, recorder, host, "Max-Forwards: 0").get("max-forwards") == "0", "GET does not know it"
    count = len(recorder.requests())
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get(host, "/", "Max-Forwards: 0", method="OPTIONS")).response().status == 200
        response = wire.send(get(host, "/", "max-forwards: 00", method="TRACE")).response()
        assert (response.status, response.get("x-proxyd-reason")) == (405, "trace_ends_here")
    assert len(recorder.requests()) == count


def test_a_request_without_a_host_goes_where_all_hosts_go(tmp_path: Path) -> None:
    recorder = Recorder()
    system = System(tmp_path / "any", workers=1)
    try:
        with Wire(system.proxy_port) as wire:
            assert wire.send("GET / HTTP/1.0\r\n\r\n").response().status == 404
        make_route(system, recorder.url, domain="*")
        with Wire(system.proxy_port) as wire:
            assert wire.send("GET /a HTTP/1.0\r\n\r\n").response().status == 200
        (got,) = recorder.requests()
        assert (got.line, got.get("host"), got.get("x-forwarded-host")) == ("GET /a HTTP/1.1", recorder.url.removeprefix("http://"), "")
    finally:
        system.stop()
        recorder.stop()


def test_options_of_the_server_itself(edge: System, recorder: Recorder) -> None:
    assert forwarded(edge, recorder, make_route(edge, recorder.url), path="*", method="OPTIONS").line == "OPTIONS * HTTP/1.1"


def test_the_host_is_the_client_s_or_the_backend_s(edge: System, recorder: Recorder) -> None:
    kept = make_route(edge, recorder.url)
    assert forwarded(edge, recorder, f"{kept.upper()}:8080").get("host") == f"{kept.upper()}:8080"
    replaced = make_route(edge, recorder.url, preserve_host=False)
    got = forwarded(edge, recorder, replaced)
    assert (got.get("host"), got.get("x-forwarded-host")) == (recorder.url.removeprefix("http://"), replaced)


def test_a_domain_beyond_ascii_is_reached_by_its_punycode(edge: System, recorder: Recorder) -> None:
    make_route(edge, recorder.url, domain="bücher.test")
    assert forwarded(edge, recorder, "xn--bcher-kva.test").get("host") == "xn--bcher-kva.test"
    with Wire(edge.proxy_port) as wire:
        wire.send("GET / HTTP/1.1\r\nHost: bücher.test\r\n\r\n".encode())
        assert wire.response().status == 400, "raw UTF-8 in Host is no URI host (RFC 3986 3.2.2)"


# -- fields of the response


def test_hop_by_hop_fields_of_a_response_end_here_and_ours_come(edge: System) -> None:
    recorder = Recorder(f"{OK}Content-Length: 2\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n"
                        "Proxy-Authenticate: Basic\r\nServer: backend\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\n\r\nok".encode())
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host)).response()
    names = {name.lower() for name, _ in response.fields}
    assert not names & {"x-mine", "keep-alive", "proxy-authenticate", "connection", "transfer-encoding"}
    assert response.all("set-cookie") == ["a=b", "c=d"]
    assert response.get("server") == "backend"
    assert (response.get("via") or "").startswith("1.1 proxyd-")
    assert response.get("x-request-id")
    recorder.stop()


def test_a_response_without_a_date_is_given_one(edge: System) -> None:
    for sent, kept in (("", False), ("date: Tue, 15 Nov 1994 08:12:31 GMT\r\n", True), ("DATE: Tue, 15 Nov 1994 08:12:31 GMT\r\n", True)):
        recorder = Recorder(f"{OK}{sent}X-Date: x\r\nContent-Length: 2\r\n\r\nok".encode())
        with Wire(edge.proxy_port) as wire:
            date = wire.send(get(make_route(edge, recorder.url))).response().get("date") or ""
        assert (date == "Tue, 15 Nov 1994 08:12:31 GMT") is kept
        assert re.fullmatch(r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", date)
        recorder.stop()


def test_headers_set_replaces_what_the_backend_says(edge: System) -> None:
    recorder = Recorder(f"{OK}Content-Length: 2\r\nX-Frame-Options: ALLOW\r\nx-frame-options: NO\r\nServer: old\r\n\r\nok".encode())
    client = edge.client("headersset", "headersset")
    route_id = client.route("headersset.test", recorder.url, apply=False)
    client.ok(f"HEADERS_SET|SID|{route_id}|X-Frame-Options|DENY")
    client.ok(f"HEADERS_SET|SID|{route_id}|X-Own|yes: it is")
    client.apply()
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get("headersset.test")).response()
    assert (response.get("x-frame-options"), response.get("x-own"), response.get("server")) == ("DENY", "yes: it is", "old")
    recorder.stop()


@pytest.mark.parametrize("value", ["a\rb", "a\x00b", "grüße"])
def test_headers_set_takes_no_value_that_could_break_a_response(value: str, edge: System, recorder: Recorder) -> None:
    client = edge.client("badset", "badset")
    route_id = client.route("badset.test", recorder.url)
    answer = client.command(f"HEADERS_SET|SID|{route_id}|X-Own|{value}")
    if not answer.startswith("ERROR"):
        client.apply()
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get("badset.test")).response().status == 200
    client.close()


def test_headers_set_takes_the_place_of_our_own_fields(trusting: System, recorder: Recorder) -> None:
    client = trusting.client("ownset", "ownset")
    client.route("ownset.test", recorder.url, apply=False)
    for field in ("Strict-Transport-Security|max-age=5", "x-request-id|mine", "RateLimit-Policy|none"):
        client.ok(f"HEADERS_SET|SID|ALL|{field}")
    client.ok("RATELIMIT_SET|SID|ALL|100|1m")
    client.apply()
    with Wire(trusting.proxy_port) as wire:
        response = wire.send(get("ownset.test", "/", "X-Forwarded-Proto: https", "X-Request-ID: abc")).response()
    names = ("strict-transport-security", "x-request-id", "ratelimit-policy")
    assert [response.get(name) for name in names] == ["max-age=5", "mine", "none"]
    assert (recorder.requests()[-1].get("x-request-id"), bool(response.get("ratelimit"))) == ("abc", True)


def test_headers_set_can_take_a_field_of_the_backend_away(trusting: System) -> None:
    recorder = Recorder(f"{OK}Server: old\r\nX-Powered-By: a\r\nx-powered-by: b\r\nX-Kept: -\r\nContent-Length: 2\r\n\r\nok".encode())
    client = trusting.client("takenaway", "takenaway")
    client.route("takenaway.test", recorder.url, apply=False)
    for name in ("Server", "x-powered-by", "Strict-Transport-Security"):
        client.ok(f"HEADERS_SET|SID|ALL|{name}|-")
    client.apply()
    with Wire(trusting.proxy_port) as wire:
        response = wire.send(get("takenaway.test", "/", "X-Forwarded-Proto: https")).response()
    assert (response.get("server"), response.get("x-powered-by"), response.get("x-kept")) == (None, None, "-")
    assert response.get("strict-transport-security") == "max-age=3600", "it is not the backend's"
    client.ok("HEADERS_REMOVE|SID|ALL|Server")
    client.apply()
    with Wire(trusting.proxy_port) as wire:
        assert wire.send(get("takenaway.test")).response().get("server") == "old"
    recorder.stop()


@pytest.mark.parametrize("fields", ["Transfer-Encoding", "Content-Length", "Connection", "Content-Encoding", "X-Proxyd-Reason",
                                    "x-proxyd-any", "Sec-WebSocket-Accept", "Proxy-Authenticate", "Via", "Date", "Trailer"])
def test_headers_set_takes_no_framing(fields: str, edge: System, recorder: Recorder) -> None:
    client = edge.client("framing", "framing")
    route_id = client.route("framing.test", recorder.url)
    assert client.command(f"HEADERS_SET|SID|{route_id}|{fields}|5").startswith("ERROR")
    client.close()


@pytest.mark.parametrize("status", [204, 304])
def test_a_response_without_body_has_none_and_the_connection_goes_on(status: int, edge: System) -> None:
    length = "Content-Length: 10\r\n" if status == 304 else ""
    recorder = Recorder(f"HTTP/1.1 {status} Nothing\r\n{length}ETag: \"a\"\r\n\r\n".encode())
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        for _ in range(2):
            response = wire.send(get(host)).response()
            assert (response.status, response.get("etag"), response.get("transfer-encoding")) == (status, '"a"', None)
            assert response.get("content-length") == ("10" if status == 304 else None)
            assert not wire.data
    assert len(recorder.streams) == 1
    recorder.stop()


def test_head_answers_like_get_without_its_body(edge: System) -> None:
    recorder = Recorder(f"{OK}Content-Length: 12345\r\n\r\n".encode())
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        for _ in range(2):
            response = wire.send(get(host, method="HEAD")).response("HEAD")
            assert (response.status, response.get("content-length")) == (200, "12345")
        assert not wire.data
        missing = wire.send(get("nowhere.test", method="HEAD")).response("HEAD")
        assert missing.status == 404
        assert int(missing.get("content-length") or 0) > 0
        assert not wire.data
    recorder.stop()


# -- bodies


def test_100_continue_comes_when_the_body_is_wanted(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    for framing, body in ((["Content-Length: 5"], "hello"), (["Transfer-Encoding: chunked"], "5\r\nhello\r\n0\r\n\r\n"),
                          (["Content-Length: 100000"], "x" * 100000)):
        with Wire(edge.proxy_port) as wire:
            assert wire.send(get(host, "/", *framing, "Expect: 100-continue", method="POST")).response().status == 100
            assert wire.send(body).response().status == 200
        got = recorder.requests()[-1]
        assert got.get("expect") is None
        assert got.body in (b"hello", b"x" * 100000)


def test_100_continue_is_not_said_for_what_is_refused_or_already_sent(edge: System, recorder: Recorder) -> None:
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get("nowhere.test", "/", "Content-Length: 5", "Expect: 100-continue", method="POST")).response().status == 404
        assert wire.ended()
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get(host, "/", "Content-Length: 5", "Expect: 100-continue", method="POST") + b"hello").response().status == 200


def test_a_chunked_upload_streams_with_its_trailers(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/up", "Transfer-Encoding: chunked", "Trailer: X-Sum", method="PUT") + b"5\r\nhello\r\n")
        wait_for(lambda: any(b"hello" in stream for stream in recorder.streams), what="the first chunk before the second is sent")
        wire.send("6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")
        assert wire.response().status == 200
    (got,) = recorder.requests()
    assert (got.body, got.trailers, got.complete) == (b"hello world", [("X-Sum", "11")], True)


def test_a_large_upload_of_known_length_arrives_whole(edge: System, recorder: Recorder) -> None:
    body = bytes(range(256)) * 4096
    with Wire(edge.proxy_port) as wire:
        wire.send(get(make_route(edge, recorder.url), "/", f"Content-Length: {len(body)}", method="PUT") + body)
        assert wire.response().status == 200
    (got,) = recorder.requests()
    assert got.body == body


def test_an_early_response_reaches_a_client_that_is_still_sending(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n")
        sock.shutdown(socket.SHUT_WR)
        ended.wait(5)

    ended = threading.Event()
    backend = raw_backend(serve)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(make_route(edge, backend.url), "/", "Content-Length: 100000000", method="POST") + b"x" * 100_000)
        response = wire.response()
        assert (response.status, response.body, response.get("connection")) == (403, b"no!\n", "close")
        assert wire.ended()
    ended.set()


def test_an_early_response_reaches_a_client_that_sends_all_before_it_reads(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 4\r\nConnection: close\r\n\r\nno!\n")
        sock.shutdown(socket.SHUT_WR)

    backend = raw_backend(serve)
    with Wire(edge.proxy_port) as wire:
        wire.sock.sendall(get(make_route(edge, backend.url), "/", "Content-Length: 20000000", method="POST"))
        wire.sock.sendall(b"x" * 20_000_000)
        assert wire.response().status == 403


def test_raw_utf_8_in_a_target_is_sent_percent_encoded(edge: System, recorder: Recorder) -> None:
    sent = "/caf\u00e9?q=\u65e5".encode().decode("latin-1")
    assert forwarded(edge, recorder, make_route(edge, recorder.url), path=sent).line == "GET /caf%C3%A9?q=%E6%97%A5 HTTP/1.1"


def test_a_host_may_end_in_a_colon(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    assert forwarded(edge, recorder, f"{host}:").get("host") == f"{host}:"


@pytest.mark.parametrize("chunk", ["0\r\n\r\n", "", "5\r\nhello\r\n0\r\n\r\n"])
def test_a_204_that_announces_chunks_ends_at_its_head(edge: System, chunk: str) -> None:
    recorder = Recorder(f"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}".encode())
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        for _ in range(2):
            response = wire.send(get(host)).response()
            assert (response.status, response.get("transfer-encoding"), response.body) == (204, None, b"")
    assert len(recorder.streams) == 2, "what may follow is read by nobody"
    recorder.stop()


def test_a_426_says_which_protocols_it_asks_for(edge: System) -> None:
    recorder = Recorder(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: TLS/1.2, HTTP/1.1\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n")
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host)).response()
        assert (response.status, response.get("upgrade"), response.get("connection")) == (426, "TLS/1.2, HTTP/1.1", "Upgrade")
        response = wire.send(get(host, version="1.0")).response()
        assert (response.status, response.get("upgrade")) == (426, None)
    recorder.stop()


OLD_DEVICE = b"HTTP/1.0 200 OK\nServer: old\r\nContent-Type: text/plain\nContent-Length: 2\n\nok"


@pytest.mark.parametrize("answer", [OLD_DEVICE, OLD_DEVICE.replace(b"\n\n", b"\n\r\n"),
                                    OLD_DEVICE.replace(b"\r", b"").replace(b"\n", b"\r\n")])
def test_an_option_takes_line_feeds_alone_in_a_header(edge: System, answer: bytes) -> None:
    recorder = Recorder(answer)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(make_route(edge, recorder.url, bare_lf=True))).response()
        assert (response.status, response.get("server"), response.get("content-type"), response.body) == (200, "old", "text/plain", b"ok")
        response = wire.send(get(make_route(edge, recorder.url))).response()
        assert response.status == (502 if b"OK\n" in answer else 200)
    recorder.stop()


@pytest.mark.parametrize(("size", "framing", "status", "reason"), [
    (1000, "Content-Length: 1000", 200, None), (1001, "Content-Length: 1001", 502, "response_too_large"),
    (1000, "Transfer-Encoding: chunked", 200, None), (1001, "Transfer-Encoding: chunked", 502, "response_too_large"),
    (1001, "Connection: close", 502, "response_too_large"),
])
def test_an_answer_is_as_large_as_the_option_says(edge: System, raw_backend: Callable[..., RawBackend], size: int, framing: str,
                                                  status: int, reason: str | None) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        body = f"{size:x}\r\n{'x' * size}\r\n0\r\n\r\n" if "chunked" in framing else "x" * size
        sock.sendall(f"{OK}{framing}\r\n\r\n{body}".encode())
        sock.shutdown(socket.SHUT_WR)

    backend = raw_backend(serve)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(make_route(edge, backend.url, max_response_body="1000"))).response()
    assert (response.status, response.get("x-proxyd-reason")) == (status, reason)


def test_an_answer_that_grows_too_large_is_cut(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
        assert begun.wait(patience(5))
        sock.sendall(b"3e8\r\n" + b"x" * 1000 + b"\r\n0\r\n\r\n")

    begun = threading.Event()
    backend = raw_backend(serve)
    host = make_route(edge, backend.url, max_response_body="1000")
    with Wire(edge.proxy_port) as wire:
        assert b"hello" in wire.send(get(host, f"/{host}")).until(b"hello")
        begun.set()
        assert wire.reset_by_peer()
    wait_for(lambda: f"/{host}" in edge.access_log() and "reason=response_too_large" in edge.access_log(), what="the reason in the log")


def test_a_large_early_response_survives_what_the_client_still_sends(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    # It lies in the proxy's kernel when the proxy is done with it: a close with a body unread would throw it away and reset.
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 300000\r\nConnection: close\r\n\r\n" + b"no" * 150_000)
        while sock.recv(65536):
            pass
        done.set()

    done = threading.Event()
    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port, receive_buffer=8192) as wire:
        wire.send(get(host, f"/{host}", "Content-Length: 100000000", method="POST") + b"x" * 1000)
        assert done.wait(patience(5))
        wire.send(b"x" * 1000)
        wait_for(lambda: f"/{host}" in edge.access_log(), what="the request in the access log")
        response = wire.response()
    assert (response.status, len(response.body), response.complete) == (403, 300_000, True)


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_client_that_goes_closes_the_upstream_at_once(how: str, edge: System, silent: SilentBackend) -> None:
    wire = Wire(edge.proxy_port).send(get(make_route(edge, silent.url)))
    assert silent.asked.wait(patience(5))
    wire.close() if how == "close" else wire.reset()
    assert silent.closed.wait(patience(3))


def test_a_client_that_goes_in_the_middle_of_a_response_closes_the_upstream(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    closed = threading.Event()

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
        if not sock.recv(1):
            closed.set()

    backend = raw_backend(serve)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(make_route(edge, backend.url))).until(b"hello")
    assert closed.wait(patience(3))


def test_a_client_that_goes_in_the_middle_of_its_body_closes_the_upstream(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/", "Content-Length: 1000000", method="POST") + b"x" * 100_000)
        wait_for(lambda: recorder.streams and len(recorder.streams[0]) > 90_000)
    wait_for(lambda: edge.get("/", host).status == 200)
    assert [request.complete for request in recorder.requests()][0] is False


# -- connections to the backend


def test_one_connection_serves_many_requests(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url)
    for _ in range(5):
        forwarded(edge, recorder, host)
    assert len(recorder.streams) == 1


class Stale:
    """A backend that ends each connection silently when its second request comes; `fresh` keeps what each connection got."""

    def __init__(self, make: Callable[..., RawBackend]) -> None:
        self.backend = make(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        self.backend.receive_head(sock)
        sock.sendall(f"{OK}Content-Length: 2\r\n\r\nok".encode())
        self.backend.receive_head(sock)


@pytest.mark.parametrize(("method", "framing", "status", "connections"), [
    ("GET", [], 200, 2), ("HEAD", [], 200, 2), ("PUT", ["Content-Length: 0"], 200, 2), ("DELETE", [], 200, 2),
    ("POST", ["Content-Length: 0"], 502, 1), ("PATCH", ["Content-Length: 0"], 502, 1),
])
def test_a_stale_connection_is_tried_again_once_where_that_is_safe(
        method: str, framing: list[str], status: int, connections: int, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    stale = Stale(raw_backend)
    host = make_route(edge, stale.backend.url)
    assert edge.get("/", host).status == 200
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get(host, "/again", *framing, method=method)).response(method).status == status
    assert stale.backend.connections == connections


def test_a_connection_that_the_backend_has_closed_is_not_used(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(f"{OK}Content-Length: 2\r\n\r\nok".encode())

    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        for number in range(1, 4):
            assert wire.send(get(host, "/", "Content-Length: 0", method="POST")).response().status == 200
            wait_for(lambda: not _established(backend.port), what="the backend's end to arrive")
            assert backend.connections == number


def _established(port: int) -> list[object]:
    import psutil

    return [one for one in psutil.net_connections("tcp4") if one.laddr and one.laddr.port == port and one.status == "ESTABLISHED"]


def test_a_second_stale_connection_is_not_tried_a_third_time(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        if len(backend.received) == 0:
            backend.receive_head(sock)
            sock.sendall(f"{OK}Content-Length: 2\r\n\r\nok".encode())
        backend.receive_head(sock)

    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    assert edge.get("/", host).status == 200
    assert edge.get("/", host).status == 502
    assert backend.connections == 2


def test_keep_alive_for_old_clients_that_ask(edge: System, recorder: Recorder, route: RouteMaker) -> None:
    host = route(recorder.url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host, "/", "Connection: keep-alive", version="1.0")).response()
        assert response.get("connection") == "keep-alive"
        assert wire.send(get(host, version="1.0")).response().get("connection") == "close"
        assert wire.ended()
