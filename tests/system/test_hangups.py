"""A client that goes away during a long wait is noticed soon, and one that only sends its next request early is not taken for gone."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.backends import Backend, SilentBackend
from tests.support.system import System

REQUEST = b"GET / HTTP/1.1\r\nHost: hangups.test\r\n\r\n"


@pytest.fixture
def silent() -> Iterator[SilentBackend]:
    running = SilentBackend()
    yield running
    running.stop()


@pytest.mark.parametrize("after", [0.0, 0.4], ids=["at once", "after a while"])
def test_the_work_for_a_client_that_has_gone_ends(system: System, silent: SilentBackend, after: float) -> None:
    client = system.client("hangups")
    client.route("hangups.test", silent.url)
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as leaving:
        leaving.sendall(REQUEST)
        assert silent.asked.wait(5)
        assert not silent.closed.wait(after)
    assert silent.closed.wait(2)


def test_a_client_that_pipelines_during_a_wait_gets_both_answers(system: System, new_backend: Callable[..., Backend]) -> None:
    client = system.client("pipelined")
    client.route("early.test", new_backend().url)
    early = REQUEST.replace(b"hangups", b"early")
    with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as sock:
        sock.sendall(early.replace(b"/ ", b"/slow?s=0.6 ", 1))
        time.sleep(0.3)
        sock.sendall(early.replace(b"/ ", b"/second ", 1))
        data = b""
        while b"/second\n" not in data:
            piece = sock.recv(65536)
            assert piece, data
            data += piece
    assert data.count(b"HTTP/1.1 200") == 2
