"""`scripts/checks`: every check that it makes is counted in the rows that it writes."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/checks"


def test_the_checks_of_many_targets_are_written_and_their_cost_is_told(tmp_path: Path) -> None:
    done = subprocess.run([SCRIPT, f"sqlite:///{tmp_path}/c.db", "--targets", "60", "--interval", "2", "--minutes", "3"],
                          capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    with contextlib.closing(sqlite3.connect(tmp_path / "c.db")) as connection:
        rows, checks = connection.execute("SELECT COUNT(*), SUM(checks) FROM health_results").fetchone()
        good, bad = connection.execute("SELECT SUM(good), SUM(bad) FROM health_hours").fetchone()
    assert checks == good + bad == 60 * 90 and rows < checks / 2
    assert "% of a core" in done.stdout and {"health_results", "health_minutes", "all"} <= {
        line.split()[0] for line in done.stdout.splitlines()}
