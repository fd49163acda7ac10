"""Circuits at their edges over real workers: trials whose client or worker goes away, and backends that are exchanged."""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support.backends import Backend
from tests.support.events import Listener, listener
from tests.support.pinned import Pinned
from tests.support.system import System
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two workers for all tests here; each has a service of its own."""
    running = System(tmp_path_factory.mktemp("edges"))
    yield running
    running.stop()


def half_open(system: System, backend: Backend, name: str) -> tuple[Listener, str]:
    """A service at `name`.test whose circuit takes one trial as soon as the next request comes."""
    client = listener(system, name)
    route_id = client.route(f"{name}.test", backend.url, apply=False)
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route_id}|1|200ms|1")
    client.apply()
    backend.failing = 500
    assert system.get("/", f"{name}.test").status == 500
    backend.failing = 0
    time.sleep(0.21)
    return client, route_id


def state(client: Listener, route_id: str) -> str:
    return str(client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route_id}")["state"])


@pytest.mark.parametrize("sent", [b"", b"half of "])
def test_a_client_that_leaves_before_its_body_came_takes_no_trial_with_it(system: System, backend: Backend, sent: bytes) -> None:
    name = f"body-{len(sent)}"
    client, route_id = half_open(system, backend, name)
    with socket.create_connection(("127.0.0.1", system.proxy_port)) as sock:
        sock.sendall(f"POST / HTTP/1.1\r\nHost: {name}.test\r\nContent-Length: 100\r\n\r\n".encode() + sent)
        time.sleep(0.2)
        assert state(client, route_id) == "open"
    assert system.get("/", f"{name}.test").status == 200
    assert state(client, route_id) == "closed"


def test_the_trial_of_a_worker_that_is_killed_makes_room_at_once(system: System, backend: Backend) -> None:
    client, route_id = half_open(system, backend, "killed")
    pinned = Pinned(system)
    victim, other = pinned.pids
    pinned.send(victim, "killed.test", "/slow?s=5")
    wait_for(lambda: state(client, route_id) == "half_open")
    assert pinned.get(other, "killed.test").headers["X-Proxyd-Reason"] == "circuit_open"
    pinned.kill(victim, signal.SIGKILL)
    wait_for(lambda: pinned.get(other, "killed.test").status == 200, 2.0, "room for another trial")
    client.wait_for_change(3, "circuit_state_changed", route_id)
    assert [reason for _, _, reason in client.circuit_changes(route_id)] == ["failures", "timeout", "trial_succeeded"]
    pinned.close()
    wait_for(lambda: victim not in system.worker_pids() and system.ready(), 10)


def test_another_backend_has_another_circuit_and_what_the_last_one_fails_late_is_not_its_fault(
        system: System, new_backend: Callable[..., Backend]) -> None:
    sick, well = new_backend("sick"), new_backend("well")
    client = listener(system, "moves")
    route_id = client.route("moves.test", sick.url, apply=False)
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route_id}|2|1h|1")
    client.options(route_id, timeout="4s")
    late: list[int] = []
    requests = [threading.Thread(target=lambda: late.append(system.get("/until-freed", "moves.test").status)) for _ in range(4)]
    for request in requests:
        request.start()
    wait_for(lambda: sick.in_flight == 4)
    sick.failing = 503
    assert [system.get("/", "moves.test").headers["X-Proxyd-Reason"] for _ in range(3)] == [None, None, "circuit_open"]
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{well.url}")
    client.apply()
    assert {system.get("/", "moves.test").headers["X-Backend"] for _ in range(8)} == {"well"}
    assert state(client, route_id) == "closed"
    for request in requests:
        request.join()
    assert late == [504] * 4
    told = client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route_id}")
    assert (told["state"], told["failures"]) == ("closed", 0)
    client.wait_for_change(2, "circuit_state_changed", route_id)
    assert client.circuit_changes(route_id) == [("closed", "open", "failures"), ("open", "closed", "backend_changed")]
    wait_for(lambda: system.sql("SELECT state, reason, failures FROM v_circuits WHERE route_id = ?", route_id)
             == [("closed", "backend_changed", 0)], 2)
    # Another path on the same server is the same upstream.
    well.failing = 503
    for _ in range(2):
        system.get("/", "moves.test")
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{well.url}/v2")
    client.apply()
    assert state(client, route_id) == "open"


def test_a_new_route_does_not_inherit_the_late_failures_of_one_that_is_gone(system: System, backend: Backend) -> None:
    client = system.client("churn")
    for turn in range(3):
        route_id = client.route("churn.test", backend.url, apply=False)
        client.ok(f"CIRCUIT_BREAKER_SET|SID|{route_id}|1|1h|1")
        client.apply()
        if turn:
            with contextlib.suppress(http.client.HTTPException):
                assert system.get("/status/503", "churn.test").status == 503
            # The last route's request fails now, in the same place of the shared memory.
            time.sleep(0.4)
            assert client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route_id}")["state"] == "open"
        # For the slow one alone: what is answered at once above may take longer on a busy machine.
        client.options(route_id, timeout="300ms")
        client.ok(f"CIRCUIT_BREAKER_RESET|SID|{route_id}")
        threading.Thread(target=system.get, args=("/slow?s=2", "churn.test"), daemon=True).start()
        # This turn's: the last one's may still be under way.
        wait_for(lambda turn=turn: len(backend.seen("/slow")) > turn)  # type: ignore[misc]
        client.ok(f"ROUTE_REMOVE|SID|{route_id}")
        client.apply()


def test_requests_refused_since_a_check_found_the_upstream_down_are_counted(system: System, backend: Backend) -> None:
    client = listener(system, "counted")
    backend.health = 503
    route_id = client.route("counted.test", backend.url, apply=False)
    client.options(route_id, health_check_path="/healthz", health_check_interval="100ms", health_fall=1)
    wait_for(lambda: state(client, route_id) == "open", 3)
    for _ in range(5):
        answer = system.get("/", "counted.test")
        assert (answer.status, answer.headers["X-Proxyd-Reason"], answer.headers["Retry-After"]) == (503, "upstream_down", "5")
    wait_for(lambda: 'proxyd_circuit_rejected_total{domain="counted.test",service="counted"} 5.0' in system.admin("/metrics").text, 2)
