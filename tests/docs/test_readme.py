"""The first steps of the README, as a new user pastes them."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.support.system import ROOT, System
from tests.support.waiting import free_port

CONVERSATION = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)


def converse(system: System, path: str) -> subprocess.CompletedProcess[str]:
    assert CONVERSATION is not None
    text = CONVERSATION[1]
    for documented, port in (("3000", free_port()), ("8181", system.registry_port), ("8000", system.proxy_port)):
        text = text.replace(documented, str(port))
    return subprocess.run(["bash", "-c", f"{text}\nkill %1"], env={**os.environ, "PATH": path}, cwd=ROOT, capture_output=True, text=True,
                          timeout=30)


def test_the_conversation_can_be_pasted(system: System) -> None:
    done = converse(system, os.environ["PATH"])
    heard = [line.partition("|")[0] for line in done.stdout.splitlines() if line.partition("|")[0] in (
        "ACK", "ROUTE_OK", "HEALTH_OK", "RATELIMIT_OK", "OK", "ROUTE_STATUS_OK", "MAINT_OK")]
    assert heard == ["ACK", "ROUTE_OK", "HEALTH_OK", "RATELIMIT_OK", "OK", "ROUTE_STATUS_OK", "ACK", "MAINT_OK"], done
    assert re.findall(r"HTTP/1.1 (\d+)", done.stdout) == ["200", "503"]


def test_where_a_tool_is_missing_it_is_said_and_nothing_hangs(system: System, tmp_path: Path) -> None:
    for name in ("bash", "python3", "sleep"):
        (tmp_path / name).symlink_to(Path("/usr/bin") / name)
    done = converse(system, str(tmp_path))
    assert "curl is missing: sudo apt-get install curl" in done.stdout and "ACK|" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_checkout_that_can_not_be_written_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = subprocess.run(["bash", "-c", f". {ROOT}/scripts/venv.sh; make_venv .venv"], cwd=tmp_path, capture_output=True, text=True,
                          timeout=10)
    assert done.returncode == 1 and f"can't write to {tmp_path}" in done.stderr and "python3-venv" not in done.stderr
