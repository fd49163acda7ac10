"""A worker that was stopped answers by the newest table, and keeps nobody from writing."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import patience, wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("stopped"), workers=1, registry__apply_wait="50ms", database__busy_timeout="3s")
    yield running
    for pid in running.worker_pids():
        os.kill(pid, signal.SIGCONT)
    running.stop()


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)


def test_a_worker_that_was_stopped_answers_no_request_by_the_version_from_before(
        system: System, new_backend: Callable[..., Backend]) -> None:
    ends = [new_backend("one"), new_backend("two")]
    client = system.client()
    route_id = client.route("app.test", ends[1].url)
    kept = [http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=10) for _ in range(6)]
    for turn in range(6):
        end = ends[turn % 2]
        for connection in kept:
            connection.request("GET", "/", headers={"Host": "app.test"})
            connection.getresponse().read()
        pid, = system.worker_pids()
        stop(pid)
        client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{end.url}")
        client.apply()
        # Longer than a worker that runs takes between two looks; a change is committed without it meanwhile.
        time.sleep(0.15)
        fresh = [http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=10) for _ in range(6)]
        for connection in (*kept, *fresh):
            connection.request("POST" if turn == 3 else "GET", "/", b"body" if turn == 3 else None, headers={"Host": "app.test"})
        os.kill(pid, signal.SIGCONT)
        answers = []
        for connection in (*kept, *fresh):
            answers.append(connection.getresponse())
            answers[-1].read()
        assert [answer.headers["X-Backend"] for answer in answers] == [end.name] * 12
        for connection in fresh:
            connection.close()
    for connection in kept:
        connection.close()


def test_a_stopped_worker_keeps_nobody_from_writing(system: System, backend: Backend) -> None:
    """Whatever it was doing: it counts all the time, and is stopped at some instant of that."""
    client = system.client("writes")
    client.route("writes.test", backend.url)
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for _ in range(10):
            assert system.get("/", "writes.test").status == 200
        pid, = system.worker_pids()
        os.kill(pid, signal.SIGSTOP)
        began = time.monotonic()
        for number in range(5):
            client.ok(f"HEADERS_SET|SID|ALL|X-A|{number}")
        # The wait for the worker is 50 ms, that for a lock 3 s.
        assert time.monotonic() - began < patience(2)
        os.kill(pid, signal.SIGCONT)
    wait_for(lambda: not [path for path in (system.directory / "proxyd.counts").iterdir() if pid_of(path.name) == pid], 5)
    locks = system.sql("SELECT COUNT(*) FROM workers")
    assert locks == [(1,)]


def pid_of(name: str) -> int:
    return int(name.partition("-")[0])
