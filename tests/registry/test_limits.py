"""Every bound of the registry, each made small: what is beyond it gets an error that names the setting, and nothing else suffers."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.backends import Backend, MakeRaw
from tests.support.system import System
from tests.support.waiting import patience, wait_for

NOWHERE = "http://127.0.0.1:9"
TCP_REPAIR = 19


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(
        tmp_path_factory.mktemp("small"), start=False, registry__max_connections=10, registry__max_routes_per_session=5,
        registry__max_routes=8, registry__max_domains_per_route=3, registry__max_staged_bytes="2k", registry__max_in_flight=1,
        registry__staged_ttl="2500ms", registry__reconnect_grace="2500ms", registry__register_timeout="2s", registry__apply_wait="2s",
        registry__keepalive_idle=1, registry__keepalive_interval=1, registry__keepalive_count=1)
    running.command = ["bash", "-c", 'ulimit -Sn 256; exec "$@"', "-", *running.command]
    running.start()
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def nobody_left(small: System) -> Iterator[None]:
    """Each test begins without sessions of the one before."""
    yield
    for client in small._clients:
        with contextlib.suppress(OSError, AttributeError):
            if client.session_id:
                client.command("CLIENT_SHUTDOWN|SID")
        client.close()
    small._clients.clear()
    wait_for(lambda: small.sql("SELECT count(*) FROM routes") == [(0,)], 5, "all routes to go")


def test_every_process_may_open_as_many_files_as_the_system_allows_whatever_the_shell_says(small: System) -> None:
    assert small.process is not None
    for pid in (small.process.pid, small.master_pid(), *small.worker_pids()):
        now, most = psutil.Process(pid).rlimit(psutil.RLIMIT_NOFILE)
        assert now == min(most, 1 << 20) > 256


def test_connections_beyond_the_bound_are_told_so_and_closed(small: System) -> None:
    clients = [small.client("many", f"i{number}") for number in range(10)]
    extra = small.connect()
    assert [extra.line(), extra.line()] == ["ERROR|too many connections (max 10)", ""]
    assert clients[0].command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    wait_for(lambda: clients[0].line() == "", what="the end of the connection")
    small.client("many", "i0")


def test_a_session_has_no_more_routes_than_allowed_staged_ones_included(small: System) -> None:
    client = small.client("routes")
    for number in range(5):
        client.route(f"{number}.routes.test", NOWHERE, apply=number < 3)
    refused = "ERROR|more than 5 routes in this session (setting max_routes_per_session)"
    assert client.command(f"ROUTE_ADD|SID|6.routes.test|/|{NOWHERE}|0") == refused
    bulk = json.dumps([{"domains": ["x.test"], "backend_url": NOWHERE}])
    assert client.command(f"ROUTE_ADD_BULK|SID|{bulk}") == refused
    client.ok(f"ROUTE_REMOVE|SID|{client.json('ROUTE_LIST|SID')[0]['route_id']}")
    client.route("6.routes.test", NOWHERE)


def test_the_registry_has_no_more_routes_in_all_than_allowed(small: System) -> None:
    one, two = small.client("all", "i1"), small.client("all", "i2")
    for number in range(4):
        one.route(f"{number}.one.test", NOWHERE, apply=False)
        two.route(f"{number}.two.test", NOWHERE, apply=False)
    two.route("5.two.test", NOWHERE, apply=False)
    one.apply()
    assert two.command("CONFIG_VALIDATE|SID") == "ERROR|more than 8 routes in the whole registry (setting max_routes)"
    assert two.command("CONFIG_APPLY|SID") == "ERROR|more than 8 routes in the whole registry (setting max_routes)"
    assert small.get("/", "1.two.test").status == 404
    two.ok(f"ROUTE_REMOVE|SID|{two.json('ROUTE_LIST|SID')[0]['route_id']}")
    two.apply()


def test_a_route_has_no_more_domains_than_allowed(small: System) -> None:
    client = small.client("domains")
    assert client.command(f"ROUTE_ADD|SID|a.test,b.test,c.test,d.test|/|{NOWHERE}|0") == (
        "ERROR|domains: 4 are more than 3 for one route (setting max_domains_per_route)")
    route_id = client.ok(f"ROUTE_ADD|SID|a.test,b.test,c.test|/|{NOWHERE}|0")
    assert client.command(f"ROUTE_UPDATE|SID|{route_id}|domains|a.test,b.test,c.test,d.test").startswith("ERROR|domains: 4 are more")


def test_staged_changes_have_a_bound_in_bytes(small: System) -> None:
    client = small.client("bytes")
    for number in range(4):
        client.ok(f"HEADERS_SET|SID|ALL|X-{number}|{'v' * 400}")
    assert client.command(f"HEADERS_SET|SID|ALL|X-9|{'v' * 400}") == (
        "ERROR|more than 2048 bytes staged (setting max_staged_bytes); apply or roll back first")
    assert client.json("CONFIG_DIFF|SID")["headers"]["added"] == 4
    client.apply()
    client.ok(f"HEADERS_SET|SID|ALL|X-9|{'v' * 400}")


def test_with_one_command_in_flight_at_a_time_all_are_still_answered(small: System) -> None:
    clients = [small.client("flight", f"i{number}") for number in range(8)]
    for client in clients:
        client.send("\n".join(["HEADERS_SET|SID|ALL|X-A|1", "CONFIG_APPLY|SID", "PING|SID"] * 10))
    for client in clients:
        assert [client.line() for _ in range(30)] == ["HEADERS_OK", "OK", "PONG"] * 10


def test_a_command_that_waits_for_a_backend_does_not_hold_the_place_of_others(small: System, raw_backend: MakeRaw) -> None:
    answered = threading.Event()

    def say_nothing(sock: socket.socket) -> None:
        sock.recv(1)
        answered.wait(10)

    silent = raw_backend(say_nothing)
    waiting, other = small.client("waits", "i1"), small.client("waits", "i2")
    waiting.send(f"BACKEND_TEST|SID|{silent.url}")
    wait_for(lambda: silent.connections, what="the test of the backend")
    began = time.monotonic()
    assert other.command("PING|SID") == "PONG"
    assert time.monotonic() - began < patience(2.5)
    answered.set()
    assert waiting.line().startswith("BACKEND_FAIL|")


def test_who_waits_for_a_locked_database_does_not_hold_the_place_of_others(small: System) -> None:
    waiting, other = small.client("locked", "i1"), small.client("locked", "i2")
    with contextlib.closing(sqlite3.connect(small.database, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        waiting.send("HEADERS_SET|SID|ALL|X-A|1")
        began = time.monotonic()
        for _ in range(20):
            assert other.command("PING|SID") == "PONG"
        assert time.monotonic() - began < patience(2)
        holder.execute("ROLLBACK")
    assert waiting.line() == "HEADERS_OK"


def test_staged_changes_left_untouched_are_dropped_and_live_ones_stay(small: System, backend: Backend) -> None:
    client = small.client("stale")
    client.route("stale.test", backend.url)
    client.route("gone.stale.test", backend.url, apply=False)
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    wait_for(lambda: len(client.json("ROUTE_LIST|SID")) == 1, 5, "the staged route to be dropped")
    client.apply()
    assert small.get("/", "stale.test").headers["X-A"] is None
    assert small.sql("SELECT count(*) FROM staged_changes") == [(0,)]


def test_touching_staged_changes_keeps_them(small: System) -> None:
    client = small.client("touched")
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    began = time.monotonic()
    number = 0
    while time.monotonic() - began < 3.2:
        number += 1
        client.ok(f"HEADERS_SET|SID|ALL|X-B|{number}")
        time.sleep(0.1)
    assert client.json("CONFIG_DIFF|SID")["headers"]["added"] == 2


def test_a_connection_without_a_session_is_closed_after_a_while(small: System) -> None:
    idle, client = small.connect(), small.client("patient")
    assert idle.line() == "ERROR|no session: REGISTER or RECONNECT within 2 s"
    assert idle.line() == ""
    assert client.command("PING|SID") == "PONG"


def test_after_the_grace_the_routes_are_gone_and_reconnect_is_reregister(small: System, backend: Backend) -> None:
    client = small.client("late")
    client.route("late.test", backend.url)
    client.close()
    wait_for(lambda: small.get("/", "late.test").status == 503, 2, "the routes to stop")
    wait_for(lambda: small.get("/", "late.test").status == 404, 5, "the grace to end")
    assert small.connect().command(f"RECONNECT|{client.session_id}") == "REREGISTER"


def test_a_peer_that_died_without_a_word_is_found_by_keepalive(small: System, backend: Backend) -> None:
    client = small.client("halfopen")
    client.route("halfopen.test", backend.url)
    try:
        client.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
    except OSError:
        pytest.skip("needs CAP_NET_ADMIN")
    client.close()  # in repair mode: no FIN, no RST, as if the power had failed
    assert small.get("/", "halfopen.test").status == 200
    wait_for(lambda: small.get("/", "halfopen.test").status == 503, 5, "the dead peer to be found")


def test_the_registrys_connections_have_keepalive_as_set(small: System) -> None:
    client = small.client("alive")
    port = client.socket.getsockname()[1]
    text = os.popen(f"ss -tno sport = :{small.registry_port} and dport = :{port} 2>/dev/null").read()
    if "timer" not in text:
        pytest.skip("needs ss")
    assert "keepalive" in text


def test_a_worker_that_does_not_follow_is_named_in_the_log_and_the_answer_is_ok(small: System, backend: Backend) -> None:
    client = small.client("stuck")
    client.route("stuck.test", backend.url)
    pid = small.worker_pids()[0]
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        client.ok("HEADERS_SET|SID|ALL|X-A|1")
        client.apply()
        assert 1.8 < time.monotonic() - began < patience(4)
        wait_for(lambda: f"not yet taken by worker {pid} (at " in small.log(), 2, "the log line")
    finally:
        os.kill(pid, signal.SIGCONT)
    client.ok("HEADERS_SET|SID|ALL|X-A|2")
    client.apply()
    assert {small.get("/", "stuck.test").headers["X-A"] for _ in range(8)} == {"2"}


def tamper(system: System, statement: str) -> None:
    """Change the database behind the master's back."""
    with contextlib.closing(sqlite3.connect(system.database, timeout=5)) as connection, connection:
        connection.execute(statement)


def test_an_error_inside_answers_with_an_id_logs_it_and_keeps_the_connection(small: System) -> None:
    client = small.client("broken")
    route_id = client.route("broken.test", NOWHERE)
    tamper(small, f"INSERT INTO route_latency (route_id, bucket, requests) VALUES ('{route_id}', 'not a number', 1)")
    try:
        answer = client.command(f"STATS_GET|SID|txn-3|{route_id}")
        found = re.fullmatch(r"ERROR\|txn-3\|internal error \(id ([0-9a-f]{12})\)", answer)
        assert found, answer
        assert client.command("PING|SID") == "PONG"
        wait_for(lambda: f"internal error {found[1]} in command STATS_GET" in small.log(), what="the log line")
        assert "Traceback" in small.log()
    finally:
        tamper(small, "DELETE FROM route_latency WHERE bucket = 'not a number'")


def test_a_database_that_fails_is_an_error_that_changes_nothing_and_passes(small: System) -> None:
    client = small.client("failing")
    tamper(small, "ALTER TABLE staged_changes RENAME TO hidden")
    try:
        assert client.command("HEADERS_SET|SID|ALL|X-A|1").startswith("ERROR|the database sqlite:///")
        assert client.command("PING|SID") == "PONG"
        assert client.json("CONFIG_DIFF|SID")["headers"]["added"] == 0
    finally:
        tamper(small, "ALTER TABLE hidden RENAME TO staged_changes")
    client.ok("HEADERS_SET|SID|ALL|X-A|1")


def test_many_connections_that_come_and_go_leave_nothing_open(small: System) -> None:
    master = psutil.Process(small.master_pid())
    for number in range(20):
        small.client("comes", f"i{number % 3}").close()
    wait_for(lambda: not [item for item in master.net_connections("tcp") if item.laddr.port == small.registry_port
                          and item.status not in ("LISTEN",)], 5, "all connections to be closed")
