"""Protocols other than websocket that a route lists: docker's tcp, kubectl's SPDY/3.1."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from proxyd.config.options import parse_option
from tests.edge.conftest import RouteMaker
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import wait_for

Make = Callable[..., RawBackend]
SWITCH = b"HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.raw-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


def docker(make: Make, answer: bytes = SWITCH) -> RawBackend:
    """A backend that switches, says something at once, and sends back what comes, to its end."""
    made: RawBackend

    def serve(sock: socket.socket) -> None:
        made.receive_head(sock)
        sock.sendall(answer + b"ready;")
        while data := sock.recv(65536):
            sock.sendall(data)

    made = make(serve)
    return made


def ask(system: System, host: str, protocols: str, body: bytes = b"") -> socket.socket:
    """A connection on which an upgrade was asked for."""
    sock = socket.create_connection(("127.0.0.1", system.proxy_port), timeout=5)
    sock.sendall(f"POST /exec/1/start HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: {protocols}\r\n"
                 f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
    return sock


def until(sock: socket.socket, end: bytes) -> bytes:
    """What comes, up to and with `end`."""
    data = b""
    while not data.endswith(end):
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    return data


@pytest.mark.parametrize("body", [b"", b'{"Tty":true}'])
def test_a_listed_protocol_passes_both_ways_with_the_body_of_its_request(body: bytes, edge: System, route: RouteMaker,
                                                                         raw_backend: Make) -> None:
    backend = docker(raw_backend)
    with ask(edge, route(backend.url, upgrade="spdy/3.1,tcp"), "other, tcp", body) as sock:
        head = until(sock, b"ready;")
        assert head.startswith(b"HTTP/1.1 101 ") and b"\r\nUpgrade: tcp\r\n" in head
        assert b"application/vnd.docker.raw-stream" in head
        sock.sendall(b"ls\n")
        assert until(sock, b"ls\n")
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b"", "an end is an end"
    sent = backend.received[0]
    assert b"\r\nUpgrade: tcp\r\n" in sent
    assert sent.endswith(b"\r\n\r\n" + body) or not body


def test_what_is_not_listed_is_a_request_like_any_other(edge: System, route: RouteMaker, raw_backend: Make) -> None:
    backend = docker(raw_backend, b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n")
    with ask(edge, route(backend.url, upgrade="spdy/3.1"), "tcp", b"{}") as sock:
        assert until(sock, b"ready;").startswith(b"HTTP/1.1 200 ")
    assert b"pgrade" not in backend.received[0]


def test_a_refused_upgrade_is_passed_on(edge: System, route: RouteMaker, raw_backend: Make) -> None:
    backend = docker(raw_backend, b"HTTP/1.1 409 Conflict\r\nContent-Length: 6\r\n\r\n")
    with ask(edge, route(backend.url, upgrade="tcp"), "tcp") as sock:
        assert until(sock, b"ready;").startswith(b"HTTP/1.1 409 ")
    other = docker(raw_backend, SWITCH.replace(b"tcp", b"odd"))
    with ask(edge, route(other.url, upgrade="tcp"), "tcp") as sock:
        answer = until(sock, b"}\n")
    assert answer.startswith(b"HTTP/1.1 502 ") and b"bad_upgrade" in answer


def test_an_upgrade_ends_after_its_silence(edge: System, route: RouteMaker, raw_backend: Make) -> None:
    host = route(docker(raw_backend).url, upgrade="tcp", websocket_idle_timeout="200ms")
    with ask(edge, host, "tcp") as sock:
        until(sock, b"ready;")
        assert sock.recv(1) == b""
    wait_for(lambda: any("/exec/1/start" in line and "idle_timeout" in line for line in edge.access_log().splitlines()))


@pytest.mark.parametrize(("value", "names"), [
    ("tcp, SPDY/3.1", ("tcp", "spdy/3.1")), ("", ()), ("websocket", None), ("h2c", None), ("a b/c/d", None)])
def test_which_protocols_can_be_listed(value: str, names: tuple[str, ...] | None) -> None:
    if names is None:
        with pytest.raises(ValueError, match="upgrade"):
            parse_option("upgrade", value)
    else:
        assert parse_option("upgrade", value) == names
