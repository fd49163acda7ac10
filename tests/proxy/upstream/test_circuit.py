"""The circuit breakers as the request path uses them, over processes that share a directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.proxy.core.upstreams import Upstream
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.store.memory.circuits import CircuitBoard, CircuitSlot
from proxyd.store.memory.transitions import CLOSED, HALF_OPEN, OPEN
from tests.proxy.build import pool_of, record, upstream
from tests.store.memory.forks import in_processes, kill, living

NOW = 1_700_000_000.0
#: The circuit timeout of `guarded`, in seconds.
TIMEOUT = 30.0


def guarded(number: int = 1, **options: str) -> Upstream:
    """An upstream with a circuit breaker that opens at the third failure."""
    return upstream(number, {"circuit_breaker": "true", "circuit_threshold": "3", "circuit_timeout": "30s", **options})


class Gate:
    """One process's circuits, and the board under them."""

    def __init__(self, directory: Path) -> None:
        self.board = CircuitBoard(str(directory))
        self.circuits = Circuits(self.board)

    def slot(self, guarded: Upstream) -> CircuitSlot:
        return self.board.read(guarded.slot, guarded.number)

    def fail(self, guarded: Upstream, times: int = 1, now: float = NOW) -> None:
        for _ in range(times):
            self.circuits.report(guarded, 0, False, now)

    def reasons(self) -> list[tuple[int, int, str]]:
        return [(item.before, item.after, item.reason) for item in self.board.transitions(0)]


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Gate]:
    found = Gate(tmp_path)
    yield found
    found.circuits.close()


def half_open(gate: Gate, up: Upstream, now: float = NOW) -> int:
    """Open the circuit and admit the first trial after its timeout, at `now`."""
    gate.fail(up, 3, now - TIMEOUT)
    return gate.circuits.admit(up, now)


# -- opening


def test_the_circuit_stays_closed_until_the_threshold_and_then_refuses(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 2)
    assert not gate.circuits.opened(up)
    assert gate.circuits.admit(up, NOW) == 0
    gate.fail(up)
    assert gate.circuits.opened(up)
    assert gate.circuits.admit(up, NOW) < 0
    assert not gate.circuits.usable(up, NOW)
    assert gate.circuits.retry_after(up, NOW + 10.0) == 20.0
    slot = gate.slot(up)
    assert (slot.opened_at, slot.last_failure, slot.next_attempt, slot.changed_at) == (NOW, NOW, NOW + TIMEOUT, NOW)


def test_a_success_in_between_starts_the_count_again(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 2)
    gate.circuits.report(up, 0, True, NOW)
    gate.fail(up, 2)
    assert not gate.circuits.opened(up)
    gate.fail(up)
    assert gate.circuits.opened(up)


def test_a_threshold_of_1_opens_at_the_first_failure(gate: Gate) -> None:
    up = guarded(circuit_threshold="1")
    gate.fail(up)
    assert gate.circuits.opened(up)


def test_without_the_option_failures_are_not_counted(gate: Gate) -> None:
    up = upstream(1)
    gate.fail(up, 1000)
    assert gate.board.clean(up.slot)


def test_one_upstreams_failures_are_not_anothers(gate: Gate) -> None:
    gate.fail(guarded(1), 3)
    assert not gate.circuits.opened(guarded(2))


def test_failures_further_apart_than_the_window_do_not_add_up(gate: Gate) -> None:
    up = guarded(circuit_window="10s")
    for number in range(6):
        gate.fail(up, now=NOW + 11.0 * number)
    assert not gate.circuits.opened(up)
    gate.fail(up, now=NOW + 65.0)
    gate.fail(up, now=NOW + 75.0)
    assert gate.circuits.opened(up)


def test_without_a_window_failures_add_up_however_far_apart(gate: Gate) -> None:
    up = guarded()
    for number in range(3):
        gate.fail(up, now=NOW + 86400.0 * number)
    assert gate.circuits.opened(up)


def test_failures_in_several_processes_open_the_circuit_in_all(tmp_path: Path) -> None:
    def work(number: int) -> int:
        own = Gate(tmp_path)
        own.fail(guarded(circuit_threshold="100"), 25)
        return own.slot(guarded()).failures

    gate = Gate(tmp_path)
    assert max(in_processes(4, work)) == 100
    assert gate.circuits.opened(guarded())
    assert in_processes(4, lambda _: Gate(tmp_path).circuits.admit(guarded(), NOW)) == [-1] * 4
    assert gate.reasons() == [(CLOSED, OPEN, "failures")]


@pytest.mark.parametrize("failures", [99, 100, 101, 400])
def test_the_count_over_processes_is_exact(tmp_path: Path, failures: int) -> None:
    up = guarded(circuit_threshold="100")
    in_processes(4, lambda number: Gate(tmp_path).fail(up, failures // 4 + (number < failures % 4)))
    gate = Gate(tmp_path)
    assert gate.circuits.opened(up) == (failures >= 100)
    assert len(gate.reasons()) == (failures >= 100)


# -- trials


@pytest.mark.parametrize("trials", [1, 3])
def test_only_as_many_trials_as_allowed_are_out_at_once_over_four_processes(tmp_path: Path, trials: int) -> None:
    up = guarded(circuit_half_open_requests=str(trials))
    gate = Gate(tmp_path)
    gate.fail(up, 3)

    def work(number: int) -> list[int]:
        own = Gate(tmp_path)
        return [own.circuits.admit(up, NOW + TIMEOUT) for _ in range(200)]

    admissions = [admission for found in in_processes(4, work) for admission in found]
    let_through = [admission for admission in admissions if admission >= 0]
    assert len(let_through) == trials
    assert all(admission > 0 for admission in let_through)
    assert gate.slot(up).trials == trials
    assert gate.reasons() == [(CLOSED, OPEN, "failures"), (OPEN, HALF_OPEN, "timeout")]


def test_a_trial_in_one_process_holds_back_the_others_until_its_outcome_is_known(tmp_path: Path) -> None:
    up = guarded(circuit_half_open_requests="1", circuit_success_threshold="2")
    gate = Gate(tmp_path)
    admission = half_open(gate, up)
    assert in_processes(2, lambda _: Gate(tmp_path).circuits.admit(up, NOW)) == [-1, -1]
    gate.circuits.report(up, admission, True, NOW + 1.0)
    assert sorted(in_processes(3, lambda _: Gate(tmp_path).circuits.admit(up, NOW + 1.0))) == [-1, -1, admission]


def test_the_first_trial_waits_for_the_timeout(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 3)
    assert gate.circuits.admit(up, NOW + 29.9) < 0
    assert gate.circuits.usable(up, NOW + TIMEOUT)
    assert gate.circuits.admit(up, NOW + TIMEOUT) > 0
    assert not gate.circuits.usable(up, NOW + TIMEOUT)


def test_a_good_trial_closes_the_circuit_for_every_process(tmp_path: Path) -> None:
    up, gate = guarded(), Gate(tmp_path)
    admission = half_open(gate, up)
    # The process that reports need not be the one that opened it.
    in_processes(1, lambda _: Gate(tmp_path).circuits.report(up, admission, True, NOW + 1.0))
    assert gate.circuits.admit(up, NOW + 1.0) == 0
    slot = gate.slot(up)
    assert (slot.state, slot.failures, slot.trials, slot.opened_at, slot.next_attempt) == (CLOSED, 0, 0, 0.0, 0.0)
    assert gate.circuits.recovered_at(up) == NOW + 1.0
    assert gate.reasons()[-1] == (HALF_OPEN, CLOSED, "trial_succeeded")
    assert gate.board.clean(up.slot)


def test_after_it_closed_the_count_to_the_threshold_starts_from_none(gate: Gate) -> None:
    up = guarded()
    gate.circuits.report(up, half_open(gate, up), True, NOW)
    gate.fail(up, 2)
    assert not gate.circuits.opened(up)
    gate.fail(up)
    assert gate.circuits.opened(up)


def test_a_failed_trial_opens_the_circuit_for_another_timeout(gate: Gate) -> None:
    up = guarded()
    gate.circuits.report(up, half_open(gate, up), False, NOW + 2.0)
    assert gate.slot(up).state == OPEN
    assert gate.slot(up).opened_at == NOW + 2.0
    assert gate.circuits.admit(up, NOW + 31.9) < 0
    assert gate.circuits.admit(up, NOW + 32.0) > 0
    assert gate.reasons() == [(CLOSED, OPEN, "failures"), (OPEN, HALF_OPEN, "timeout"), (HALF_OPEN, OPEN, "trial_failed"),
                              (OPEN, HALF_OPEN, "timeout")]


def test_as_many_good_trials_as_wanted_close_it_and_a_failure_starts_their_count_again(gate: Gate) -> None:
    up = guarded(circuit_success_threshold="3")
    now = NOW
    admission = half_open(gate, up, now)
    for ok in (True, True, False):
        gate.circuits.report(up, admission, ok, now)
        now += TIMEOUT
        admission = gate.circuits.admit(up, now)
        assert admission > 0
    for state in (HALF_OPEN, HALF_OPEN, CLOSED):
        gate.circuits.report(up, admission, True, now)
        assert gate.slot(up).state == state
        admission = gate.circuits.admit(up, now)


def test_a_trial_that_ended_without_a_word_about_the_upstream_makes_room_for_another(gate: Gate) -> None:
    up = guarded()
    admission = half_open(gate, up)
    assert gate.circuits.admit(up, NOW) < 0
    gate.circuits.cancel(up, admission)
    assert gate.slot(up).state == HALF_OPEN
    assert gate.circuits.admit(up, NOW) > 0


def test_cancelling_a_request_that_was_no_trial_changes_nothing(gate: Gate) -> None:
    up = guarded()
    half_open(gate, up)
    gate.circuits.cancel(up, 0)
    assert gate.slot(up).trials == 1


def test_an_outcome_from_before_the_circuit_changed_says_nothing(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 3, NOW - TIMEOUT)
    opened = gate.slot(up)
    gate.circuits.report(up, 0, True, NOW - 1.0)
    gate.circuits.report(up, 0, False, NOW - 1.0)
    assert gate.slot(up) == opened
    gate.circuits.admit(up, NOW)
    halfway = gate.slot(up)
    gate.circuits.report(up, 0, True, NOW)
    gate.circuits.report(up, 0, False, NOW)
    assert gate.slot(up) == halfway


def test_a_trial_of_an_earlier_half_open_stay_counts_for_nothing_in_a_later_one(gate: Gate) -> None:
    up = guarded(circuit_half_open_requests="2")
    late = half_open(gate, up)
    other = gate.circuits.admit(up, NOW)
    gate.circuits.report(up, other, False, NOW + 1.0)
    later = gate.circuits.admit(up, NOW + 1.0 + TIMEOUT)
    assert later != late
    before = gate.slot(up)
    gate.circuits.report(up, late, False, NOW + 40.0)
    gate.circuits.report(up, late, True, NOW + 40.0)
    gate.circuits.cancel(up, late)
    assert gate.slot(up) == before


def test_a_trial_that_nobody_reports_is_forgotten_once_its_request_would_be_over(tmp_path: Path) -> None:
    up = guarded(connect_timeout="5s", timeout="20s")
    gate = Gate(tmp_path)
    gate.fail(up, 3, NOW - TIMEOUT)

    def trial() -> Any:
        own = Gate(tmp_path)
        assert own.circuits.admit(up, NOW) > 0
        return own

    with living(trial):
        assert gate.circuits.admit(up, NOW + 29.0) < 0
        assert not gate.circuits.usable(up, NOW + 29.0)
        assert gate.circuits.usable(up, NOW + 31.0)
        admission = gate.circuits.admit(up, NOW + 31.0)
    assert admission > 0
    gate.circuits.report(up, admission, True, NOW + 32.0)
    assert not gate.circuits.opened(up)


@pytest.mark.parametrize("others", [0, 1, 20])
def test_the_trials_of_a_process_that_was_killed_are_free_at_once_and_no_others(tmp_path: Path, others: int) -> None:
    up = guarded(circuit_half_open_requests=str(2 + others), circuit_success_threshold="1000")
    gate = Gate(tmp_path)
    gate.fail(up, 3, NOW - TIMEOUT)

    def trials() -> Any:
        own = Gate(tmp_path)
        assert all(own.circuits.admit(up, NOW) > 0 for _ in range(2))
        return own

    with living(trials) as pid:
        assert all(gate.circuits.admit(up, NOW) > 0 for _ in range(others))
        assert gate.circuits.admit(up, NOW) < 0
        kill(pid)
        assert gate.circuits.usable(up, NOW)
        assert [gate.circuits.admit(up, NOW) > 0 for _ in range(3)] == [True, True, False]


# -- health checks, resets and slots


def test_a_circuit_that_a_health_check_opened_lets_nothing_through_however_long(gate: Gate) -> None:
    up = guarded()
    gate.board.move(up.slot, up.number, "health_down", NOW)
    assert gate.circuits.health_down(up)
    assert not gate.circuits.usable(up, NOW + 1e6)
    assert gate.circuits.admit(up, NOW + 1e6) < 0
    assert gate.circuits.retry_after(up, NOW) == 1.0


def test_a_health_check_takes_over_a_circuit_that_failures_opened(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 3)
    assert not gate.circuits.health_down(up)
    assert not gate.board.move(up.slot, up.number, "health_down", NOW + 1.0)
    assert gate.circuits.health_down(up)
    assert gate.circuits.admit(up, NOW + TIMEOUT) < 0


@pytest.mark.parametrize(("ok", "state"), [(True, CLOSED), (False, OPEN)])
def test_after_health_half_opened_it_a_request_decides(gate: Gate, ok: bool, state: int) -> None:
    up = guarded()
    gate.board.move(up.slot, up.number, "health_down", NOW)
    gate.board.move(up.slot, up.number, "health_recovered", NOW + 5.0)
    admission = gate.circuits.admit(up, NOW + 6.0)
    assert admission > 0
    assert gate.circuits.admit(up, NOW + 6.0) < 0
    gate.circuits.report(up, admission, ok, NOW + 7.0)
    slot = gate.slot(up)
    assert (slot.state, slot.by_health) == (state, False)
    assert gate.circuits.recovered_at(up) == NOW + (7.0 if ok else 5.0)
    assert (gate.circuits.admit(up, NOW + 7.0 + TIMEOUT) == 0) == ok


def test_health_drives_the_circuit_of_an_upstream_without_breaker_too(gate: Gate) -> None:
    up = upstream(1)
    gate.board.move(up.slot, up.number, "health_down", NOW)
    assert gate.circuits.admit(up, NOW) < 0
    gate.board.move(up.slot, up.number, "health_recovered", NOW + 5.0)
    gate.circuits.report(up, gate.circuits.admit(up, NOW + 5.0), True, NOW + 6.0)
    assert gate.circuits.admit(up, NOW + 6.0) == 0


def test_a_reset_forgets_failures_successes_and_trials_and_starts_slowly(gate: Gate) -> None:
    up = guarded(circuit_success_threshold="2")
    half_open(gate, up)
    assert gate.board.move(up.slot, up.number, "reset", NOW + 1.0)
    slot = gate.slot(up)
    assert (slot.state, slot.failures, slot.successes, slot.trials, slot.opened_at) == (CLOSED, 0, 0, 0, 0.0)
    gate.fail(up, 3)
    assert gate.board.move(up.slot, up.number, "reset", NOW + 2.0)
    assert gate.circuits.recovered_at(up) == NOW + 2.0


def test_a_reset_of_a_closed_circuit_forgets_its_failures_and_is_no_transition(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 2)
    assert not gate.board.move(up.slot, up.number, "reset", NOW)
    assert gate.board.clean(up.slot)
    assert gate.reasons() == []


def test_a_move_from_another_state_than_those_named_does_nothing(gate: Gate) -> None:
    up = guarded()
    gate.fail(up, 2)
    before = gate.slot(up)
    assert not gate.board.move(up.slot, up.number, "health_recovered", NOW)
    assert gate.slot(up) == before


def test_a_move_in_one_process_is_seen_in_all(tmp_path: Path) -> None:
    up = guarded()
    in_processes(1, lambda _: Gate(tmp_path).board.move(up.slot, up.number, "health_down", NOW))
    assert in_processes(2, lambda _: Gate(tmp_path).circuits.health_down(up)) == [True, True]


def test_of_several_processes_that_move_a_circuit_alike_one_makes_the_transition(tmp_path: Path) -> None:
    up = guarded()
    assert sorted(in_processes(4, lambda _: Gate(tmp_path).board.move(up.slot, up.number, "health_down", NOW))) == [False] * 3 + [True]
    assert Gate(tmp_path).reasons() == [(CLOSED, OPEN, "health_down")]


def test_a_route_that_got_anothers_slot_starts_closed_and_without_failures(gate: Gate) -> None:
    old = guarded(1, circuit_threshold="5")
    new = upstream(2, {"circuit_breaker": "true", "circuit_threshold": "3"}, slot=old.slot)
    gate.fail(old, 4)
    gate.board.claim(new.slot, new.number)
    gate.fail(new, 2)
    assert not gate.circuits.opened(new)
    gate.fail(new)
    assert gate.circuits.opened(new)
    assert not gate.circuits.opened(old)


def test_what_a_route_that_is_gone_reports_late_leaves_its_slots_next_route_alone(gate: Gate) -> None:
    old = guarded(1, circuit_threshold="1")
    new = upstream(2, {"circuit_breaker": "true", "circuit_threshold": "3"}, slot=old.slot)
    trial = half_open(gate, old)
    gate.board.claim(new.slot, new.number)
    gate.fail(new, 3)
    before = gate.slot(new)
    for ok in (True, False):
        gate.circuits.report(old, 0, ok, NOW)
        gate.circuits.report(old, trial, ok, NOW)
    gate.circuits.cancel(old, trial)
    assert gate.circuits.admit(old, NOW) == 0
    assert gate.slot(new) == before
    assert before.state == OPEN


def test_successes_of_a_healthy_upstream_write_nothing(gate: Gate, tmp_path: Path) -> None:
    up = guarded()
    file = next(path for path in tmp_path.iterdir() if path.name == "proxyd.circuits")
    with open(file, "rb") as opened:
        before = os.pread(opened.fileno(), 1 << 20, 0)
        for _ in range(100):
            gate.circuits.report(up, gate.circuits.admit(up, NOW), True, NOW)
        assert os.pread(opened.fileno(), 1 << 20, 0) == before


# -- by rate, and by a share of the pool


def rated(**options: str) -> Upstream:
    """An upstream whose circuit opens at half of ten requests or more within 10 s, never by failures in a row."""
    return guarded(1, **{"circuit_threshold": "1000", "circuit_error_rate": "50", "circuit_min_requests": "10", **options})


def test_the_error_rate_opens_the_circuit_though_failures_never_come_in_a_row(gate: Gate) -> None:
    up = rated()
    for number in range(9):
        gate.circuits.report(up, 0, number % 2 == 1, NOW + number)
    assert not gate.circuits.opened(up), "five of nine: too few requests to say"
    gate.fail(up, now=NOW + 9.0)
    assert gate.circuits.opened(up)
    assert gate.reasons() == [(CLOSED, OPEN, "error_rate")]
    slot = gate.slot(up)
    assert (slot.opened_at, slot.next_attempt, slot.requests) == (NOW + 9.0, NOW + 9.0 + TIMEOUT, 0)


def test_a_rate_below_the_percentage_never_opens_it(gate: Gate) -> None:
    up = rated()
    for number in range(300):
        gate.circuits.report(up, 0, number % 5 in (1, 2, 3), NOW + number / 10)
    assert not gate.circuits.opened(up)


def test_the_rate_forgets_what_is_older_than_the_window(gate: Gate) -> None:
    up = rated(circuit_window="20s")
    gate.fail(up, 9)
    gate.fail(up, 9, NOW + 20.0)
    assert not gate.circuits.opened(up)
    gate.fail(up, 1, NOW + 31.0)
    assert gate.circuits.opened(up), "the half before counts"


def test_workers_count_the_rate_together(gate: Gate, tmp_path: Path) -> None:
    up = rated()
    for _ in range(2):
        in_processes(1, lambda _: Gate(tmp_path).fail(up, 5))
    assert gate.circuits.opened(up)


@pytest.mark.parametrize(("share", "most"), [("100", 4), ("50", 2), ("74", 2), ("75", 3), ("10", 1), ("0", 0)])
def test_no_more_of_a_pool_are_ejected_than_its_share(gate: Gate, share: str, most: int) -> None:
    options = {"circuit_breaker": "true", "circuit_threshold": "3", "circuit_error_rate": "50", "circuit_min_requests": "3",
               "max_ejected_percent": share}
    pool = pool_of(*(record(number, options) for number in range(1, 5)))
    for _ in range(5):
        for member in pool.members:
            gate.circuits.report(member, 0, False, NOW, pool)
    assert [gate.circuits.opened(member) for member in pool.members] == [number < most for number in range(4)]


def test_another_is_ejected_as_soon_as_one_is_back(gate: Gate) -> None:
    options = {"circuit_breaker": "true", "circuit_threshold": "2", "max_ejected_percent": "50"}
    pool = pool_of(record(1, options), record(2, options))
    first, second = pool.members
    for _ in range(3):
        for member in pool.members:
            gate.circuits.report(member, 0, False, NOW, pool)
    assert (gate.circuits.opened(first), gate.circuits.opened(second)) == (True, False)
    gate.board.move(first.slot, first.number, "reset", NOW)
    gate.circuits.report(second, 0, False, NOW, pool)
    assert (gate.circuits.opened(first), gate.circuits.opened(second)) == (False, True)
