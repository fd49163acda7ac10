"""scripts/deploys, chaos, starts and soak leave nothing behind, even if they are killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.waiting import wait_for

ROOT = Path(__file__).resolve().parents[2]
#: A program that has moved away from who started it as far as it can: in a session of its own, and not its child any more.
COMMAND = """
import subprocess, sys
from tests.support.guard import guarded
with guarded("test-guard-") as folder:
    subprocess.run(["sh", "-c", f"setsid sleep 1000 >/dev/null & echo $! {folder}"], check=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_a_command_has_started_ends_with_it(number: signal.Signals) -> None:
    command = subprocess.Popen([sys.executable, "-c", COMMAND], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)
    assert command.stdout is not None
    pid, folder = command.stdout.readline().split()
    left = psutil.Process(int(pid))
    wait_for(lambda: left.name() == "sleep", 10, "the program")
    assert Path(folder).is_dir()
    command.send_signal(number)
    command.communicate(timeout=30)
    wait_for(lambda: not left.is_running() or left.status() == psutil.STATUS_ZOMBIE, 10, "its end")
    wait_for(lambda: not Path(folder).exists(), 10, "the end of its folder")
