"""Clients that stay connected are shared among the workers, and a worker that is stuck keeps nobody waiting."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator

import psutil
import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

CLIENTS = 60
REQUEST = b"GET / HTTP/1.1\r\nHost: sharing.test\r\n\r\n"


@pytest.fixture(scope="module")
def served(system: System) -> Iterator[System]:
    """A proxyd with two workers and a backend for sharing.test."""
    backend = Backend()
    system.client("sharing").route("sharing.test", backend.url)
    yield system
    backend.stop()


@contextlib.contextmanager
def connected(system: System, count: int) -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10)) for _ in range(count)]


def worker_of(sock: socket.socket) -> str:
    """Who answers on a connection: every worker gives its requests ids with a prefix of its own."""
    sock.sendall(REQUEST)
    data = b""
    while not data.endswith(b"backend /\n"):
        piece = sock.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data.lower().split(b"x-request-id: ")[1].split(b"-")[0].decode()


def test_every_worker_gets_its_share_of_the_clients_that_stay(served: System) -> None:
    def smallest_share() -> int:
        with connected(served, CLIENTS) as socks:
            held = Counter(worker_of(sock) for sock in socks)
        wait_for(lambda: not any(one.laddr.port == served.proxy_port and one.status == "ESTABLISHED"
                                 for pid in served.worker_pids() for one in psutil.Process(pid).net_connections("tcp4")))
        return min(held.values()) if len(held) == 2 else 0

    # A worker that a crowded machine gives no processor just then takes nobody, and the other one does not wait for it.
    assert sum(smallest_share() >= CLIENTS * 2 // 5 for _ in range(10)) >= 6


def test_a_stuck_worker_keeps_no_client_from_the_others(served: System) -> None:
    stuck = served.worker_pids()[0]
    os.kill(stuck, signal.SIGSTOP)
    try:
        with connected(served, CLIENTS) as socks:
            assert len({worker_of(sock) for sock in socks}) == 1
    finally:
        os.kill(stuck, signal.SIGCONT)


def test_a_killed_worker_counts_no_more(served: System) -> None:
    with connected(served, CLIENTS) as socks:
        before = Counter(worker_of(sock) for sock in socks)
        victim = served.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        wait_for(lambda: len(served.worker_pids()) == 2 and victim not in served.worker_pids(), what="another worker")
        wait_for(served.ready)

        def newcomer_is_filled_first() -> bool:
            with connected(served, 10) as more:
                return not {worker_of(sock) for sock in more} & set(before)

        wait_for(newcomer_is_filled_first)
