"""max_in_flight, queue_size and queue_timeout: how many requests a backend has under way, over all workers, and who waits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.backends import Backend
from tests.support.system import Answer, System
from tests.support.waiting import patience, wait_for


def many(system: System, count: int, path: str, host: str) -> list[Answer]:
    """The answers to so many requests at once."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda _: system.get(path, host), range(count)))


def many_held(system: System, backend: Backend, count: int, host: str, refused: int) -> list[Answer]:
    """The answers to so many requests at once, none of which the backend answers before the proxy has refused so many."""
    backend.freed.clear()
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(system.get, "/until-freed", host) for _ in range(count)]
        wait_for(lambda: sum(one.done() for one in asked) >= refused, what="the refusals")
        backend.freed.set()
        return [one.result() for one in asked]


def test_a_backend_never_has_more_than_its_share_and_the_others_wait(system: System, backend: Backend) -> None:
    client = system.client("all")
    route_id = client.route("all.test", backend.url)
    client.options(route_id, max_in_flight=3, queue_size=100, queue_timeout="20s")
    answers = many(system, 24, "/slow?s=0.05", "all.test")
    assert Counter(answer.status for answer in answers) == {200: 24}
    assert backend.most_in_flight == 3


def test_without_a_queue_and_beyond_it_requests_are_refused(system: System, backend: Backend) -> None:
    client = system.client("full")
    route_id = client.route("full.test", backend.url)
    client.options(route_id, max_in_flight=2)
    answers = many_held(system, backend, 8, "full.test", 6)
    refused = [answer for answer in answers if answer.status == 503]
    assert len(refused) == 6 and backend.most_in_flight == 2
    assert {answer.headers["X-Proxyd-Reason"] for answer in refused} == {"queue_full"}
    assert refused[0].headers["Retry-After"]
    client.options(route_id, queue_size=3)
    answers = many_held(system, backend, 8, "full.test", 3)
    assert Counter(answer.status for answer in answers) == {200: 5, 503: 3}
    assert backend.most_in_flight == 2


def test_a_wait_that_is_too_long_ends_with_a_refusal_and_all_is_counted(system: System, backend: Backend) -> None:
    client = system.client("late")
    route_id = client.route("late.test", backend.url)
    client.options(route_id, max_in_flight=1, queue_size=10, queue_timeout="300ms")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(system.get, "/until-freed", "late.test")
        wait_for(lambda: backend.in_flight == 1)
        begun = time.monotonic()
        late = system.get("/", "late.test")
        assert 0.25 < time.monotonic() - begun < patience(1.5)
        client.options(route_id, queue_timeout="20s")
        waits = pool.submit(system.get, "/", "late.test")

        def under_way() -> tuple[int, int]:
            status = client.json(f"ROUTE_STATUS|SID|{route_id}")
            return status["in_flight"], status["queued"]

        wait_for(lambda: under_way() == (1, 1), what="the counts of both workers")
        wait_for(lambda: 'proxyd_queued{domain="late.test",service="late"} 1.0' in system.admin("/metrics").text, what="the metric")
        backend.freed.set()
        assert (first.result().status, waits.result().status) == (200, 200)
    assert (late.status, late.headers["X-Proxyd-Reason"], bool(late.headers["Retry-After"])) == (503, "queue_timeout", True)
    wait_for(lambda: 'proxyd_queue_rejected_total{domain="late.test",service="late"} 1.0' in system.admin("/metrics").text)
    wait_for(lambda: 'proxyd_queue_waits_total{domain="late.test",service="late"} 2.0' in system.admin("/metrics").text)
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 0)


def test_a_client_that_leaves_the_queue_is_not_served(system: System, backend: Backend) -> None:
    client = system.client("gone")
    route_id = client.route("gone.test", backend.url)
    client.options(route_id, max_in_flight=1, queue_size=1, queue_timeout="20s")
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(system.get, "/until-freed", "gone.test")
        wait_for(lambda: backend.in_flight == 1)
        with socket.create_connection(("127.0.0.1", system.proxy_port)) as leaving:
            leaving.sendall(b"GET /left HTTP/1.1\r\nHost: gone.test\r\n\r\n")
            wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 1)
        wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 0)
        assert backend.in_flight == 1, "it left before there was a place"
        backend.freed.set()
        assert system.get("/stayed", "gone.test").status == 200, "its place in the queue is free"
        assert first.result().status == 200
    assert backend.seen("/stayed") and not backend.seen("/left")


def test_those_of_one_worker_are_served_in_the_order_in_which_they_came(new_system: Callable[..., System], backend: Backend) -> None:
    system = new_system(workers=1)
    client = system.client()
    route_id = client.route("app.test", backend.url)
    client.options(route_id, max_in_flight=1, queue_size=10, queue_timeout="20s")
    answers = []
    with ThreadPoolExecutor(5) as pool:
        with socket.create_connection(("127.0.0.1", system.proxy_port)) as first:
            first.sendall(b"GET /slow?s=15 HTTP/1.1\r\nHost: app.test\r\n\r\n")
            wait_for(lambda: backend.in_flight == 1)
            for number in range(5):
                answers.append(pool.submit(system.get, f"/{number}"))
                wait_for(lambda number=number: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == number + 1,  # type: ignore[misc]
                         10, "one more that waits")
        # The client of the first one is gone.
        assert [answer.result().status for answer in answers] == [200] * 5
    assert [path for _, path, _, _ in backend.requests] == ["/slow?s=15", "/0", "/1", "/2", "/3", "/4"]


def test_a_full_replica_leaves_its_requests_to_the_others(system: System, new_backend: Callable[..., Backend]) -> None:
    backends = [new_backend(f"b{number}") for number in range(2)]
    for number, backend in enumerate(backends):
        client = system.client("pair", f"i{number}")
        client.options(client.route("pair.test", backend.url), max_in_flight=2, queue_size=20, queue_timeout="20s", balance="ip_hash")
    # Answers that take longer than it takes to begin a handful of requests, or the second would never be full.
    assert Counter(answer.status for answer in many(system, 16, "/slow?s=0.2", "pair.test")) == {200: 16}
    assert [backend.most_in_flight for backend in backends] == [2, 2]


def test_the_places_of_a_killed_worker_are_free(system: System, backend: Backend) -> None:
    client = system.client("killed")
    client.options(client.route("killed.test", backend.url), max_in_flight=2, queue_size=5, queue_timeout="20s")
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(("127.0.0.1", system.proxy_port))) for _ in range(2)]
        for sock in held:
            sock.sendall(b"GET /slow?s=15 HTTP/1.1\r\nHost: killed.test\r\n\r\n")
        wait_for(lambda: backend.in_flight == 2)
        for pid in system.worker_pids():
            os.kill(pid, signal.SIGKILL)
        assert wait_for(lambda: _answered(system), 15) == 200


def _answered(system: System) -> int:
    with contextlib.suppress(OSError):
        return system.get("/", "killed.test").status
    return 0


@pytest.mark.parametrize(("key", "value"), [("max_in_flight", "-1"), ("queue_size", "many"), ("queue_timeout", "0")])
def test_a_value_that_makes_no_sense_is_refused(system: System, key: str, value: str) -> None:
    client = system.client("sense")
    client.ok("ROUTE_ADD|SID|sense.test|/|http://127.0.0.1:9|0")
    answer = client.command(f"OPTIONS_SET|SID|ALL|{key}|{value}")
    assert answer.startswith(f"ERROR|{key}:"), answer
