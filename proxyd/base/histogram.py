"""A mergeable latency histogram: log-linear buckets, 16 to each power of two microseconds.

A bucket is at most 1/16 as wide as its lower bound, and a percentile is reported as the middle of its bucket, so it is
within 3.2 % of the true value (or within half a microsecond below 16 us). Buckets of any number of workers add up.
"""

from __future__ import annotations

from collections.abc import Mapping

#: Latencies above this (about 19 hours) fall into the last bucket.
MAX_MICROSECONDS = (1 << 36) - 1


def bucket_of(seconds: float) -> int:
    """The bucket of a latency."""
    micro = int(seconds * 1e6)
    if micro < 16:
        return micro if micro > 0 else 0
    if micro > MAX_MICROSECONDS:
        micro = MAX_MICROSECONDS
    shift = micro.bit_length() - 5
    return (shift << 4) + (micro >> shift)


def bounds(bucket: int) -> tuple[float, float]:
    """Lower (included) and upper (excluded) bound of a bucket in seconds."""
    if bucket < 32:
        return bucket / 1e6, (bucket + 1) / 1e6
    shift = (bucket >> 4) - 1
    low = (16 + (bucket & 15)) << shift
    return low / 1e6, (low + (1 << shift)) / 1e6


def percentile(buckets: Mapping[int, int], share: float) -> float:
    """The latency in seconds that `share` (0 to 1) of the requests did not exceed; 0.0 without requests."""
    total = sum(buckets.values())
    if not total:
        return 0.0
    rank = max(1, -(-int(share * 10000) * total // 10000))
    seen = 0
    for bucket in sorted(buckets):
        seen += buckets[bucket]
        if seen >= rank:
            low, high = bounds(bucket)
            return (low + high) / 2
    return 0.0
