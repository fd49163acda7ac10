"""A failure that lasts is said once, and its end, too."""

from __future__ import annotations

import logging

import pytest

from proxyd.base.trouble import Trouble

log = logging.getLogger("tests.trouble")


def said(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str, bool]]:
    """Level, message, and whether there is a traceback, of what was logged since the last look."""
    found = [(record.levelname, record.getMessage(), bool(record.exc_info)) for record in caplog.records]
    caplog.clear()
    return found


def test_it_is_said_when_it_begins_when_its_reason_changes_and_when_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    trouble = Trouble(log, "can't write")
    trouble.is_over()
    for reason in ("full", "full", OSError("full"), "gone"):
        trouble.goes_on(reason)
    assert trouble.reason == "gone"
    trouble.is_over("; 3 lines were lost")
    trouble.is_over()
    assert said(caplog) == [("WARNING", "can't write: full", False), ("WARNING", "can't write: gone", False),
                            ("INFO", "can't write: over; 3 lines were lost", False)]
    trouble.goes_on("gone")
    assert said(caplog) == [("WARNING", "can't write: gone", False)]


def test_the_level_is_the_makers_but_what_nobody_expected_is_an_error_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    trouble = Trouble(log, "row not written", logging.DEBUG)
    trouble.goes_on("busy")
    trouble.goes_on(KeyError(), KeyError())
    trouble.is_over()
    assert said(caplog) == [("DEBUG", "row not written: busy", False), ("ERROR", "row not written: KeyError", True),
                            ("DEBUG", "row not written: over", False)]
