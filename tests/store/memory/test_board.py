"""The notice board: versions and live workers, whatever way the workers end."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from proxyd.store.memory import board as board_module
from proxyd.store.memory.board import Board
from tests.support.waiting import wait_for

from .forks import in_processes, kill, living


def worker(directory: Path, version: int = 0) -> Board:
    board = Board(str(directory))
    board.join(100.0)
    board.report(version, 101.0)
    return board


def test_a_posted_version_is_seen_by_all(tmp_path: Path) -> None:
    board = Board(str(tmp_path))
    assert board.version == 0
    board.post(1 << 40)
    assert in_processes(2, lambda number: Board(str(tmp_path)).version) == [1 << 40] * 2


def test_a_worker_that_reports_is_never_missing_from_the_list(tmp_path: Path) -> None:
    def report() -> object:
        own = worker(tmp_path, 7)

        def on() -> None:
            while True:
                own.report(7, 102.0)

        threading.Thread(target=on, daemon=True).start()
        return own

    board = Board(str(tmp_path))
    with living(report):
        assert {tuple(state.version for state in board.workers()) for _ in range(3000)} == {(7,)}


def test_the_live_workers_are_listed_with_what_they_reported(tmp_path: Path) -> None:
    board = Board(str(tmp_path))
    with living(lambda: worker(tmp_path, 7)) as first, living(lambda: worker(tmp_path, 8)) as second:
        found = board.workers()
        assert [(state.pid, state.version) for state in found] == [(first, 7), (second, 8)]
        assert [(state.slot, state.started, state.heartbeat) for state in found] == [(0, 100.0, 101.0), (1, 100.0, 101.0)]
        assert [state.pid for state in board.behind(8)] == [first]
        board.post(8)
        assert board.behind(7) == []


def test_a_worker_beyond_what_was_posted_is_behind_it_routes_by_another_database(tmp_path: Path) -> None:
    board = Board(str(tmp_path))
    with living(lambda: worker(tmp_path, 7)) as pid:
        board.post(2)
        assert [state.pid for state in board.behind(2)] == [pid]


def test_the_newest_version_is_the_posted_one_or_a_workers_whatever_has_overwritten_the_file(tmp_path: Path) -> None:
    board = Board(str(tmp_path))
    assert board.newest() == 0
    board.post(9)
    with living(lambda: worker(tmp_path, 7)):
        assert board.newest() == 9
        board.post(2)
        assert board.newest() == 7
        board.post((1 << 64) - 1)
        assert board.newest() == 7


def test_a_killed_worker_is_gone_at_once_and_its_slot_is_taken_again(tmp_path: Path) -> None:
    board = Board(str(tmp_path))
    with living(lambda: worker(tmp_path)) as first, living(lambda: worker(tmp_path)) as second:
        kill(first)
        assert [(state.slot, state.pid) for state in board.workers()] == [(1, second)]
        with living(lambda: worker(tmp_path)) as third:
            assert [(state.slot, state.pid) for state in board.workers()] == [(0, third), (1, second)]


def test_a_worker_that_starts_is_waited_for_from_its_joining_on(tmp_path: Path) -> None:
    board = Board(str(tmp_path))

    def joined() -> Board:
        own = Board(str(tmp_path))
        own.join(1.0)
        return own

    with living(joined) as pid:
        assert [(state.pid, state.version) for state in board.behind(1)] == [(pid, 0)]


def test_a_worker_that_leaves_is_waited_for_no_longer(tmp_path: Path) -> None:
    def left(number: int) -> bool:
        own = worker(tmp_path)
        own.leave()
        own.leave()
        return own._slot is None

    assert in_processes(1, left) == [True]
    assert Board(str(tmp_path)).workers() == []


def test_workers_that_join_at_once_get_a_slot_each(tmp_path: Path) -> None:
    joined = tmp_path / "joined"
    joined.mkdir()

    def work(number: int) -> int:
        board = Board(str(tmp_path))
        slot = board.join(1.0)
        (joined / str(number)).touch()
        while len(os.listdir(joined)) < 6:  # a slot is free again when its process ends: none may end before all joined
            os.sched_yield()
        return slot

    assert sorted(in_processes(6, work)) == [0, 1, 2, 3, 4, 5]


def test_a_host_with_all_slots_taken_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "MAX_WORKERS", 1)
    with living(lambda: worker(tmp_path)), pytest.raises(RuntimeError, match="more than 1 workers"):
        Board(str(tmp_path)).join(1.0)


def test_workers_that_take_clients_are_known_with_how_many_they_have(tmp_path: Path) -> None:
    def taking(count: int | None) -> Board:
        own = worker(tmp_path)
        own.connections(count)
        return own

    own = worker(tmp_path)
    with living(lambda: taking(5)), living(lambda: taking(3)), living(lambda: taking(None)):
        others = own.accepting(101.5)
        assert (len(others), own.fewest(others)) == (2, 3)
        assert own.accepting(105.0) == [], "they gave no sign of life for long"
        own.connections(1)
        own.report(2, 102.0)
        assert Board(str(tmp_path)).fewest([0]) == 1, "a report leaves the count alone"
    own.leave()


def test_on_a_board_that_was_deleted_all_are_again_when_they_have_looked(tmp_path: Path) -> None:
    master, mine = Board(str(tmp_path)), worker(tmp_path, 7)
    master.post(8)
    mine.connections(3)
    mine.count(55.0)
    assert master.settled()
    (tmp_path / "proxyd.board").unlink()
    assert not master.settled()
    assert master.file.look() == "deleted"
    assert (master.version, master.workers()) == (8, [])
    assert not master.settled(), "a worker may not have looked yet"
    assert mine.file.look() == "replaced"
    (slot, pid, version, started, heartbeat, counted), = in_processes(1, lambda number: [
        (state.slot, state.pid, state.version, state.started, state.heartbeat, state.counted)
        for state in Board(str(tmp_path)).workers()])[0]
    assert (pid, version, counted) == (os.getpid(), 7, 55.0)
    assert mine.version == 8
    other = Board(str(tmp_path))
    assert other.accepting(101.0) == [slot] and other.fewest([slot]) == 3
    wait_for(master.settled, 2)


def test_who_looks_first_takes_the_posted_version_along(tmp_path: Path) -> None:
    master, mine = Board(str(tmp_path)), worker(tmp_path, 7)
    master.post(8)
    (tmp_path / "proxyd.board").unlink()
    mine.file.look()
    assert mine.version == 8
    # A worker that started meanwhile knew nothing to take along.
    (tmp_path / "proxyd.board").unlink()
    newcomer = worker(tmp_path)
    assert newcomer.version == 0
    master.file.look()
    assert newcomer.version == 8
