"""The circuits in shared memory: slots of routes, changes under a lock, and the ring of transitions."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from proxyd.store.circuits import CLOSED, HALF_OPEN, OPEN, SLOTS, CircuitBoard, CircuitSlot
from tests.support.waiting import wait_for

from .forks import in_processes, kill, living


@pytest.fixture
def board(tmp_path: Path) -> CircuitBoard:
    return CircuitBoard(str(tmp_path))


def test_a_new_slot_is_closed_and_clean(board: CircuitBoard) -> None:
    for slot in (0, 1, SLOTS - 1):
        assert board.state(slot, 5) == CLOSED
        assert board.clean(slot)
        assert board.read(slot, 5) == CircuitSlot(number=5)


def test_every_field_written_is_read_back(board: CircuitBoard) -> None:
    with board.changing(3, 1 << 40) as circuit:
        circuit.state, circuit.by_health, circuit.failures, circuit.successes, circuit.trials = OPEN, True, 1, 2, 3
        circuit.opened_at, circuit.last_failure, circuit.next_attempt = 4.5, 5.5, 6.5
        circuit.changed_at, circuit.trial_at, circuit.recovered_at = 7.5, 8.5, 9.5
    assert board.read(3, 1 << 40) == CircuitSlot(OPEN, True, 1, 2, 3, 1 << 40, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5)
    assert board.state(3, 1 << 40) == OPEN
    assert not board.clean(3)
    assert board.read(2, 1).state == board.read(4, 1).state == CLOSED


def test_who_looks_while_others_write_never_sees_an_open_circuit_closed(board: CircuitBoard, tmp_path: Path) -> None:
    board.move(3, 7, OPEN, "failures", 10.0)

    def write() -> object:
        own = CircuitBoard(str(tmp_path))

        def on() -> None:
            while True:
                with own.changing(3, 7) as circuit:
                    circuit.failures += 1

        threading.Thread(target=on, daemon=True).start()
        return own

    with living(write):
        wait_for(lambda: board.read(3, 7).failures > 10)
        assert {board.state(3, 7) for _ in range(200_000)} == {OPEN}


def test_a_slot_that_another_route_left_behind_starts_afresh(board: CircuitBoard) -> None:
    board.move(3, 1, OPEN, "failures", 10.0)
    assert board.state(3, 2) == CLOSED
    assert board.read(3, 2) == CircuitSlot(number=2)
    with board.changing(3, 2) as circuit:
        circuit.failures = 1
    assert board.read(3, 2).failures == 1
    assert board.state(3, 1) == CLOSED


def test_a_forgotten_slot_is_as_new(board: CircuitBoard) -> None:
    board.move(3, 1, OPEN, "failures", 10.0)
    board.forget(3)
    assert board.clean(3)
    assert board.read(3, 1) == CircuitSlot(number=1)


def test_a_change_that_fails_halfway_changes_nothing(board: CircuitBoard) -> None:
    with pytest.raises(ZeroDivisionError), board.changing(3, 1) as circuit:
        circuit.failures = 1 // 0
    assert board.clean(3)
    assert in_processes(1, lambda number: board.move(3, 1, OPEN, "reset", 1.0)) == [True]


def test_moves_set_instants_and_are_noted(board: CircuitBoard) -> None:
    assert board.move(3, 1, OPEN, "health", 10.0, by_health=True)
    assert not board.move(3, 1, OPEN, "health", 11.0, by_health=True)
    opened = board.read(3, 1)
    assert (opened.state, opened.by_health, opened.opened_at, opened.changed_at) == (OPEN, True, 11.0, 10.0)
    assert board.move(3, 1, HALF_OPEN, "health", 12.0)
    assert board.read(3, 1).recovered_at == 12.0
    assert not board.move(3, 1, OPEN, "health", 13.0, only_from=(CLOSED,))
    assert board.move(3, 1, CLOSED, "reset", 14.0)
    closed = board.read(3, 1)
    assert (closed.state, closed.failures, closed.opened_at, closed.by_health) == (CLOSED, 0, 0.0, False)
    assert [(item.sequence, item.number, item.at, item.before, item.after, item.reason) for item in board.transitions(0)] == [
        (1, 1, 10.0, CLOSED, OPEN, "health"), (2, 1, 12.0, OPEN, HALF_OPEN, "health"), (3, 1, 14.0, HALF_OPEN, CLOSED, "reset")]
    assert [item.sequence for item in board.transitions(2)] == [3]
    assert board.transitions(3) == []


def test_the_ring_keeps_the_last_8192_transitions(board: CircuitBoard) -> None:
    for number in range(8200):
        board.note(number, number, CLOSED, OPEN, "failures", float(number))
    found = board.transitions(0)
    assert [item.number for item in found] == list(range(8, 8200))
    assert board.sequence == 8200


def test_no_change_of_any_process_is_lost(tmp_path: Path) -> None:
    def work(number: int) -> None:
        board = CircuitBoard(str(tmp_path))
        for _ in range(500):
            with board.changing(9, 1) as circuit:
                circuit.failures += 1
            board.note(number, number, CLOSED, OPEN, "failures", 1.0)

    in_processes(4, work)
    board = CircuitBoard(str(tmp_path))
    assert board.read(9, 1).failures == 2000
    assert sorted(item.number for item in board.transitions(0)) == [number for number in range(4) for _ in range(500)]


def test_a_process_killed_in_the_middle_of_a_change_blocks_nobody(tmp_path: Path) -> None:
    board = CircuitBoard(str(tmp_path))

    def enter() -> object:
        own = CircuitBoard(str(tmp_path))
        change = own.changing(9, 1)
        change.__enter__().failures = 99
        return own, change

    with living(enter) as pid:
        kill(pid)
        with board.changing(9, 1) as circuit:
            circuit.failures += 1
    assert board.read(9, 1).failures == 1
