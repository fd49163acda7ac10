"""Backends that speak HTTP/2: requests share connections, and what goes wrong is told as of HTTP/1.1."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.client
import threading
from collections.abc import Callable

import pytest

from tests.edge.conftest import RouteMaker, Secure, Start
from tests.support.backends import RawBackend
from tests.support.http2backend import Http2Backend, Request
from tests.support.system import System
from tests.support.waiting import patience, wait_for


def whole(request: Request) -> Request:
    """The request, once all of it has come."""
    wait_for(lambda: request.ended)
    return request


def echo(request: Request) -> None:
    """Answer with the body."""
    whole(request).answer(request.body or b"hello", fields=[("x-method", request.fields[":method"])])


def crowd(edge: System, host: str, count: int, path: str = "/") -> list[int]:
    """The statuses of requests at the same time."""
    with concurrent.futures.ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: edge.get(path, host).status, range(count)))


def test_requests_share_a_connection_side_by_side(edge: System, route: RouteMaker, start: Start) -> None:
    gathered = threading.Barrier(10)

    def together(request: Request) -> None:
        gathered.wait(patience(5))
        request.answer(b"here")

    backend = start(together)
    host = route(backend.url)
    assert crowd(edge, host, 10) == [200] * 10
    assert len(backend.connections) == 1
    request = backend.requests[0]
    assert (request.fields[":scheme"], request.fields[":authority"]) == ("http", host)
    assert request.fields["via"].startswith("1.1 ")
    assert request.fields["x-forwarded-for"] == "127.0.0.1"
    assert not {"host", "connection", "transfer-encoding"} & set(request.fields)


@pytest.mark.parametrize("size", [0, 10, 65536, 3_000_000])
def test_bodies_go_both_ways(size: int, edge: System, route: RouteMaker, start: Start) -> None:
    backend = start(echo)
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    answer = edge.get("/up?a=b", route(backend.url), "POST", body)
    assert (answer.status, answer.body) == (200, body or b"hello")
    assert backend.requests[0].fields.get("content-length", "0") == str(size)


def test_a_bound_of_streams_opens_more_connections(edge: System, route: RouteMaker, start: Start) -> None:
    gathered = threading.Barrier(6)

    def together(request: Request) -> None:
        gathered.wait(patience(5))
        request.answer(b"here")

    backend = start(together, streams=2)
    assert crowd(edge, route(backend.url), 6) == [200] * 6
    assert len(backend.connections) == 3
    assert max(len(connection.requests) for connection in backend.connections) == 2


def test_trailers_go_both_ways(secure: Secure, start: Start) -> None:
    backend = start(lambda request: whole(request).answer(b"body", trailers=[("x-sum", "7")]))
    client = secure.client(secure.route(backend.url))
    stream = client.open("POST", "/", [("te", "trailers")], end=False)
    client.send(stream, b"hello", end=False)
    client.trailers(stream, [("x-up", "5")])
    answer = client.answer(stream)
    assert (answer.status, answer.body, answer.trailers) == (200, b"body", [("x-sum", "7")])
    assert (backend.requests[0].trailers, backend.requests[0].fields["te"]) == ({"x-up": "5"}, "trailers")


def test_lengths_and_empty_answers_are_kept(edge: System, route: RouteMaker, start: Start) -> None:
    def serve(request: Request) -> None:
        if request.path == "/length":
            request.answer(b"12345", fields=[("content-length", "5")])
        elif request.path == "/304":
            request.answer(status="304", fields=[("etag", '"a"')])
        elif request.fields[":method"] == "HEAD":
            request.answer(fields=[("content-length", "77")])
        else:
            request.answer(status="204")

    host = route(start(serve).url)
    answer = edge.get("/length", host)
    assert (answer.body, answer.headers["content-length"]) == (b"12345", "5")
    assert edge.get("/head", host, "HEAD").headers["content-length"] == "77"
    assert (edge.get("/304", host).status, edge.get("/", host).status) == (304, 204)


@pytest.mark.parametrize("how", ["refused", "goaway"])
@pytest.mark.parametrize("size", [0, 5, 70_000])
def test_what_the_upstream_has_not_looked_at_is_sent_again(how: str, size: int, edge: System, route: RouteMaker, start: Start) -> None:
    def serve(request: Request) -> None:
        if len(backend.requests) > 1:
            echo(request)
        elif how == "refused":
            request.end_with_reset(7)
        else:
            request.connection.leave(0)

    backend = start(serve)
    answer = edge.get("/", route(backend.url), "POST", b"x" * size)
    if size > 65536:
        assert answer.headers["x-proxyd-reason"] == "upstream_closed", "its body is gone"
    else:
        assert (answer.status, answer.body) == (200, b"x" * size or b"hello")
        assert len(backend.requests) == 2


def test_the_streams_below_a_goaway_go_on_and_new_ones_take_another_connection(edge: System, route: RouteMaker, start: Start) -> None:
    go_on = threading.Event()

    def serve(request: Request) -> None:
        if request.path == "/first":
            request.connection.leave(1)
            request.connection.ping()
            go_on.wait(30)
        request.answer(request.path.encode())

    backend = start(serve)
    host = route(backend.url)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(edge.get, "/first", host)
        wait_for(lambda: backend.connections and backend.connections[0].pongs, what="the answer to a ping behind the GOAWAY")
        assert edge.get("/second", host).body == b"/second"
        go_on.set()
        assert first.result().body == b"/first"
    assert len(backend.connections) == 2


def test_failures_have_their_reasons_and_a_cut_answer_is_cut(edge: System, route: RouteMaker, start: Start) -> None:
    begun = threading.Event()

    def serve(request: Request) -> None:
        if request.path == "/reset":
            request.end_with_reset(2)
        elif request.path == "/silent":
            return
        elif request.path == "/length":
            request.answer(b"123", fields=[("content-length", "5")])
        elif request.path == "/malformed":
            request.answer(fields=[("content-length", "no")])
        else:
            request.head()
            request.send(b"half")
            begun.wait(30)
            request.end_with_reset(2)

    backend = start(serve)
    host = route(backend.url, timeout="2s")
    reset = edge.get("/reset", host)
    assert (reset.status, reset.headers["x-proxyd-reason"]) == (502, "upstream_closed")
    silent = edge.get("/silent", host)
    assert (silent.status, silent.headers["x-proxyd-reason"]) == (504, "timeout")
    wait_for(lambda: backend.requests[1].reset == 8, what="the backend is told")
    malformed = edge.get("/malformed", host)
    assert (malformed.status, malformed.headers["x-proxyd-reason"]) == (502, "bad_content_length")
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", edge.proxy_port, timeout=30)) as client:
        client.request("GET", "/half", headers={"Host": host})
        half = client.getresponse()
        begun.set()
        with pytest.raises((http.client.HTTPException, OSError)):
            half.read()
    with pytest.raises((http.client.HTTPException, OSError)):
        edge.get("/length", host)
    before = len(backend.requests)
    assert edge.get("/reset", host).status == 502
    assert len(backend.requests) == before + 1, "it is not asked again"
    assert len(backend.connections) == 1, "none of them ends the connection"


def test_a_client_that_leaves_ends_the_work_upstream(secure: Secure, start: Start) -> None:
    backend = start(lambda request: None)
    client = secure.client(secure.route(backend.url))
    stream = client.open("GET", "/")
    wait_for(lambda: backend.requests)
    client.reset(stream)
    wait_for(lambda: backend.requests[0].reset == 8, 2)


def test_a_dead_connection_is_found_by_a_ping(edge: System, route: RouteMaker, start: Start) -> None:
    backend = start(lambda request: None)
    host = route(backend.url, http2_ping="300ms")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(edge.get, "/", host)
        wait_for(lambda: backend.connections and backend.connections[0].pings, what="a ping")
        backend.mute = True
        answer = waiting.result()
    assert (answer.status, answer.headers["x-proxyd-reason"]) == (502, "upstream_closed")


def test_slow_readers_do_not_take_the_connection_from_others(secure: Secure, start: Start) -> None:
    backend = start(lambda request: request.answer(b"x" * (4 << 20 if request.path == "/big" else 5)))
    host = secure.route(backend.url)
    client = secure.client(host)
    for _ in range(12):
        client.open("GET", "/big")
    wait_for(lambda: len(backend.requests) == 12)
    assert secure.system.get("/small", host, timeout=patience(3)).body == b"xxxxx"
    assert len(backend.connections) == 1
    client.close()


def test_an_old_connection_takes_no_more_and_an_idle_one_is_closed(edge: System, route: RouteMaker, start: Start) -> None:
    backend = start(echo)
    host = route(backend.url, pool_max_age="300ms")
    assert edge.get("/", host).status == 200
    wait_for(lambda: edge.get("/", host).status == 200 and len(backend.connections) > 1)
    idle = start(echo)
    host = route(idle.url, pool_idle_timeout="200ms")
    assert edge.get("/", host).status == 200
    wait_for(lambda: _ended(idle))


def _ended(backend: Http2Backend) -> bool:
    try:
        return backend.connections[0].socket.recv(1, 0x42) == b""
    except OSError:
        return False


def test_http2_is_used_where_the_backend_offers_it(secure: Secure, start: Start) -> None:
    with_alpn = secure.authority.serving("up.pem", "localhost", "h2", "http/1.1")
    backend = start(echo, tls=with_alpn)
    host = secure.route(backend.url, http2="true", tls_verify="false")
    assert secure.system.get("/", host).body == b"hello"
    assert backend.requests[0].fields[":scheme"] == "https"
    clear = start(echo)
    host = secure.route(clear.url.replace("h2c", "http"), http2="true")
    assert secure.system.get("/", host).body == b"hello"


def test_a_backend_without_http2_gets_http1(edge: System, route: RouteMaker, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: object) -> None:
        while True:
            head = backend.receive_head(sock)  # type: ignore[arg-type]
            if not head:
                return
            if head.startswith(b"PRI "):
                sock.sendall(b"HTTP/1.1 505 HTTP Version Not Supported\r\nContent-Length: 0\r\n\r\n")  # type: ignore[attr-defined]
                return
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")  # type: ignore[attr-defined]

    backend = raw_backend(serve)
    host = route(backend.url, http2="true")
    assert [edge.get("/", host).body for _ in range(3)] == [b"ok"] * 3
    assert sum(head.startswith(b"PRI ") for head in backend.received) == 1
    answer = edge.get("/", route(backend.url.replace("http", "h2c")))
    assert (answer.status, answer.headers["x-proxyd-reason"]) == (502, "upstream_http2")
