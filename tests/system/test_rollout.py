"""`proxyctl rollout` before a real proxyd: shares that grow, a guard that goes back, and a master that dies amid it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator

import pytest

from proxyd.client import Client
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

CLIENTS = [f"127.0.1.{number}" for number in range(1, 31)]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One with an admin token, for what changes something."""
    directory = tmp_path_factory.mktemp("rollout")
    (directory / "token").write_text("an admin token for rollouts\n")
    (directory / "token").chmod(0o600)
    running = System(directory / "system", admin__token_file=directory / "token", start=False)
    running.patience = 60.0
    running.start()
    yield running
    running.stop()


def ctl(system: System, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "rollout", *words], env=system.environment, capture_output=True,
                          text=True, timeout=60)


def instance(system: System, service: str, name: str, backend: Backend, **options: object) -> RegistryClient:
    client = system.client(service, name)
    route_id = client.route(f"{service}.test", backend.url, apply=False)
    client.options(route_id, rollout="wait", **options)
    return client


def get(system: System, service: str, address: str, path: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=15, source_address=(address, 0))
    with contextlib.closing(connection):
        connection.request("GET", path, headers={"Host": f"{service}.test"})
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers["X-Backend"]


class Load:
    """Requests of many clients, one after the other, until the end of the block. `seen`: who answered each, in their order."""

    def __init__(self, system: System, service: str, path: str = "/") -> None:
        self.statuses: set[int] = set()
        self.seen: dict[str, list[str]] = defaultdict(list)
        self._ending = threading.Event()
        self._arguments = system, service, path

    def _run(self, clients: list[str]) -> None:
        system, service, path = self._arguments
        while not self._ending.is_set():
            for address in clients:
                status, name = get(system, service, address, path)
                self.statuses.add(status)
                self.seen[address].append(name)

    def __enter__(self) -> Load:
        self._threads = [threading.Thread(target=self._run, args=(CLIENTS[number::3],)) for number in range(3)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join(20)


def shares(system: System, service: str) -> dict[str, float | None]:
    return dict(system.sql("SELECT instance_name, rollout_share FROM routes WHERE service_name = ?", service))


def test_a_new_instance_waits_and_takes_the_clients_step_by_step(system: System, new_backend: Callable[..., Backend]) -> None:
    old, new = new_backend("old"), new_backend("new")
    instance(system, "steps", "v1", old)
    second = instance(system, "steps", "v2", new)
    assert shares(system, "steps") == {"v1": None, "v2": 0.0}
    assert {get(system, "steps", address, "/") for address in CLIENTS} == {(200, "old")}
    with Load(system, "steps") as load:
        done = ctl(system, "steps", "--to", "v2", "--steps", "40,100", "--every", "1s")
    assert done.returncode == 0, done.stderr
    assert "40 % of the clients" in done.stdout and "completed" in done.stdout
    assert load.statuses == {200}
    for seen in load.seen.values():
        assert seen == sorted(seen, reverse=True), "from the old one to the new one, once"
    assert {get(system, "steps", address, "/") for address in CLIENTS} == {(200, "new")}
    assert shares(system, "steps") == {"v1": 0.0, "v2": None}
    assert system.sql("SELECT state, share, why FROM v_rollouts WHERE service_name = 'steps'") == [("completed", 100.0, "")]

    def told() -> list[float]:
        return [json.loads(row[0])["share"] for row in
                system.sql("SELECT detail FROM events WHERE type = 'rollout_changed' AND detail LIKE '%\"steps\"%' ORDER BY id")]

    wait_for(lambda: told() == [40.0, 100.0, 100.0], what="the events in SQL")
    assert ctl(system, "steps", "--status").returncode == 0
    # The last one that is left serves, and all share again if they are told to.
    second.close()
    wait_for(lambda: {get(system, "steps", address, "/") for address in CLIENTS} == {(200, "old")})
    assert ctl(system, "steps", "--clear").returncode == 0
    assert shares(system, "steps") == {"v1": None, "v2": None}


def test_an_instance_that_fails_loses_its_share_by_itself(system: System, new_backend: Callable[..., Backend]) -> None:
    instance(system, "bad", "v1", new_backend("old"))
    bad = new_backend("new")
    instance(system, "bad", "v2", bad)
    with Load(system, "bad") as load:
        wait_for(lambda: len(load.seen) == len(CLIENTS))
        bad.failing = 500
        done = ctl(system, "bad", "--to", "v2", "--steps", "40,100", "--every", "20s")
    assert done.returncode == 1 and "rolled back" in done.stderr and "requests failed" in done.stderr
    assert shares(system, "bad") == {"v1": None, "v2": 0.0}
    assert {get(system, "bad", address, "/") for address in CLIENTS} == {(200, "old")}
    (state, why, ours, others), = system.sql("SELECT state, why, errors, other_errors FROM v_rollouts WHERE service_name = 'bad'")
    assert state == "rolled_back" and "requests failed" in why and ours >= 3 and others == 0
    wait_for(lambda: system.sql("SELECT count(*) FROM v_events WHERE type = 'rollout_changed' AND service_name = 'bad' "
                                "AND became = 'rolled_back' AND reason LIKE '%requests failed%'") == [(1,)])
    assert ctl(system, "bad", "--status").returncode == 1


def test_an_instance_that_is_slower_loses_its_share_when_the_step_is_over(system: System, new_backend: Callable[..., Backend]) -> None:
    slow = new_backend("new")
    instance(system, "slow", "v1", new_backend("old"))
    instance(system, "slow", "v2", slow)
    # Twice as long as the other one takes, also where requests wait for a processor.
    slow.delay = 0.25
    with Load(system, "slow"):
        done = ctl(system, "slow", "--to", "v2", "--steps", "50,100", "--every", "7s")
    assert done.returncode == 1 and "its p95 was" in done.stderr, done.stdout + done.stderr
    assert shares(system, "slow") == {"v1": None, "v2": 0.0}


def test_what_ends_a_rollout_and_what_is_refused(system: System, new_backend: Callable[..., Backend]) -> None:
    first = instance(system, "ends", "v1", new_backend("old"))
    assert "no active route" in ctl(system, "ends", "--to", "v2").stderr
    assert "no other instance" in ctl(system, "ends", "--to", "v1").stderr
    second = instance(system, "ends", "v2", new_backend("new"))
    begin = ("ends", "--to", "v2", "--steps", "30,100", "--every", "1h", "--detach")
    assert ctl(system, *begin).returncode == 0
    again = ctl(system, *begin)
    assert again.returncode == 1 and "is under way" in again.stderr
    assert ctl(system, "ends", "--abort").returncode == 0
    assert shares(system, "ends") == {"v1": None, "v2": 0.0}

    assert ctl(system, *begin).returncode == 0
    second.close()
    wait_for(lambda: system.sql("SELECT state, why FROM v_rollouts ORDER BY rollout_id DESC LIMIT 1") == [
        ("rolled_back", "it has lost its connection to the registry")])
    # What registers in its place is no more than it was.
    third = instance(system, "ends", "v2", new_backend("newer"))
    assert shares(system, "ends") == {"v1": None, "v2": 0.0}
    assert ctl(system, *begin).returncode == 0
    third.command("CLIENT_SHUTDOWN|SID")
    wait_for(lambda: system.sql("SELECT state FROM v_rollouts ORDER BY rollout_id DESC LIMIT 1") == [("ended",)])
    assert shares(system, "ends") == {"v1": None}
    assert ctl(system, "ends", "--to", "v2", "--steps", "5,50").stderr.startswith("proxyctl: steps: ")
    first.ok("PING|SID")


def test_it_goes_on_over_the_death_of_the_master(system: System, new_backend: Callable[..., Backend]) -> None:
    with _linked(system, "dies", "v1", new_backend("old")), _linked(system, "dies", "v2", new_backend("new")):
        assert ctl(system, "dies", "--to", "v2", "--steps", "50,100", "--every", "4s", "--detach").returncode == 0
        old = system.master_pid()
        os.kill(old, signal.SIGKILL)
        wait_for(lambda: system.master_pid() not in (0, old) and system.ready(), 20)
        wait_for(lambda: system.sql("SELECT state FROM v_rollouts WHERE service_name = 'dies'") == [("completed",)], 30)
        # By its own clock: the command may be slow to end after it has begun the rollout.
        (lasted,), = system.sql("SELECT ended_at_epoch - started_at_epoch FROM v_rollouts WHERE service_name = 'dies'")
        assert lasted > 7, "two steps of four seconds"
        assert {get(system, "dies", address, "/")[1] for address in CLIENTS} == {"new"}


@contextlib.contextmanager
def _linked(system: System, service: str, name: str, backend: Backend) -> Iterator[None]:
    """An instance that comes back to the next master."""
    client = Client(f"127.0.0.1:{system.registry_port}", service=service, instance=name)
    client.connect()
    route = client.route_add([f"{service}.test"], "/", backend.url)
    client.options_set(route, "rollout", "wait")
    client.apply()
    try:
        yield
    finally:
        client.close(shutdown=True)
