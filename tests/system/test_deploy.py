"""`proxyctl deploy` before a real proxyd: services that something else starts are replaced under load. Clients see no more than a wait."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.system import System
from tests.support.waiting import free_port, wait_for

#: A program that serves, registers itself, and says goodbye when it is told to stop. Its arguments: port, instance, version.
SERVICE = """
import signal, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from proxyd.client import Client
port, instance, version, registry = sys.argv[1:]
class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        self.send_response(500 if version == "bad" else 200)
        self.send_header("X-Version", version)
        self.send_header("Content-Length", "0")
        self.end_headers()
    do_POST = do_GET
    def log_message(self, *_): pass
ThreadingHTTPServer.request_queue_size = 1024
server = ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = Client(registry, service="story", instance=instance)
client.connect()
route = client.route_add("story.test", "/", f"http://127.0.0.1:{port}")
client.health_set(route, "/health", "1s", "1s")
client.apply()
signal.sigwait([signal.SIGTERM])
client.close(shutdown=True)
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One with an admin token, for what changes something."""
    directory = tmp_path_factory.mktemp("deploy")
    (directory / "token").write_text("an admin token for deploys\n")
    (directory / "token").chmod(0o600)
    running = System(directory / "system", admin__token_file=directory / "token", start=False)
    running.start()
    yield running
    running.stop()


class Supervisor:
    """What systemd is elsewhere: a script that stops a program and starts its next version."""

    def __init__(self, system: System, directory: Path, instance: str) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "service.py").write_text(SERVICE)
        self.instance = instance
        self.script = directory / f"restart-{instance}"
        pid = directory / f"{instance}.pid"
        self._pid = pid
        self.script.write_text(
            "#!/bin/sh\n"
            f'if [ -e {pid} ]; then kill "$(cat {pid})"; while kill -0 "$(cat {pid})" 2>/dev/null; do sleep 0.05; done; fi\n'
            f'[ "$1" = fail ] && exit 7\n'
            f'{sys.executable} {directory}/service.py {free_port()} {instance} "$1" 127.0.0.1:{system.registry_port} '
            f"</dev/null >/dev/null 2>&1 &\necho $! > {pid}\n")
        self.script.chmod(0o755)
        self._env = system.environment

    def restart(self, version: str) -> None:
        """Without proxyctl, for the first time."""
        subprocess.run([self.script, version], env=self._env, check=True, timeout=30)

    def stop(self) -> None:
        with suppress(OSError, ValueError):
            os.kill(int(self._pid.read_text()), signal.SIGKILL)


def deploy(system: System, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "deploy", *map(str, words)], env=system.environment,
                          capture_output=True, text=True, timeout=90)


@contextmanager
def load(system: System) -> Iterator[Callable[[], set[tuple[int, str | None, str | None]]]]:
    """Requests without a pause, reading and writing ones; gives what they were answered."""
    ending = threading.Event()

    def ask(number: int) -> set[tuple[int, str | None, str | None]]:
        seen = set()
        while not ending.is_set():
            answer = system.get("/", "story.test", "POST" if number % 2 else "GET")
            seen.add((answer.status, answer.headers["X-Version"], answer.headers["X-Proxyd-Reason"]))
        return seen

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask, number) for number in range(4)]

        def answers() -> set[tuple[int, str | None, str | None]]:
            ending.set()
            return set().union(*(one.result() for one in asking))

        try:
            yield answers
        finally:
            ending.set()


def versions(system: System) -> set[str | None]:
    """What all workers answer, as far as chance has it."""
    return {system.get("/", "story.test").headers["X-Version"] for _ in range(12)}


def test_services_are_replaced_under_load_alone_and_with_a_replica_and_a_failure_gives_the_traffic_back(
        system: System, tmp_path: Path) -> None:
    one, two = Supervisor(system, tmp_path, "one"), Supervisor(system, tmp_path, "two")
    try:
        assert "no route of a service" in deploy(system, "story", "--", one.script, "1").stderr
        one.restart("1")
        wait_for(lambda: versions(system) == {"1"}, 15, "the service")
        # Left behind by an instance that does not come back, as of a container that was made anew with another host name.
        left = system.client("story", "left")
        left.route("story.test", f"http://127.0.0.1:{free_port()}")
        left.close()
        wait_for(lambda: system.sql("SELECT enabled FROM routes WHERE instance_name = 'left'") == [(0,)])
        with load(system) as answers:
            done = deploy(system, "story", "--", one.script, "2")
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.splitlines()[0] == "story: the requests of 2 routes wait"
            assert done.stdout.splitlines()[-1] == "story: done, the traffic flows"
            wait_for(lambda: versions(system) == {"2"})
            assert answers() == {(200, "1", None), (200, "2", None)}
        assert system.sql("SELECT count(*) FROM routes WHERE service_name = 'story' AND hold_until IS NULL") == [(2,)]

        two.restart("2")
        wait_for(lambda: system.sql("SELECT count(*) FROM routes WHERE service_name = 'story'") == [(3,)], 15, "the replica")
        with load(system) as answers:
            done = deploy(system, "--json", "story/one", "--drain", "500ms", "--", one.script, "3")
            assert done.returncode == 0, done.stdout + done.stderr
            assert json.loads(done.stdout)["steps"][0].startswith("the other instances take its requests")
            assert answers() <= {(200, "2", None), (200, "3", None)}

        two.stop()
        wait_for(lambda: system.sql("SELECT enabled FROM routes WHERE instance_name = 'two'") == [(0,)])
        # A command that fails gives the traffic back at once; a version that does not come up, when the time is over.
        failed = deploy(system, "story/one", "--", "sh", "-c", "exit 7")
        assert failed.returncode == 7 and "failed with exit code 7" in failed.stdout
        assert versions(system) == {"3"}
        failed = deploy(system, "story/one", "--start-timeout", "2s", "--", one.script, "bad")
        assert failed.returncode == 1 and "the traffic flows again all the same" in failed.stderr, failed.stdout + failed.stderr
        assert system.sql("SELECT count(*) FROM routes WHERE hold_until IS NOT NULL") == [(0,)]
    finally:
        one.stop()
        two.stop()
