"""The shared counters: exact over processes, true to their windows, and free of whoever dies."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from limits import RateLimitItemPerMinute
from limits.strategies import STRATEGIES

from proxyd.store.memory.ratelimits import _LOCKS, WAYS, SharedCounters
from tests.support.waiting import patience

from .forks import in_processes, kill, living

KINDS = ("fixed-window", "sliding-window-counter", "moving-window")
LIMIT, WINDOW = 100, 60.0


class Clock:
    """A clock that stands until it is set."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def counters(directory: Path, kind: str, clock: Callable[[], float], entries: int = 1024) -> SharedCounters:
    return SharedCounters(directory=str(directory), entries=entries, moving=kind == "moving-window", clock=clock)


def hit(storage: SharedCounters, kind: str, key: str = "k", limit: int = LIMIT, window: float = WINDOW) -> bool:
    if kind == "fixed-window":
        return storage.incr(key, window) <= limit
    if kind == "moving-window":
        return bool(storage.acquire_entry(key, limit, window))
    return bool(storage.acquire_sliding_window_entry(key, limit, window))


def hits(storage: SharedCounters, kind: str, count: int, **how: object) -> int:
    return sum(hit(storage, kind, **how) for _ in range(count))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_four_processes_together_pass_exactly_the_limit(kind: str, tmp_path: Path) -> None:
    def work(number: int) -> int:
        return hits(counters(tmp_path, kind, Clock(6000.0)), kind, 1000)

    passed = in_processes(4, work)
    assert sum(passed) == LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_keys_do_not_count_for_each_other(kind: str, tmp_path: Path) -> None:
    storage = counters(tmp_path, kind, Clock(6000.0))
    assert hits(storage, kind, 200, key="one") == hits(storage, kind, 200, key="two") == LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_counts_outlive_the_process_that_made_them(kind: str, tmp_path: Path) -> None:
    in_processes(1, lambda number: hits(counters(tmp_path, kind, Clock(6000.0)), kind, 60))
    assert hits(counters(tmp_path, kind, Clock(6001.0)), kind, 100) == 40


@pytest.mark.parametrize("kind", KINDS)
def test_a_holder_that_is_killed_stops_nobody(kind: str, tmp_path: Path) -> None:
    storage = counters(tmp_path, kind, Clock(6000.0))

    def enter() -> object:
        own = counters(tmp_path, kind, Clock(6000.0))
        own._locks[own._place("k")[0] % _LOCKS].__enter__()
        return own

    with living(enter) as pid:
        begun = time.monotonic()
        hits(storage, kind, 100, key="k")
        # Held by somebody who does nothing: waited for, but not for long, and once.
        assert 0.4 < time.monotonic() - begun < patience(1.0)
        storage.clear("k")
        kill(pid)
        begun = time.monotonic()
        assert hits(storage, kind, 200) == LIMIT
        assert time.monotonic() - begun < patience(0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_processes_killed_while_they_count_leave_counters_that_count(kind: str, tmp_path: Path) -> None:
    storage = counters(tmp_path, kind, Clock(6000.0))

    def enter() -> object:
        own = counters(tmp_path, kind, Clock(6000.0))

        def count() -> None:
            while True:
                hit(own, kind, key="k", limit=1_000_000_000)

        threading.Thread(target=count, daemon=True).start()
        return own

    for _ in range(20):
        with living(enter) as pid:
            time.sleep(0.005)
            kill(pid)
        storage.clear("k")
        assert hits(storage, kind, 150) == LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_after_two_windows_of_silence_the_whole_limit_is_there_again(kind: str, tmp_path: Path) -> None:
    clock = Clock(6000.0)
    storage = counters(tmp_path, kind, clock)
    assert hits(storage, kind, 200) == LIMIT
    clock.now += 2 * WINDOW
    assert hits(storage, kind, 200) == LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_a_clock_set_back_does_not_lock_anybody_out_for_good(kind: str, tmp_path: Path) -> None:
    clock = Clock(1_000_000.0)
    storage = counters(tmp_path, kind, clock)
    hits(storage, kind, 200)
    clock.now = 1000.0
    first = hits(storage, kind, 200)
    clock.now += 2 * WINDOW
    assert first + hits(storage, kind, 200) >= LIMIT


@pytest.mark.parametrize("kind", KINDS)
def test_clear_and_reset_forget(kind: str, tmp_path: Path) -> None:
    storage = counters(tmp_path, kind, Clock(6000.0))
    hits(storage, kind, 200)
    hits(storage, kind, 200, key="other")
    storage.clear("k")
    storage.clear("never there")
    assert hits(storage, kind, 200) == LIMIT
    assert hits(storage, kind, 200, key="other") == 0
    storage.reset()
    assert hits(storage, kind, 200, key="other") == LIMIT
    assert storage.check()


@pytest.mark.parametrize("kind", KINDS)
def test_when_a_set_is_full_the_longest_unused_key_goes(kind: str, tmp_path: Path) -> None:
    clock = Clock(6000.0)
    storage = counters(tmp_path, kind, clock, entries=WAYS)
    for number in range(WAYS):
        clock.now = 6000.0 + number
        hits(storage, kind, 200, key=f"k{number}")
    clock.now = 6010.0
    assert not hit(storage, kind, key="k0")
    clock.now = 6011.0
    assert hit(storage, kind, key="new")
    assert not hit(storage, kind, key="k0")
    assert hit(storage, kind, key="k1")


@pytest.mark.parametrize("kind", KINDS)
def test_the_strategies_of_the_limits_library_work_on_it(kind: str, tmp_path: Path) -> None:
    clock = Clock(6000.0)
    limiter = STRATEGIES[kind](counters(tmp_path, kind, clock))
    item = RateLimitItemPerMinute(3)
    assert [limiter.hit(item, "a") for _ in range(4)] == [True, True, True, False]
    assert limiter.get_window_stats(item, "a").remaining == 0
    assert limiter.get_window_stats(item, "b").remaining == 3
    assert not limiter.test(item, "a")
    limiter.clear(item, "a")
    assert limiter.hit(item, "a")


def test_a_fixed_window_begins_with_its_first_hit_and_ends_sharply(tmp_path: Path) -> None:
    clock = Clock(6030.0)
    storage = counters(tmp_path, "fixed-window", clock)
    assert hits(storage, "fixed-window", 150) == LIMIT
    assert (storage.get("k"), storage.get_expiry("k")) == (150, 6090.0)
    clock.now = 6089.9
    assert not hit(storage, "fixed-window")
    clock.now = 6090.0
    assert storage.get("k") == 0
    assert hits(storage, "fixed-window", 150) == LIMIT


def test_a_sliding_window_weighs_the_last_window_by_what_is_left_of_it(tmp_path: Path) -> None:
    clock = Clock(6000.0)
    storage = counters(tmp_path, "sliding-window-counter", clock)
    assert hits(storage, "sliding-window-counter", 150) == LIMIT
    assert storage.get_sliding_window("k", WINDOW) == (0, WINDOW, LIMIT, 2 * WINDOW)
    clock.now = 6075.0
    assert hits(storage, "sliding-window-counter", 150) == 25
    clock.now = 6090.0
    assert hits(storage, "sliding-window-counter", 150) == 25
    before, before_left, count, _ = storage.get_sliding_window("k", WINDOW)
    assert (before, before_left, count) == (100, 30.0, 50)


def test_a_moving_window_gives_back_what_is_older_than_the_window(tmp_path: Path) -> None:
    clock = Clock(6000.0)
    storage = counters(tmp_path, "moving-window", clock)
    assert hits(storage, "moving-window", 40) == 40
    clock.now = 6030.0
    assert hits(storage, "moving-window", 150) == 60
    start, used = storage.get_moving_window("k", LIMIT, WINDOW)
    assert used == LIMIT
    assert 6000.0 <= start <= 6000.0 + WINDOW / 63
    clock.now = start + WINDOW - 0.01
    assert hits(storage, "moving-window", 150) == 0
    clock.now = start + WINDOW + 0.01
    assert hits(storage, "moving-window", 150) == 40


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 20.0), min_size=1, max_size=150), st.floats(0.0, 60.0))
def test_no_moving_window_ever_holds_more_than_the_limit(tmp_path_factory: pytest.TempPathFactory, steps: list[float],
                                                        start: float) -> None:
    clock = Clock(6000.0 + start)
    storage = counters(tmp_path_factory.mktemp("moving"), "moving-window", clock, entries=WAYS)
    passed: list[float] = []
    for step in steps:
        clock.now += step
        if hit(storage, "moving-window", limit=5):
            passed.append(clock.now)
    for first, sixth in zip(passed, passed[5:], strict=False):
        assert sixth - first >= WINDOW - 1e-6


def test_a_burst_at_the_end_of_a_part_still_counts_just_before_it_is_a_window_old(tmp_path: Path) -> None:
    clock = Clock(6000.0)
    storage = counters(tmp_path, "moving-window", clock)
    for thousandth in range(0, 2000, 7):
        clock.now = 1_000_000.0 + thousandth / 1000
        key = str(thousandth)
        assert hits(storage, "moving-window", 150, key=key) == LIMIT
        clock.now += WINDOW - 0.001
        assert hits(storage, "moving-window", 150, key=key) == 0
        clock.now += 0.002 + WINDOW / 63
        assert hits(storage, "moving-window", 150, key=key) == LIMIT


def test_counts_outlive_a_deleted_file_and_its_locks_work(tmp_path: Path) -> None:
    ours, theirs = (SharedCounters(directory=str(tmp_path), entries=64) for _ in range(2))
    counter = ours.sliding("key")
    assert [counter.take(3, 60.0) for _ in range(2)] == [True, True]
    (tmp_path / "proxyd.limits").unlink()
    assert (ours.file.look(), theirs.file.look()) == ("deleted", "replaced")
    assert [theirs.sliding("key").take(3, 60.0), counter.take(3, 60.0)] == [True, False]
