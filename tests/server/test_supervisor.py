"""The master that the arbiter forks: what it is called, what it has open, and what becomes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from proxyd.server import supervisor
from proxyd.server.supervisor import Supervisor
from tests.support.system import MakeSystem, System
from tests.support.waiting import wait_for


def fork(pids: list[int]) -> object:
    """What starts children that end at once, and notes their pids."""

    def start(run: object) -> int:
        pids.append(subprocess.Popen(["true"]).pid)
        return pids[-1]

    return start


def test_one_that_cannot_start_is_tried_ever_more_seldom_and_one_that_lived_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(supervisor, "preload", lambda *names: None)
    own, pids = Supervisor(None), list[int]()
    start = fork(pids)
    waited = []
    for lived in (0.2, 0.2, 0.2, 60.0, 0.2):
        begun = now
        while not own._pid:
            own.look(start)  # type: ignore[arg-type]
            now += 0.01
        waited.append(round(now - begun, 1))
        assert not own.waits
        now += lived
        own.ended(1)
        assert not own.waits, "that was another child"
        own.ended(pids[-1])
        assert own.waits
    assert waited == [0.0, 0.1, 0.2, 0.4, 0.1]
    assert len(pids) == 5


def test_it_goes_by_its_own_name_and_has_no_socket_or_file_of_the_arbiters(system: System) -> None:
    assert system.process is not None
    arbiter, master = psutil.Process(system.process.pid), psutil.Process(system.master_pid())
    assert master.cmdline()[:2] == ["proxyd", "master"]
    assert "proxyd.wsgi:app" in arbiter.cmdline()
    assert master.ppid() == arbiter.pid
    listening = {connection.laddr.port for connection in master.net_connections() if connection.status == psutil.CONN_LISTEN}
    assert listening == {system.registry_port, system.admin_port}
    links = {number: os.readlink(f"/proc/{master.pid}/fd/{number}") for number in os.listdir(f"/proc/{master.pid}/fd")}
    assert links["0"] == os.devnull
    assert not [link for link in links.values() if "wgunicorn" in link], "the sign of life of a worker"
    assert arbiter.num_threads() == 1, "what is forked would lack the others"


def test_term_that_comes_as_it_starts_ends_it_gently(system: System) -> None:
    first = system.master_pid()
    told = len(system.log())
    os.kill(first, signal.SIGKILL)
    assert system.process is not None
    arbiter = psutil.Process(system.process.pid)

    def starting() -> int:
        return next((child.pid for child in arbiter.children() if child.pid != first and child.cmdline()[:2] == ["proxyd", "master"]), 0)

    second = wait_for(starting, what="another master")
    os.kill(second, signal.SIGTERM)
    wait_for(lambda: system.master_pid() not in (0, first, second) and system.ready(), 20, "a third one")
    said = system.log()[told:]
    assert f"the master (pid {second}) ended after" in said
    assert "Traceback" not in said and "can't start" not in said


def test_it_reads_its_settings_anew_and_says_what_is_wrong_with_them(new_system: MakeSystem, tmp_path: Path) -> None:
    config = tmp_path / "proxyd.ini"
    config.write_text("[database]\npoll = 1s\n")
    system = new_system(config=str(config))
    config.write_text("[database]\npoll = often\n")
    os.kill(system.master_pid(), signal.SIGTERM)
    wait_for(lambda: system.log().count(f"{config}:2:") > 1, 20, "what is wrong, twice")
    config.write_text("[database]\npoll = 1s\n")
    wait_for(system.ready, 20, "a master again")
