"""The retry budget, the backoff, and what an option's value names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.proxy.retry import SHARE, Budget, _delay, _wanted

SAMPLES = 400


def spent(budget: Budget, now: float) -> int:
    """Retries taken out until there are no more."""
    taken = 0
    while budget.withdraw(now):
        taken += 1
        assert taken < 10_000
    return taken


def test_a_new_route_may_retry_a_few_times_without_any_traffic() -> None:
    assert spent(Budget(100.0), 100.0) == 5


def test_an_empty_budget_gains_one_retry_a_second_up_to_five() -> None:
    budget = Budget(100.0)
    assert spent(budget, 100.0) == 5
    assert not budget.available(100.9)
    assert budget.withdraw(101.0)
    assert not budget.available(101.0)
    assert spent(budget, 1000.0) == 5


def test_looking_often_does_not_slow_the_gain() -> None:
    budget = Budget(100.0)
    spent(budget, 100.0)
    looks = [budget.available(100.0 + step / 64) for step in range(65)]
    assert looks.count(True) == 1
    assert looks[-1]


def test_requests_earn_a_fifth_of_a_retry_each() -> None:
    budget = Budget(100.0)
    spent(budget, 100.0)
    for _ in range(100):
        budget.deposit()
    assert spent(budget, 100.0) == pytest.approx(100 * SHARE, abs=1)


def test_savings_from_quiet_times_are_bounded() -> None:
    budget = Budget(100.0)
    for _ in range(100_000):
        budget.deposit()
    assert spent(budget, 100.0) == 100


def test_a_full_budget_does_not_grow_or_shrink_with_time() -> None:
    budget = Budget(100.0)
    for _ in range(100):
        budget.deposit()
    assert budget.available(5000.0)
    assert spent(budget, 5000.0) == 25


def test_time_spent_above_the_floor_is_not_paid_out_when_the_budget_falls_below_it() -> None:
    budget = Budget(100.0)
    for _ in range(5):
        budget.deposit()
    # Six tokens: an hour passes while nothing is to be gained, then all of them go at one moment.
    assert spent(budget, 3700.0) == 6


def test_of_a_backend_that_always_fails_the_load_grows_by_a_fifth_at_most() -> None:
    budget, retries, requests = Budget(0.0), 0, 10_000
    for number in range(requests):
        budget.deposit()
        for _ in range(2):
            retries += budget.withdraw(number / 1000)
    assert retries <= requests * SHARE + 5 + 10 + 1


@given(st.lists(st.tuples(st.booleans(), st.floats(0.0, 3.0)), max_size=60))
def test_retries_never_exceed_what_requests_and_time_brought(steps: list[tuple[bool, float]]) -> None:
    budget, now, requests, retries = Budget(0.0), 0.0, 0, 0
    for comes, later in steps:
        now += later
        if comes:
            budget.deposit()
            requests += 1
        else:
            retries += budget.withdraw(now)
        assert retries <= 5 + requests * SHARE + now + 1e-6


# -- the delay


def bounds(backoff: str, attempts: int, initial: float = 0.05, longest: float = 2.0) -> tuple[float, float]:
    found = [_delay(backoff, initial, longest, attempts) for _ in range(SAMPLES)]
    return min(found), max(found)


def test_without_backoff_there_is_no_delay() -> None:
    assert bounds("none", 1) == bounds("none", 9) == (0.0, 0.0)


@pytest.mark.parametrize("attempts", [1, 2, 9])
def test_a_constant_backoff_has_the_same_bound_each_time(attempts: int) -> None:
    least, most = bounds("constant", attempts)
    assert 0.0 <= least < 0.005
    assert 0.045 < most <= 0.05


@pytest.mark.parametrize(("attempts", "bound"), [(1, 0.05), (2, 0.1), (3, 0.2), (4, 0.4), (7, 2.0), (10, 2.0)])
def test_an_exponential_backoff_doubles_its_bound_up_to_the_longest_delay(attempts: int, bound: float) -> None:
    least, most = bounds("exponential", attempts)
    assert 0.0 <= least < bound / 10
    assert bound * 0.9 < most <= bound


@given(st.sampled_from(("exponential", "constant", "none")), st.floats(0.0, 1e6), st.floats(0.0, 1e6), st.integers(1, 10))
def test_no_delay_is_negative_or_above_the_longest(backoff: str, initial: float, longest: float, attempts: int) -> None:
    assert 0.0 <= _delay(backoff, initial, longest, attempts) <= longest


# -- what is tried again


@pytest.mark.parametrize(("value", "causes", "codes"), [
    (("connection_refused", "reset"), {"connection_refused", "reset"}, set()),
    (("502", "503"), set(), {502, 503}),
    (("timeout", "500-502", "504"), {"timeout"}, {500, 501, 502, 504}),
    ((), set(), set()),
])
def test_an_options_value_names_causes_and_statuses(value: tuple[str, ...], causes: set[str], codes: set[int]) -> None:
    found_causes, found_codes = _wanted(value)
    assert set(found_causes) == causes
    assert set(found_codes) == codes
