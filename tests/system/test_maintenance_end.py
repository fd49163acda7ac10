"""Maintenance with an end, waits that MAINT_EXIT ends, and sessions without routes."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from proxyd.base.text import parse_rfc3339, rfc3339
from tests.support.backends import Backend
from tests.support.system import MakeSystem, System
from tests.support.waiting import free_port, patience, wait_for


def test_maintenance_with_a_duration_ends_by_itself(system: System, backend: Backend) -> None:
    client = system.client("planned")
    client.route("planned.test", backend.url)
    assert client.command("MAINT_ENTER|SID|ALL||2s") == "ACK"
    assert client.line() == "MAINT_OK|ALL"
    assert system.get("/", "planned.test").status == 503
    wait_for(lambda: system.get("/", "planned.test").status == 200, 5)
    assert client.json("MAINT_STATUS|SID")["in_maintenance"] == []
    assert client.command("MAINT_ENTER|SID|ALL||soon").startswith("ERROR|duration")


def test_an_exit_ends_the_wait_for_a_page_at_once_and_answers_keep_their_order(system: System, backend: Backend) -> None:
    client = system.client("waiting")
    client.route("waiting.test", backend.url)
    assert client.command(f"MAINT_ENTER|SID|ALL|http://127.0.0.1:{free_port()}/") == "ACK"
    begun = time.monotonic()
    client.send("PING|SID")
    client.send("MAINT_EXIT|SID|ALL")
    cancelled = client.line()
    assert cancelled.startswith("ERROR|") and cancelled.endswith("cancelled by MAINT_EXIT")
    assert [client.line(), client.line(), client.line()] == ["PONG", "ACK", "MAINT_OK|ALL"]
    assert time.monotonic() - begun < patience(5)
    assert system.get("/", "waiting.test").status == 200


def test_a_session_without_routes_is_answered_as_one_with_routes(system: System, backend: Backend) -> None:
    client = system.client("early")
    for command in ("MAINT_ENTER|SID|ALL|", "MAINT_EXIT|SID|ALL"):
        assert client.command(command) == "ACK"
        assert client.line() == "MAINT_OK|ALL"
    end = client.command("DRAIN_START|SID|120")
    assert end.startswith("DRAIN_OK|") and 110 < parse_rfc3339(end.partition("|")[2]) - time.time() < 125
    assert client.command("TRAFFIC_RELEASE|SID|ALL") == "HOLD_OK"


def test_no_maintenance_lasts_longer_than_the_settings_allow(new_system: MakeSystem, backend: Backend) -> None:
    system = new_system(workers=1, maintenance__max_duration="400ms")
    client = system.client("bounded")
    client.route("bounded.test", backend.url)
    assert client.command("MAINT_ENTER|SID|ALL||2s") == "ERROR|duration: 2s is longer than [maintenance] max_duration (0.4s)"
    assert client.command("MAINT_ENTER|SID|ALL|") == "ACK" and client.line() == "MAINT_OK|ALL"
    wait_for(lambda: system.get("/", "bounded.test").status == 200, 5)


def test_the_end_is_told_to_the_service(system: System, backend: Backend) -> None:
    client = system.client("told")
    route_id = client.route("told.test", backend.url)
    assert client.command("MAINT_ENTER|SID|ALL||30m") == "ACK" and client.line() == "MAINT_OK|ALL"
    until = client.json("MAINT_STATUS|SID")["until"]
    assert 1700 < parse_rfc3339(until) - time.time() <= 1800
    assert client.json(f"ROUTE_STATUS|SID|{route_id}")["maintenance"]["until"] == until
    assert client.command("MAINT_EXIT|SID|ALL") == "ACK" and client.line() == "MAINT_OK|ALL"
    assert "until" not in client.json("MAINT_STATUS|SID")


def test_planned_maintenance_begins_and_ends_by_itself_though_the_master_dies_in_between(
        new_system: MakeSystem, backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a token\n")
    system = new_system(workers=1, admin__token_file=tmp_path / "token")
    client = system.client("night")
    route_id = client.route("night.test", backend.url)

    def proxyctl(*arguments: str) -> int:
        return subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "maint", *arguments], env=system.environment, cwd=system.directory,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30).returncode

    def at(seconds: float) -> str:
        return rfc3339(time.time() + seconds)

    assert proxyctl("enter", "night", "--at", at(60)) == 1, "no end"
    assert proxyctl("enter", "night", "--at", at(-60), "--for", "30s") == 2, "over"
    assert proxyctl("enter", "night", "--at", at(3600), "--for", "30s") == 0
    assert client.json("MAINT_STATUS|SID")["planned"][0]["route_id"] == route_id
    assert proxyctl("exit", "night") == 0
    assert "planned" not in client.json("MAINT_STATUS|SID")
    assert system.get("/", "night.test").status == 200
    begin = time.time() + patience(4.0)
    assert proxyctl("enter", "night", "--at", rfc3339(begin), "--for", f"{math.ceil(patience(3.0))}s", "--reason", "new disk") == 0
    old = system.master_pid()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: system.get("/", "night.test").headers["X-Proxyd-Reason"] == "maintenance", 20)
    assert time.time() >= begin - 0.1
    wait_for(lambda: system.get("/", "night.test").headers["X-Proxyd-Reason"] != "maintenance", 20)
    wait_for(lambda: system.sql("SELECT count(*) FROM events WHERE type = 'maintenance_changed' AND route_id = ?", route_id) == [(2,)])
    told = system.sql("SELECT state, reason, entered_by, ended_by, ended_how, started_at >= planned_start FROM v_maintenance "
                      "WHERE route_id = ? ORDER BY window_id", route_id)
    who = "admin token from 127.0.0.1"
    assert told == [("cancelled", "", who, who, "cancelled", None), ("ended", "new disk", who, "the end of its time", "over", 1)]
