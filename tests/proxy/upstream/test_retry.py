"""The retry budget, the backoff, and what an option's value names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.proxy.core.upstreams import UpstreamState
from proxyd.proxy.upstream.retry import _delay, _wanted

SAMPLES = 400


def spent(state: UpstreamState) -> int:
    """Retries taken out until there are no more."""
    taken = 0
    while state.spend_retry():
        taken += 1
        assert taken < 10_000
    return taken


def test_a_new_route_may_retry_a_few_times_without_any_traffic() -> None:
    assert spent(UpstreamState()) == 5


def test_an_empty_budget_gains_one_retry_with_every_fifth_request() -> None:
    state = UpstreamState()
    spent(state)
    seen = []
    for _ in range(10):
        state.retry_budget += 1
        seen.append(state.spend_retry())
    assert seen == [False] * 4 + [True] + [False] * 4 + [True]


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
