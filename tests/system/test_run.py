"""`proxyctl run` before a real proxyd: a program that knows nothing of it is served, through a death of the master and its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from tests.support.system import System
from tests.support.waiting import free_port, wait_for


def test_a_program_is_served_through_the_death_of_the_master_and_its_own_until_it_is_told_to_stop(system: System, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "index.html").write_text("it works")
    said = tmp_path / "said"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([
            sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "run.test", "--port", str(port), "--health", "/",
            "--option", "health_check_interval=1s", "--drain", "1s", "--backoff", "1s", "--restart", "always", "--",
            sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)],
            env=system.environment, stdout=subprocess.DEVNULL, stderr=said.open("a"))

    run = start()
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
        wait_for(lambda: system.get(host="run.test").headers["X-Proxyd-Reason"] == "route_disabled", 5, "a refusal that passes")
        wait_for(lambda: [child.pid for child in psutil.Process(run.pid).children()] not in ([], [program.pid])
                 and system.get(host="run.test").status == 200, 15, "the program's next life")

        run.terminate()
        wait_for(lambda: system.sql("SELECT count(*) FROM events WHERE type = 'hold_changed'") == [(1,)])
        assert run.wait(10) == 128 + signal.SIGTERM
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(system.get, host="run.test")
            run = start()
            assert waits.result().status == 200, "it waits for the next start"
        assert said.read_text().count("registered run/") == 3
    finally:
        run.kill()
        run.wait(5)


def test_a_request_under_way_is_finished_before_one_of_two_replicas_is_stopped(system: System, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nfrom http.server import *\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        time.sleep(3 if self.path == '/slow' else 0)\n"
        "        self.send_response(200)\n        self.send_header('X-Port', sys.argv[1])\n"
        "        self.send_header('Content-Length', '0')\n        self.end_headers()\n"
        "ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n")
    ports = [free_port(), free_port()]
    runs = {port: subprocess.Popen(
        [sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "two.test", "--port", str(port), "--drain", "500ms", "--",
         sys.executable, str(program), str(port)], env=system.environment, stderr=subprocess.DEVNULL) for port in ports}
    try:
        wait_for(lambda: system.sql("SELECT count(*) FROM routes WHERE service_name = 'two'") == [(2,)], 15)
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(system.get, "/slow", "two.test") for _ in range(2)]
            wait_for(lambda: system.sql("SELECT coalesce(sum(in_flight), 0) FROM route_in_flight") == [(2,)])
            runs[ports[0]].terminate()
            assert {one.result().status for one in slow} == {200}
        assert runs[ports[0]].wait(10) == 128 + signal.SIGTERM
        assert {system.get("/", "two.test").headers["X-Port"] for _ in range(4)} == {str(ports[1])}
    finally:
        for run in runs.values():
            run.kill()
            run.wait(5)
