"""The pid file: written where it is missing, and left to the one that has it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from proxyd.chores.pidfile import PidFile

OWN = f"{os.getpid()}\n"


def test_what_was_deleted_or_overwritten_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "var" / "master.pid"
    file = PidFile(str(path))
    assert not file.in_place() and not file.written
    file.write()
    for harm in (path.unlink, lambda: path.write_text("1234567\n"), lambda: path.write_text(""), lambda: (tmp_path / "new").rename(path)):
        (tmp_path / "new").write_text(OWN)
        assert file.in_place() and path.read_text() == OWN
        harm()
        assert not file.in_place() and file.written
        file.write()
    file.remove()
    assert not path.exists()
    # Somebody else's now.
    path.write_text("1\n")
    file.remove()
    assert path.exists()


def test_one_that_another_process_has_is_left_to_it_until_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "master.pid"
    first, second = PidFile(str(path)), PidFile(str(path))
    first.write()
    path.write_text("77\n")
    for _ in range(2):
        with pytest.raises(OSError, match=r"that of another proxyd \(pid 77\)") as raised:
            second.write()
        assert raised.value.errno == errno.EBUSY
    assert path.read_text() == "77\n" and not second.written
    second.remove()
    assert path.exists()
    first.write()
    first.remove()
    second.write()
    assert second.in_place() and path.read_text() == OWN
