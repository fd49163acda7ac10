"""Settings as an operator changes them on a running system, and the log he reads meanwhile."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import Backend
from tests.support.system import ROOT, System
from tests.support.waiting import wait_for


class Configured(System):
    """A system whose settings, but for the ports, stand in a file."""

    def __init__(self, directory: Path, content: str, **more: Any) -> None:
        directory.mkdir(parents=True)
        self.file = directory / "proxyd.ini"
        self.file.write_text(content)
        super().__init__(directory, **more)

    @property
    def environment(self) -> dict[str, str]:
        return {**super().environment, "PROXYD_CONFIG": str(self.file)}

    def reload(self, content: str) -> None:
        """Write the file, and SIGHUP."""
        self.file.write_text(content)
        self.signal(signal.SIGHUP)


@pytest.fixture
def configured(tmp_path: Path) -> Iterator[Callable[..., Configured]]:
    made: list[Configured] = []

    def make(content: str, **more: Any) -> Configured:
        made.append(Configured(tmp_path / f"system{len(made)}", content, **more))
        return made[-1]

    yield make
    for system in made:
        system.stop()


def test_a_reload_without_a_master_of_its_own_is_no_end(configured: Callable[..., Configured]) -> None:
    # As systemd runs it (conf/systemd): workers and master are units of their own.
    system = configured("[master]\nspawn = no\n", workers=1, start=False)
    master = subprocess.Popen([sys.executable, "-m", "proxyd", "master", "--wait"], env=system.environment, cwd=ROOT,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        system.start()
        old = system.worker_pids()
        system.reload("[master]\nspawn = no\n[proxy]\nunknown_host = 421\n")
        wait_for(lambda: system.get(host="nobody.test").status == 421, 15, "the changed setting")
        wait_for(lambda: not set(old) & set(system.worker_pids()), 15, "new workers")
    finally:
        system.stop()
        master.terminate()
        master.wait(10)


def test_json_is_every_line_of_whoever_writes_it(configured: Callable[..., Configured], backend: Backend, tmp_path: Path) -> None:
    error = tmp_path / "logs" / "error.log"
    system = configured("", workers=1, log__format="json", log__error=error, log__level="debug")
    system.client().route("app.test", backend.url)
    system.get(X_Request_ID="the-id")
    old = system.master_pid()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: system.master_pid() not in (0, old) and system.ready(), 15)
    os.rename(error, tmp_path / "rotated.log")
    system.signal(signal.SIGUSR1)
    wait_for(error.exists, 15, "the file opened anew")
    system.stop()
    assert system.log() == "", "all goes to the file"
    lines = [json.loads(line) for path in (tmp_path / "rotated.log", error) for line in path.read_text().splitlines()]
    assert {line["logger"] for line in lines} >= {"gunicorn", "proxyd.master"}
    assert any("starting it again" in line["message"] for line in lines)
    assert all(set(line) >= {"at", "level", "logger", "pid", "message"} for line in lines)
    assert [json.loads(line)["request_id"] for line in system.access_log().splitlines()] == ["the-id"]


def test_a_log_that_can_not_be_written_is_said_where_it_is_seen(configured: Callable[..., Configured], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    system = configured("", workers=1, log__error=tmp_path / "file" / "error.log")
    assert system.log().count(f"[log] error: can't write {tmp_path}/file/error.log") >= 2, "arbiter and master say so"
    assert system.get().status == 404


def test_a_hard_limit_of_open_files_that_is_too_low_is_said(tmp_path: Path) -> None:
    system = System(tmp_path, start=False, workers=1, log__access="off")
    system.command = ["bash", "-c", 'ulimit -n 2000; exec "$@"', "-", *system.command]
    try:
        system.start()
        assert "a worker may open 2000 files, and [proxy] worker_connections = 10000 needs" in system.log()
    finally:
        system.stop()
    assert not (ROOT / "off").exists(), "no access log is no file of that name"
