"""hold_when_down and TRAFFIC_HOLD: requests to a service that will be back wait instead of failing."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from proxyd.base.text import parse_rfc3339
from tests.support.backends import Backend, RawBackend
from tests.support.system import Answer, System
from tests.support.waiting import patience, wait_for


def reason(answer: Answer) -> tuple[int, str | None]:
    return answer.status, answer.headers["X-Proxyd-Reason"]


def test_one_instance_is_restarted_under_load_and_nobody_sees_more_than_a_wait(system: System, backend: Backend) -> None:
    client = system.client("restart")
    client.options(client.route("restart.test", backend.url), hold_when_down="10s")
    ending = threading.Event()

    def load() -> list[tuple[int, str | None]]:
        answers = []
        while not ending.is_set():
            answers.append(reason(system.get("/", "restart.test")))
        return answers

    with ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(load) for _ in range(6)]
        for _ in range(2):
            wait_for(lambda: len(backend.requests) > 20)
            backend.stop()
            time.sleep(0.3)
            backend.requests.clear()
            backend.start()
        wait_for(lambda: len(backend.requests) > 20)
        ending.set()
        assert set(Counter(answer for one in loads for answer in one.result())) == {(200, None)}


def test_an_answer_that_breaks_off_before_its_body_is_asked_for_again(system: System, raw_backend: Callable[..., RawBackend]) -> None:
    starts = [b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"]

    def serve(sock: socket.socket) -> None:
        if backend.receive_head(sock):
            sock.sendall(starts.pop(0) if starts else b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nback")

    backend = raw_backend(serve)
    client = system.client("broken")
    client.options(client.route("broken.test", backend.url), hold_when_down="10s")
    answer = system.get("/", "broken.test")
    assert (answer.status, answer.text) == (200, "back") and not starts


def test_who_waits_too_long_is_told_and_counted(system: System, backend: Backend) -> None:
    client = system.client("away")
    route_id = client.route("away.test", backend.url)
    client.options(route_id, hold_when_down="400ms")
    backend.stop()
    begun = time.monotonic()
    answer = system.get("/", "away.test")
    assert reason(answer) == (503, "hold_timeout") and answer.headers["Retry-After"]
    assert 0.35 < time.monotonic() - begun < patience(3)
    wait_for(lambda: all(f'proxyd_{name}_total{{domain="away.test",service="away"}} 1.0' in system.admin("/metrics").text
                         for name in ("hold_rejected", "holds")), what="both counts")
    client.options(route_id, hold_when_down="0")
    assert reason(system.get("/", "away.test")) == (502, "upstream_refused")


def test_a_service_that_has_lost_its_connection_is_waited_for(system: System, backend: Backend) -> None:
    client = system.client("lost")
    client.options(client.route("lost.test", backend.url), hold_when_down="10s")
    client.close()
    wait_for(lambda: system.sql("SELECT enabled FROM routes WHERE service_name = 'lost'") == [(0,)])
    # The workers learn of it after the commit. What is acknowledged now, they know; and so what was before it.
    system.client("after").route("after.test", backend.url)
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(system.get, "/", "lost.test")
        time.sleep(0.2)
        assert not waits.done()
        again = system.connect()
        again.ok(f"RECONNECT|{client.session_id}")
        assert waits.result().status == 200


def test_a_client_that_leaves_while_it_waits_is_not_served_and_more_than_may_do_not_wait(system: System, backend: Backend) -> None:
    client = system.client("leaves")
    route_id = client.route("leaves.test", backend.url)
    client.options(route_id, hold_when_down="10s", hold_size=1)
    backend.stop()
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as leaving:
        leaving.sendall(b"GET /left HTTP/1.1\r\nHost: leaves.test\r\n\r\n")
        wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 1)
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 0)
    with ThreadPoolExecutor(6) as pool:
        answers = [pool.submit(system.get, "/stayed", "leaves.test") for _ in range(6)]
        wait_for(lambda: sum(one.done() for one in answers) >= 4)
        backend.start()
        assert set(Counter(reason(one.result()) for one in answers)) == {(503, "hold_full"), (200, None)}
    assert backend.seen("/stayed") and not backend.seen("/left")


def test_an_open_circuit_is_tried_as_soon_as_the_backend_takes_connections_again(system: System, backend: Backend) -> None:
    client = system.client("circuit")
    route_id = client.route("circuit.test", backend.url, apply=False)
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route_id}|1|60s|1")
    client.apply()
    client.options(route_id, hold_when_down="10s")
    backend.stop()
    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(system.get, "/", "circuit.test") for _ in range(8)]
        wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 8)
        assert client.json(f"ROUTE_STATUS|SID|{route_id}")["circuit"]["state"] == "open"
        backend.start()
        assert {one.result().status for one in answers} == {200}


def test_traffic_that_is_held_waits_until_it_is_released_and_everybody_is_told(system: System, backend: Backend) -> None:
    client = system.client("held")
    route_id = client.route("held.test", backend.url)
    other = system.connect()
    client.ok("SUBSCRIBE|SID|hold_changed")
    event, data = client.command("TRAFFIC_HOLD|SID|ALL|30s").split("|", 2)[1:]
    assert event == "hold_changed" and json.loads(data)["active"] is True and json.loads(data)["route_id"] == route_id
    answer, until = client.line().split("|")
    assert answer == "HOLD_OK" and 25 < parse_rfc3339(until) - time.time() < 31
    with ThreadPoolExecutor(3) as pool:
        waits = [pool.submit(system.get, "/", "held.test") for _ in range(3)]
        status = wait_for(lambda: (found := client.json(f"ROUTE_STATUS|SID|{route_id}"))["queued"] == 3 and found)
        assert status["hold"]["active"] is True and not backend.requests
        assert json.loads(client.command("TRAFFIC_RELEASE|SID|ALL").split("|", 2)[2])["active"] is False
        assert client.line() == "HOLD_OK"
        assert {one.result().status for one in waits} == {200}
    assert other.command("TRAFFIC_HOLD|x|ALL|1s") == "ERROR|no session"
    assert client.command("TRAFFIC_HOLD|SID|r0|1s").startswith("ERROR|target")


def test_who_comes_while_those_that_waited_go_is_served_behind_them(system: System, backend: Backend) -> None:
    client = system.client("behind")
    route_id = client.route("behind.test", backend.url)
    ending = threading.Event()

    def load() -> set[tuple[int, str | None]]:
        answers = set()
        while not ending.is_set():
            answers.add(reason(system.get("/", "behind.test")))
        return answers

    with ThreadPoolExecutor(40) as pool:
        try:
            client.ok("TRAFFIC_HOLD|SID|ALL|30s")
            loads = [pool.submit(load) for _ in range(40)]
            for _ in range(3):
                wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 40)
                client.ok("TRAFFIC_RELEASE|SID|ALL")
                # The next hold begins while they still go.
                client.ok("TRAFFIC_HOLD|SID|ALL|30s")
            client.ok("TRAFFIC_RELEASE|SID|ALL")
        finally:
            ending.set()
    assert set().union(*(one.result() for one in loads)) == {(200, None)}


def test_a_hold_ends_by_itself_and_a_replica_that_is_not_held_serves(system: System, new_backend: Callable[..., Backend]) -> None:
    first, second = (system.client("pair", name) for name in ("a", "b"))
    route_id = first.route("pair.test", new_backend("a").url)
    second.route("pair.test", new_backend("b").url)
    first.ok(f"TRAFFIC_HOLD|SID|{route_id}|3s")
    assert {system.get("/", "pair.test").headers["X-Backend"] for _ in range(6)} == {"b"}
    second.ok("TRAFFIC_HOLD|SID|ALL|3s")
    begun = time.monotonic()
    assert system.get("/", "pair.test").status == 200
    assert time.monotonic() - begun > 0.1
    wait_for(lambda: system.sql("SELECT hold_until FROM routes WHERE service_name = 'pair'") == [(None,), (None,)])
    wait_for(lambda: len(system.sql("SELECT 1 FROM events WHERE type = 'hold_changed' AND route_id = ?", route_id)) == 2,
             what="the events of its beginning and its end")
