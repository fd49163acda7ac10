"""From results to a status."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.health.thresholds import DEGRADED, DOWN, HEALTHY, UNKNOWN, Standing


def after(results: str, rise: int = 2, fall: int = 3, window: int = 100) -> Standing:
    """A standing that took the results: `+` for good, `-` for failed."""
    standing = Standing(rise, fall, window)
    for result in results:
        standing.take(result == "+", "" if result == "+" else "refused")
    return standing


@pytest.mark.parametrize(("results", "status"), [
    ("", UNKNOWN), ("+", HEALTHY), ("-", UNKNOWN), ("--", UNKNOWN), ("---", DOWN), ("-+", HEALTHY),
    ("+--", HEALTHY), ("+--+--", HEALTHY), ("+---", DOWN), ("+---+", DOWN), ("+---++", HEALTHY), ("---+-+", DOWN), ("---+-++", HEALTHY),
])
def test_rise_and_fall_count_results_in_a_row(results: str, status: str) -> None:
    assert after(results).status == status


@pytest.mark.parametrize(("good", "of", "status"), [
    (100, 100, HEALTHY), (90, 100, HEALTHY), (89, 100, DEGRADED), (50, 100, DEGRADED), (49, 100, DOWN)])
def test_the_success_rate_decides_where_no_row_of_failures_does(good: int, of: int, status: str) -> None:
    standing = Standing(2, 100, of)
    standing.status = HEALTHY
    # As even as can be, so that nothing but the rate speaks; the last result completes the window.
    for number in range(of):
        standing.results.append((number + 1) * good // of > number * good // of)
    last = standing.results.pop()
    standing.take(last, "" if last else "refused")
    assert standing.rate() == good / of
    assert standing.status == status


def test_a_few_results_say_nothing_about_a_rate() -> None:
    assert after("+-+-+-+-").status == HEALTHY
    assert after("+-" * 5).status == DEGRADED


def test_a_degraded_target_is_healthy_again_when_the_bad_results_have_left_the_window() -> None:
    standing = after("+-" * 5, window=10)
    assert standing.status == DEGRADED
    for _ in range(8):
        standing.take(True, "")
    assert standing.status == HEALTHY


def test_after_a_recovery_the_outage_does_not_count_again() -> None:
    standing = after("+" * 10 + "-" * 90 + "++")
    assert (standing.status, standing.rate()) == (HEALTHY, 1.0)
    standing.take(False, "refused")
    assert standing.status == HEALTHY


def test_the_reason_says_what_a_person_wants_to_know() -> None:
    assert after("").reason == "not checked yet"
    assert after("-").reason == "no check passed yet: refused"
    assert after("+").reason == "checks pass"
    assert after("+-").reason == "a check failed: refused"
    assert after("+---").reason == "3 checks in a row failed: refused"
    assert after("+---++").reason == "2 checks in a row passed"
    assert after("+-" * 5).reason == "50% of the last 10 checks passed"


def test_take_tells_a_change_of_status_and_nothing_else() -> None:
    standing = Standing(2, 2, 100)
    assert [standing.take(result == "+", "x") for result in "+--+-++"] == [True, False, True, False, False, False, True]


@given(st.lists(st.booleans(), max_size=300), st.integers(1, 5), st.integers(1, 5), st.integers(5, 50))
def test_whatever_comes_down_means_down_and_rise_good_ones_end_it(results: list[bool], rise: int, fall: int, window: int) -> None:
    standing = Standing(rise, fall, window)
    for ok in results:
        before = standing.status
        changed = standing.take(ok, "x")
        assert changed == (standing.status != before)
        assert len(standing.results) <= window
        if standing.failures >= fall:
            assert standing.status == DOWN
        if before == DOWN and standing.status != DOWN:
            assert standing.successes >= rise
    for _ in range(max(rise, window)):
        standing.take(True, "")
    assert standing.status == HEALTHY


def test_one_good_result_will_do_once_there_is_a_sign_that_it_is_back() -> None:
    standing = after("----", rise=5)
    standing.one_will_do()
    assert standing.take(True, "")
    assert standing.status == HEALTHY
    standing = after("----", rise=5)
    standing.one_will_do()
    standing.take(False, "refused")
    for _ in range(4):
        assert not standing.take(True, "")
    assert standing.take(True, "")


@pytest.mark.parametrize("results", ["+", "+-", "+" * 9 + "-", "+-" * 20, "+" * 300, "+---", "+---+", "--"])
def test_who_takes_over_stands_where_the_last_one_stood(results: str) -> None:
    last = after(results)
    restored = Standing(2, 3, 100)
    restored.restore(last.status, last.reason, last.failures, last.successes, last.rate(), len(results))
    assert (restored.status, restored.reason) == (last.status, last.reason)
    for ok in (True, True, False, True, False, False):
        assert restored.take(ok, "refused") == last.take(ok, "refused")
        assert restored.status == last.status
