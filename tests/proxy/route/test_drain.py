"""The share of traffic that a draining upstream still gets."""

from __future__ import annotations

import pytest

from proxyd.proxy.route.drain import drain_share, keeps_sticky
from tests.proxy.build import upstream

BEGUN = 1000.0


@pytest.mark.parametrize(("now", "share"), [
    (BEGUN - 50, 1.0), (BEGUN - 0.5, 1.0), (BEGUN, 1.0), (BEGUN + 0.5, 0.995), (BEGUN + 50, 0.5), (BEGUN + 99, 0.01), (BEGUN + 100, 0.0),
    (BEGUN + 1e6, 0.0)])
def test_it_falls_in_a_line_from_all_to_nothing_and_is_never_more_or_less(now: float, share: float) -> None:
    assert drain_share(upstream(drain_started_at=BEGUN, drain_seconds=100.0), now) == pytest.approx(share)


def test_without_a_drain_it_is_all() -> None:
    assert drain_share(upstream(), BEGUN) == 1.0


@pytest.mark.parametrize(("now", "place", "stays"), [
    (BEGUN + 75, 0.99, True), (BEGUN + 76, 0.99, False), (BEGUN + 99, 0.03, True), (BEGUN + 99, 0.05, False), (BEGUN + 100, 0.0, False)])
def test_sticky_clients_leave_one_after_the_other_in_the_last_quarter(now: float, place: float, stays: bool) -> None:
    assert keeps_sticky(upstream(drain_started_at=BEGUN, drain_seconds=100.0), now, place) is stays
