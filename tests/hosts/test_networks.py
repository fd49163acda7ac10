"""Three hosts in networks of their own: cut off, stopped and continued, and a database that fails over."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.netns import missing


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nothing_acknowledged_is_lost_when_leaders_are_cut_off_or_stopped_and_the_database_fails_over() -> None:
    if why := missing():
        pytest.skip(why)
    done = subprocess.run([sys.executable, "-m", "tests.hosts.overnetworks"], capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    assert set(json.loads(done.stdout.splitlines()[-1])) == {"start", "cut_off", "stopped", "failed_over"}
