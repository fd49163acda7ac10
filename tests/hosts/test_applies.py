"""`OK` to an apply means every live worker of every live host: the hosts hear of it, and those that are late or dead are told of."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from tests.hosts.conftest import MakeHost, database
from tests.support.backends import Backend
from tests.support.postgres import Postgres
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for


def master_of(host: System) -> int:
    """The pid of a host's master, which may be one that waits."""
    assert host.process is not None
    for child in psutil.Process(host.process.pid).children():
        if "master" in child.cmdline():
            return child.pid
    raise AssertionError("there is no master")


def reached(postgres: Postgres, host: System, name: str) -> int:
    return int(postgres.sql(f"SELECT config_version FROM hosts WHERE name = '{name}'", database(host)) or 0)


def proxyctl_hosts(host: System) -> tuple[int, Any]:
    done = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "hosts", "--json", "--admin", f"http://127.0.0.1:{host.admin_port}"],
                          env=host.environment, cwd=host.directory, capture_output=True, check=False)
    return done.returncode, json.loads(done.stdout)


def moved(client: RegistryClient, route_id: str, backend: Backend) -> None:
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{backend.url}")
    client.apply()


@pytest.fixture
def backends(new_backend: Callable[..., Backend]) -> list[Backend]:
    return [new_backend("first"), new_backend("second")]


@pytest.fixture
def stopped() -> Iterator[Callable[[int], None]]:
    """Stop processes, which go on at the end."""
    held: list[int] = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        held.append(pid)

    yield stop
    for pid in held:
        os.kill(pid, signal.SIGCONT)


def test_the_ok_comes_when_every_worker_of_every_host_routes_by_it(new_host: MakeHost, postgres: Postgres,
                                                                   backends: list[Backend]) -> None:
    # Workers that would have to find out by themselves would be late.
    first, second = (new_host(name, proxy__workers=2, database__poll="60s", registry__apply_wait="20s") for name in ("web1", "web2"))
    wait_for(lambda: reached(postgres, first, "web2"), 10, "the report of the second host")
    client = first.client("shop")
    route_id = client.route("shop.test", backends[0].url)
    for turn in range(1, 13):
        backend = backends[turn % 2]
        moved(client, route_id, backend)
        for _ in range(3):
            assert second.get("/", "shop.test").headers["X-Backend"] == backend.name
    current = int(postgres.sql("SELECT value FROM counters WHERE name = 'config_version'", database(first)))
    assert reached(postgres, first, "web2") == current
    code, shown = proxyctl_hosts(first)
    assert (code, shown["config_version"]) == (0, current)
    told = ("name", "leads", "term", "lives", "config_version", "behind", "workers")
    wait_for(lambda: [tuple(host[key] for key in told) for host in proxyctl_hosts(first)[1]["hosts"]] == [
        ("web1", True, 1, True, current, 0, 2), ("web2", False, None, True, current, 0, 2)], 5, "the list of the hosts")


def test_a_host_that_is_late_is_told_and_one_that_is_dead_is_not_waited_for(
        new_host: MakeHost, postgres: Postgres, backends: list[Backend], stopped: Callable[[int], None]) -> None:
    first, second = (new_host(name, registry__apply_wait="3s") for name in ("web1", "web2"))
    wait_for(lambda: reached(postgres, first, "web2"), 10, "the report of the second host")
    client = first.client("shop")
    route_id = client.route("shop.test", backends[0].url)
    stopped(worker := second.worker_pids()[0])
    moved(client, route_id, backends[1])
    assert "not yet taken by host web2 (at " in first.log()
    code, shown = proxyctl_hosts(first)
    assert (code, [host["behind"] for host in shown["hosts"]]) == (1, [0, 1])
    events = "SELECT count(*) FROM events WHERE type = 'host_late'"
    wait_for(lambda: postgres.sql(events, database(first)) == "1", 5, "the event")
    wait_for(lambda: "host web2 routes by config version" in first.admin("/api/v1/status").text, 5, "the finding")
    os.kill(worker, signal.SIGCONT)
    wait_for(lambda: "host web2" not in first.admin("/api/v1/status").text, 5, "the end of the finding")
    assert second.get("/", "shop.test").headers["X-Backend"] == "second"
    # A host without a sign of life holds nobody up.
    stopped(worker)
    stopped(master_of(second))
    wait_for(lambda: "host web2 has given no sign of life" in first.log(), 10, "the end of the second host")
    began = time.monotonic()
    moved(client, route_id, backends[0])
    assert time.monotonic() - began < patience(2.5)
    code, shown = proxyctl_hosts(first)
    assert (code, [host["lives"] for host in shown["hosts"]]) == (1, [True, False])
