"""The client library against a real master: losses, restarts, forgotten sessions; with threads and under gevent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.relay import Relay
from tests.support.system import ROOT, System
from tests.support.waiting import patience, wait_for


class Service:
    """The story as a process; `until` reads its lines to the one that begins so, `go_on` lets it continue."""

    def __init__(self, kind: str, address: str, backend: str) -> None:
        command = [sys.executable, str(ROOT / "tests/system/client_story.py"), kind, address, backend]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "PYTHONPATH": str(ROOT)})

    def until(self, beginning: str) -> list[str]:
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line.rstrip())
            if line.startswith(beginning):
                return lines
        raise AssertionError(f"it ended before {beginning!r}: {lines}")

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    # The client doubles the delay between its attempts: a master that takes 4 s to be back must be found within the grace.
    running = System(tmp_path_factory.mktemp("client"), workers=2, registry__reconnect_grace="8s")
    yield running
    running.stop()


@pytest.mark.parametrize("kind", ["threads", "gevent"])
def test_a_service_stays_registered_through_everything(kind: str, system: System, backend: Backend, tmp_path: Path) -> None:
    relay = Relay(system.registry_port)
    service = Service(kind, relay.address, backend.url)
    try:
        service.until("reached applied")
        answer = system.get(host="story.test")
        assert (answer.status, answer.headers["X-Story"]) == (200, "told")

        old = system.master_pid()
        os.kill(old, signal.SIGKILL)
        statuses = set()
        while system.master_pid() in (0, old):
            statuses.add(system.get(host="story.test").status)
        wait_for(system.ready, 15)
        service.go_on()
        assert statuses == {200}, "traffic goes on without a master"
        assert service.until("told") == ["told ['reconnected'] route True {'added': 0, 'removed': 0, 'modified': 1}"]
        service.until("reached")

        relay.cut()
        wait_for(lambda: system.get(host="story.test").status == 404, 15, "the end of the grace")
        service.go_on()
        time.sleep(0.3)
        relay.mend()
        assert service.until("told") == ["status 7.0 moved True", "told ['reconnected', 'reregistered'] "
                                         "{'added': 0, 'removed': 0, 'modified': 1}"]
        assert service.until("applied") == ["applied 9.0"]
        answer = system.get(host="story.test")
        assert (answer.status, answer.headers["X-Story"]) == (200, "told")
        maintenance, refused, _ = service.until("reached")
        # Asked from within the callback, while or after the next command: what it is told is the truth of that moment.
        assert maintenance.count("maintenance_changed") == 2 and maintenance.endswith("'asked:False']")
        assert refused.startswith('refused path: "no-path" is not a path')
        service.go_on()
        service.until("left")
        assert service.process.wait(patience(10)) == 0
        assert system.get(host="story.test").status == 404
    finally:
        service.process.kill()
        service.process.wait(5)
        relay.cut()


def test_many_clients_come_back_over_some_time_and_not_at_once(system: System) -> None:
    from proxyd.client import Client

    relay = Relay(system.registry_port)
    back: list[float] = []
    clients = [Client(relay.address, service="herd", instance=f"h{number}").connect() for number in range(20)]
    try:
        for client in clients:
            client.subscribe("reconnected", lambda event: back.append(time.monotonic()))
            client.subscribe("reregistered", lambda event: back.append(time.monotonic()))
        relay.cut()
        time.sleep(0.6)
        relay.mend()
        wait_for(lambda: len(back) == 20, 10)
        assert max(back) - min(back) > 0.05, "spread, as each waits a random part of its delay"
        assert all(client.connected for client in clients)
    finally:
        for client in clients:
            client.close()
        relay.cut()
