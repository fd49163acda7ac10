"""Long bodies between plain HTTP/1 connections, which go through pipes: what arrives, and what is said of those that end early."""

from __future__ import annotations

import hashlib
import http.client
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import wait_for

BODY = os.urandom(3 << 20)
DIGEST = hashlib.sha256(BODY).hexdigest()
#: What the backend sends of it to /cut.
CUT_AT = 2_000_000


class Store(RawBackend):
    """Answers GET with the body (or its beginning, or eight of it) and POST with the digest of what came."""

    def __init__(self) -> None:
        super().__init__(self._converse)

    def _converse(self, sock: socket.socket) -> None:
        while head := self.receive_head(sock):
            if head.startswith(b"POST"):
                rest = head.partition(b"\r\n\r\n")[2]
                digest, left = hashlib.sha256(rest), len(BODY) - len(rest)
                while left:
                    piece = sock.recv(min(left, 50_000))
                    if not piece:
                        return
                    digest.update(piece)
                    left -= len(piece)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 64\r\n\r\n" + digest.hexdigest().encode())
                continue
            times = 8 if b"/gone" in head else 1
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (times * len(BODY)))
            if b"/cut" in head:
                sock.sendall(BODY[:CUT_AT])
                return
            for _ in range(times):
                sock.sendall(BODY)


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker in front of the store."""
    store = Store()
    started = System(tmp_path_factory.mktemp("long"), workers=1)
    started.client().route("app.test", store.url)
    yield started
    started.stop()
    store.stop()


def _get(system: System) -> str:
    return hashlib.sha256(system.get("/file").body).hexdigest()


def _pipes(system: System) -> int:
    """The pipe ends that the worker has open."""
    worker, = system.worker_pids()
    folder = f"/proc/{worker}/fd"
    return sum(os.readlink(f"{folder}/{name}").startswith("pipe:") for name in os.listdir(folder))


def test_it_arrives_as_it_was_sent_both_ways_and_again_on_the_same_connection(system: System) -> None:
    before = _pipes(system)
    connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=30)
    for _ in range(2):
        connection.request("GET", "/file", headers={"Host": "app.test"})
        assert connection.getresponse().read() == BODY
        connection.request("POST", "/file", BODY, {"Host": "app.test"})
        assert connection.getresponse().read().decode() == DIGEST
    connection.close()
    # It did go that way: the worker keeps the pipe for the next one.
    assert _pipes(system) > before


def test_more_at_once_than_there_are_pipes_arrive_too(system: System) -> None:
    with ThreadPoolExecutor(40) as pool:
        assert set(pool.map(lambda _: _get(system), range(40))) == {DIGEST}
    worker, = system.worker_pids()
    # Those that are kept, not one for each.
    wait_for(lambda: _pipes(system) <= 40)
    assert psutil.Process(worker).memory_info().rss < 400 << 20


def test_an_answer_that_breaks_off_is_no_whole_one(system: System) -> None:
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        system.get("/cut")
    wait_for(lambda: "upstream_truncated" in system.access_log())
    assert _get(system) == DIGEST


def test_a_client_that_goes_away_is_told_apart_and_what_it_took_is_counted(system: System) -> None:
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as sock:
        sock.sendall(b"GET /gone HTTP/1.1\r\nHost: app.test\r\n\r\n")
        assert sock.recv(1000)
    wait_for(lambda: "/gone" in system.access_log())
    line = next(line for line in system.access_log().splitlines() if "/gone" in line)
    assert "reason=client_gone" in line, line
    assert 0 < int(line.split('" ')[1].split()[1]) < 8 * len(BODY)
    assert _get(system) == DIGEST


def test_an_upload_that_breaks_off_reaches_nobody_as_a_whole_one(system: System) -> None:
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as sock:
        sock.sendall(b"POST /broken HTTP/1.1\r\nHost: app.test\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY[:1_000_000])
    wait_for(lambda: "/broken" in system.access_log())
    line = next(line for line in system.access_log().splitlines() if "/broken" in line)
    assert " 200 " not in line
    assert system.get("/file", method="POST", body=BODY).text == DIGEST
