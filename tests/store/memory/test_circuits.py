"""The circuits in shared memory: slots of routes, changes under a lock, and the ring of transitions."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from proxyd.base import clock
from proxyd.store.memory.circuits import SLOTS, CircuitBoard, CircuitSlot
from proxyd.store.memory.transitions import CLOSED, HALF_OPEN, OPEN, TRANSITIONS
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
        circuit.counting_since, circuit.requests, circuit.failed = 10.5, 13, 14
        circuit.requests_before, circuit.failed_before = 15, 16
        circuit.holders = [11, 12]
    assert board.read(3, 1 << 40) == CircuitSlot(OPEN, True, 1, 2, 3, 1 << 40, 4.5, 5.5, 6.5, 7.5, 8.5, 9.5, 10.5, 13, 14, 15, 16, [11, 12])
    assert board.state(3, 1 << 40) == OPEN
    assert not board.clean(3)
    assert board.read(2, 1).state == board.read(4, 1).state == CLOSED


def test_who_looks_while_others_write_never_sees_an_open_circuit_closed(board: CircuitBoard, tmp_path: Path) -> None:
    board.move(3, 7, "failures", 10.0)

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


def test_a_slot_is_its_routes_until_another_claims_it(board: CircuitBoard) -> None:
    board.claim(3, 1)
    board.move(3, 1, "failures", 10.0)
    board.claim(3, 1)
    assert board.state(3, 1) == OPEN
    assert board.state(3, 2) == CLOSED
    assert board.recovered_at(3, 2) == 0.0
    with board.changing(3, 2) as circuit:
        circuit.state = HALF_OPEN
    assert not board.move(3, 2, "failures", 11.0)
    assert board.state(3, 1) == OPEN
    board.claim(3, 2)
    assert board.clean(3)
    assert board.read(3, 2) == CircuitSlot(number=2)
    assert board.state(3, 1) == CLOSED
    assert not board.move(3, 1, "failures", 12.0)
    assert board.clean(3)
    assert len(board.transitions(0)) == 1


def test_a_retired_slot_is_nobodys(board: CircuitBoard) -> None:
    board.move(3, 1, "failures", 10.0)
    board.retire(3, 2)
    assert board.state(3, 1) == OPEN
    board.retire(3, 1)
    assert board.clean(3)
    assert not board.move(3, 1, "failures", 11.0)
    board.renew(3, 1)
    assert board.move(3, 1, "failures", 12.0)
    board.renew(3, 1)
    assert board.clean(3)


@pytest.mark.parametrize("reason", ["failures", None])
def test_a_circuit_that_moves_to_another_slot_begins_closed_and_whoever_watches_is_told(board: CircuitBoard, reason: str | None) -> None:
    if reason:
        board.move(3, 1, reason, 10.0)
    board.renew(4, 1)
    board.replace(3, 4, 1, 11.0)
    assert board.state(3, 1) == board.state(4, 1) == CLOSED
    found = [(item.slot, item.before, item.after, item.reason) for item in board.transitions(0)][1:]
    assert found == ([(4, OPEN, CLOSED, "backend_changed")] if reason else [])


def test_busy_circuits_are_those_with_something_to_tell(board: CircuitBoard) -> None:
    assert board.busy() == []
    with board.changing(SLOTS - 1, 7) as circuit:
        circuit.failures = 1
    with board.changing(9, 8) as circuit:
        circuit.failures = 256 * 256
    board.move(0, 9, "health_down", 1.0)
    board.move(1, 10, "health_down", 1.0)
    board.move(1, 10, "reset", 2.0)
    board.renew(2, 11)
    board.retire(2, 11)
    assert board.busy() == [(0, 9), (9, 8), (SLOTS - 1, 7)]


@pytest.mark.parametrize("before", [CLOSED, OPEN, HALF_OPEN])
@pytest.mark.parametrize("reason", TRANSITIONS)
def test_a_change_is_made_from_the_states_of_its_rule_alone(board: CircuitBoard, before: int, reason: str) -> None:
    with board.changing(3, 1) as circuit:
        circuit.state = before
    rule = TRANSITIONS[reason]
    assert board.move(3, 1, reason, 5.0) == (before in rule.before and before != rule.after)
    found = board.read(3, 1)
    assert found.state == (rule.after if before in rule.before else before)
    assert found.by_health == (rule.held and before in rule.before)
    assert [item.reason for item in board.transitions(0)][before != CLOSED:] == ([reason] if found.state != before else [])


def test_a_change_that_fails_halfway_changes_nothing(board: CircuitBoard) -> None:
    with pytest.raises(ZeroDivisionError), board.changing(3, 1) as circuit:
        circuit.failures = 1 // 0
    assert board.clean(3)
    assert in_processes(1, lambda number: board.move(3, 1, "failures", 1.0)) == [True]


def test_moves_set_instants_and_are_noted(board: CircuitBoard) -> None:
    assert board.move(3, 1, "health_down", 10.0)
    assert not board.move(3, 1, "health_down", 11.0)
    opened = board.read(3, 1)
    assert (opened.state, opened.by_health, opened.opened_at, opened.changed_at) == (OPEN, True, 11.0, 10.0)
    assert board.move(3, 1, "health_recovered", 12.0)
    assert board.read(3, 1).recovered_at == 12.0
    assert not board.move(3, 1, "health_recovered", 13.0)
    assert board.move(3, 1, "reset", 14.0)
    closed = board.read(3, 1)
    assert (closed.state, closed.failures, closed.opened_at, closed.by_health) == (CLOSED, 0, 0.0, False)
    assert [(item.sequence, item.number, item.at, item.before, item.after, item.reason) for item in board.transitions(0)] == [
        (1, 1, 10.0, CLOSED, OPEN, "health_down"),
        (2, 1, 12.0, OPEN, HALF_OPEN, "health_recovered"), (3, 1, 14.0, HALF_OPEN, CLOSED, "reset")]
    assert [item.sequence for item in board.transitions(2)] == [3]
    assert board.transitions(3) == []


def test_the_ring_keeps_the_last_8192_transitions(board: CircuitBoard) -> None:
    for number in range(8200):
        board.move(number, number, "failures", float(number))
    found = board.transitions(0)
    assert [item.number for item in found] == list(range(8, 8200))
    assert board.sequence == 8200


def test_no_change_of_any_process_is_lost(tmp_path: Path) -> None:
    def work(number: int) -> None:
        board = CircuitBoard(str(tmp_path))
        for _ in range(500):
            with board.changing(9, 1) as circuit:
                circuit.failures += 1
            board.move(number + 10, number + 10, "failures", 1.0)
            board.move(number + 10, number + 10, "reset", 1.0)

    in_processes(4, work)
    board = CircuitBoard(str(tmp_path))
    assert board.read(9, 1).failures == 2000
    assert sorted(item.number for item in board.transitions(0)) == [number for number in range(10, 14) for _ in range(1000)]


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


@pytest.mark.parametrize("step", [0.0, -7200.0, 3600.0])
def test_after_a_restart_of_the_machine_a_wait_takes_what_was_left_of_it(
        board: CircuitBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    """Also where the time of day had been set before: the circuit opened by the old one."""
    now = clock.now()
    with board.changing(3, 7) as circuit:
        circuit.turn(OPEN, "failures", now)
        circuit.opened_at, circuit.next_attempt = now, now + 600
    unset = time.time
    monkeypatch.setattr(time, "time", lambda: unset() + step)
    board.keep_time()
    board.close()
    # The machine starts a minute later, and its clock begins anew. A process of the new boot takes the time of day as it is.
    monkeypatch.setattr(time, "time", lambda: unset() + step + 60)
    started = clock.boot_seconds()
    monkeypatch.setattr(clock, "BOOT_MARK", b"the next boot".ljust(16))
    monkeypatch.setattr(clock, "boot_seconds", lambda: time.clock_gettime(time.CLOCK_BOOTTIME) - started + 5)
    monkeypatch.setattr(clock, "_BEGIN", time.time() - clock.boot_seconds())
    found = CircuitBoard(str(tmp_path)).read(3, 7)
    assert found.next_attempt - clock.now() == pytest.approx(540, abs=2)
    assert clock.shown(found.opened_at) == pytest.approx(unset() + step, abs=2)


def test_processes_that_started_at_another_time_of_day_read_the_same_instants(
        board: CircuitBoard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = clock.now()
    board.move(3, 7, "failures", begun)
    monkeypatch.setattr(clock, "_BEGIN", clock._BEGIN + 3600)
    found = CircuitBoard(str(tmp_path))
    assert found.read(3, 7).changed_at == pytest.approx(begun + 3600, abs=0.002)
    assert found.transitions(0)[0].at == found.read(3, 7).changed_at


def test_open_circuits_and_transitions_outlive_a_deleted_file(board: CircuitBoard, tmp_path: Path) -> None:
    board.move(3, 7, "failures", 10.0)
    (tmp_path / "proxyd.circuits").unlink()
    assert board.file.look() == "deleted"
    assert board.state(3, 7) == OPEN
    found = CircuitBoard(str(tmp_path))
    assert found.read(3, 7) == board.read(3, 7)
    assert [item.slot for item in found.transitions(0)] == [3]
    found.move(3, 7, "reset", 11.0)
    assert board.state(3, 7) == CLOSED
