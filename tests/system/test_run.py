"""`proxyctl run` before a real proxyd: a program that knows nothing of it is served, through a death of the master and its own."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.support.system import ROOT, System
from tests.support.waiting import free_port, patience, wait_for


def test_a_program_is_served_through_the_death_of_the_master_and_its_own_until_it_is_told_to_stop(system: System, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "index.html").write_text("it works")
    said = tmp_path / "said"

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([
            sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "run.test", "--port", str(port), "--health", "/",
            "--option", "health_check_interval=1s", "--drain", "1s", "--backoff", "2s", "--restart", "always", "--",
            sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(tmp_path)],
            env=system.environment, stdout=subprocess.DEVNULL, stderr=said.open("a"))

    run = start()
    try:
        wait_for(lambda: system.get(host="run.test").status == 200, 15, "the program behind the proxy")
        assert system.get(host="run.test").text == "it works"
        # Routes are there before their service hears of it.
        wait_for(lambda: "registered run/" in said.read_text(), 15, "its registration")

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
        wait_for(lambda: system.sql("SELECT count(*) FROM events JOIN routes USING (route_id) WHERE type = 'hold_changed' "
                                    "AND service_name = 'run'") == [(1,)])
        assert run.wait(patience(10)) == 128 + signal.SIGTERM
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(system.get, host="run.test")
            run = start()
            assert waits.result().status == 200, "it waits for the next start"
        # It says so after the apply, which the answer did not wait for the end of.
        wait_for(lambda: said.read_text().count("registered run/") == 3, 10, "the third registration")
    finally:
        _end(run)


def test_a_request_under_way_is_finished_before_one_of_two_replicas_is_stopped(system: System, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, time\nfrom http.server import *\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        time.sleep(3 if self.path == '/slow' else 0)\n"
        "        self.send_response(200)\n        self.send_header('X-Port', sys.argv[1])\n"
        "        self.send_header('Content-Length', '0')\n        self.end_headers()\n"
        "ThreadingHTTPServer.request_queue_size = 1024\n"
        "ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n")
    ports = [free_port(), free_port()]
    runs = {port: subprocess.Popen(
        [sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "two.test", "--port", str(port), "--drain", "500ms", "--",
         sys.executable, str(program), str(port)], env=system.environment, stderr=subprocess.DEVNULL) for port in ports}
    try:
        # Both serve: the database has their routes before the workers do.
        wait_for(lambda: {system.get("/", "two.test").headers["X-Port"] for _ in range(4)} == {*map(str, ports)}, 15)
        with ThreadPoolExecutor(2) as pool:
            slow = [pool.submit(system.get, "/slow", "two.test") for _ in range(2)]
            wait_for(lambda: system.sql("SELECT coalesce(sum(in_flight), 0) FROM route_in_flight JOIN routes USING (route_id) "
                                        "WHERE service_name = 'two'") == [(2,)], what="the requests under way")
            runs[ports[0]].terminate()
            assert {one.result().status for one in slow} == {200}
        assert runs[ports[0]].wait(10) == 128 + signal.SIGTERM
        assert {system.get("/", "two.test").headers["X-Port"] for _ in range(4)} == {str(ports[1])}
    finally:
        for run in runs.values():
            _end(run)


def test_hup_starts_the_program_again_by_overlap_and_no_request_fails(system: System, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import os, pathlib, sys, time\nfrom http.server import *\n"
        "version = (pathlib.Path(sys.argv[0]).parent / 'version').read_text()\n"
        "class Handler(BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        bad = self.path == '/health' and version == 'bad'\n"
        "        self.send_response(500 if bad else 200)\n        self.send_header('X-Version', version)\n"
        "        self.send_header('Content-Length', '0')\n        self.end_headers()\n"
        "    def log_message(self, *_): pass\n"
        "ThreadingHTTPServer.request_queue_size = 1024\n"
        "ThreadingHTTPServer(('127.0.0.1', int(sys.argv[1])), Handler).serve_forever()\n")
    version = tmp_path / "version"
    version.write_text("1")
    said = tmp_path / "said"
    run = subprocess.Popen(
        [sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "over.test", "--drain", "500ms", "--health", "/health", "--unique",
         "--start-timeout", "4s", "--instance", "one", "--", sys.executable, str(program), "{port}"],
        env=system.environment, stderr=said.open("w"))
    try:
        wait_for(lambda: system.get("/", "over.test").status == 200, 15)

        def until(condition: Callable[[], bool]) -> set[tuple[int, str | None]]:
            """What clients get meanwhile."""
            seen = set()
            deadline = time.monotonic() + patience(30)
            while not condition():
                assert time.monotonic() < deadline, said.read_text()
                answer = system.get("/", "over.test")
                seen.add((answer.status, answer.headers["X-Version"]))
            return seen

        def stopped(count: int) -> bool:
            return len(psutil.Process(run.pid).children()) == 1 and said.read_text().count("registered over/one") == count

        version.write_text("2")
        run.send_signal(signal.SIGHUP)
        until(lambda: "starting the program again" in said.read_text())
        # It waits for its turn, and is not for the program that starts, which it would end. Each new one is registered as the next one, and
        # then under the name of the one before.
        run.send_signal(signal.SIGHUP)
        assert until(lambda: stopped(5)) <= {(200, "1"), (200, "2")}
        assert system.get("/", "over.test").headers["X-Version"] == "2"

        version.write_text("bad")
        run.send_signal(signal.SIGHUP)
        assert until(lambda: "the new program is not up" in said.read_text() and stopped(5)) == {(200, "2")}
        names = system.sql("SELECT instance_name FROM sessions WHERE service_name = 'over' ORDER BY connected_at")
        assert [name[0].endswith(".next") for name in names] == [False, True, False, True, False] and len(set(names)) == 2
        assert system.sql("SELECT instance_name FROM routes WHERE service_name = 'over'") == [names[0]]

        # Told to stop amid an overlap, it waits under the first one's name, which the next start takes.
        version.write_text("3")
        run.send_signal(signal.SIGHUP)
        until(lambda: said.read_text().count(".next: over.test/") == 3)
        run.terminate()
        assert run.wait(patience(30)) == 128 + signal.SIGTERM
        assert system.sql("SELECT instance_name FROM routes WHERE service_name = 'over'") == [names[0]]
    finally:
        run.terminate()
        run.wait(15)


def test_a_port_must_be_known(system: System) -> None:
    done = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "over.test", "--", "true"], env=system.environment,
                          capture_output=True, text=True, timeout=30)
    assert done.returncode == 2 and "--port" in done.stderr


def test_the_recipe_of_the_docs_is_process_1_of_a_container_and_finishes_what_is_under_way(system: System, tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("this user may make no process 1")
    found = re.search(r"^CMD ((?:.*\\\n)*.*)$", (ROOT / "docs" / "deploys.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    (tmp_path / "token").write_text("a token that a registry on loopback does not ask for\n")
    (tmp_path / "shop.py").write_text("import os, time\ndef app(environ, start):\n"
                                      "    time.sleep(3 if environ['PATH_INFO'] == '/slow' else 0)\n    start('200 OK', [])\n"
                                      "    return [str(os.getppid()).encode()]\n")
    command = found[1]
    for old, new in {"proxyctl run": f"{sys.executable} -m proxyd.ctl.main run", "proxyd:8181": f"127.0.0.1:{system.registry_port}",
                     '"$(hostname -i)"': "127.0.0.1", "5000": str(free_port()), "/run/secrets/registry_token": f"{tmp_path}/token",
                     "shop.example.com": "contained.test", "-- gunicorn": f"-- {sys.executable} -m gunicorn"}.items():
        assert old in command, old
        command = command.replace(old, new)
    with ThreadPoolExecutor(1) as pool, subprocess.Popen([*inside, "/bin/sh", "-c", command], cwd=tmp_path, env=system.environment,
                                                         stderr=(tmp_path / "said").open("w")) as run:
        try:
            wait_for(lambda: system.get("/", "contained.test").status == 200, 20, "the program in the container")
            slow = pool.submit(system.get, "/slow", "contained.test")
            # The other worker may have a row, too.
            wait_for(lambda: system.sql("SELECT SUM(in_flight) FROM route_in_flight JOIN routes USING (route_id) "
                                        "WHERE service_name = 'contained'") == [(1,)], what="the request under way")
            (first,) = psutil.Process(run.pid).children()
            assert "proxyd.ctl.main" in first.cmdline(), "the shell is gone, so that signals reach proxyctl"
            first.terminate()
            answer = slow.result(20)
            assert answer.status == 200 and int(answer.text) > 1
            assert run.wait(patience(20)) in (0, 128 + signal.SIGTERM)
            assert not first.is_running()
        finally:
            _end(run)


def _end(run: subprocess.Popen[bytes]) -> None:
    """Kill the command, and the program that it runs, which would outlive it."""
    if run.poll() is None:
        for program in psutil.Process(run.pid).children(recursive=True):
            program.kill()
        run.kill()
        run.wait(5)


def test_who_takes_the_place_of_a_connected_program_is_told_whose(system: System, tmp_path: Path) -> None:
    first = system.client("taken", "i1")
    host, port = first.socket.getsockname()
    said, place = tmp_path / "said", free_port()
    with subprocess.Popen(
            [sys.executable, "-m", "proxyd.ctl.main", "run", "--domain", "taken.test", "--port", str(place), "--instance", "i1",
             "--drain", "0", "--", sys.executable, "-m", "http.server", str(place), "--bind", "127.0.0.1", "-d", str(tmp_path)],
            env=system.environment, stdout=subprocess.DEVNULL, stderr=said.open("w")) as run:
        try:
            told = f"the program at {host}:{port} was connected as taken/i1 and has lost its traffic to this one"
            wait_for(lambda: told in said.read_text(), 20, "the word")
        finally:
            run.terminate()
            run.wait(15)
