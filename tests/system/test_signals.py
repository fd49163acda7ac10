"""USR1, logrotate's signal, at any moment of a process's life: it reopens logs or does nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from functools import partial

import psutil
import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for


def has_other_workers(system: System, before: set[int]) -> bool:
    """Whether none of those before is left, and the new ones serve."""
    return not before & set(system.worker_pids()) and system.ready()


def test_usr1_while_workers_boot_stops_nothing(system: System, backend: Backend) -> None:
    told = len(system.log())
    client = system.client("booting")
    client.route("booting.test", backend.url)
    moments = random.Random(1)
    for _ in range(5):
        before = set(system.worker_pids())
        system.signal(signal.SIGHUP)
        for _ in range(4):
            # The moment is the point: each falls somewhere into the boot of the new workers.
            time.sleep(moments.uniform(0.0, 0.2))
            system.signal(signal.SIGUSR1)
            for pid in system.worker_pids():
                try:
                    os.kill(pid, signal.SIGUSR1)
                except ProcessLookupError:
                    continue
        wait_for(partial(has_other_workers, system, before), 20, "new workers")
        assert system.get("/", "booting.test").status == 200
    assert "Traceback" not in system.log()[told:]


def test_usr1_to_the_master_does_nothing(system: System) -> None:
    master = system.master_pid()
    assert master, "there is no master, and a signal to 0 goes to everybody"
    client = system.client("signalled")
    os.kill(master, signal.SIGUSR1)
    assert client.command("PING|SID") == "PONG"
    assert system.master_pid() == master


def starting_master(system: System, before: int) -> int:
    """The process of the next master, which need not have said anything yet; 0 while there is none."""
    assert system.process is not None
    for child in psutil.Process(system.process.pid).children():
        with contextlib.suppress(psutil.Error):
            if child.pid != before and "master" in child.cmdline() and child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
    return 0


@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.2])
def test_usr1_while_the_master_starts_does_not_end_it(system: System, delay: float) -> None:
    master = system.master_pid()
    assert master, "there is no master, and a signal to 0 goes to everybody"
    os.kill(master, signal.SIGKILL)
    starting = wait_for(lambda: starting_master(system, master))
    time.sleep(delay)
    os.kill(starting, signal.SIGUSR1)
    wait_for(lambda: system.master_pid() == starting and system.ready(), 20, "a master again")
