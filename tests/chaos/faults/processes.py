"""Faults of processes: killed, stopped, told to reload, started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time

import psutil

from tests.chaos.faults.declared import WHOLE, fault
from tests.chaos.stage import Stage


@fault(8, "workers")
def kill_worker(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to a worker."""
    pid = stage.worker(chance.random())
    stage.say("kill_worker", f"worker {pid}")
    with stage.excuse("kill_worker", "cut", after=0.1):
        stage.kill(pid)


@fault(2, "workers")
def kill_all_workers(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to every worker at once."""
    pids = stage.system.worker_pids()
    stage.say("kill_all_workers", f"workers {pids}")
    with stage.excuse("kill_all_workers", "cut", after=0.1):
        for pid in pids:
            stage.kill(pid)


@fault(6, "master")
def kill_master(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to the master; in half of the cases its successor is killed as it starts."""
    again = chance.choice((None, chance.uniform(0.0, 0.6)))
    stage.say("kill_master", f"master {stage.system.master_pid()}" + (f", and the next after {again:.2f} s" if again is not None else ""))
    with stage.excuse("kill_master", "master", after=1.0):
        end_master(stage)
        if again is not None:
            time.sleep(again)
            end_master(stage)
        stage.wait_for_master()


def end_master(stage: Stage) -> None:
    """SIGKILL to the master, also to one that has not yet written its pid."""
    process = stage.system.process
    assert process is not None
    for child in psutil.Process(process.pid).children():
        with contextlib.suppress(psutil.Error):
            if "master" in child.cmdline():
                stage.kill(child.pid)


@fault(5, "workers")
def stop_worker(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to a worker, SIGCONT after up to 7 s."""
    pid, seconds = stage.worker(chance.random()), chance.choice((0.05, 0.5, 2.5, 7.0))
    stage.say("stop_worker", f"worker {pid} for {seconds:g} s")
    with stage.excuse("stop_worker", "slow", after=0.5):
        stage.stop(pid, seconds)


@fault(4, "master")
def stop_master(stage: Stage, chance: random.Random) -> None:
    """SIGSTOP to the master, SIGCONT after up to 4 s."""
    pid, seconds = stage.system.master_pid(), chance.choice((0.05, 0.5, 2.5, 4.0))
    stage.say("stop_master", f"master {pid} for {seconds:g} s")
    if pid:
        stage.stop(pid, seconds)


@fault(4, "workers")
def reload(stage: Stage, chance: random.Random) -> None:
    """HUP to the arbiter: all workers are replaced, and no request is lost."""
    before, since = set(stage.system.worker_pids()), len(stage.system.log())
    stage.say("reload", f"workers {sorted(before)}")
    stage.system.signal(signal.SIGHUP)
    stage.wait(lambda: not before & set(stage.system.worker_pids()) and "HUP: the new workers accept" in stage.system.log()[since:], 60,
               "new workers after HUP")


@fault(4)
def reopen_logs(stage: Stage, chance: random.Random) -> None:
    """USR1 to the arbiter, the workers and the master, some of which may be starting."""
    delay = chance.uniform(0.0, 0.3)
    stage.say("reopen_logs", f"after {delay:.2f} s, to all")
    time.sleep(delay)
    stage.system.signal(signal.SIGUSR1)
    for pid in [*stage.system.worker_pids(), *filter(None, [stage.system.master_pid()])]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGUSR1)


@fault(2, "workers")
def one_worker_more(stage: Stage, chance: random.Random) -> None:
    """TTIN, and TTOU after a moment."""
    seconds = chance.uniform(0.0, 2.0)
    stage.say("one_worker_more", f"for {seconds:.1f} s")
    # One of them may just have been killed by another fault.
    count = int(str(stage.system.settings["proxy__workers"]))
    stage.system.signal(signal.SIGTTIN)
    time.sleep(seconds)
    stage.system.signal(signal.SIGTTOU)
    stage.wait(lambda: len(stage.system.worker_pids()) == count, 40, "the number of workers before")


@fault(1, WHOLE)
def restart(stage: Stage, chance: random.Random) -> None:
    """TERM to the arbiter, and a new start on the same files."""
    stage.say("restart", "TERM and start")
    # A client that was not accepted any more hears of that when the last process that has the listener has ended.
    with stage.excuse("restart", "down", "cut", "slow", "master", after=1.0):
        stop_all(stage)
        stage.system.start()


@fault(1, WHOLE)
def kill_arbiter(stage: Stage, chance: random.Random) -> None:
    """SIGKILL to the arbiter: workers and master end by themselves; and a new start on the same files."""
    process = stage.system.process
    assert process is not None
    stage.say("kill_arbiter", f"arbiter {process.pid}")
    children = psutil.Process(process.pid).children()
    with stage.excuse("kill_arbiter", "down", "cut", "slow", "master", after=1.0):
        process.kill()
        process.wait(10)
        stage.wait(lambda: not any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children), 40,
                   "the end of workers and master without an arbiter")
        stage.system.start()


def stop_all(stage: Stage) -> None:
    """TERM, and wait for the end, as systemd does."""
    process = stage.system.process
    assert process is not None
    process.terminate()
    process.wait(40)
