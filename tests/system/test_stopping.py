"""Stopping and reloading: what was begun is ended, what comes meanwhile is served."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.support.backends import Backend
from tests.support.load import KeepAliveLoad, quick_backend
from tests.support.registry import RegistryClient
from tests.support.system import Answer, System
from tests.support.waiting import listens, patience, wait_for

REQUESTS = 50_000
REQUEST = b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n"
NewSystem = Callable[..., System]


def ended(system: System) -> bool:
    return system.process is not None and system.process.poll() is not None


def answer_on(sock: socket.socket) -> bytes:
    """One whole answer of the backend's."""
    data = b""
    while not data.endswith(b"backend /\n"):
        piece = sock.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    return data


@pytest.mark.slow
def test_term_lets_what_is_in_flight_end_and_says_that_the_connection_closes(new_system: NewSystem, backend: Backend) -> None:
    system = new_system()
    system.client().route("app.test", backend.url)
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(system.get("/until-freed"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    wait_for(lambda: backend.in_flight == 6)
    system.signal(signal.SIGTERM)
    wait_for(lambda: not listens(system.proxy_port), what="the listener to close")
    backend.freed.set()
    for thread in threads:
        thread.join(patience(10))
    assert [answer.status for answer in answers] == [200] * 6
    wait_for(lambda: ended(system), what="the end of gunicorn")
    assert system.process is not None and system.process.returncode == 0
    assert system.master_pid() == 0


def test_term_closes_idle_connections_cleanly_and_serves_the_request_that_just_comes(new_system: NewSystem, backend: Backend) -> None:
    system = new_system(workers=1)
    system.client().route("app.test", backend.url)
    idle, late = (socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) for _ in range(2))
    with idle, late:
        for sock in (idle, late):
            sock.sendall(REQUEST)
            assert b"Connection: close" not in answer_on(sock)
        system.signal(signal.SIGTERM)
        wait_for(lambda: not listens(system.proxy_port), what="the listener to close")
        late.sendall(REQUEST)
        answer = answer_on(late)
        assert answer.startswith(b"HTTP/1.1 200 ") and b"Connection: close\r\n" in answer
        assert idle.recv(65536) == b""
        wait_for(lambda: ended(system), what="the end of gunicorn")


def test_ctrl_c_stops_all_of_it_at_once_without_a_traceback_and_with_its_last_log_lines(new_system: NewSystem, backend: Backend) -> None:
    system = new_system()
    system.client().route("app.test", backend.url)

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            system.get("/slow?s=9")

    threading.Thread(target=ask, daemon=True).start()
    wait_for(lambda: backend.in_flight == 1)
    begun = time.monotonic()
    for number in range(20):
        assert system.get(f"/last/{number}").status == 200
    assert system.process is not None
    os.killpg(system.process.pid, signal.SIGINT)
    wait_for(lambda: ended(system), what="the end of gunicorn")
    assert time.monotonic() - begun < patience(6)
    assert system.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.killpg(system.process.pid, 0)
    assert "Traceback" not in system.log() and "failed with" not in system.log()
    assert all(f"/last/{number} " in system.access_log() for number in range(20))
    assert "the master stops" in system.log() and not system.master_pid()


@pytest.mark.slow
def test_term_while_a_worker_boots_is_heeded_by_that_worker_too(new_system: NewSystem) -> None:
    system = new_system(workers=1)
    (old,) = system.worker_pids()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: set(system.worker_pids()) - {old}, 5, "the new worker", 0.001)
    system.signal(signal.SIGTERM)
    wait_for(lambda: ended(system), 5, "the end of gunicorn")


@pytest.mark.slow
def test_graceful_timeout_bounds_the_wait_for_what_is_in_flight(new_system: NewSystem, backend: Backend) -> None:
    system = new_system(workers=1, proxy__graceful_timeout="1s")
    system.client().route("app.test", backend.url)

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            system.get("/slow?s=9")

    threading.Thread(target=ask, daemon=True).start()
    wait_for(lambda: backend.in_flight == 1)
    begun = time.monotonic()
    system.signal(signal.SIGTERM)
    wait_for(lambda: ended(system), what="the end of gunicorn")
    assert 0.8 < time.monotonic() - begun < patience(5)


@pytest.mark.slow
def test_rolling_reloads_and_a_restart_of_the_master_lose_no_request(new_system: NewSystem) -> None:
    system = new_system()
    with quick_backend() as url:
        client = system.client()
        client.route("app.test", url)
        load = KeepAliveLoad(system.proxy_port, "app.test")
        for number in range(5):
            before = set(system.worker_pids())
            system.signal(signal.SIGHUP)
            wait_for(lambda before=before: not before & set(system.worker_pids()) and len(system.worker_pids()) == 2,  # type: ignore[misc]
                     20, f"new workers in reload {number}")
        old = system.master_pid()
        os.kill(old, signal.SIGTERM)
        wait_for(lambda: system.master_pid() not in (0, old) and system.ready(), 15, "the new master")
        connection = system.connect()
        assert connection.command(f"RECONNECT|{client.session_id}") == "OK"
        wait_for(lambda: load.failures or load_count(system) >= REQUESTS, 45, "50,000 requests")
        load.stop()
    assert load.failures == []
    assert load.answered >= REQUESTS
    assert load.reconnects < load.answered / 10


@pytest.mark.slow
def test_a_new_arbiter_beside_the_old_one_takes_over_with_one_master_at_a_time_and_no_request_lost(new_system: NewSystem) -> None:
    system = new_system(start=False)
    # Executed anew by USR2, `python -m gunicorn` would look for modules in gunicorn's own directory.
    system.command = [str(Path(sys.executable).with_name("gunicorn"))]
    system.start()
    assert system.process is not None
    old, master = psutil.Process(system.process.pid), system.master_pid()
    with quick_backend() as url:
        client = system.client()
        client.route("app.test", url)
        load = KeepAliveLoad(system.proxy_port, "app.test", 4)
        system.signal(signal.SIGUSR2)
        wait_for(lambda: f"waiting for the master with pid {master} to end" in system.log(), 15, "the second master")
        new = next(child for child in old.children() if len(child.children()) == 3)
        try:
            client.route("more.test", url)
            assert {system.get("/", "more.test").status for _ in range(8)} == {200}
            old.terminate()
            wait_for(lambda: system.master_pid() not in (0, master), 15, "the second master's turn")
            back = wait_for(lambda: reconnected(system, client.session_id), 10, "its registry")
            back.route("third.test", url)
            assert {system.get("/", "third.test").status for _ in range(8)} == {200}
            load.stop()
        finally:
            new.terminate()
            new.wait(15)
    assert load.failures == [] and load.answered > 100


def reconnected(system: System, session_id: str) -> RegistryClient | None:
    try:
        back = system.connect()
    except OSError:
        return None
    assert back.command(f"RECONNECT|{session_id}") == "OK"
    back.session_id = session_id
    return back


def load_count(system: System) -> int:
    """Requests served, as the database has them."""
    rows = system.sql("SELECT requests FROM route_stats WHERE route_id = 'r1'")
    return int(rows[0][0]) if rows else 0
