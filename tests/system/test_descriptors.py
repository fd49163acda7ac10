"""A worker with few descriptors or places: idle connections make room, the longest idle first, and nobody new waits for them."""

from __future__ import annotations

import contextlib
import http.client
import socket
import sys
from collections.abc import Callable
from pathlib import Path

from tests.support.backends import Backend
from tests.support.system import System

LIMIT = 256
REQUEST = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"


def connect(system: System, stack: contextlib.ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10))


def is_over(sock: socket.socket) -> bool:
    """Whether the proxy has closed a connection."""
    sock.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while sock.recv(65536):
            pass
        return True
    return False


def test_with_few_descriptors_the_longest_idle_clients_make_room(tmp_path: Path, backend: Backend) -> None:
    system = System(tmp_path / "few", workers=1, start=False, proxy__workers=1)
    system.command = [sys.executable, "-c", f"import resource, runpy; resource.setrlimit(resource.RLIMIT_NOFILE, ({LIMIT}, {LIMIT})); "
                                            "runpy.run_module('gunicorn', None, '__main__')"]
    system.start()
    try:
        system.client().route("app.test", backend.url)
        with contextlib.ExitStack() as stack:
            clients = []
            for number in range(450):
                sock = connect(system, stack)
                if number % 3 == 0:
                    # One that has been served, and keeps its connection.
                    sock.sendall(REQUEST)
                    assert sock.recv(65536).startswith(b"HTTP/1.1 200")
                clients.append(sock)
            for _ in range(20):
                assert system.get("/", timeout=5).status == 200
            ended = [is_over(sock) for sock in clients]
            assert 450 - LIMIT <= sum(ended) < 450 - 100
            assert all(ended[:150]) and not any(ended[-50:]), "those that came first are gone"
        assert "Traceback" not in system.log()
    finally:
        system.stop()


def test_with_all_places_taken_a_new_client_is_served_once_another_is_idle(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system(workers=1, proxy__worker_connections=2)
    system.client().route("app.test", backend.url)
    with contextlib.ExitStack() as stack:
        for _ in range(40):
            connect(system, stack)
        for _ in range(10):
            assert system.get("/", timeout=20).status == 200
    with contextlib.ExitStack() as stack:
        busy = []
        for _ in range(2):
            connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=10)
            stack.callback(connection.close)
            connection.request("GET", "/slow?s=1", headers={"Host": "app.test"})
            busy.append(connection)
        assert system.get("/", timeout=20).status == 200
        assert all(connection.getresponse().status == 200 for connection in busy)
