"""Waiting for the workers: one look at the board for all who wait."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import gevent
import pytest

from proxyd.registry.arrival import Arrival
from proxyd.store.memory.board import Board, WorkerState
from tests.store.memory.forks import living
from tests.support.waiting import patience


class Counted(Board):
    """A board that counts how often it was looked at."""

    looks = 0

    def workers(self) -> list[WorkerState]:
        self.looks += 1
        return super().workers()


@pytest.fixture
def board(tmp_path: Path) -> Counted:
    return Counted(str(tmp_path))


def worker(folder: Path) -> Board:
    """One that routes by the first version, and by the second when it gets USR1."""
    own = Board(str(folder))
    own.join(1.0)
    own.report(1, 1.0)
    signal.signal(signal.SIGUSR1, lambda number, frame: own.report(2, 1.0))
    return own


def soon() -> float:
    return time.monotonic() + patience(5.0)


def test_without_workers_nobody_waits(board: Counted) -> None:
    board.post(7)
    assert Arrival(board).wait(7, time.monotonic()) is None


def test_all_go_on_when_the_last_worker_has_their_version(board: Counted, tmp_path: Path) -> None:
    arrival = Arrival(board)
    with living(lambda: worker(tmp_path)) as first, living(lambda: worker(tmp_path)) as second:
        board.post(2)
        assert arrival.wait(1, time.monotonic()) is None
        waiting = [gevent.spawn(arrival.wait, 2, soon()) for _ in range(50)]
        os.kill(first, signal.SIGUSR1)
        while [state.version for state in board.workers()] != [2, 1]:
            gevent.sleep(0.001)
        assert not any(greenlet.ready() for greenlet in waiting)
        os.kill(second, signal.SIGUSR1)
        assert [greenlet.get(timeout=patience(5.0)) for greenlet in waiting] == [None] * 50


def test_who_waits_in_vain_is_told_who_is_behind(board: Counted, tmp_path: Path) -> None:
    arrival = Arrival(board)
    with living(lambda: worker(tmp_path)) as pid:
        board.post(2)
        others = gevent.spawn(arrival.wait, 2, soon())
        gevent.sleep(0)
        behind = arrival.wait(2, time.monotonic() + 0.01)
        assert behind is not None and [(state.pid, state.version) for state in behind] == [(pid, 1)]
        os.kill(pid, signal.SIGUSR1)
        assert others.get(timeout=patience(5.0)) is None


def test_hundreds_who_wait_look_no_more_often_than_one(board: Counted, tmp_path: Path) -> None:
    arrival = Arrival(board)
    with living(lambda: worker(tmp_path)):
        board.post(2)
        board.looks, began = 0, time.monotonic()
        waiting = [gevent.spawn(arrival.wait, 2, soon()) for _ in range(300)]
        while board.looks < 20:
            gevent.sleep(0.001)
        assert board.looks <= (time.monotonic() - began) * 1000 + 2, "a look each millisecond, and the first one's own"
        gevent.killall(waiting)


def test_a_worker_beyond_what_was_posted_has_another_databases_table(board: Counted, tmp_path: Path) -> None:
    with living(lambda: worker(tmp_path)) as pid:
        board.post(1)
        os.kill(pid, signal.SIGUSR1)
        while board.workers()[0].version != 2:
            gevent.sleep(0.001)
        behind = Arrival(board).wait(1, time.monotonic())
        assert behind is not None and behind[0].pid == pid
