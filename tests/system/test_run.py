"""`proxyctl run` before a real proxyd: a program that knows nothing of it is served, through a death of the master and its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.support.system import System
from tests.support.waiting import free_port, wait_for


def test_a_program_is_served_through_the_death_of_the_master_and_its_own_until_it_is_told_to_stop(system: System, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "index.html").write_text("it works")
    said = tmp_path / "said"
    run = subprocess.Popen(
        [sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "run.test", "--port", str(port), "--health", "/",
         "--option", "health_check_interval=1s", "--drain", "1s", "--backoff", "100ms", "--restart", "always", "--",
         sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)],
        env=system.environment, stdout=subprocess.DEVNULL, stderr=said.open("w"))
    try:
        wait_for(lambda: system.get(host="run.test").status == 200, 15, "the program behind the proxy")
        assert system.get(host="run.test").text == "it works"

        old = system.master_pid()
        os.kill(old, signal.SIGKILL)
        statuses = set()
        while system.master_pid() in (0, old) or not system.ready():
            statuses.add(system.get(host="run.test").status)
        assert statuses == {200}
        wait_for(lambda: "registry: reconnected" in said.read_text(), 15, "its return")

        program = psutil.Process(run.pid).children()[0]
        program.kill()
        wait_for(lambda: [child.pid for child in psutil.Process(run.pid).children()] not in ([], [program.pid])
                 and system.get(host="run.test").status == 200, 15, "the program's next life")

        run.terminate()
        wait_for(lambda: system.sql("SELECT count(*) FROM events WHERE type = 'drain_started'") == [(1,)])
        assert run.wait(10) == 128 + signal.SIGTERM
        assert system.get(host="run.test").status == 404
        assert said.read_text().count("registered run/") == 2
    finally:
        run.kill()
        run.wait(5)
