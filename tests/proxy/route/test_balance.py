"""The balancing policies: who gets which share, and who keeps its replica."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.config.options import BALANCE, OPTIONS
from proxyd.http1 import RequestHead
from proxyd.proxy.core.upstreams import Pool, Upstream
from proxyd.proxy.route import balance
from proxyd.proxy.route.table import Table
from proxyd.store.sql.snapshot import Snapshot
from tests.proxy.build import pool_of, record

CLIENTS = [f"10.0.{number // 250}.{number % 250 + 1}" for number in range(1000)]


def weighted(*weights: int) -> Pool:
    return pool_of(*(record(number, {"weight": str(weight)}) for number, weight in enumerate(weights, 1)))


def turns(policy: str, pool: Pool, count: int, client: str = "10.0.0.1") -> list[str]:
    return [balance.POLICIES[policy].choose(list(pool.members), client).route_id for _ in range(count)]


def homes(pool: Pool, clients: list[str] = CLIENTS) -> dict[str, str]:
    return {client: balance.POLICIES["ip_hash"].choose(list(pool.members), client).route_id for client in clients}


# -- round robin


def test_round_robin_goes_round_evenly_where_weights_are_alike() -> None:
    assert turns("round_robin", weighted(100, 100, 100), 6) == ["r1", "r2", "r3"] * 2


def test_round_robin_is_smooth_the_heavy_member_never_gets_its_share_in_one_lump() -> None:
    assert turns("round_robin", weighted(5, 1, 1), 7) == ["r1", "r1", "r2", "r1", "r3", "r1", "r1"]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
def test_over_one_full_turn_each_member_gets_exactly_its_weight(weights: list[int]) -> None:
    found = Counter(turns("round_robin", weighted(*weights), sum(weights)))
    assert [found[f"r{number}"] for number in range(1, len(weights) + 1)] == weights


def test_a_change_of_the_table_does_not_start_the_turn_again() -> None:
    rows = [record(number) for number in (1, 2, 3)]
    table = Table.empty().with_changes(Snapshot(1, True, tuple(rows), ()))
    head = RequestHead("GET", "/", 11, [], [])
    first = table.match("h", "/", head)
    assert first is not None
    assert turns("round_robin", first, 1) == ["r1"]
    second = table.with_changes(Snapshot(2, False, (record(1, {"timeout": "9s"}),), ())).match("h", "/", head)
    assert second is not None
    assert turns("round_robin", second, 3) == ["r2", "r3", "r1"]


def test_a_member_that_was_left_out_for_a_while_does_not_catch_up_with_a_flood() -> None:
    pool = weighted(100, 100, 100)
    for _ in range(1000):
        balance.POLICIES["round_robin"].choose(list(pool.members[:2]), "")
    assert Counter(turns("round_robin", pool, 30)) == {"r1": 10, "r2": 10, "r3": 10}


# -- least connections


def test_least_conn_takes_the_member_with_the_fewest_requests_in_flight() -> None:
    pool = weighted(100, 100, 100)
    for member, load in zip(pool.members, (3, 1, 2), strict=True):
        member.state.in_flight = load
    assert turns("least_conn", pool, 3) == ["r2"] * 3


def test_least_conn_counts_requests_by_weight() -> None:
    pool = weighted(300, 100)
    pool.members[0].state.in_flight, pool.members[1].state.in_flight = 2, 1
    assert turns("least_conn", pool, 1) == ["r1"]
    pool.members[0].state.in_flight = 4
    assert turns("least_conn", pool, 1) == ["r2"]


def test_least_conn_with_nothing_in_flight_goes_round_by_weight() -> None:
    assert Counter(turns("least_conn", weighted(300, 100), 400)) == {"r1": 300, "r2": 100}


def test_least_conn_fills_members_up_to_their_weights() -> None:
    pool = weighted(300, 100)
    for _ in range(40):
        balance.POLICIES["least_conn"].choose(list(pool.members), "").state.in_flight += 1
    assert [member.state.in_flight for member in pool.members] == [30, 10]


@pytest.mark.parametrize("policy", sorted(balance.POLICIES))
def test_members_that_all_have_weight_0_still_serve(policy: str) -> None:
    assert set(turns(policy, weighted(0, 0), 4)) <= {"r1", "r2"}


# -- ip hash


def test_ip_hash_sends_a_client_always_to_the_same_member() -> None:
    assert len(set(turns("ip_hash", weighted(100, 100, 100), 50))) == 1


def test_ip_hash_shares_clients_by_weight() -> None:
    found = Counter(homes(weighted(100, 100, 200)).values())
    assert 190 < found["r1"] < 310
    assert 190 < found["r2"] < 310
    assert 430 < found["r3"] < 570


def test_when_a_member_goes_only_its_own_clients_move() -> None:
    before, after = homes(weighted(100, 100, 100)), homes(weighted(100, 100))
    assert all(after[client] == home for client, home in before.items() if home != "r3")


def test_when_a_member_comes_clients_move_to_that_one_only() -> None:
    before, after = homes(weighted(100, 100)), homes(weighted(100, 100, 100))
    moved = {after[client] for client, home in before.items() if after[client] != home}
    assert moved == {"r3"}


def test_a_replica_that_registers_anew_gets_its_old_clients_back() -> None:
    before = homes(weighted(100, 100))
    anew = pool_of(record(2), record(9, backend_url="http://127.0.0.1:3001"))
    assert homes(anew) == {client: {"r1": "r9", "r2": "r2"}[home] for client, home in before.items()}


@given(st.sets(st.integers(1, 30), min_size=2, max_size=10), st.data())
def test_no_client_moves_between_two_members_that_stay(numbers: set[int], data: st.DataObject) -> None:
    leaving = data.draw(st.sampled_from(sorted(numbers)))
    before = homes(pool_of(*map(record, sorted(numbers))), CLIENTS[:50])
    after = homes(pool_of(*map(record, sorted(numbers - {leaving}))), CLIENTS[:50])
    assert all(after[client] == home for client, home in before.items() if home != f"r{leaving}")


@given(st.text(max_size=40), st.text(max_size=12))
def test_a_clients_place_is_fixed_and_strictly_between_0_and_1(client: str, salt: str) -> None:
    place = balance.place_of(client, salt)
    assert 0.0 < place < 1.0
    assert place == balance.place_of(client, salt)


# -- the sticky cookie


def asked(cookie: str | None = None, secure: bool = False) -> Any:
    """What `stick` looks at of an exchange."""
    head = SimpleNamespace(get={"cookie": cookie}.get)
    return SimpleNamespace(head=head, secure=secure, set_headers=[])


def sticky() -> tuple[Pool, Upstream, Upstream]:
    pool = pool_of(record(1, {"sticky_cookie": "replica"}), record(2, {"sticky_cookie": "replica"}))
    return pool, pool.members[0], pool.members[1]


def test_a_client_without_the_cookie_gets_it() -> None:
    pool, one, _ = sticky()
    ex = asked()
    balance.stick(ex, pool, one)
    assert ex.set_headers == [("Set-Cookie", f"replica={balance.identity(one)}; Path=/; HttpOnly; SameSite=Lax")]


def test_the_cookie_is_secure_where_the_client_is() -> None:
    pool, one, _ = sticky()
    ex = asked(secure=True)
    balance.stick(ex, pool, one)
    assert ex.set_headers[0][1].endswith("; SameSite=Lax; Secure")


@pytest.mark.parametrize(("options", "attributes"), [
    ({"sticky_secure": "always"}, "SameSite=Lax; Secure"), ({"sticky_same_site": "strict"}, "SameSite=Strict"),
    ({"sticky_same_site": "none"}, "SameSite=None; Secure"), ({"sticky_max_age": "1500ms"}, "SameSite=Lax; Max-Age=2"),
    ({"sticky_max_age": "1h", "sticky_secure": "always"}, "SameSite=Lax; Max-Age=3600; Secure"),
])
def test_the_routes_options_say_more_of_the_cookie(options: dict[str, str], attributes: str) -> None:
    pool = pool_of(*(record(number, {"sticky_cookie": "replica", **options}) for number in (1, 2)))
    ex = asked()
    balance.stick(ex, pool, pool.members[0])
    assert ex.set_headers[0][1].partition("HttpOnly; ")[2] == attributes


def test_a_client_that_has_the_right_cookie_gets_no_other() -> None:
    pool, one, two = sticky()
    ex = asked(f"a=b; replica={balance.identity(one)}")
    balance.stick(ex, pool, one)
    assert ex.set_headers == []
    balance.stick(ex, pool, two)
    assert balance.identity(two) in ex.set_headers[0][1]


def test_only_the_last_attempts_replica_is_in_the_cookie() -> None:
    pool, one, two = sticky()
    ex = asked()
    ex.set_headers.append(("Set-Cookie", "other=1"))
    balance.stick(ex, pool, one)
    balance.stick(ex, pool, two)
    assert [value.partition(";")[0] for _, value in ex.set_headers] == ["other=1", f"replica={balance.identity(two)}"]


def test_a_retry_that_comes_back_to_the_clients_own_replica_takes_the_new_cookie_back() -> None:
    pool, one, two = sticky()
    ex = asked(f"replica={balance.identity(one)}")
    balance.stick(ex, pool, two)
    balance.stick(ex, pool, one)
    assert ex.set_headers == []


@pytest.mark.parametrize(("cookie", "expected"), [
    (None, ""), ("", ""), ("replica=abc", "abc"), ("a=1; replica=abc; b=2", "abc"), ("a=1;replica=abc", "abc"),
    ('replica="abc"', "abc"), ("myreplica=abc", ""), ("a=replica", ""), ("replica=", ""), ("replica", ""),
    ('settings={"a":1}; replica=abc', "abc"), ("a b; replica=abc", "abc"), ("caf\xe9=1; replica=abc", "abc"),
    ("=; ;; replica=abc", "abc"), ("replica = abc", "abc"),
])
def test_the_cookie_is_found_whatever_stands_beside_it(cookie: str | None, expected: str) -> None:
    assert balance.stuck_to(cookie, "replica") == expected


@given(st.text(max_size=60))
def test_no_cookie_header_breaks_a_request(cookie: str) -> None:
    assert isinstance(balance.stuck_to(cookie + "; replica=abc" + cookie, "replica"), str)


def test_the_option_takes_the_names_of_the_policies() -> None:
    assert set(BALANCE) == set(balance.POLICIES)
    assert OPTIONS["balance"].default == BALANCE[0]
