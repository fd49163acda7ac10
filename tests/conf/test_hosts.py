"""The examples in conf/hosts, in the real programs. tests/hosts sends requests through that of HAProxy."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.support.system import ROOT


@pytest.mark.parametrize("command", [("haproxy", "-c", "-f", "haproxy.cfg"), ("keepalived", "-t", "-f", "keepalived.conf")],
                         ids=lambda command: command[0])
def test_the_program_takes_the_example(command: tuple[str, ...]) -> None:
    if shutil.which(command[0]) is None:
        pytest.skip(f"no {command[0]} here")
    if os.getuid() == 0 and command[0] == "keepalived":
        # As root, keepalived 2.2.7 takes itself for an orphan after a look at scripts, and ends by SIGTERM.
        command = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *command)
    done = subprocess.run(command, cwd=ROOT / "conf" / "hosts", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_front_notices_a_drained_host_before_its_sessions_are_told() -> None:
    from proxyd.config.sections import HostsSettings

    text = (ROOT / "conf" / "hosts" / "haproxy.cfg").read_text()
    assert "inter 1s fall 3" in text and HostsSettings().drain_delay > 3
