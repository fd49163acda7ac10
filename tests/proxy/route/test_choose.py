"""Which upstream takes a request, and the answer when none does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxyd.proxy.core.refusal import Refusal
from proxyd.proxy.core.upstreams import Pool, Upstream
from proxyd.proxy.route import balance
from proxyd.proxy.route.choose import choose
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.store.memory.circuits import CircuitBoard
from tests.proxy.build import pool_of, record

NOW = 1_700_000_000.0


@pytest.fixture
def board(tmp_path: Path) -> Iterator[CircuitBoard]:
    found = CircuitBoard(str(tmp_path))
    yield found
    found.close()


class Picker:
    """`choose` with this test's circuits."""

    def __init__(self, directory: Path) -> None:
        self.circuits = Circuits(CircuitBoard(str(directory)))

    def __call__(self, pool: Pool, client: str = "10.0.0.1", cookie: str | None = None, tried: tuple[str, ...] = (),
                 blocked: tuple[str, ...] = (), now: float = NOW) -> Upstream | Refusal:
        return choose(pool, client, cookie, tried, blocked, self.circuits, now)

    def chosen(self, pool: Pool, **how: Any) -> str:
        found = self(pool, **how)
        assert isinstance(found, Upstream), found
        return found.route_id

    def refused(self, pool: Pool, **how: Any) -> tuple[int, str, dict[str, str]]:
        found = self(pool, **how)
        assert isinstance(found, Refusal), found
        return found.status, found.code, dict(found.headers)

    def shares(self, pool: Pool, count: int = 2000, **how: Any) -> Counter[str]:
        found = (self(pool, **how) for _ in range(count))
        return Counter(item.route_id if isinstance(item, Upstream) else item.code for item in found)


@pytest.fixture
def pick(tmp_path: Path) -> Iterator[Picker]:
    found = Picker(tmp_path)
    yield found
    found.circuits.close()


DRAINING: dict[str, Any] = {"drain_started_at": NOW - 30.0, "drain_seconds": 60.0}
REFUSING = {"drain_alone": "refuse"}
DRAINED: dict[str, Any] = {"drain_started_at": NOW - 61.0, "drain_seconds": 60.0}
MAINTAINED: dict[str, Any] = {"maintenance_since": NOW - 5.0}


def test_a_single_sound_upstream_takes_everything(pick: Picker) -> None:
    assert pick.chosen(pool_of(record(1))) == "r1"


def test_the_first_members_policy_holds_for_the_pool(pick: Picker) -> None:
    pool = pool_of(record(1, {"balance": "ip_hash"}), record(2), record(3))
    for client in ("10.0.0.1", "10.0.0.2", "10.0.0.3"):
        wanted = balance.POLICIES["ip_hash"].choose(list(pool.members), client).route_id
        assert pick.shares(pool, 20, client=client) == {wanted: 20}


# -- disabled, maintenance, drain


def test_disabled_members_are_passed_over_and_all_disabled_is_a_503(pick: Picker) -> None:
    assert pick.shares(pool_of(record(1, enabled=False), record(2)), 50) == {"r2": 50}
    assert pick.refused(pool_of(record(1, enabled=False))) == (503, "route_disabled", {"Retry-After": "5"})
    both = pool_of(record(1, enabled=False), record(2, enabled=False))
    assert pick.refused(both) == (503, "route_disabled", {"Retry-After": "5"})


def test_members_in_maintenance_are_passed_over_while_others_serve(pick: Picker) -> None:
    assert pick.shares(pool_of(record(1, **MAINTAINED), record(2)), 50) == {"r2": 50}


def test_where_all_are_in_maintenance_those_let_through_are_served(pick: Picker) -> None:
    found = pick.shares(pool_of(record(1, **MAINTAINED), record(2, **MAINTAINED)), 50)
    assert set(found) == {"r1", "r2"}
    assert pick.shares(pool_of(record(1, **MAINTAINED), record(2, enabled=False)), 50) == {"r1": 50}


def test_a_member_in_maintenance_does_not_help_out_for_one_that_is_down(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(record(1, **MAINTAINED), record(2))
    board.move(2, 2, "health_down", NOW)
    assert pick.refused(pool) == (503, "upstream_down", {"Retry-After": "5"})


def test_half_way_through_its_drain_a_member_gets_half_its_share(pick: Picker) -> None:
    found = pick.shares(pool_of(record(1, {"balance": "round_robin"}, **DRAINING), record(2)), 4000)
    assert 850 < found["r1"] < 1150
    assert found["r1"] + found["r2"] == 4000


def test_a_draining_member_that_looks_idle_gets_no_more_than_its_share(pick: Picker) -> None:
    pool = pool_of(record(1, **DRAINING), record(2))
    pool.members[1].state.in_flight = 100
    assert 850 < pick.shares(pool, 4000)["r1"] < 1150


def test_a_draining_members_share_is_one_of_its_weight(pick: Picker) -> None:
    pool = pool_of(record(1, {"weight": "300"}, **DRAINING), record(2))
    assert 1350 < pick.shares(pool, 4000)["r1"] < 1650


@pytest.mark.parametrize("ahead", [0.0, 20.0, 29.0, 30.0])
def test_members_that_drain_one_after_the_other_leave_no_gap(pick: Picker, ahead: float) -> None:
    # The second has just begun, so it must take nearly all, wherever the first is.
    pool = pool_of(record(1, drain_started_at=NOW - 30.0 - ahead, drain_seconds=60.0), record(2, drain_started_at=NOW - 0.6,
                                                                                            drain_seconds=60.0))
    found = pick.shares(pool, 2000)
    assert found["draining"] < 60
    assert found["r2"] > found["r1"]


def test_replicas_that_drain_together_refuse_as_one_that_drains_alone(pick: Picker) -> None:
    found = pick.shares(pool_of(record(1, REFUSING, **DRAINING), record(2, REFUSING, **DRAINING)), 4000)
    assert 1850 < found["draining"] < 2150
    assert 850 < found["r1"] < 1150


def test_clients_hashed_to_a_draining_member_leave_it_one_by_one_and_for_good(pick: Picker) -> None:
    clients = [f"10.0.{number >> 8}.{number & 255}" for number in range(450)]

    def homes(elapsed: float) -> dict[str, set[str]]:
        pool = pool_of(record(1, {"balance": "ip_hash"}, drain_started_at=NOW - elapsed if elapsed else 0.0, drain_seconds=100.0),
                       record(2), record(3))
        return {client: set(pick.shares(pool, 2, client=client)) for client in clients}

    before = homes(0.0)
    own = {client for client in clients if before[client] == {"r1"}}
    left = own
    for elapsed in (10.0, 30.0, 50.0, 90.0):
        now = homes(elapsed)
        assert all(len(home) == 1 for home in now.values()), "a client is thrown to and fro"
        assert all(now[client] == before[client] for client in clients if client not in own)
        staying = {client for client in own if now[client] == {"r1"}}
        assert staying < left
        assert abs(len(staying) / len(own) - (1 - elapsed / 100)) < 0.15
        left = staying
    gone = homes(100.0)
    assert {home for client in own for home in gone[client]} == {"r2", "r3"}


@pytest.mark.parametrize(("elapsed", "low", "high"), [(0.0, 2000, 2000), (15.0, 1400, 1600), (45.0, 400, 600), (60.0, 0, 0)])
def test_a_lone_draining_upstream_refuses_a_growing_share_if_it_is_to(pick: Picker, elapsed: float, low: int, high: int) -> None:
    pool = pool_of(record(1, REFUSING, drain_started_at=NOW - elapsed, drain_seconds=60.0))
    assert low <= pick.shares(pool)["r1"] <= high


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize(("elapsed", "served"), [(0.0, 200), (59.9, 200), (60.1, 0)])
def test_members_that_nobody_takes_over_from_serve_until_their_drain_ends(pick: Picker, count: int, elapsed: float, served: int) -> None:
    pool = pool_of(*(record(number + 1, drain_started_at=NOW - elapsed, drain_seconds=60.0) for number in range(count)))
    found = pick.shares(pool, 200)
    assert sum(found[f"r{number + 1}"] for number in range(count)) == served
    assert found["draining"] == 200 - served


def test_the_refusal_of_a_draining_upstream_says_so(pick: Picker) -> None:
    assert pick.refused(pool_of(record(1, **DRAINED))) == (503, "draining", {"Retry-After": "5", "X-Drain-Mode": "true"})


def test_a_drained_member_gets_nothing(pick: Picker) -> None:
    assert pick.shares(pool_of(record(1, **DRAINED), record(2)), 200) == {"r2": 200}


def test_a_drain_of_no_length_is_over_at_once(pick: Picker) -> None:
    assert pick.shares(pool_of(record(1, drain_started_at=NOW - 0.001), record(2)), 200) == {"r2": 200}


# -- weights


def test_a_member_of_weight_0_serves_only_where_no_other_can(pick: Picker) -> None:
    pool = pool_of(record(1, {"weight": "0"}), record(2))
    assert pick.shares(pool, 50) == {"r2": 50}
    assert pick.chosen(pool, blocked=("r2",)) == "r1"


# -- what was tried


def test_members_not_yet_tried_come_first_and_then_all_again(pick: Picker) -> None:
    pool = pool_of(record(1), record(2), record(3))
    assert pick.shares(pool, 50, tried=("r1", "r3")) == {"r2": 50}
    assert set(pick.shares(pool, 50, tried=("r1", "r2", "r3"))) == {"r1", "r2", "r3"}
    assert set(pick.shares(pool, 50, tried=("r1", "r1", "r1", "r1"))) == {"r2", "r3"}


def test_a_lone_upstream_is_tried_again(pick: Picker) -> None:
    assert pick.chosen(pool_of(record(1)), tried=("r1",)) == "r1"


def test_blocked_members_are_never_asked(pick: Picker) -> None:
    assert pick.shares(pool_of(record(1), record(2)), 50, blocked=("r1",)) == {"r2": 50}
    status, code, _ = pick.refused(pool_of(record(1), record(2)), blocked=("r1", "r2"))
    assert (status, code) == (503, "circuit_open")


# -- circuits


def opened(board: CircuitBoard, number: int, next_attempt: float) -> None:
    board.move(number, number, "failures", NOW)
    with board.changing(number, number) as circuit:
        circuit.next_attempt = next_attempt


def test_an_open_circuit_is_passed_over_and_the_last_one_says_when_to_come_back(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(record(1), record(2))
    opened(board, 1, NOW + 20.0)
    assert pick.shares(pool, 50) == {"r2": 50}
    opened(board, 2, NOW + 12.3)
    assert pick.refused(pool) == (503, "circuit_open", {"Retry-After": "13"})
    assert pick.chosen(pool, now=NOW + 12.3) == "r2"


def test_a_lone_upstream_with_an_open_circuit_refuses(pick: Picker, board: CircuitBoard) -> None:
    opened(board, 1, NOW + 20.0)
    assert pick.refused(pool_of(record(1))) == (503, "circuit_open", {"Retry-After": "20"})


def test_a_half_open_circuit_with_all_its_trials_out_is_passed_over(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(record(1))
    board.move(1, 1, "failures", NOW)
    board.move(1, 1, "health_check_passed", NOW)
    assert pick.chosen(pool) == "r1"
    assert pick.circuits.admit(pool.members[0], NOW) > 0
    assert pick.refused(pool) == (503, "circuit_open", {"Retry-After": "1"})


def test_all_down_by_health_is_said_as_such(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(record(1), record(2))
    for number in (1, 2):
        board.move(number, number, "health_down", NOW)
    assert pick.refused(pool) == (503, "upstream_down", {"Retry-After": "5"})
    assert pick.refused(pool, now=NOW + 1e6)[1] == "upstream_down"


def test_an_unhealthy_member_does_not_promise_an_earlier_end_than_the_open_circuit(pick: Picker, board: CircuitBoard) -> None:
    board.move(1, 1, "health_down", NOW)
    opened(board, 2, NOW + 20.0)
    assert pick.refused(pool_of(record(1), record(2))) == (503, "circuit_open", {"Retry-After": "20"})


# -- slow start


def recovered(board: CircuitBoard, number: int) -> None:
    board.move(number, number, "failures", NOW - 5.0)
    board.move(number, number, "reset", NOW)


@pytest.mark.parametrize(("later", "low", "high"), [(0.0, 60, 150), (5.0, 900, 1100), (10.0, 2000, 2000)])
def test_a_recovered_members_share_grows_to_full(pick: Picker, board: CircuitBoard, later: float, low: int, high: int) -> None:
    pool = pool_of(*(record(number, {"balance": "round_robin", "slow_start": "10s"}) for number in (1, 2)))
    recovered(board, 1)
    assert low <= pick.shares(pool, 4000, now=NOW + later)["r1"] <= high


def test_a_recovering_member_that_looks_idle_gets_no_more_than_its_share(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(record(1), record(2))
    recovered(board, 1)
    pool.members[1].state.in_flight = 100
    assert 850 < pick.shares(pool, 4000, now=NOW + 5.0)["r1"] < 1150


@pytest.mark.parametrize("options", [{}, {"drain_alone": "refuse"}])
def test_the_warm_up_of_a_lone_member_that_drains_refuses_nothing(pick: Picker, board: CircuitBoard, options: dict[str, str]) -> None:
    pool = pool_of(record(1, {"slow_start": "100s", **options}, drain_started_at=NOW - 1.0, drain_seconds=300.0))
    recovered(board, 1)
    assert pick.shares(pool, 400)["r1"] >= 390


def test_a_clock_set_back_does_not_keep_a_member_at_the_beginning_of_its_slow_start(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(*(record(number, {"balance": "round_robin"}) for number in (1, 2)))
    recovered(board, 1)
    assert pick.shares(pool, 100, now=NOW - 3600.0) == {"r1": 50, "r2": 50}


def test_slow_start_can_be_turned_off(pick: Picker, board: CircuitBoard) -> None:
    pool = pool_of(*(record(number, {"balance": "round_robin", "slow_start": "0"}) for number in (1, 2)))
    recovered(board, 1)
    assert pick.shares(pool, 100) == {"r1": 50, "r2": 50}


def test_slow_start_never_refuses_where_there_is_nobody_else(pick: Picker, board: CircuitBoard) -> None:
    recovered(board, 1)
    assert pick.shares(pool_of(record(1)), 100) == {"r1": 100}
    assert pick.shares(pool_of(record(1), record(2, enabled=False)), 100) == {"r1": 100}
    assert pick.shares(pool_of(record(1), record(2, **DRAINED)), 100) == {"r1": 100}


# -- sticky clients


def sticky_pool(**first: Any) -> Pool:
    return pool_of(record(1, {"sticky_cookie": "replica"}, **first), record(2, {"sticky_cookie": "replica"}))


def cookie_for(pool: Pool, index: int) -> str:
    return f"a=b; replica={balance.identity(pool.members[index])}"


def test_a_sticky_client_stays_whatever_the_load(pick: Picker) -> None:
    pool = sticky_pool()
    pool.members[1].state.in_flight = 100
    assert pick.shares(pool, 50, cookie=cookie_for(pool, 1)) == {"r2": 50}


def test_an_unknown_cookie_chooses_as_if_there_were_none(pick: Picker) -> None:
    assert set(pick.shares(sticky_pool(), 50, cookie="replica=gone")) == {"r1", "r2"}


def test_without_the_option_the_cookie_means_nothing(pick: Picker) -> None:
    pool = pool_of(record(1), record(2))
    assert set(pick.shares(pool, 50, cookie=cookie_for(pool, 1))) == {"r1", "r2"}


def test_a_sticky_client_leaves_a_replica_that_failed_it(pick: Picker) -> None:
    pool = sticky_pool()
    assert pick.shares(pool, 50, cookie=cookie_for(pool, 1), tried=("r2",)) == {"r1": 50}


def test_a_sticky_client_leaves_a_replica_with_an_open_circuit(pick: Picker, board: CircuitBoard) -> None:
    pool = sticky_pool()
    opened(board, 2, NOW + 20.0)
    assert pick.shares(pool, 50, cookie=cookie_for(pool, 1)) == {"r1": 50}


def test_a_sticky_client_leaves_a_replica_in_maintenance(pick: Picker) -> None:
    pool = sticky_pool(**MAINTAINED)
    assert pick.shares(pool, 50, cookie=cookie_for(pool, 0)) == {"r2": 50}


def test_sticky_clients_stay_for_three_quarters_of_a_drain_and_then_leave_one_by_one(pick: Picker) -> None:
    clients = [f"10.0.0.{number}" for number in range(1, 201)]

    def staying(elapsed: float) -> set[str]:
        pool = sticky_pool(drain_started_at=NOW - elapsed, drain_seconds=100.0)
        return {client for client in clients
                if pick.shares(pool, 20, client=client, cookie=cookie_for(pool, 0))["r1"] == 20}

    assert staying(75.0) == set(clients)
    # Who has left does not come back while others still go there.
    pool = sticky_pool(drain_started_at=NOW - 82.0, drain_seconds=100.0)
    left = set(clients) - staying(82.0)
    assert {route for client in left for route in pick.shares(pool, 20, client=client, cookie=cookie_for(pool, 0))} == {"r2"}
    early, late = staying(82.0), staying(93.0)
    assert late < early < set(clients)
    assert 110 < len(early) < 170
    assert staying(100.0) == set()


def test_a_policy_that_is_added_to_a_scratch_copy_of_the_table_is_asked(pick: Picker, monkeypatch: pytest.MonkeyPatch) -> None:
    class Last:
        name = "last"
        by_client = False

        def choose(self, members: list[Upstream], client_ip: str) -> Upstream:
            return members[-1]

    made = pool_of(record(1), record(2), record(3))
    pool = replace(made, members=tuple(replace(member, options=replace(member.options, balance="last")) for member in made.members))
    monkeypatch.setattr(balance, "POLICIES", {**balance.POLICIES, "last": Last()})
    assert pick.shares(pool, 9) == {"r3": 9}
