"""The latency histogram: every latency has its bucket, and percentiles are near the truth."""

from __future__ import annotations

import math
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from proxyd.base.histogram import MAX_MICROSECONDS, bounds, bucket_of, percentile

MICRO = st.integers(0, MAX_MICROSECONDS)


@given(MICRO)
def test_a_latency_lies_within_the_bounds_of_its_bucket(micro: int) -> None:
    seconds = (micro + 0.5) / 1e6
    low, high = bounds(bucket_of(seconds))
    assert low <= seconds < high


@given(MICRO, MICRO)
def test_longer_latencies_never_have_lower_buckets(one: int, other: int) -> None:
    assert (one <= other) <= (bucket_of((one + 0.5) / 1e6) <= bucket_of((other + 0.5) / 1e6))


def test_buckets_follow_each_other_without_gap_or_overlap() -> None:
    last = bucket_of(MAX_MICROSECONDS / 1e6)
    for bucket in range(last):
        assert bounds(bucket)[1] == bounds(bucket + 1)[0]
    assert all((high - low) / low <= 1.000001 / 16 for low, high in map(bounds, range(16, last)))


def test_what_is_below_zero_or_beyond_all_falls_into_the_outer_buckets() -> None:
    assert bucket_of(-1.0) == bucket_of(0.0) == 0
    assert bucket_of(1e9) == bucket_of(MAX_MICROSECONDS / 1e6)


@given(st.lists(st.integers(0, 10**8), min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.57, 0.9, 0.95, 0.99, 0.999, 1.0]))
def test_a_percentile_is_within_the_promised_error(micros: list[int], share: float) -> None:
    buckets = Counter(bucket_of((micro + 0.5) / 1e6) for micro in micros)
    true = (sorted(micros)[max(1, math.ceil(round(share * len(micros), 9))) - 1] + 0.5) / 1e6
    assert abs(percentile(buckets, share) - true) <= max(0.032 * true, 0.6e-6)


def test_percentiles_of_nothing_are_zero() -> None:
    assert percentile({}, 0.5) == 0.0


@given(st.lists(MICRO, min_size=1), st.lists(MICRO, min_size=1))
def test_the_buckets_of_two_workers_add_up_to_those_of_all(one: list[int], other: list[int]) -> None:
    def of(micros: list[int]) -> Counter[int]:
        return Counter(bucket_of(micro / 1e6) for micro in micros)

    assert of(one) + of(other) == of(one + other)
