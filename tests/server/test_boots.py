"""What the arbiter says of workers that can't start, and who reads it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from proxyd.server import boots


def test_what_was_said_is_read_until_it_is_taken_back(tmp_path: Path) -> None:
    assert boots.read(str(tmp_path)) == []
    boots.write(str(tmp_path), "a worker can't start: no memory\nTraceback: long")
    assert boots.read(str(tmp_path)) == ["a worker can't start: no memory"]
    assert os.stat(tmp_path / boots.NAME).st_mode & 0o777 == 0o640
    boots.write(str(tmp_path), "")
    boots.write(str(tmp_path), "")
    assert boots.read(str(tmp_path)) == [] and not os.listdir(tmp_path)


def test_what_an_arbiter_said_that_is_gone_counts_no_more(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait(10)
    (tmp_path / boots.NAME).write_text(f"{gone.pid}\nold news\n")
    assert boots.read(str(tmp_path)) == []


def test_nonsense_is_nothing(tmp_path: Path) -> None:
    for text in ("", "x\n", "1" * 400, f"{os.getpid()}\n", "\0\0"):
        (tmp_path / boots.NAME).write_text(text)
        assert boots.read(str(tmp_path)) == []
