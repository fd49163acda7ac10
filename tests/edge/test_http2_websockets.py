"""WebSockets to backends that take them on streams of HTTP/2 (RFC 8441), from clients of HTTP/1.1 and of HTTP/2."""

from __future__ import annotations

import socket
import threading

import pytest

from tests.edge.conftest import RouteMaker, Secure, Start
from tests.edge.wire import Wire
from tests.support.frames import FrameClient
from tests.support.http2backend import Request
from tests.support.system import System
from tests.support.waiting import patience, wait_for
from tests.support.websockets import ACCEPT, BINARY, CLOSE, SWITCH, close, frame, handshake, open_websocket, read_frame


def echo(request: Request) -> None:
    """Open the WebSocket, and send back every byte; a plain request is answered at once."""
    if request.fields[":method"] != "CONNECT":
        return request.answer(b"plain")
    request.head([("sec-websocket-protocol", "chat"), ("x-from", "backend")])
    sent = 0
    while True:
        wait_for(lambda: len(request.body) > sent or request.ended or request.reset >= 0 or request.lost)  # noqa: B023
        piece = request.body[sent:]
        if piece:
            request.send(piece)
            sent += len(piece)
        elif request.reset < 0 and not request.lost:
            return request.send(b"", end=True)
        else:
            return None


def refuse(request: Request) -> None:
    """An answer that opens nothing."""
    request.answer(b"not you", "403", [("content-type", "text/plain")])


def asked(backend: object) -> list[Request]:
    """The handshakes that a backend got."""
    return [request for request in backend.requests if request.fields[":method"] == "CONNECT"]  # type: ignore[attr-defined]


def test_a_websocket_is_a_stream_of_the_connection_that_requests_use(edge: System, route: RouteMaker, start: Start) -> None:
    backend = start(echo, websockets=True)
    host = route(backend.url, websocket="true")
    assert edge.get("/", host).body == b"plain"
    wire = Wire(edge.proxy_port).send(handshake(host, "Sec-WebSocket-Protocol: chat", "Origin: https://here.test", path="/talk?x=1"))
    head, _, wire.data = wire.until(b"\r\n\r\n").partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    assert lines[0].startswith("HTTP/1.1 101 ")
    assert {f"Sec-WebSocket-Accept: {ACCEPT}", "Upgrade: websocket", "Connection: Upgrade", "sec-websocket-protocol: chat",
            "x-from: backend"} <= set(lines)
    (request,) = asked(backend)
    fields = request.fields
    assert [fields[name] for name in (":method", ":protocol", ":scheme", ":authority", ":path")] == [
        "CONNECT", "websocket", "http", host, "/talk?x=1"]
    assert (fields["sec-websocket-version"], fields["sec-websocket-protocol"], fields["origin"]) == ("13", "chat", "https://here.test")
    assert not {"sec-websocket-key", "upgrade", "connection", "content-length"} & set(fields)
    wire.send(frame(BINARY, b"x" * 200_000))
    assert read_frame(wire) == (BINARY, b"x" * 200_000)
    assert edge.get("/", host).body == b"plain"
    wire.send(close())
    assert read_frame(wire)[0] == CLOSE
    wire.close()
    wait_for(lambda: request.ended or request.reset >= 0, 10, "the end at the backend")
    assert len(backend.connections) == 1


def test_both_sides_may_speak_http2(secure: Secure, start: Start) -> None:
    backend = start(echo, websockets=True, tls=secure.authority.serving("up.pem", "localhost", "h2", "http/1.1"))
    host = secure.route(backend.url, websocket="true", http2="true", tls_verify="false")
    with FrameClient(secure.port, secure.authority.trusting(), host) as client:
        stream = client.new()
        client.send(client.head(stream, [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", host),
                                         (":path", "/chat"), ("sec-websocket-version", "13")], end=False))
        client.until(lambda: stream in client.got and client.got[stream].status)
        got = client.got[stream]
        assert (got.status, got.header("sec-websocket-accept"), got.header("sec-websocket-protocol")) == (200, None, "chat")
        message = b"\x82\xfe\x40\x00\0\0\0\0" + bytes(16376)
        for count in range(1, 11):
            client.data(stream, message)
            client.until(lambda: len(got.body) == count * len(message))  # noqa: B023
        client.data(stream, b"\x88\x82\0\0\0\0\x03\xe8", end=True)
        assert client.answer(stream).ended
    assert asked(backend)[0].fields[":scheme"] == "https"


def test_a_client_that_goes_resets_the_stream_and_a_backend_that_resets_ends_the_client(edge: System, route: RouteMaker,
                                                                                       start: Start) -> None:
    backend = start(echo, websockets=True)
    host = route(backend.url, websocket="true")
    first, second = open_websocket(edge.proxy_port, host), open_websocket(edge.proxy_port, host)
    first.reset()
    wait_for(lambda: any(request.reset >= 0 for request in backend.requests), 10, "the reset at the backend")
    next(request for request in asked(backend) if request.reset < 0).end_with_reset(8)
    assert second.rest() == b""
    second.close()
    assert edge.get("/", host).body == b"plain"
    assert len(backend.connections) == 1


def test_a_refusal_is_passed_on_and_a_refused_stream_is_asked_again(edge: System, route: RouteMaker, start: Start) -> None:
    wire = Wire(edge.proxy_port).send(handshake(route(start(refuse, websockets=True).url, websocket="true")))
    answer = wire.rest()
    assert answer.startswith(b"HTTP/1.1 403 ") and b"not you" in answer
    wire.close()

    def hesitant(request: Request) -> None:
        if len(backend.requests) == 1:
            return request.end_with_reset(7)
        return echo(request)

    backend = start(hesitant, websockets=True)
    wire = open_websocket(edge.proxy_port, route(backend.url, websocket="true"))
    wire.send(frame(BINARY, b"again"))
    assert read_frame(wire) == (BINARY, b"again")
    wire.close()
    assert len(backend.requests) == 2


def test_a_backend_that_has_ended_is_sent_nothing_more(edge: System, route: RouteMaker, start: Start) -> None:
    def ending(request: Request) -> None:
        request.head()
        wait_for(lambda: request.body)
        request.send(b"\x88\x02\x03\xe8", end=True)

    backend = start(ending, websockets=True)
    host = route(backend.url, websocket="true")
    wire = open_websocket(edge.proxy_port, host).send(frame(BINARY, b"done"))
    assert read_frame(wire) == (CLOSE, b"\x03\xe8")
    (request,) = asked(backend)
    seen = len(request.body)
    wire.send(close())
    assert wire.rest() == b""
    wire.close()
    wait_for(lambda: request.reset >= 0 or request.ended)
    assert (request.reset, len(request.body)) == (8, seen)


@pytest.mark.parametrize("status", ["204", "200"])
def test_a_length_of_what_opens_a_websocket_is_of_no_account(status: str, edge: System, route: RouteMaker, start: Start) -> None:
    def counted(request: Request) -> None:
        request.head([("content-length", "0")] if status == "200" else [], status)
        wait_for(lambda: request.body)
        request.send(b"\x82\x02hi")

    wire = open_websocket(edge.proxy_port, route(start(counted, websockets=True).url, websocket="true"))
    wire.send(frame(BINARY, b"x"))
    assert read_frame(wire) == (BINARY, b"hi")
    wire.close()


def test_a_backend_that_takes_none_by_http2_is_asked_by_http1(secure: Secure, start: Start) -> None:
    ended = threading.Event()

    def plain(sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            head += sock.recv(65536)
        assert b"Sec-WebSocket-Key" in head
        sock.sendall(f"{SWITCH}\r\n".encode())
        while data := sock.recv(65536):
            sock.sendall(data)
        ended.set()

    backend = start(echo, tls=secure.authority.serving("up.pem", "localhost", "h2", "http/1.1"), plain=plain)
    host = secure.route(backend.url, websocket="true", http2="true", tls_verify="false")
    assert secure.system.get("/", host).body == b"plain"
    wire = open_websocket(secure.system.proxy_port, host)
    wire.send(frame(BINARY, b"old"))
    assert read_frame(wire) == (BINARY, b"old")
    wire.close()
    assert ended.wait(patience(10))
    assert not asked(backend)
