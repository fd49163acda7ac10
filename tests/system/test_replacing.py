"""HUP while the new workers take long to start, or can't: the old ones go on, and the arbiter goes on listening to signals."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for

CONFIG = """
import os, time
from proxyd.server.gunicorn_conf import configuration
globals().update(configuration())

def post_worker_init(worker):
    while os.path.exists("{folder}/slow") and worker.alive:
        time.sleep(0.01)
    if os.path.exists("{folder}/broken"):
        raise OSError("broken as asked")
"""


class Slow(System):
    """A proxyd whose workers take long to start while there is a file `slow`, and can't start while there is one `broken`."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory, start=False)
        self.slow, self.broken = directory / "slow", directory / "broken"
        self.gunicorn_config = directory / "gunicorn.conf.py"
        self.write()
        self.settings["log__error"] = directory / "log" / "error.log"
        self.start()

    def write(self, more: str = "") -> None:
        self.gunicorn_config.write_text(CONFIG.format(folder=self.directory) + more)

    def log(self) -> str:
        path = self.directory / "log" / "error.log"
        return super().log() + (path.read_text() if path.exists() else "")

    def says(self, text: str, since: int) -> None:
        wait_for(lambda: text in self.log()[since:], 20, f"the message {text}")

    def serves(self) -> bool:
        return {self.get().status for _ in range(20)} == {200}

    def has_other_workers(self, before: set[int], count: int = 2) -> bool:
        now = set(self.worker_pids())
        return not before & now and len(now) == count


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slow]:
    running = Slow(tmp_path_factory.mktemp("slow"))
    backend = Backend()
    running.client().route("app.test", backend.url)
    yield running
    running.stop()
    backend.stop()


@pytest.fixture(autouse=True)
def _repaired(slow: Slow) -> Iterator[None]:
    yield
    slow.slow.unlink(missing_ok=True)
    slow.broken.unlink(missing_ok=True)


def test_the_old_workers_go_on_until_the_new_ones_accept_and_signals_are_heard_meanwhile(slow: Slow) -> None:
    old = set(slow.worker_pids())
    slow.slow.touch()
    slow.signal(signal.SIGHUP)
    wait_for(lambda: len(slow.worker_pids()) == 4, what="two more workers")
    assert slow.serves()
    slow.signal(signal.SIGTTIN)
    wait_for(lambda: len(slow.worker_pids()) == 5, what="one more worker while the others start")
    slow.signal(signal.SIGTTOU)
    wait_for(lambda: len(slow.worker_pids()) == 4, what="one less")
    assert old < set(slow.worker_pids()) and slow.serves()
    slow.slow.unlink()
    wait_for(lambda: slow.has_other_workers(old), what="the new workers alone")
    assert slow.serves()


def test_settings_that_change_again_meanwhile_replace_those_that_start(slow: Slow) -> None:
    old = set(slow.worker_pids())
    slow.slow.touch()
    slow.signal(signal.SIGHUP)
    wait_for(lambda: len(slow.worker_pids()) == 4, what="two more workers")
    first = set(slow.worker_pids()) - old
    slow.signal(signal.SIGHUP)
    wait_for(lambda: len(slow.worker_pids()) == 4 and not first & set(slow.worker_pids()), what="others in place of those that start")
    assert old < set(slow.worker_pids()) and slow.serves()
    slow.slow.unlink()
    wait_for(lambda: slow.has_other_workers(old), what="the new workers alone")


def test_workers_that_cannot_start_are_told_once_and_the_old_ones_go_on(slow: Slow) -> None:
    old, told = set(slow.worker_pids()), len(slow.log())
    slow.broken.touch()
    slow.signal(signal.SIGHUP)
    slow.says("a worker can't start: OSError: broken as asked; 2 others go on", told)

    def tried() -> bool:
        # Those who rotate logs know nothing of a worker that is about to end.
        for pid in set(slow.worker_pids()) - old:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGUSR1)
        return slow.log()[told:].count("Booting worker") > 4

    wait_for(tried, 20, "a second and third try", 0.001)
    assert "was ended by" not in slow.log()[told:]
    assert slow.log()[told:].count("can't start") == 1 and "Traceback" not in slow.log()
    assert set(slow.worker_pids()) >= old and slow.serves()
    problems = [item["what"] for item in slow.admin("/api/v1/status").json()["findings"]]
    assert problems == ["a worker can't start: OSError: broken as asked; 2 others go on"]
    slow.broken.unlink()
    slow.says("workers start again", told)
    wait_for(lambda: slow.has_other_workers(old), what="the new workers alone")
    wait_for(lambda: slow.admin("/api/v1/status").json()["findings"] == [], what="nothing unwell any more")


def test_the_arbiter_outlives_all_of_its_workers(slow: Slow) -> None:
    told = len(slow.log())
    slow.broken.touch()
    for pid in slow.worker_pids():
        os.kill(pid, signal.SIGKILL)
    slow.says("a worker can't start: OSError: broken as asked; no other serves", told)
    slow.broken.unlink()
    wait_for(slow.ready, 20, "workers again")
    assert slow.serves()


def test_a_file_of_gunicorns_that_cannot_be_read_changes_nothing(slow: Slow) -> None:
    old, told = set(slow.worker_pids()), len(slow.log())
    slow.write("\nworkers = (")
    slow.signal(signal.SIGHUP)
    slow.says("gunicorn's configuration can't be used; nothing is reloaded, and the workers go on", told)
    slow.write()
    assert set(slow.worker_pids()) == old and slow.serves()


def test_a_log_that_cannot_be_opened_again_ends_nothing(slow: Slow) -> None:
    old = set(slow.worker_pids())
    (slow.directory / "log").rename(slow.directory / "away")
    (slow.directory / "log").touch()
    try:
        slow.signal(signal.SIGUSR1)
        slow.signal(signal.SIGTTIN)
        wait_for(lambda: len(slow.worker_pids()) == 3, what="an arbiter that still works")
        slow.signal(signal.SIGTTOU)
        assert slow.serves()
    finally:
        (slow.directory / "log").unlink()
        (slow.directory / "away").rename(slow.directory / "log")
    wait_for(lambda: len(slow.worker_pids()) == 2 and old & set(slow.worker_pids()), what="two workers")


def test_term_in_the_middle_of_a_reload_ends_everything(slow: Slow) -> None:
    slow.slow.touch()
    slow.signal(signal.SIGHUP)
    wait_for(lambda: len(slow.worker_pids()) == 4, what="two more workers")
    slow.signal(signal.SIGTERM)
    process = slow.process
    assert process is not None and process.wait(20) == 0
    assert not slow.master_pid()
