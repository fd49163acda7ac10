"""The least rate: how long a client may be behind it, and what it earns by being ahead."""

from __future__ import annotations

import pytest

from proxyd.proxy.core.pace import Pace, Rates

RATES = Rates(request=500, response=1000, window=10.0, silence=30.0)
TICK = 0.05


def lasts(sizes: list[tuple[float, int]], rates: Rates = RATES, sending: bool = False) -> float:
    """The seconds until a client that moves (bytes a second) for (seconds) each is too slow; the sum of all where it never is."""
    now, moved = 100.0, 7.0
    pace = rates.pace(sending, now, int(moved))
    assert pace is not None
    for seconds, speed in sizes:
        for _ in range(round(seconds / TICK)):
            now += TICK
            moved += speed * TICK
            if not pace.keeps(now, int(moved)):
                return now - 100
    return now - 100


@pytest.mark.parametrize(("sizes", "seconds"), [
    ([(100, 0)], 10),
    ([(100, 1)], 10),
    ([(100, 250)], 20),
    ([(100, 500)], 100),
    ([(100, 501)], 100),
    ([(2, 5000), (100, 0)], 30),
    ([(100, 100_000), (100, 0)], 130),
    ([(100, 100_000), (29, 0), (100, 600)], 229),
], ids=["silent", "a byte a second", "half the rate", "the rate", "more", "a quick start", "a pause after much", "a pause that ends"])
def test_how_long_a_client_is_waited_for(sizes: list[tuple[float, int]], seconds: float) -> None:
    assert lasts(sizes) == pytest.approx(seconds, abs=0.2)


def test_each_way_has_a_rate_of_its_own() -> None:
    assert lasts([(100, 600)]) == pytest.approx(100)
    assert lasts([(100, 600)], sending=True) == pytest.approx(25, abs=0.2)
    assert Rates(0, 500, 10.0, 30.0).pace(False, 0.0, 0) is None
    assert Rates(500, 0, 10.0, 30.0).pace(True, 0.0, 0) is None


def test_time_in_which_the_client_is_not_waited_for_does_not_count() -> None:
    pace = Pace(RATES, 500, 0.0, 0)
    assert all(pace.keeps(float(second), 0) for second in range(1, 100))


def test_what_has_come_of_a_head_gives_it_time() -> None:
    assert (RATES.seconds(0), RATES.seconds(1000)) == (10.0, 12.0)
    assert Rates(0, 0, 10.0, 30.0).seconds(0) == float("inf")
