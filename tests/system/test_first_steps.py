"""What a new user does first, and what an existing client library does all day."""

from __future__ import annotations

import os
import signal
import time

import psutil

from proxyd.docs.database import queries
from tests.support.backends import Backend
from tests.support.system import ROOT, MakeSystem, System
from tests.support.waiting import patience, wait_for


def test_a_registered_service_is_served_at_once(system: System, backend: Backend) -> None:
    client = system.client("hello")
    client.route("hello.test", backend.url)
    answer = system.get("/x", "hello.test")
    assert (answer.status, answer.text) == (200, "backend /x\n")


def test_staged_changes_touch_no_traffic_until_applied(system: System, backend: Backend) -> None:
    client = system.client("staged")
    client.route("staged.test", backend.url, apply=False)
    assert system.get("/", "staged.test").status == 404
    client.apply()
    assert system.get("/", "staged.test").status == 200


def test_every_query_of_the_database_document_runs_on_a_live_database(system: System) -> None:
    for sql in queries((ROOT / "docs/database.md").read_text(encoding="utf-8")):
        system.sql(sql)


def test_the_database_is_opened_after_the_fork(system: System) -> None:
    assert system.process is not None
    for pid, opens in ((system.process.pid, False), (system.master_pid(), True), *((pid, True) for pid in system.worker_pids())):
        assert any(file.path == system.database for file in psutil.Process(pid).open_files()) is opens, pid


def test_the_way_existing_clients_use_it(new_system: MakeSystem, backend: Backend) -> None:
    system: System = new_system(registry__reconnect_grace="3s")
    client = system.client("shop", "shop-1", "null")
    route_id = client.ok(f"ROUTE_ADD|SID|shop.test|/|{backend.url}|10")
    assert client.command(f"HEALTH_SET|SID|{route_id}|/healthz|1s|500ms") == "HEALTH_OK"
    assert client.command("OPTIONS_SET|SID|ALL|compression|true") == "OPTIONS_OK"
    client.apply()
    assert client.command("PING|SID") == "PONG"
    assert system.get("/", "shop.test").status == 200
    client.close()
    wait_for(lambda: system.get("/", "shop.test").status == 503, what="the lost session's routes to stop")
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    assert system.get("/", "shop.test").status == 200
    back.close()
    wait_for(lambda: system.get("/", "shop.test").status == 404, 8, "the grace to be over")
    late = system.connect()
    assert late.command(f"RECONNECT|{client.session_id}") == "REREGISTER"
    late.register("shop", "shop-1")
    late.route("shop.test", backend.url)
    assert system.get("/", "shop.test").status == 200


def test_killing_the_master_leaves_traffic_alone_and_loses_nothing(system: System, backend: Backend) -> None:
    client = system.client("kept")
    client.route("kept.test", backend.url)
    client.ok("ROUTE_ADD|SID|staged.kept.test|/|http://127.0.0.1:9|0")
    pid = system.master_pid()
    os.kill(pid, signal.SIGKILL)
    killed = time.monotonic()
    while system.master_pid() in (0, pid):
        assert system.get("/", "kept.test").status == 200
        assert time.monotonic() - killed < patience(5)
    wait_for(lambda: system.admin("/livez").status == 200 if system.master_pid() else False, 5, "the new master")
    assert time.monotonic() - killed < patience(4)
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    back.session_id = client.session_id
    assert [route["status"] for route in back.json("ROUTE_LIST|SID")] == ["active", "staged"]
    assert system.get("/", "kept.test").status == 200
