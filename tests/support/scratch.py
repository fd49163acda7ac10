"""A copy of the package with a few lines changed, and scripts run with it: what a change to a declaration brings about."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Scratch:
    """The package proxyd, copied into `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        shutil.copytree(ROOT / "proxyd", directory / "proxyd", ignore=shutil.ignore_patterns("__pycache__"))

    def insert(self, path: str, before: str, line: str) -> None:
        """Put a line before the only place where `before` stands."""
        file = self.directory / path
        text = file.read_text(encoding="utf-8")
        assert text.count(before) == 1, f"{path}: {before}"
        file.write_text(text.replace(before, f"{line}\n{before}"), encoding="utf-8")

    def run(self, script: str, *arguments: str) -> str:
        """What a Python script prints that imports this copy."""
        environment = {**os.environ, "PYTHONPATH": str(self.directory), "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run([sys.executable, "-c", script, *arguments], cwd=self.directory, env=environment, capture_output=True,
                              text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout
