"""The admin HTTP and the registry under more connections than they take: probes are answered, and whoever is refused is told."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import sys
import time
from collections.abc import Iterator

import pytest

from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for

LIMIT = 256
PROBES = ("/livez", "/readyz", "/metrics")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd with few descriptors, and an admin HTTP with 40 connections, 20 from one address, and two seconds for a request."""
    system = System(tmp_path_factory.mktemp("small"), workers=1, start=False, admin__max_connections=40,
                    admin__max_connections_per_client=20, admin__request_timeout="2s")
    system.command = [sys.executable, "-c", f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT})); "
                                            "runpy.run_module('gunicorn', None, '__main__')"]
    system.start()
    yield system
    system.stop()


def connect(system: System, stack: contextlib.ExitStack, source: str = "127.0.0.1") -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", system.admin_port), timeout=10, source_address=(source, 0)))


def probe(system: System, path: str, source: str = "127.0.0.1") -> int:
    connection = http.client.HTTPConnection("127.0.0.1", system.admin_port, timeout=5, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().status


@pytest.mark.parametrize("sent", [
    pytest.param(b"", id="nothing"), pytest.param(b"GET /livez HTTP/1.1\r\nHost: lo", id="half a head"),
    pytest.param(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{", id="half a body")])
def test_slow_connections_keep_nobody_from_the_admin_port(small: System, sent: bytes) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(300):
            connect(small, stack, f"127.0.0.{1 + number % 3}").sendall(sent)
        for source in ("127.0.0.1", "127.0.0.9"):
            for path in (*PROBES, "/api/v1/status"):
                assert probe(small, path, source) == 200


def test_a_request_must_arrive_as_a_whole_in_time(small: System) -> None:
    with contextlib.ExitStack() as stack:
        # Their time begins when they are connected.
        begun = time.monotonic()
        head, body = connect(small, stack), connect(small, stack)
        body.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n")
        head.sendall(b"GET /livez HTTP/1.1\r\n")
        ended: dict[socket.socket, bytes] = {}
        while len(ended) < 2 and time.monotonic() - begun < 10:
            for sock, piece in ((head, b"A: b\r\n"), (body, b" ")):
                if sock in ended:
                    # More that is sent to it is answered with a reset.
                    continue
                with contextlib.suppress(OSError):
                    sock.sendall(piece)
                sock.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    ended.setdefault(sock, sock.recv(65536))
        assert 1.5 < time.monotonic() - begun < patience(8)
        assert all(answer.startswith(b"HTTP/1.1 408") for answer in ended.values())


def test_with_all_connections_of_an_address_in_use_probes_alone_are_answered(small: System) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            stream = connect(small, stack)
            stream.sendall(b"GET /api/v1/events?follow=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert stream.recv(64).startswith(b"HTTP/1.1 200"), "an event stream is answered for as long as it is open"
        assert [probe(small, path) for path in PROBES] == [200] * 3
        assert probe(small, "/api/v1/status") == 503
        assert probe(small, "/api/v1/status", "127.0.0.9") == 200


def test_registry_connections_leave_descriptors_for_the_admin_port(small: System) -> None:
    service = small.client("kept")
    with contextlib.ExitStack() as stack:
        clients = [RegistryClient(small.registry_port) for _ in range(300)]
        for client in clients:
            stack.callback(client.close)

        def refused() -> list[socket.socket]:
            # Not select: the descriptors may have numbers above 1,023.
            poll, by_number = select.poll(), {client.socket.fileno(): client.socket for client in clients}
            for number in by_number:
                poll.register(number, select.POLLIN)
            return [by_number[number] for number, _ in poll.poll(0)]

        wait_for(lambda: len(refused()) > 300 - LIMIT)
        last = wait_for(lambda: clients[-1].socket in refused() and clients[-1].line())
        assert last.startswith("ERROR|the registry is short of file descriptors")
        assert [probe(small, path) for path in PROBES] == [200] * 3
        assert service.command("PING|SID") == "PONG"
    assert "new registry connections are refused" in small.log()
    wait_for(lambda: small.connect().command("HELLO").startswith("ERROR|unknown command"))
