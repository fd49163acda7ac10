"""What a worker knows of an upstream: its budget of retries."""

from __future__ import annotations

from proxyd.proxy.core.upstreams import RETRIES_AT_MOST, RETRY_COST, UpstreamState


def test_five_requests_pay_for_a_retry() -> None:
    state = UpstreamState()
    while state.spend_retry():
        pass
    for _ in range(4):
        state.retry_budget += 1
        assert not state.spend_retry()
    state.retry_budget += 1
    assert state.spend_retry()
    assert state.retry_budget == 0


def test_there_are_five_retries_at_first_and_a_hundred_at_most() -> None:
    state = UpstreamState()
    spent = 0
    while state.spend_retry():
        spent += 1
    assert spent == 5
    assert RETRIES_AT_MOST // RETRY_COST == 100
