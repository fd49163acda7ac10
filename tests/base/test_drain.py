from __future__ import annotations

import pytest

from proxyd.base.drain import drain_share


@pytest.mark.parametrize(("now", "share"), [(99.0, 1.0), (100.0, 1.0), (115.0, 0.75), (130.0, 0.5), (160.0, 0.0), (999.0, 0.0)])
def test_the_share_falls_in_a_straight_line_from_all_to_nothing(now: float, share: float) -> None:
    assert drain_share(100.0, 60.0, now) == share


def test_a_drain_of_no_length_is_over_at_once() -> None:
    assert drain_share(100.0, 0.0, 100.1) == 0.0
