"""The log file, whatever becomes of it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.config import logs
from proxyd.config.sections import LogSettings


@pytest.fixture
def log() -> Iterator[logging.Logger]:
    """proxyd's log, as it is left to other tests."""
    found = logging.getLogger("proxyd")
    before = list(found.handlers), found.level, found.propagate
    yield found
    for handler in found.handlers:
        handler.close()
    found.handlers[:], found.level, found.propagate = before


def test_a_log_that_cannot_be_opened_again_raises_nothing_and_goes_to_standard_error(
        log: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, path = tmp_path / "log", tmp_path / "log" / "error.log"
    logs.configure(LogSettings(error=str(path)))
    log.warning("one")
    folder.rename(tmp_path / "away")
    folder.touch()
    log.warning("two")
    log.warning("three")
    assert [line.split()[-1] for line in capsys.readouterr().err.splitlines()] == ["two", "three"]
    folder.unlink()
    folder.mkdir()
    log.warning("four")
    assert path.read_text().split()[-1] == "four"
    assert (tmp_path / "away" / "error.log").read_text().split()[-1] == "one"
    assert capsys.readouterr().err == ""
