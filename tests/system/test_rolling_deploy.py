"""scripts/rolling_deploy does what it says, and loses no request."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from tests.support.system import ROOT


@pytest.mark.slow
def test_a_deploy_of_both_replicas_under_load_loses_no_request() -> None:
    done = subprocess.run([sys.executable, str(ROOT / "scripts/rolling_deploy"), "--drain", "1s"], capture_output=True, text=True,
                          timeout=90, env={"PATH": "/usr/bin:/bin", "VIRTUAL_ENV": sys.prefix})
    assert done.returncode == 0, done.stdout + done.stderr
    for instance in "ab":
        assert f"{instance} has nothing in flight" in done.stdout
        assert f"answers now come from demo v2 {instance}" in done.stdout
    found = re.search(r"(\d+) requests, 0 errors\n$", done.stdout)
    assert found and int(found.group(1)) > 100
