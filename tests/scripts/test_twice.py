"""scripts/twice.sh: a test that passes only at its second run is named, and does not stop the work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.system import ROOT

SOUND = "def test_sound():\n    assert True\n"
UNSTEADY = """import pathlib
def test_unsteady():
    mark = pathlib.Path("mark")
    before = mark.exists()
    mark.touch()
    assert before
"""
BROKEN = "def test_broken():\n    assert False\n"


def run(tmp_path: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_it.py").write_text("\n\n".join(tests))
    script = f'set -euo pipefail; . "{ROOT}/scripts/twice.sh"; run_twice "{sys.executable}" -q'
    plain = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    # The plugins that are installed take most of a start, and have no part in this.
    return subprocess.run(["bash", "-c", script], cwd=tmp_path, env={**plain, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True,
                          text=True, timeout=60)


def test_what_passes_at_once_is_run_once(tmp_path: Path) -> None:
    done = run(tmp_path, SOUND)
    assert (done.returncode, done.stderr) == (0, "") and done.stdout.count("1 passed") == 1


def test_what_needs_a_second_run_is_named_as_a_defect(tmp_path: Path) -> None:
    done = run(tmp_path, SOUND, UNSTEADY)
    assert done.returncode == 0
    assert "NEEDED A SECOND RUN" in done.stderr and "\ntest_it.py::test_unsteady\n" in done.stderr and "test_sound" not in done.stderr


def test_what_is_broken_fails_and_is_not_called_unsteady(tmp_path: Path) -> None:
    done = run(tmp_path, UNSTEADY, BROKEN)
    assert done.returncode == 1
    assert "::test_unsteady\n" in done.stderr and "test_broken" not in done.stderr


def test_a_run_that_finds_no_tests_is_not_repeated(tmp_path: Path) -> None:
    assert run(tmp_path, "VALUE = 1\n").returncode == 5
