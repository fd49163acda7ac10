"""The clock of what is waited for: the time of day may be set as one likes."""

from __future__ import annotations

import time

import pytest

from proxyd.base import clock

HOUR = 3600.0


@pytest.fixture(params=[-2 * HOUR, -HOUR, HOUR, 30 * 86400.0])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> float:
    """The time of day is set by so many seconds."""
    unset, seconds = time.time, float(request.param)
    monkeypatch.setattr(time, "time", lambda: unset() + seconds)
    return seconds


def test_it_is_near_unix_seconds_and_runs_on() -> None:
    first = clock.now()
    assert abs(first - time.time()) < 1
    assert 0 <= clock.now() - first < 1


def test_a_set_time_of_day_changes_what_is_shown_and_nothing_else(step: float) -> None:
    moment = clock.now()
    assert abs(moment + step - time.time()) < 1
    assert clock.shown(moment) == moment + step
    assert clock.shown(0.0) == 0.0


def test_seconds_since_the_boot_and_back() -> None:
    moment = clock.now()
    assert clock.from_boot(clock.to_boot(moment)) == pytest.approx(moment)
    assert clock.to_boot(moment) == pytest.approx(clock.boot_seconds(), abs=1)


def test_a_mark_of_this_boot_counts_whatever_the_time_of_day_is(step: float) -> None:
    moment = clock.now() - 30
    assert clock.remembered(clock.mark(moment), 17.0) == pytest.approx(moment, abs=0.002)


def test_without_a_mark_of_this_boot_the_time_of_day_counts(step: float) -> None:
    for marked in (None, "", "another-boot 12.5"):
        assert clock.remembered(marked, time.time() - 30) == pytest.approx(clock.now() - 30, abs=1)


def test_no_remembered_instant_lies_in_the_future() -> None:
    assert clock.remembered(None, time.time() + HOUR) <= clock.now()


def test_a_mark_of_another_boot_counts_as_long_as_its_clock_is_known() -> None:
    began = clock.now() - 1000.0
    clock.learn([("another-boot 600.0", began + 600.0), (clock.mark(clock.now()), 5.0), ("", 1.0)])
    try:
        assert clock.remembered("another-boot 1060.0", 0.0) == pytest.approx(began + 1060.0)
        assert clock.remembered(clock.mark(began), 0.0) == pytest.approx(began, abs=0.01)
    finally:
        clock.learn([])
    assert clock.remembered("another-boot 1060.0", 12.0, True) == 12.0 - clock.shift()
