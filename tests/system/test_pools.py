"""Replicas share requests by policy, over four workers that each know only their own part."""

from __future__ import annotations

import http.client
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

NewBackend = Callable[..., Backend]


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Four workers that believe X-Forwarded-For, so that a test can be many clients."""
    running = System(tmp_path_factory.mktemp("pools"), workers=4, proxy__trusted_proxies="127.0.0.0/8")
    yield running
    running.stop()


def pool(system: System, name: str, backends: list[Backend], weights: list[int] | None = None, **options: object) -> list[RegistryClient]:
    """One session a backend, all at `name`.test."""
    clients = []
    for number, backend in enumerate(backends):
        client = system.client(name, f"{name}-{number}")
        client.route(f"{name}.test", backend.url, apply=False)
        client.options("ALL", **({"weight": weights[number]} if weights else {}), **options)
        if not options and not weights:
            client.apply()
        clients.append(client)
    return clients


def spread(system: System, host: str, count: int, path: str = "/", threads: int = 8, **headers: Any) -> Counter[str]:
    """Who answered `count` requests, each on a connection of its own."""
    with ThreadPoolExecutor(threads) as pool_:
        answers = list(pool_.map(lambda _: system.get(path, host, **headers), range(count)))
    assert {answer.status for answer in answers} == {200}
    return Counter(answer.headers["X-Backend"] for answer in answers)


@pytest.mark.parametrize("policy", ["least_conn", "round_robin"])
def test_equal_replicas_get_equal_shares(system: System, new_backend: NewBackend, policy: str) -> None:
    name = policy.replace("_", "-")
    pool(system, name, [new_backend(str(number)) for number in range(3)], balance=policy)
    seen = spread(system, f"{name}.test", 300)
    assert all(80 <= seen[str(number)] <= 120 for number in range(3)), seen


@pytest.mark.parametrize("policy", ["least_conn", "round_robin"])
def test_a_replica_with_three_times_the_weight_gets_three_times_the_requests(system: System, new_backend: NewBackend, policy: str) -> None:
    name = f"w-{policy.replace('_', '-')}"
    pool(system, name, [new_backend("light"), new_backend("heavy")], [50, 150], balance=policy)
    seen = spread(system, f"{name}.test", 400, threads=1)
    assert 70 <= seen["light"] <= 130, seen


def test_least_conn_keeps_away_from_a_replica_that_is_slow(new_system: Callable[..., System], new_backend: NewBackend) -> None:
    system = new_system(workers=1)
    fast, slow = new_backend("fast"), new_backend("slow")
    usual = slow._answer

    def late(handler: object) -> None:
        handler.path += "?s=0.3"  # type: ignore[attr-defined]
        usual(handler)  # type: ignore[arg-type]

    slow._answer = late  # type: ignore[method-assign]
    pool(system, "uneven", [fast, slow], balance="least_conn")
    seen = spread(system, "uneven.test", 120)
    assert seen["fast"] > 3 * seen["slow"], seen


def test_ip_hash_keeps_each_client_on_its_replica_in_every_worker(system: System, new_backend: NewBackend) -> None:
    pool(system, "hashed", [new_backend(str(number)) for number in range(3)], balance="ip_hash")
    homes: dict[str, str] = {}
    for number in range(30):
        address = f"192.0.2.{number}"
        seen = spread(system, "hashed.test", 6, X_Forwarded_For=address)
        assert len(seen) == 1, f"{address} was sent to {seen}"
        homes[address] = next(iter(seen))
    counts = Counter(homes.values())
    assert len(counts) == 3 and max(counts.values()) <= 20, counts


def test_ip_hash_moves_only_the_clients_of_a_replica_that_leaves(system: System, new_backend: NewBackend) -> None:
    clients = pool(system, "leaving", [new_backend(str(number)) for number in range(3)], balance="ip_hash")
    addresses = [f"192.0.2.{number}" for number in range(30)]
    before = {address: system.get("/", "leaving.test", X_Forwarded_For=address).headers["X-Backend"] for address in addresses}
    assert clients[2].command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    for address in addresses:
        now = system.get("/", "leaving.test", X_Forwarded_For=address).headers["X-Backend"]
        assert now == before[address] if before[address] != "2" else now in "01"


def test_a_sticky_cookie_brings_a_client_back_to_its_replica(system: System, new_backend: NewBackend) -> None:
    pool(system, "sticky", [new_backend(str(number)) for number in range(3)], sticky_cookie="node")
    first = system.get("/", "sticky.test")
    cookie = first.headers["Set-Cookie"].split(";")[0]
    assert cookie.startswith("node=")
    assert "HttpOnly" in first.headers["Set-Cookie"] and "SameSite=Lax" in first.headers["Set-Cookie"]
    assert set(spread(system, "sticky.test", 30, Cookie=f"a=b; {cookie}")) == {first.headers["X-Backend"]}
    assert "Set-Cookie" not in system.get("/", "sticky.test", Cookie=cookie).headers


def test_a_sticky_client_whose_replica_is_gone_gets_another_and_stays_there(system: System, new_backend: NewBackend) -> None:
    backends = [new_backend("0"), new_backend("1")]
    clients = pool(system, "stuck", backends, sticky_cookie="node")
    first = system.get("/", "stuck.test")
    number = int(first.headers["X-Backend"])
    clients[number].command("CLIENT_SHUTDOWN|SID")
    third = new_backend("2")
    pool(system, "stuck", [third], sticky_cookie="node")
    moved = system.get("/", "stuck.test", Cookie=first.headers["Set-Cookie"].split(";")[0])
    assert moved.status == 200 and moved.headers["X-Backend"] != str(number)
    again = moved.headers["Set-Cookie"].split(";")[0]
    assert set(spread(system, "stuck.test", 10, Cookie=again)) == {moved.headers["X-Backend"]}


@pytest.mark.slow
def test_a_recovered_replica_comes_back_slowly(new_system: Callable[..., System], new_backend: NewBackend) -> None:
    system = new_system(workers=1)
    steady, back = new_backend("steady"), new_backend("back")
    clients = pool(system, "slow", [steady, back], slow_start="8s", health_check_path="/healthz", health_check_interval="100ms",
                   health_rise=1, health_fall=1, balance="round_robin")
    route_id = clients[1].json("ROUTE_LIST|SID")[0]["route_id"]

    def healthy() -> bool:
        return bool(clients[1].json(f"ROUTE_STATUS|SID|{route_id}")["healthy"])

    wait_for(lambda: clients[1].json(f"ROUTE_STATUS|SID|{route_id}")["health"]["status"] == "healthy", what="the first check")
    back.health = 500
    wait_for(lambda: not healthy(), what="the replica to be down")
    assert set(spread(system, "slow.test", 20)) == {"steady"}
    back.health = 200
    wait_for(healthy, what="the replica to recover")
    connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=10)

    def one() -> str:
        connection.request("GET", "/", headers={"Host": "slow.test"})
        response = connection.getresponse()
        response.read()
        return str(response.headers["X-Backend"])

    # An eighth of its slow start is over in the end, so it should get a sixteenth of all; more where this machine is slow.
    early: Counter[str] = Counter()
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        early[one()] += 1
    assert early["back"] < 0.3 * sum(early.values()), early
    wait_for(lambda: Counter(one() for _ in range(40))["back"] >= 18, 20, "the full share")
    connection.close()
