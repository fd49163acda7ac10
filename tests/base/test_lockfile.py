"""Files that one process holds: what others see of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxyd.base.lockfile import LockFile, first_line, is_held


def test_one_holds_it_until_it_lets_go(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    one, two = LockFile(str(path)), LockFile(str(path))
    assert not one.held and not one.in_place() and not is_held(str(path))
    assert one.take(0o640)
    one.write(b"12\nmore\n")
    assert not two.take(0o640) and not two.held
    assert is_held(str(path)) and first_line(str(path)) == "12"
    one.write(b"3\n")
    assert path.read_bytes() == b"3\n" == one.text()
    one.release()
    assert not one.held and not is_held(str(path)) and two.take(0o640) and two.in_place()


def test_the_lock_ends_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = "import sys; from proxyd.base.lockfile import LockFile; print(LockFile(sys.argv[1]).take(0o640), flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "True\n"
        assert not LockFile(str(path)).take(0o640)
        other.kill()
        other.wait()
        assert LockFile(str(path)).take(0o640)


def test_a_file_that_was_replaced_is_not_in_place_and_can_be_taken_again(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    file = LockFile(str(path))
    assert file.take(0o640)
    path.unlink()
    assert not file.in_place() and file.held
    path.write_text("new\n")
    assert not file.in_place()
    assert file.take(0o640) and file.in_place() and file.text() == b"new\n"


def test_what_can_not_be_opened_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LockFile(str(tmp_path / "missing" / "lock")).take(0o640)
    assert first_line(str(tmp_path / "missing")) == "" and not is_held(str(tmp_path / "missing"))
