"""A few seconds of a soak: every kind of traffic is served, sessions come and go, and what is measured is printed."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_short_soak_serves_all_kinds_of_traffic() -> None:
    # So short a run is all warming up: the bound only has to be beyond reach.
    command = [sys.executable, "-m", "tests.soak", "--minutes", "0.1", "--every", "3", "--clients", "4", "--workers", "1",
               "--bound", "100000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert re.search(r"(?m)^worker 0: [+-]\d+\.\d\d MiB for 100,000 requests", done.stdout), done.stdout
    told = re.search(r"(?m)^well: (\d+) requests, (\d+) sessions$", done.stdout)
    assert told and int(told[1]) > 100 and int(told[2]) > 0, done.stdout
