"""What a piece of work takes of the processor, on a machine that others use, too."""

from __future__ import annotations

import time
from collections.abc import Callable


def least(work: Callable[[], object], runs: int = 7, enough: float = 0.0) -> float:
    """The shortest of some runs, in seconds of this thread: what others do meanwhile does not count. One that takes less than `enough` is
    the last."""
    shortest = float("inf")
    for _ in range(runs):
        began = time.thread_time()
        work()
        shortest = min(shortest, time.thread_time() - began)
        if shortest < enough:
            break
    return shortest
