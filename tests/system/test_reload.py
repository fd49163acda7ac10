"""HUP, and processes that start anew, while the configuration can't be used: what runs goes on with what it has."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

WRONG = "[log]\nlevell = info\n"
TOLD = 'proxyd.ini:2: unknown setting "levell" in [log] (did you mean level?)'


class Configured(System):
    """A proxyd whose address and name in Via are in a file that tests change."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, start=False)
        self.file = directory / "proxyd.ini"
        self.settings["config"] = self.file
        del self.settings["proxy__bind"]  # a variable would beat the file
        self.write("one")
        self.start()

    def write(self, via: str, port: int = 0) -> None:
        self.file.write_text(f"[proxy]\nbind = 127.0.0.1:{port or self.proxy_port}\nvia = {via}\n")

    def says(self, text: str, since: int) -> None:
        wait_for(lambda: text in self.log()[since:], what=f"the message {text}")

    def has_other_workers(self, before: set[int]) -> bool:
        now = set(self.worker_pids())
        return not before & now and len(now) == 2 and self.admin("/readyz").status == 200

    def via(self) -> set[str | None]:
        return {self.get().headers["Via"] for _ in range(6)}


@pytest.fixture(scope="module")
def configured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Configured]:
    running = Configured(tmp_path_factory.mktemp("configured"))
    backend = Backend()
    running.client().route("app.test", backend.url)
    yield running
    running.stop()
    backend.stop()


def test_a_reload_of_a_wrong_configuration_is_told_and_changes_nothing(configured: Configured) -> None:
    before, told = set(configured.worker_pids()), len(configured.log())
    configured.file.write_text(WRONG)
    configured.signal(signal.SIGHUP)
    configured.says(TOLD, told)
    configured.says("nothing is reloaded, and the workers keep their settings", told)
    wait_for(lambda: configured.has_other_workers(before), 15, "new workers")
    assert configured.via() == {"1.1 one"}
    configured.write("two")
    configured.signal(signal.SIGHUP)
    wait_for(lambda: configured.via() == {"1.1 two"}, 15, "the new setting")


def test_a_reload_to_an_address_in_use_keeps_the_old_one(configured: Configured) -> None:
    before, told = set(configured.worker_pids()), len(configured.log())
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        configured.write("two", port)
        configured.signal(signal.SIGHUP)
        configured.says(f"[proxy] bind: can't listen on 127.0.0.1:{port}: it is in use by another program", told)
        wait_for(lambda: configured.has_other_workers(before), 15, "new workers")
    assert configured.via() == {"1.1 two"}
    configured.write("two")


def test_workers_that_start_while_the_file_is_wrong_go_on_and_traffic_does_without_a_master(configured: Configured) -> None:
    before, told, master = set(configured.worker_pids()), len(configured.log()), configured.master_pid()
    configured.file.write_text(WRONG)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: configured.has_other_workers(before), 15, "new workers")
    assert configured.via() == {"1.1 two"}
    os.kill(master, signal.SIGKILL)
    configured.says(TOLD, told)
    assert configured.via() == {"1.1 two"}
    configured.write("two")
    wait_for(lambda: configured.master_pid() not in (0, master) and configured.ready(), 15, "the master")
