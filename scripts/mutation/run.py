"""Trying mutants on a copy of the tree, so that the checkout is never touched."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from mutation.choice import tests_for
from mutation.mutants import Mutant

LEFT_OUT = shutil.ignore_patterns(".git", ".*_cache", ".hypothesis", "__pycache__", ".venv*", "*.egg-info")


class Copy:
    """A copy of the tree below `directory`, on which tests are run. A mutant is stuck when they take more than three times as
    long as usual, and `slack` seconds."""

    def __init__(self, root: Path, directory: Path, slack: float) -> None:
        self.directory, self._slack = directory, slack
        shutil.copytree(root, directory, ignore=LEFT_OUT, symlinks=True, dirs_exist_ok=True)
        if (root / ".venv").exists():
            (directory / ".venv").symlink_to((root / ".venv").resolve())
        # Python believes compiled files by time and size; a mutant may have both of the module. By hash it can't be deceived.
        subprocess.run([sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "checked-hash", "."], cwd=directory, check=False)
        self._usual: dict[str, float | None] = {}

    def verdict(self, mutant: Mutant, also: list[str], deadline: float) -> str:
        """What became of a mutant under the tests of its module and then the files `also`, nearest first.

        "killed": a test failed. "stuck": the tests took much longer than usual, which is noticed too. "survived": all passed.
        "untested": there are no tests. "undecided": the deadline, by the monotonic clock, came before the last tests."""
        path = self.directory / mutant.path
        original = path.read_text()
        verdict = "untested"
        for tests in [*(str(file.relative_to(self.directory)) for file in tests_for(self.directory, Path(mutant.path))), *also]:
            usual = self._usual_seconds(tests)
            if usual is None:
                continue
            if time.monotonic() > deadline:
                return "undecided"
            path.write_text(mutant.source)
            try:
                passed = self._passes(tests, usual * 3 + self._slack)
            finally:
                path.write_text(original)
            if passed is not True:
                return "stuck" if passed is None else "killed"
            verdict = "survived"
        return verdict

    def _usual_seconds(self, tests: str) -> float | None:
        """How long the tests take without a change; None if they fail then, twice in a row."""
        if tests not in self._usual:
            self._usual[tests] = None
            for _ in range(2):
                begun = time.monotonic()
                if self._passes(tests, None):
                    self._usual[tests] = time.monotonic() - begun
                    break
            else:
                print(f"left out, since they fail without any change: {tests}", flush=True)
        return self._usual[tests]

    def _passes(self, tests: str, seconds: float | None) -> bool | None:
        """Whether the tests pass; None if they are not done after `seconds`."""
        # Nothing compiled is kept, and the prefix keeps the tests from keeping it: a mutant of the same size, made within the same second,
        # would pass for the one before.
        process = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", tests], cwd=self.directory, start_new_session=True,
            env={**os.environ, "PYTHONPATH": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1",
                 "PYTHONPYCACHEPREFIX": str(self.directory / "compiled")},
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return process.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return None
        finally:
            if process.poll() is None:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the tests and every process that they have started, in sessions of their own too."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for child in family:
        if child.is_running():
            child.kill()
