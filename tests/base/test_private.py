"""A file that was made unreadable is made readable again by its owner, and told."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from proxyd.base import private


@pytest.mark.parametrize(("mode", "needed", "after"), [(0o000, 0o600, 0o640), (0o400, 0o600, 0o640), (0o400, 0o400, 0o400),
                                                       (0o600, 0o600, 0o600), (0o060, 0o400, 0o660)])
def test_the_owner_reads_it_again(tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: int, needed: int, after: int) -> None:
    path = tmp_path / "file"
    path.touch()
    path.chmod(mode)
    with caplog.at_level(logging.WARNING):
        assert private.regain(str(path), needed) is (mode != after)
    assert path.stat().st_mode & 0o777 == after
    assert (f"{path} could not be opened by processes that start (mode {mode:04o})" in caplog.text) is (mode != after)


def test_a_missing_file_stays_away(tmp_path: Path) -> None:
    assert not private.regain(str(tmp_path / "file"))
    assert not list(tmp_path.iterdir())
