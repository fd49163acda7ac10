"""Which side of a rollout a client is on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.proxy.core.upstreams import Pool, Upstream
from proxyd.proxy.route import balance
from proxyd.proxy.route.choose import choose
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.store.memory.circuits import CircuitBoard
from tests.proxy.build import pool_of, record

NOW = 1_700_000_000.0
CLIENTS = [f"10.0.{number // 256}.{number % 256}" for number in range(1000)]


@pytest.fixture
def circuits(tmp_path: Path) -> Iterator[Circuits]:
    board = CircuitBoard(str(tmp_path))
    yield Circuits(board)
    board.close()


def pool(share: float, old: dict[str, Any] | None = None, new: dict[str, Any] | None = None, **options: str) -> Pool:
    others = old or {}
    return pool_of(record(1, options, **others), record(2, options, **{"rollout": share, **(new or {})}), record(3, options, **others))


def taken(circuits: Circuits, found: Pool, clients: list[str] = CLIENTS, cookie: str | None = None, tried: tuple[str, ...] = (),
          blocked: tuple[str, ...] = ()) -> dict[str, str]:
    """The member that each client gets."""
    chosen = {}
    for client in clients:
        one = choose(found, client, cookie, tried, blocked, circuits, NOW)
        assert isinstance(one, Upstream), one
        chosen[client] = one.route_id
    return chosen


def got(chosen: dict[str, str]) -> set[str]:
    return {client for client, member in chosen.items() if member == "r2"}


@pytest.mark.parametrize("policy", ["least_conn", "round_robin", "ip_hash"])
def test_each_step_takes_its_share_of_the_clients_and_none_of_them_goes_back(circuits: Circuits, policy: str) -> None:
    before: set[str] = set()
    for share in (0.05, 0.25, 0.5, 0.9):
        found = pool(share, balance=policy)
        now = got(taken(circuits, found))
        assert before < now and abs(len(now) / len(CLIENTS) - share) < 0.05
        assert got(taken(circuits, found)) == now, "a client stays"
        assert set(taken(circuits, found).values()) == {"r1", "r2", "r3"}
        before = now


def test_who_stands_aside_takes_requests_only_if_nobody_else_can(circuits: Circuits) -> None:
    assert not got(taken(circuits, pool(0.0)))
    assert set(taken(circuits, pool(0.0, {"enabled": False})).values()) == {"r2"}
    assert set(taken(circuits, pool(0.5, {"enabled": False})).values()) == {"r2"}
    assert set(taken(circuits, pool(0.5, None, {"enabled": False})).values()) == {"r1", "r3"}
    aside = pool_of(record(1, rollout=0.0), record(2), record(3, rollout=0.0))
    assert set(taken(circuits, aside).values()) == {"r2"}
    assert set(taken(circuits, aside, tried=("r2",)).values()) <= {"r1", "r2", "r3"}
    assert set(taken(circuits, aside, blocked=("r2",)).values()) == {"r1", "r3"}


def test_a_request_that_one_side_failed_goes_to_the_other(circuits: Circuits) -> None:
    mine = sorted(got(taken(circuits, pool(0.5))))
    assert not got(taken(circuits, pool(0.5), mine, tried=("r2",)))


def test_weights_hold_within_a_side_and_a_new_one_of_weight_0_is_rolled_out(circuits: Circuits) -> None:
    found = pool_of(record(1, {"weight": "0"}), record(2, {"weight": "0"}, rollout=0.5), record(3))
    assert set(taken(circuits, found).values()) == {"r2", "r3"}


def test_a_client_with_the_new_ones_cookie_stays_there_and_one_with_an_old_ones_moves_when_it_is_its_turn(circuits: Circuits) -> None:
    found = pool(0.5, sticky_cookie="who")
    cookies = {member.route_id: f"who={balance.identity(member)}" for member in found.members}
    mine = got(taken(circuits, found))
    assert got(taken(circuits, found, cookie=cookies["r2"])) == set(CLIENTS)
    assert got(taken(circuits, found, cookie=cookies["r1"])) == mine
    assert set(taken(circuits, found, sorted(set(CLIENTS) - mine), cookie=cookies["r1"]).values()) == {"r1"}
    assert not got(taken(circuits, pool(0.0, sticky_cookie="who"), cookie=cookies["r2"])), "it went back"


def test_a_side_that_drains_passes_its_clients_on_bit_by_bit(circuits: Circuits) -> None:
    drains = {"drain_started_at": NOW - 30.0, "drain_seconds": 60.0}
    all_of_it = got(taken(circuits, pool(0.5)))
    half = got(taken(circuits, pool(0.5, None, drains)))
    assert half < all_of_it and 0.05 < len(half) / len(all_of_it) < 0.8
    assert got(taken(circuits, pool(0.5, drains))) > all_of_it
