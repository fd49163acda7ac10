"""Which members of a pool a request is given, one after another, and what is said when there are no more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from proxyd.http1 import RESPONSE_LIMITS, HeadLimits, parse_request_head
from proxyd.http2.connection import Bounds
from proxyd.proxy.core.spool import Storage
from proxyd.proxy.core.upstreams import Pool
from proxyd.proxy.record.slow import Rows
from proxyd.proxy.record.stats import Stats
from proxyd.proxy.route.members import Members
from proxyd.proxy.upstream.circuit import Circuits
from proxyd.proxy.upstream.places import Places
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.counts import HostCounts
from proxyd.store.memory.shared import WEBSOCKETS
from tests.proxy.build import pool_of, record

UPGRADE = "Connection: Upgrade\r\nUpgrade: websocket\r\n"
#: One failure opens the circuit, for longer than any test takes.
OPENS_AT_ONCE = {"circuit_breaker": "true", "circuit_threshold": "1", "circuit_timeout": "60s"}


@dataclass
class Held:
    """What Members uses of a worker, over shared memory of the test's own."""

    circuits: Circuits
    websockets: HostCounts
    places: Places
    storage: Storage = field(default_factory=lambda: Storage(0, ""))
    response_limits: HeadLimits = RESPONSE_LIMITS
    http2_bounds: Bounds = field(default_factory=Bounds)
    stats: Stats = field(default_factory=Stats)
    rows: Rows = field(default_factory=Rows)

    def members(self, pool: Pool, fields: str = "") -> Members:
        head = parse_request_head(f"GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode())
        return Members(self, head, "10.0.0.1", pool)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    found = Held(Circuits(CircuitBoard(str(tmp_path))), HostCounts(str(tmp_path), WEBSOCKETS), Places(str(tmp_path)))
    found.websockets.join()
    found.places.counts.join()
    yield found
    found.websockets.close()
    found.places.counts.close()
    found.circuits.close()


def test_each_member_comes_once_before_one_comes_again(held: Held) -> None:
    admitted = held.members(pool_of(record(1), record(2), record(3))).admitted()
    assert {next(admitted)[0].route_id for _ in range(3)} == {"r1", "r2", "r3"}
    assert next(admitted)[0].route_id in {"r1", "r2", "r3"}


def test_a_member_that_was_left_does_not_come_again(held: Held) -> None:
    members = held.members(pool_of(record(1), record(2)))
    admitted = members.admitted()
    first = next(admitted)[0]
    assert members.leave(first)
    assert {next(admitted)[0].route_id for _ in range(5)} == {"r1", "r2"} - {first.route_id}


def test_a_member_without_another_is_not_left(held: Held) -> None:
    members = held.members(pool_of(record(1)))
    admitted = members.admitted()
    only = next(admitted)[0]
    assert not members.leave(only)
    assert next(admitted)[0] is only


def test_a_member_whose_circuit_is_open_is_passed_over_and_the_last_one_refused(held: Held) -> None:
    pool = pool_of(record(1, OPENS_AT_ONCE), record(2, OPENS_AT_ONCE))
    held.circuits.report(pool.members[0], 0, False, time.time())
    assert [next(held.members(pool).admitted())[0].route_id for _ in range(4)] == ["r2"] * 4
    held.circuits.report(pool.members[1], 0, False, time.time())
    members = held.members(pool)
    assert list(members.admitted()) == []
    assert members.refusal.code == "circuit_open"


def test_a_pool_that_was_replaced_between_two_members_is_the_one_that_counts(held: Held) -> None:
    members = held.members(pool_of(record(1)))
    admitted = members.admitted()
    assert next(admitted)[0].route_id == "r1"
    members.pool = pool_of(record(2))
    assert next(admitted)[0].route_id == "r2"


def test_a_websocket_goes_to_a_member_that_has_room_and_is_refused_when_none_has(held: Held) -> None:
    options = {"websocket": "true", "websocket_max_connections": "1"}
    pool = pool_of(record(1, options), record(2, options))
    taken = {next(held.members(pool, UPGRADE).admitted())[0].route_id for _ in range(2)}
    assert taken == {"r1", "r2"}
    members = held.members(pool, UPGRADE)
    assert list(members.admitted()) == []
    assert members.refusal.code == "websocket_limit"
    # Other requests are not counted.
    assert next(held.members(pool).admitted())


def test_a_trial_is_given_back_where_the_websocket_finds_no_room(held: Held) -> None:
    options = {**OPENS_AT_ONCE, "circuit_timeout": "1ms", "websocket": "true", "websocket_max_connections": "1"}
    pool = pool_of(record(1, options))
    next(held.members(pool, UPGRADE).admitted())
    held.circuits.report(pool.members[0], 0, False, time.time() - 1)
    assert list(held.members(pool, UPGRADE).admitted()) == []
    # The half-open circuit admits one trial at a time, and this one gets it.
    assert next(held.members(pool).admitted())[1] > 0
