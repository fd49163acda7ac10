"""What a check's result does to the circuit of a route, on the circuits in shared memory, at instants of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.config.options import RouteOptions
from proxyd.health.drive import CheckedRoute, drive, join, release, watch
from proxyd.health.thresholds import DOWN, HEALTHY, UNKNOWN, Standing
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, HALF_OPEN, OPEN
from tests.proxy.build import record

SLOT, NUMBER = 4, 7
#: Two times `health_rise` checks, `health_check_interval` apart, take this long.
OPTIONS = RouteOptions(health_rise=2, health_check_interval=10.0, connect_timeout=5.0, timeout=60.0)
LASTING = 40.0


@pytest.fixture
def circuits(tmp_path: Path) -> Iterator[CircuitBoard]:
    board = CircuitBoard(str(tmp_path))
    yield board
    board.close()


def watched(live: bool = True) -> CheckedRoute:
    return CheckedRoute(f"r{NUMBER}", SLOT, OPTIONS, live)


def standing(status: str, successes: int = 1) -> Standing:
    return Standing(2, 3, 20, status=status, successes=successes)


def reasons(circuits: CircuitBoard) -> list[str]:
    return [transition.reason for transition in circuits.transitions(0)]


def opened_by_requests(circuits: CircuitBoard, until: float) -> None:
    """As the breaker opens a circuit: requests may try again at `until`."""
    circuits.move(SLOT, NUMBER, "failures", 100.0)
    with circuits.changing(SLOT, NUMBER) as circuit:
        circuit.next_attempt = until


@pytest.mark.parametrize(("fields", "live"), [
    ({}, True), ({"enabled": False}, False), ({"maintenance_since": 5.0}, False), ({"enabled": False, "maintenance_since": 5.0}, False)])
def test_a_route_is_live_with_its_session_and_out_of_maintenance(fields: dict[str, Any], live: bool) -> None:
    made = watch(record(NUMBER, **fields), OPTIONS)
    assert made == CheckedRoute(f"r{NUMBER}", NUMBER, OPTIONS, live)
    assert made.number == NUMBER


def test_down_opens_the_circuit_of_a_live_route_and_of_no_other(circuits: CircuitBoard) -> None:
    drive(circuits, watched(live=False), standing(DOWN), False, 100.0)
    assert circuits.state(SLOT, NUMBER) == CLOSED
    drive(circuits, watched(), standing(DOWN), False, 101.0)
    circuit = circuits.read(SLOT, NUMBER)
    assert (circuit.state, circuit.by_health, circuit.opened_at) == (OPEN, True, 101.0)


def test_more_failures_while_it_is_down_change_nothing(circuits: CircuitBoard) -> None:
    for now in (100.0, 110.0, 120.0):
        drive(circuits, watched(), standing(DOWN), False, now)
    assert circuits.read(SLOT, NUMBER).opened_at == 100.0


def test_down_takes_over_a_circuit_that_requests_opened(circuits: CircuitBoard) -> None:
    opened_by_requests(circuits, until=130.0)
    drive(circuits, watched(), standing(DOWN), False, 110.0)
    assert circuits.read(SLOT, NUMBER).by_health
    # Its time is over, but health has to say so.
    drive(circuits, watched(), standing(HEALTHY), False, 140.0)
    assert circuits.state(SLOT, NUMBER) == OPEN


def test_back_from_down_the_circuit_is_half_open(circuits: CircuitBoard) -> None:
    drive(circuits, watched(), standing(DOWN), False, 100.0)
    drive(circuits, watched(), standing(HEALTHY), True, 110.0)
    assert circuits.state(SLOT, NUMBER) == HALF_OPEN
    assert reasons(circuits) == ["health_down", "health_recovered"]


@pytest.mark.parametrize(("now", "state"), [(129.9, OPEN), (130.0, HALF_OPEN)])
def test_a_circuit_that_requests_opened_is_half_opened_by_a_good_check_not_before_its_time(
        circuits: CircuitBoard, now: float, state: int) -> None:
    opened_by_requests(circuits, until=130.0)
    drive(circuits, watched(), standing(HEALTHY), True, now)
    assert circuits.state(SLOT, NUMBER) == state


@pytest.mark.parametrize(("successes", "after", "state"), [
    (4, LASTING, CLOSED), (3, LASTING, HALF_OPEN), (4, LASTING - 0.1, HALF_OPEN)])
def test_lasting_health_closes_a_half_open_circuit(circuits: CircuitBoard, successes: int, after: float, state: int) -> None:
    drive(circuits, watched(), standing(DOWN), False, 90.0)
    drive(circuits, watched(), standing(HEALTHY), True, 100.0)
    drive(circuits, watched(), standing(HEALTHY, successes), True, 100.0 + after)
    assert circuits.state(SLOT, NUMBER) == state


def test_a_trial_under_way_is_waited_for_as_long_as_a_request_may_take(circuits: CircuitBoard) -> None:
    drive(circuits, watched(), standing(DOWN), False, 90.0)
    drive(circuits, watched(), standing(HEALTHY), True, 100.0)
    with circuits.changing(SLOT, NUMBER) as circuit:
        circuit.trials, circuit.trial_at = 1, 139.0
    # Connecting may take 5 s, the answer 60 s, and a report of it 5 s more.
    for now, state in ((140.0, HALF_OPEN), (209.0, HALF_OPEN), (209.5, CLOSED)):
        drive(circuits, watched(), standing(HEALTHY, 9), True, now)
        assert circuits.state(SLOT, NUMBER) == state, now


def test_a_bad_check_moves_no_circuit_while_the_target_is_not_down(circuits: CircuitBoard) -> None:
    opened_by_requests(circuits, until=0.0)
    drive(circuits, watched(), standing(HEALTHY, 0), False, 200.0)
    assert circuits.state(SLOT, NUMBER) == OPEN


@pytest.mark.parametrize(("status", "state"), [(DOWN, OPEN), (UNKNOWN, OPEN), (HEALTHY, HALF_OPEN)])
def test_a_route_that_joins_a_check_gets_what_its_target_is_known_to_be(circuits: CircuitBoard, status: str, state: int) -> None:
    circuits.move(SLOT, NUMBER, "health_down", 100.0)
    join(circuits, watched(), standing(status), 110.0)
    assert circuits.state(SLOT, NUMBER) == state


def test_joining_opens_the_circuit_of_a_target_that_is_down_and_leaves_what_requests_opened(circuits: CircuitBoard) -> None:
    join(circuits, watched(), standing(DOWN), 100.0)
    assert circuits.read(SLOT, NUMBER).by_health
    circuits.move(SLOT, NUMBER, "reset", 110.0)
    opened_by_requests(circuits, until=120.0)
    join(circuits, watched(), standing(HEALTHY), 130.0)
    assert circuits.state(SLOT, NUMBER) == OPEN


def test_without_a_check_nothing_stays_open_that_a_check_held_and_the_rest_does(circuits: CircuitBoard) -> None:
    circuits.move(SLOT, NUMBER, "health_down", 100.0)
    release(circuits, record(NUMBER, slot=SLOT), 110.0)
    assert circuits.state(SLOT, NUMBER) == CLOSED and reasons(circuits)[-1] == "check_removed"
    opened_by_requests(circuits, until=200.0)
    release(circuits, record(NUMBER, slot=SLOT), 120.0)
    assert circuits.state(SLOT, NUMBER) == OPEN
