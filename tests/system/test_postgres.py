"""A whole proxyd on PostgreSQL: the registry, the workers and the history, and what they do while the server is away or hangs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.postgres import Postgres
from tests.support.relay import Relay
from tests.support.system import ROOT, System
from tests.support.waiting import patience, wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, postgres: Postgres) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("postgres")
    running = System(folder, database__url=postgres.new_database(), database__shared_memory=folder, database__busy_timeout="1s")
    yield running
    running.stop()


def database(system: System) -> str:
    return str(system.settings["database__url"]).rpartition("/")[2]


def all_answer(system: System, host: str, name: str) -> None:
    """Every worker routes by the newest configuration, from the moment of the OK on."""
    for _ in range(12):
        answer = system.get("/", host)
        assert (answer.status, answer.headers["X-Backend"]) == (200, name)


def test_what_is_applied_serves_at_once_and_what_happens_is_in_sql(system: System, postgres: Postgres, backend: Backend) -> None:
    client = system.client("shop")
    route_id = client.route("shop.test", backend.url)
    all_answer(system, "shop.test", backend.name)
    client.ok(f"HEALTH_SET|SID|{route_id}|/|0.2s|1s")
    client.apply()
    counted = f"SELECT requests FROM route_stats WHERE route_id = '{route_id}'"
    wait_for(lambda: postgres.sql(counted, database(system)) == "12", what="the counters in SQL")
    wait_for(lambda: postgres.sql(f"SELECT health FROM v_routes WHERE route_id = '{route_id}'", database(system)) == "healthy",
             what="the health in SQL")


def test_a_proxy_of_another_database_is_told_that_the_shared_memory_is_taken(system: System, postgres: Postgres) -> None:
    second = System(system.directory / "second", start=False, database__url=postgres.new_database(),
                    database__shared_memory=system.directory)
    ended = subprocess.run([sys.executable, "-m", "proxyd", "master"], env=second.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, timeout=15, check=False)
    assert ended.returncode == 1 and f"another master (pid {system.master_pid()})" in ended.stdout
    assert "if it serves another database, give this one a [database] shared_memory of its own" in ended.stdout


def test_a_server_that_restarts_costs_no_request_and_applies_go_on(system: System, postgres: Postgres,
                                                                   new_backend: Callable[..., Backend]) -> None:
    first, second = new_backend("first"), new_backend("second")
    client = system.client("restart")
    route_id = client.route("restart.test", first.url)
    postgres.stop()
    all_answer(system, "restart.test", "first")
    began = time.monotonic()
    assert client.command(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{second.url}").startswith(("ROUTE_OK", "ERROR|"))
    answer = client.command("CONFIG_APPLY|SID")
    assert answer.startswith("ERROR|") and time.monotonic() - began < patience(6), answer
    postgres.start()

    def applied() -> bool:
        staged = client.command(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{second.url}")
        return not staged.startswith("ERROR") and client.command("CONFIG_APPLY|SID") == "OK"

    wait_for(applied, 15, "an apply on the server that is back", pause=0.2)
    all_answer(system, "restart.test", "second")
    wait_for(system.ready, 15, "a ready system")


def test_a_server_that_hangs_is_told_in_time_and_costs_no_request(system: System, postgres: Postgres, backend: Backend) -> None:
    client = system.client("hang")
    client.route("hang.test", backend.url)
    postgres.freeze()
    try:
        all_answer(system, "hang.test", backend.name)
        began = time.monotonic()
        answer = client.command(f"ROUTE_ADD|SID|hang.test|/more|{backend.url}|0")
        assert answer.startswith("ERROR|"), answer
        assert "does not answer" in answer
        answer = system.connect().command("REGISTER|other|i1|0|null")
        assert answer.startswith("ERROR|"), answer
        assert time.monotonic() - began < patience(8)
    finally:
        postgres.thaw()
    wait_for(lambda: client.command(f"ROUTE_ADD|SID|hang.test|/more|{backend.url}|0").startswith("ROUTE_OK"), 15,
             "staging on the server that goes on", pause=0.2)
    client.apply()
    all_answer(system, "hang.test", backend.name)


def test_a_master_that_is_replaced_goes_on_with_the_same_sessions(system: System, backend: Backend) -> None:
    client = system.client("again")
    client.route("again.test", backend.url)
    before = system.master_pid()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: system.master_pid() not in (0, before), 15, "another master")
    wait_for(system.ready, 15, "a ready system")
    all_answer(system, "again.test", backend.name)
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    all_answer(system, "again.test", backend.name)


def test_two_databases_of_one_server_are_two_proxies(system: System, postgres: Postgres, tmp_path: Path) -> None:
    other = System(tmp_path, workers=1, database__url=postgres.new_database(), database__shared_memory=tmp_path)
    try:
        assert other.get("/", "shop.test").status == 404
    finally:
        other.stop()


def test_a_second_hosts_master_waits_and_leads_when_the_first_is_gone(postgres: Postgres, tmp_path: Path,
                                                                      new_backend: Callable[..., Backend]) -> None:
    first_backend, second_backend = new_backend("first"), new_backend("second")
    url = postgres.new_database()
    first, second = (System(tmp_path / name, workers=1, start=False, hosts__name=name, database__url=url,
                            database__shared_memory=tmp_path / name)
                     for name in ("a", "b"))
    try:
        first.start()
        client = first.client("two")
        route_id = client.route("two.test", first_backend.url)
        second.start(lambda: "another master leads" in second.log())
        wait_for(lambda: answers(second), 10, "the second host's traffic")
        assert client.command(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{second_backend.url}").startswith("ROUTE_OK")
        client.apply()
        wait_for(lambda: second.get("/", "two.test").headers.get("X-Backend") == "second", 5, "the change on the other host")
        first.kill()
        wait_for(lambda: second.master_pid() and second.ready(), 10, "the second master's lead")
        back = second.connect()
        assert back.command(f"RECONNECT|{client.session_id}") == "OK"
        assert back.command("PING|" + client.session_id) == "PONG"
        assert second.get("/", "two.test").headers["X-Backend"] == "second"
        assert postgres.sql("SELECT term FROM leadership", url.rpartition("/")[2]) == "2"
    finally:
        second.stop()
        first.stop()


def answers(system: System) -> bool:
    try:
        return system.get("/", "two.test").status == 200
    except OSError:
        return False


def test_a_change_whose_commit_got_no_answer_is_what_the_client_finds_when_it_is_back(
        tmp_path: Path, postgres: Postgres, new_backend: Callable[..., Backend]) -> None:
    relay, (first, second) = Relay(postgres.port), (new_backend("first"), new_backend("second"))
    name = postgres.new_database().rpartition("/")[2]
    system = System(tmp_path, database__url=f"postgresql://proxyd@{relay.address}/{name}", database__shared_memory=tmp_path)
    try:
        client = system.client("shop")
        route_id = client.route("shop.test", first.url)
        client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{second.url}")
        master = system.master_pid()
        relay.lose_commit_of = second.url.encode()
        # Neither OK nor an error would be known to be true.
        assert client.command("CONFIG_APPLY|SID") == ""
        assert "whether it did is not known" in system.log()
        wait_for(lambda: system.master_pid() not in (0, None, master) and system.ready(), 20, "another master")
        back = system.connect()
        assert back.command(f"RECONNECT|{client.session_id}") == "OK"
        back.session_id = client.session_id
        assert back.json(f"ROUTE_STATUS|SID|{route_id}")["backend"] == second.url
        all_answer(system, "shop.test", "second")
        back.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{first.url}")
        back.apply()
        all_answer(system, "shop.test", "first")
    finally:
        system.stop()
        relay.cut()
