"""The table of a circuit's changes of state, held against what every such table must be."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import BY_REQUEST, CLOSED, HALF_OPEN, OPEN, STATE_NAMES, TRANSITIONS

STATES = (CLOSED, OPEN, HALF_OPEN)


def test_states_are_named_in_the_order_of_their_numbers_and_shared_memory_of_zeros_is_closed() -> None:
    assert [STATE_NAMES[state] for state in STATES] == ["closed", "open", "half_open"]
    assert CLOSED == 0 and len(STATE_NAMES) == len(set(STATES)) == 3


def test_every_change_that_requests_make_is_in_the_table_under_its_name() -> None:
    assert {name: (before, after) for (before, after), name in BY_REQUEST.items()} == {
        "failures": (CLOSED, OPEN), "timeout": (OPEN, HALF_OPEN), "trial_succeeded": (HALF_OPEN, CLOSED), "trial_failed": (HALF_OPEN, OPEN)}
    for (before, after), name in BY_REQUEST.items():
        assert TRANSITIONS[name].before == (before,) and TRANSITIONS[name].after == after, name


def test_only_the_check_that_is_down_holds_a_circuit_and_it_can_do_so_from_everywhere() -> None:
    assert [name for name, rule in TRANSITIONS.items() if rule.held] == ["health_down"]
    assert set(TRANSITIONS["health_down"].before) == set(TRANSITIONS["reset"].before) == set(STATES)
    assert {name for name, rule in TRANSITIONS.items() if rule.after in rule.before} == {"health_down", "reset"}


def test_names_fit_into_the_ring_and_every_change_says_its_cause() -> None:
    assert all(name.isascii() and len(name) <= 32 and rule.cause for name, rule in TRANSITIONS.items())


@pytest.mark.parametrize("reason", TRANSITIONS)
@pytest.mark.parametrize("before", STATES)
def test_a_change_notes_its_instant_and_forgets_failures_unless_it_opens(tmp_path: Path, reason: str, before: int) -> None:
    board = CircuitBoard(str(tmp_path))
    with board.changing(0, 1) as circuit:
        circuit.turn(before, "prepared", 10.0)
        circuit.failures = 4
    rule = TRANSITIONS[reason]
    allowed = before in rule.before
    board.move(0, 1, reason, 20.0)
    after = board.read(0, 1)
    assert after.changed_at == (20.0 if allowed and before != rule.after else 10.0)
    assert after.recovered_at == (20.0 if allowed and before == OPEN != rule.after else 0.0)
    assert after.failures == (0 if allowed and rule.after != OPEN else 4)
    board.close()
