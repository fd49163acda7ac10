"""Faults of the host: few descriptors, a time of day that is set."""

from __future__ import annotations

import contextlib
import random
import resource
import socket
import time

import psutil

from tests.chaos.faults.declared import fault
from tests.chaos.stage import Stage


@fault(2, "master")
def few_descriptors(stage: Stage, chance: random.Random) -> None:
    """The master may open few files more, and 400 connect to it: the registry refuses, and the admin HTTP answers all the same."""
    seconds, pid = chance.uniform(0.5, 2.0), stage.system.master_pid()
    stage.say("few_descriptors", f"400 connections for {seconds:.1f} s, and 100 descriptors")
    if not pid:
        return
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    with stage.excuse("few_descriptors", "master", "refused", after=2.0), contextlib.ExitStack() as stack:
        try:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (psutil.Process(pid).num_fds() + 100, before[1]))
            for _ in range(400):
                sock = stack.enter_context(socket.socket())
                sock.settimeout(1)
                with contextlib.suppress(OSError):
                    sock.connect(("127.0.0.1", stage.system.registry_port))
            deadline = time.monotonic() + seconds
            # Another fault may end this master (truncate_file), and without one there is no admin HTTP.
            while time.monotonic() < deadline and stage.system.master_pid() == pid:
                stage.wait(lambda: stage.system.master_pid() != pid or stage.system.admin("/livez").status == 200, 5,
                           "the admin HTTP beside 400 registry connections",
                           invariant="reachable")
                time.sleep(0.1)
        finally:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


@fault(4, "clock")
def step_clock(stage: Stage, chance: random.Random) -> None:
    """The time of day is set by an hour or two, to and fro, and set right again."""
    hours, seconds = chance.choice((-2.0, -1.0, 1.0, 2.0)), chance.uniform(0.2, 5.0)
    stage.say("step_clock", f"{hours:+g} h for {seconds:.1f} s")
    stage.system.set_time(hours * 3600.0)
    try:
        time.sleep(seconds)
    finally:
        stage.system.set_time(0.0)
