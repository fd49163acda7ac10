"""`scripts/year`: the generated history is what the views read, and each view is measured."""

from __future__ import annotations

import sqlite3
import subprocess
from pathlib import Path

from proxyd.store.sql.views import VIEWS

SCRIPT = Path(__file__).resolve().parents[2] / "scripts/year"


def year(*arguments: str) -> str:
    done = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_year_is_filled_and_measured(tmp_path: Path) -> None:
    path = tmp_path / "year.db"
    year("fill", f"sqlite:///{path}", "--endpoints", "2")
    connection = sqlite3.connect(path)
    days, = connection.execute("SELECT COUNT(*) FROM health_days").fetchone()
    percents = connection.execute("SELECT uptime_percent FROM v_uptime WHERE period = '1y'").fetchall()
    left, = connection.execute("SELECT COUNT(*) FROM sqlite_master WHERE name LIKE 'story%'").fetchone()
    connection.close()
    assert days == 2 * 365 and len(percents) == 2 and all(99 < percent < 100 for percent, in percents) and left == 0
    said = year("measure", f"sqlite:///{path}")
    assert {line.split()[0] for line in said.splitlines()[1:]} == set(VIEWS)
