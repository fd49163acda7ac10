"""A client that goes away during a long wait is noticed soon, and one that only sends its next request early is not taken for gone."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator

import psutil
import pytest
from hyperframe.frame import RstStreamFrame

from tests.support.backends import Backend, RawBackend, SilentBackend
from tests.support.frames import FrameClient
from tests.support.system import System
from tests.support.waiting import patience

REQUEST = b"GET / HTTP/1.1\r\nHost: hangups.test\r\n\r\n"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("hangups"), workers=1, proxy__http2_cleartext="yes")
    yield running
    running.stop()


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
        assert silent.asked.wait(patience(5))
        assert not silent.closed.wait(after)
    assert silent.closed.wait(patience(4))


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


@pytest.mark.parametrize("how", ["reset", "closed"])
@pytest.mark.parametrize("after", [0.0, 0.4], ids=["at once", "after a while"])
def test_the_work_for_a_stream_that_has_gone_ends_and_others_go_on(system: System, silent: SilentBackend, backend: Backend, after: float,
                                                                   how: str) -> None:
    client = system.client("streams")
    client.route("streams.test", silent.url, apply=False)
    client.route("streams.test", backend.url, path="/slow")
    with FrameClient(system.proxy_port, None, "streams.test") as leaving, FrameClient(system.proxy_port, None, "streams.test") as other:
        stays = (leaving if how == "reset" else other)
        slow = stays.ask("/slow?s=1")
        stream = leaving.ask()
        assert silent.asked.wait(patience(5))
        assert not silent.closed.wait(after)
        if how == "reset":
            leaving.send(RstStreamFrame(stream, 8))
        else:
            leaving.close()
        assert silent.closed.wait(patience(5))
        assert stays.answer(slow).status == 200


def test_idle_streams_of_http2_cost_nothing(system: System, raw_backend: Callable[[Callable[[socket.socket], None]], RawBackend]) -> None:
    """A look at each of them in each tick took a twentieth of a core for 2,000."""

    def serve(sock: socket.socket) -> None:
        events.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        sock.recv(1)

    events = raw_backend(serve)
    system.client("idle").route("idle.test", events.url)
    worker = psutil.Process(system.worker_pids()[0])

    def used(seconds: float) -> float:
        before = worker.cpu_times()
        time.sleep(seconds)
        after = worker.cpu_times()
        return after.user - before.user + after.system - before.system

    with contextlib.ExitStack() as stack:
        for _ in range(8):
            client = stack.enter_context(FrameClient(system.proxy_port, None, "idle.test"))
            streams = [client.ask() for _ in range(100)]
            client.until(lambda: all(stream in client.got and client.got[stream].body for stream in streams))  # noqa: B023
        time.sleep(0.3)
        with_streams = used(3.0)
    assert with_streams < 0.09, "0.03 s are the worker's own"
