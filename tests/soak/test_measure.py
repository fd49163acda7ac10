"""What a soak calls a leak: a slope in the second half, and tables that go on growing."""

from __future__ import annotations

import pytest

from tests.soak.measure import MIB, Memory, later_half, slope, too_much, unbounded


def points(*mib: float) -> list[Memory]:
    """Measurements of a process, one for each 50,000 requests."""
    return [Memory(50_000 * number, int(own * MIB), 0) for number, own in enumerate(mib)]


def test_the_slope_is_bytes_for_a_hundred_thousand_requests() -> None:
    assert slope(points(40, 41, 42, 43)) == pytest.approx(2 * MIB)
    assert slope(points(40, 41)) == 0.0


def test_warming_up_is_no_leak_and_steady_growth_is() -> None:
    assert not too_much(points(30, 38, 40, 40.2, 40.1, 40.2, 40.2), 0.5 * MIB)
    assert too_much(points(30, 31, 32, 33, 34, 35, 36), 0.5 * MIB)
    assert len(later_half(points(1, 2, 3, 4, 5))) == 3


def rows(*counts: int, table: str = "events") -> list[tuple[float, dict[str, int]]]:
    """Counts of one table, one a minute."""
    return [(60.0 * number, {table: count}) for number, count in enumerate(counts)]


def test_a_table_may_grow_until_its_first_rows_are_pruned_and_not_beyond() -> None:
    assert list(unbounded(rows(0, 500, 1000, 1100, 1000, 1050, 1100, 1000), 120.0)) == []
    assert list(unbounded(rows(0, 500, 1000, 1500, 2000, 2500, 3000, 3500), 120.0)) == ["events went on growing, from 2000 to 3500 rows"]
    assert list(unbounded(rows(0, 1, 2, 3, 4, 5, 6, 7), 120.0)) == []
    # They stay until the day is over.
    assert list(unbounded(rows(0, 500, 1000, 1500, 2000, 2500, 3000, 3500, table="traffic_days"), 120.0)) == []
