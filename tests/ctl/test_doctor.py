from __future__ import annotations

from email.utils import formatdate

import pytest

from proxyd.ctl.doctor import _apart


@pytest.mark.parametrize(("told", "asked", "answered", "differs"), [
    (1000, 1000.2, 1000.3, 0.0), (1000, 1000.9, 1004.5, 0.0), (1003, 1000.2, 1004.5, 0.0), (1000, 999.95, 1000.05, 0.0),
    (1010, 1000.0, 1004.0, 6.0), (990, 1000.0, 1004.0, -9.0)])
def test_a_slow_answer_is_no_clock_that_is_wrong(told: float, asked: float, answered: float, differs: float) -> None:
    assert _apart(formatdate(told, usegmt=True), asked, answered) == differs
