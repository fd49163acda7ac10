"""A minute of the suite with a fixed seed: the start of what `scripts/chaos` does for longer."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_minute_of_faults_breaks_nothing() -> None:
    # These by name, so that the plan stays the same when a fault is added.
    faults = ("kill_backend,stop_backend,misbehave,kill_worker,kill_all_workers,"
              "kill_master,stop_worker,stop_master,reload,reopen_logs,one_worker_more,restart,kill_arbiter,"
              "lock_database,fill_disk,step_clock")
    # A third of the usual load: other tests run beside it, and what is slow for lack of processors says nothing.
    command = [sys.executable, "-m", "tests.chaos", "--seed", "14", "--minutes", "1", "--every", "2.5", "--workers", "2", "--clients", "6",
               "--requests", "60", "--applies", "6", "--faults", faults]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=380)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    requests, applies = re.search(r"(?m)^requests +(\d+)", done.stdout), re.search(r"(?m)^applies +(\d+)", done.stdout)
    assert requests and int(requests[1]) > 500, done.stdout
    assert applies and int(applies[1]) > 30, done.stdout
