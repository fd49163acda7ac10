"""What one client may have open, over all workers: connections and requests in flight."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

REQUEST = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"


@pytest.fixture(scope="module")
def origin() -> Iterator[Backend]:
    """The backend of all tests here."""
    running = Backend()
    yield running
    running.stop()


@pytest.fixture(scope="module")
def capped(tmp_path_factory: pytest.TempPathFactory, origin: Backend) -> Iterator[System]:
    """Two workers: three connections a client, and two requests; 127.0.0.9 is a trusted proxy."""
    system = System(tmp_path_factory.mktemp("capped"), proxy__max_connections_per_client=3, proxy__max_requests_per_client=2,
                    proxy__trusted_proxies="127.0.0.9")
    system.client().route("app.test", origin.url)
    yield system
    system.stop()


def connect(system: System, source: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10, source_address=(source, 0))


def answer(sock: socket.socket, request: bytes = REQUEST) -> bytes:
    """What comes back until the end of the head; an empty text for a connection that was closed."""
    data = b""
    with contextlib.suppress(ConnectionError):
        sock.sendall(request)
        while b"\r\n\r\n" not in data:
            piece = sock.recv(65536)
            if not piece:
                break
            data += piece
    return data


def test_a_client_has_so_many_connections_and_no_more_until_one_ends(capped: System) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connect(capped, "127.0.0.2")) for _ in range(3)]
        assert all(answer(sock).startswith(b"HTTP/1.1 200") for sock in held)
        with connect(capped, "127.0.0.2") as beyond:
            refused = answer(beyond)
        assert refused.startswith(b"HTTP/1.1 503") and b"X-Proxyd-Reason: client_connections" in refused
        with connect(capped, "127.0.0.3") as other:
            assert answer(other).startswith(b"HTTP/1.1 200"), "another client has connections of its own"
        for _ in range(6):
            sock = stack.enter_context(connect(capped, "127.0.0.9"))
            assert answer(sock).startswith(b"HTTP/1.1 200"), "a trusted proxy brings many clients"
        held[0].close()
        wait_for(lambda: _is_served(capped))
        wait_for(lambda: 'proxyd_refusals_total{reason="client_connections"}' in capped.admin("/metrics").text)


def _is_served(system: System) -> bool:
    with connect(system, "127.0.0.2") as sock:
        return answer(sock).startswith(b"HTTP/1.1 200")


def test_a_client_has_so_many_requests_in_flight_also_behind_a_trusted_proxy(capped: System, origin: Backend) -> None:
    def through(client: str, path: str = "/") -> bytes:
        with connect(capped, "127.0.0.9") as sock:
            return answer(sock, f"GET {path} HTTP/1.1\r\nHost: app.test\r\nX-Forwarded-For: {client}\r\n\r\n".encode())

    with ThreadPoolExecutor(2) as pool:
        slow = [pool.submit(through, client, "/until-freed") for client in ("2001:db8::1", "2001:db8::2")]
        wait_for(lambda: origin.in_flight == 2)
        refused = through("2001:db8::3")
        assert refused.startswith(b"HTTP/1.1 429") and b"X-Proxyd-Reason: client_requests" in refused and b"Retry-After" in refused
        assert through("2001:db8:0:1::1").startswith(b"HTTP/1.1 200"), "that is another /64"
        origin.freed.set()
        assert all(one.result().startswith(b"HTTP/1.1 200") for one in slow)
    # A worker counts a request to its end, and that is a little after the client has its answer.
    wait_for(lambda: through("2001:db8::3").startswith(b"HTTP/1.1 200"), what="room for another request")


def test_what_a_client_had_open_at_a_killed_worker_counts_no_more(capped: System) -> None:
    with contextlib.ExitStack() as stack:
        def is_held() -> bool:
            """Whether one more connection is let in, and stays. What earlier ones had open may still be counted for a moment."""
            return answer(stack.enter_context(connect(capped, "127.0.0.2"))).startswith(b"HTTP/1.1 200")

        for _ in range(3):
            wait_for(is_held)
        assert b" 503 " in answer(stack.enter_context(connect(capped, "127.0.0.2")))
        for pid in capped.worker_pids():
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: _is_served(capped), 15)
