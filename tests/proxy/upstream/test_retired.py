"""A backend to which no route leads any more has no connection left: no idle one, and after its last answer none that was in use."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support.backends import Backend
from tests.support.http2backend import Http2Backend, Request
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for


class Place:
    """A backend whose answers to `/until-freed` wait until it is let go."""

    def __init__(self, http2: bool) -> None:
        self._http1: Backend | None = None
        self._freed = threading.Event()
        if http2:
            self._http2 = Http2Backend(self._serve)
            self.url, self.port = self._http2.url, self._http2.port
        else:
            self._http1 = Backend("old")
            self.url, self.port = self._http1.url, self._http1.port

    def _serve(self, request: Request) -> None:
        if request.path == "/until-freed":
            self._freed.wait(60)
        request.answer(b"old")

    def asked(self) -> bool:
        """Whether a request waits."""
        if self._http1 is not None:
            return bool(self._http1.seen("/until-freed"))
        return any(request.path == "/until-freed" for request in self._http2.requests)

    def free(self) -> None:
        """Answer it."""
        self._freed.set()
        if self._http1 is not None:
            self._http1.freed.set()

    def stop(self) -> None:
        """Close it."""
        self.free()
        (self._http1 or self._http2).stop()


@pytest.fixture(params=["http1", "http2"])
def old(request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(request.param == "http2")
    yield place
    place.stop()


def connections(system: System, port: int) -> int:
    """How many the workers have to a port."""
    return sum(item.status == "ESTABLISHED" and bool(item.raddr) and item.raddr.port == port
               for pid in system.worker_pids() for item in psutil.Process(pid).net_connections("tcp"))


def leave(client: RegistryClient, route_id: str, way: str, backend: Backend) -> None:
    """Take the route away from its backend, or from its way of reaching it."""
    if way == "moved":
        client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{backend.url}")
    else:
        client.ok(f"ROUTE_REMOVE|SID|{route_id}")
    client.apply()


@pytest.mark.parametrize("way", ["moved", "removed"])
def test_idle_connections_end_when_no_route_leads_there(one_worker: System, backend: Backend, old: Place, way: str) -> None:
    client = one_worker.client(f"idle{way}")
    route_id = client.route(f"idle{way}.test", old.url)
    assert one_worker.get("/", f"idle{way}.test").body.startswith(b"old")
    assert connections(one_worker, old.port) == 1
    leave(client, route_id, way, backend)
    wait_for(lambda: connections(one_worker, old.port) == 0, what="the end of the idle connection")
    assert one_worker.get("/", f"idle{way}.test").status == (200 if way == "moved" else 404)


@pytest.mark.parametrize("way", ["moved", "removed"])
def test_one_in_use_ends_with_its_answer(one_worker: System, backend: Backend, old: Place, way: str) -> None:
    client = one_worker.client(f"used{way}")
    route_id = client.route(f"used{way}.test", old.url)
    answers: list[int] = []
    asker = threading.Thread(target=lambda: answers.append(one_worker.get("/until-freed", f"used{way}.test").status))
    asker.start()
    wait_for(old.asked, what="the request")
    leave(client, route_id, way, backend)
    assert one_worker.get("/", f"used{way}.test").status == (200 if way == "moved" else 404)
    assert connections(one_worker, old.port) == 1
    old.free()
    asker.join()
    assert answers == [200]
    wait_for(lambda: connections(one_worker, old.port) == 0, what="the end of the connection")


def test_a_route_that_moves_a_hundred_times_leaves_nothing_behind(one_worker: System, new_backend: Callable[..., Backend]) -> None:
    backends = [new_backend("here"), new_backend("there")]
    client = one_worker.client("moving")
    route_id = client.route("moving.test", backends[0].url)
    for turn in range(1, 101):
        client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{backends[turn % 2].url}")
        client.apply()
        assert one_worker.get("/", "moving.test").status == 200
    wait_for(lambda: connections(one_worker, backends[1].port) == 0, what="the end of the other backend's connections")
    assert connections(one_worker, backends[0].port) == 1


class _Slow(Http2Backend):
    """Takes a connection a second after it is there, which is when it begins HTTP/2."""

    def _accept(self) -> None:
        time.sleep(1)
        super()._accept()


def test_a_connection_that_is_not_to_be_kept_is_not_closed_before_its_first_request(one_worker: System) -> None:
    backend = _Slow(lambda request: request.answer(b"late"))
    try:
        client = one_worker.client("slow")
        client.options(client.route("slow.test", backend.url, apply=False), pool_size="0", connect_timeout=f"{patience(5)}s")
        assert one_worker.get("/", "slow.test").body == b"late"
        wait_for(lambda: connections(one_worker, backend.port) == 0, what="its end")
    finally:
        backend.stop()
