"""What is open, over processes: a bound holds however many workers there are and however they end."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

from proxyd.store.memory.counts import ROUTES, HostCounts
from proxyd.store.memory.shared import WEBSOCKETS

from .forks import in_processes, kill, living


def joined(directory: Path, *routes: int) -> HostCounts:
    """A worker's view, with one WebSocket reserved for each of the routes."""
    opened = HostCounts(str(directory), WEBSOCKETS)
    opened.join()
    for number in routes:
        assert opened.reserve(number, 0)
    return opened


def test_a_limit_holds_for_one_process_and_a_released_place_is_free(tmp_path: Path) -> None:
    mine = joined(tmp_path)
    assert [mine.reserve(7, 2) for _ in range(3)] == [True, True, False]
    assert mine.reserve(8, 2), "another route has places of its own"
    mine.release(7)
    assert [mine.reserve(7, 2) for _ in range(2)] == [True, False]


def test_processes_that_reserve_at_once_get_the_limit_and_no_more(tmp_path: Path) -> None:
    gates = [multiprocessing.get_context("fork").Barrier(4)]

    def work(number: int) -> int:
        opened = joined(tmp_path)
        got = sum(opened.reserve(7, 100) for _ in range(60))
        # What a process has is free when it ends: all must still be there when the last one counts.
        gates[0].wait(10)
        return got

    assert sum(in_processes(4, work)) == 100


def test_those_of_a_killed_process_and_of_one_that_left_count_no_more(tmp_path: Path) -> None:
    mine = joined(tmp_path, 7)
    with living(lambda: joined(tmp_path, 7, 7, 8)) as other:
        assert not mine.reserve(7, 3)
        kill(other)
        assert [mine.reserve(7, 3) for _ in range(3)] == [True, True, False]
    with living(lambda: joined(tmp_path, 9)), living(lambda: joined(tmp_path, 9).leave()):
        assert [mine.reserve(9, 2) for _ in range(2)] == [True, False]


def test_the_row_of_a_killed_process_is_taken_over_empty(tmp_path: Path) -> None:
    with living(lambda: joined(tmp_path, 7)) as other:
        kill(other)
    with living(lambda: joined(tmp_path)):
        assert joined(tmp_path).reserve(7, 1)


def test_a_number_that_looks_like_parts_of_two_others_is_told_apart(tmp_path: Path) -> None:
    # 1 << 32 next to 1 has, across their border, the bytes of 1 << 32 again.
    with living(lambda: joined(tmp_path, 1 << 32, 1)):
        assert joined(tmp_path).reserve(1 << 33, 1)
        assert not joined(tmp_path).reserve(1, 1)


def test_with_more_routes_than_there_is_room_each_worker_counts_its_own(tmp_path: Path) -> None:
    mine = joined(tmp_path, *range(1, ROUTES + 1))
    late = ROUTES + 1
    assert [mine.reserve(late, 1) for _ in range(2)] == [True, False]
    mine.release(late)
    mine.release(1)
    assert mine.reserve(late, 1)
    with living(lambda: joined(tmp_path)):
        assert not in_processes(1, lambda number: joined(tmp_path).reserve(late, 1))[0], "the place of the first route is its own now"


def test_what_ends_after_its_worker_left_does_no_harm(tmp_path: Path) -> None:
    mine = joined(tmp_path, 7)
    mine.leave()
    mine.release(7)
    assert joined(tmp_path).reserve(7, 1)


def test_what_was_released_is_free_for_other_processes_too_whichever_route_came_first(tmp_path: Path) -> None:
    def reserved_and_released() -> HostCounts:
        opened = joined(tmp_path, 7, 8, 9)
        for number in (8, 9):
            opened.release(number)
        return opened

    mine = joined(tmp_path)
    with living(reserved_and_released):
        assert [mine.reserve(number, 1) for number in (7, 8, 9)] == [False, True, True]


def test_what_is_open_is_counted_in_a_file_that_takes_the_place_of_a_deleted_one(tmp_path: Path) -> None:
    mine = joined(tmp_path, 7, 7, 9)
    (tmp_path / WEBSOCKETS).unlink()
    mine.file.look()
    assert in_processes(1, lambda number: [joined(tmp_path).elsewhere(key) for key in (7, 8, 9)]) == [[2, 0, 1]]
    mine.release(7)
    assert in_processes(1, lambda number: joined(tmp_path).elsewhere(7)) == [1]
