"""The time of day is set while everything runs: what is waited for takes as long as it takes, what is shown is the new time."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest

from proxyd.base.text import parse_rfc3339
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.shift import ShiftedSystem
from tests.support.waiting import wait_for

HOUR = 3600.0


class SteppedSystem(ShiftedSystem):
    """One whose processes are replaced in between."""

    def restart_master(self) -> None:
        """Kill the master, and wait for the next one."""
        before = self.master_pid()
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: self.master_pid() not in (0, before) and self.ready(), 20, "another master")

    def replace_worker(self) -> None:
        """Kill a worker, and wait for the next one."""
        before = set(self.worker_pids())
        os.kill(min(before), signal.SIGKILL)
        wait_for(lambda: self.ready() and set(self.worker_pids()) - before, 20, "another worker")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppedSystem]:
    running = SteppedSystem(tmp_path_factory.mktemp("clocks"), registry__reconnect_grace="60s", registry__staged_ttl="30m")
    yield running
    running.stop()


@pytest.fixture
def system(shared: SteppedSystem) -> Iterator[SteppedSystem]:
    yield shared
    shared.set_time(0.0)


@pytest.mark.parametrize("step", [-2 * HOUR, HOUR])
def test_an_open_circuit_stays_open_for_its_timeout_and_no_longer(system: SteppedSystem, backend: Backend, step: float) -> None:
    name = f"circuit{step:.0f}"
    client = system.client(name)
    route_id = client.route(f"{name}.test", backend.url, apply=False)
    client.ok(f"CIRCUIT_BREAKER_SET|SID|{route_id}|1|2s|1")
    client.apply()
    backend.failing = 503
    opened = time.monotonic()
    assert system.get("/", f"{name}.test").status == 503
    system.set_time(step)
    refused = [system.get("/", f"{name}.test") for _ in range(4)]
    if time.monotonic() - opened < 1.5:
        assert {answer.headers["X-Proxyd-Reason"] for answer in refused} == {"circuit_open"}
        assert all(int(answer.headers["Retry-After"]) <= 2 for answer in refused)
    told = client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route_id}")
    if told["opened_at"]:
        assert abs(parse_rfc3339(told["opened_at"]) - time.time() - step) < 30
    backend.failing = 0
    wait_for(lambda: system.get("/", f"{name}.test").status == 200, 10, "a closed circuit", pause=0.1)
    assert time.monotonic() - opened >= 1.9


def drains(system: SteppedSystem) -> dict[str, float]:
    """The share of its traffic that each service still gets, as the admin HTTP tells it."""
    return {route["service"]: route["drain"]["traffic_percent"] for route in system.admin("/api/v1/routes").json()["routes"]}


@pytest.mark.parametrize("step", [-HOUR, HOUR])
def test_a_drain_goes_on_as_it_was(system: SteppedSystem, backend: Backend, step: float) -> None:
    ended, lasting = f"ended{step:.0f}", f"lasting{step:.0f}"
    clients = {name: system.client(name) for name in (ended, lasting)}
    for name, client in clients.items():
        client.route(f"{name}.test", backend.url)
    clients[ended].ok("DRAIN_START|SID|100ms")
    clients[lasting].ok("DRAIN_START|SID|10m")
    wait_for(lambda: clients[ended].json("DRAIN_STATUS|SID")["traffic_percent"] == 0.0, 5, "the end of the drain")
    system.set_time(step)

    def check() -> None:
        assert {system.get("/", f"{ended}.test").headers["X-Proxyd-Reason"] for _ in range(6)} == {"draining"}
        # A straight line of ten minutes that has just begun refuses one of some dozens.
        assert sum(system.get("/", f"{lasting}.test").status == 200 for _ in range(10)) >= 5
        # The admin HTTP may keep an answer for a moment.
        found = wait_for(lambda: shares if ended in (shares := drains(system)) else None)
        assert found[ended] == 0.0 and 50 < found[lasting] <= 100

    check()
    status = clients[lasting].json("DRAIN_STATUS|SID")
    assert status["elapsed_seconds"] < 60 and status["remaining_seconds"] > 500
    # Processes that start after the step, and never knew another time.
    system.replace_worker()
    system.restart_master()
    check()


@pytest.mark.parametrize("step", [-2 * HOUR, HOUR])
def test_a_lost_session_has_its_whole_grace(system: SteppedSystem, backend: Backend, step: float) -> None:
    name = f"lost{step:.0f}"
    client = system.client(name)
    client.route(f"{name}.test", backend.url)
    client.ok(f"ROUTE_ADD|SID|staged.{name}.test|/|{backend.url}|0")
    session_id = client.session_id
    client.close()
    wait_for(lambda: system.get("/", f"{name}.test").status == 503, what="a lost session")
    system.set_time(step)
    await_cleanup(system)
    assert system.connect().command(f"RECONNECT|{session_id}") == "OK"
    assert system.get("/", f"{name}.test").status == 200


def jobs(system: SteppedSystem) -> dict[str, int]:
    """How often each job of the master has run."""
    return {job["name"]: job["runs"] for job in system.admin("/api/v1/status").json()["jobs"]}


def await_cleanup(system: SteppedSystem) -> None:
    """Wait until the cleanup has looked a few times."""
    before = jobs(system)["janitor"]
    wait_for(lambda: jobs(system)["janitor"] >= before + 3, what="looks of the cleanup")


@pytest.mark.parametrize("step", [HOUR])
def test_after_a_masters_death_too_and_what_is_staged_is_kept(system: SteppedSystem, backend: Backend, step: float) -> None:
    """One client lost its connection with the master, another one had lost it before."""
    live, lost = system.client("live"), system.client("gone")
    for client, name in ((live, "live"), (lost, "gone")):
        client.route(f"{name}.test", backend.url)
        client.ok(f"ROUTE_ADD|SID|staged.{name}.test|/|{backend.url}|0")
    lost.close()
    wait_for(lambda: system.get("/", "gone.test").status == 503, what="a lost session")
    system.set_time(step)
    system.restart_master()
    await_cleanup(system)
    for client, name in ((live, "live"), (lost, "gone")):
        again: RegistryClient = system.connect()
        assert again.command(f"RECONNECT|{client.session_id}") == "OK"
        again.session_id = client.session_id
        assert [route["status"] for route in again.json("ROUTE_LIST|SID")] == ["active", "staged"]
        again.apply()
        assert system.get("/", f"staged.{name}.test").status == 200
