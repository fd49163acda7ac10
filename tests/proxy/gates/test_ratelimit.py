"""Rate limits as the request path meets them: what passes, what the answer says, and what happens without Redis."""

from __future__ import annotations

import ipaddress
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from proxyd.config.sections import RatelimitSettings
from proxyd.config.settings import Settings
from proxyd.proxy.core.upstreams import Upstream
from proxyd.proxy.gates.ratelimit import Decision, RateLimiter
from proxyd.store.memory.outage import TRY, WITHOUT
from tests.proxy.build import upstream
from tests.store.memory.forks import in_processes
from tests.support.redis import Redis
from tests.support.system import ROOT
from tests.support.waiting import free_port, patience, wait_for

#: A minute's beginning, so that the windows of the tests begin there too.
NOW = 1_700_000_040.0
STRATEGIES = ("sliding-window-counter", "fixed-window", "moving-window")
CLIENT = "192.0.2.1"


class Limiter:
    """A rate limiter whose local counters run on the test's clock."""

    def __init__(self, directory: Path, now: float = NOW, **settings: Any) -> None:
        self.now = now
        self.gate = RateLimiter(Settings(ratelimit=RatelimitSettings(**settings)), str(directory), lambda: self.now)

    def hit(self, up: Upstream, client: str = CLIENT) -> Decision | None:
        return self.gate.hit(up, client, self.now)

    def passed(self, up: Upstream, times: int, client: str = CLIENT) -> int:
        """How many of that many hits pass."""
        found = [self.hit(up, client) for _ in range(times)]
        return sum(decision is None or decision.allowed for decision in found)

    def refused(self, up: Upstream, client: str = CLIENT) -> Decision:
        decision = self.hit(up, client)
        assert decision is not None
        assert not decision.allowed
        return decision


@pytest.fixture
def new_limiter(tmp_path: Path) -> Iterator[Callable[..., Limiter]]:
    made: list[Limiter] = []

    def make(**settings: Any) -> Limiter:
        made.append(Limiter(tmp_path, **settings))
        return made[-1]

    yield make
    for limiter in made:
        limiter.gate.close()


def limited(*limits: tuple[int, float], **fields: Any) -> Upstream:
    return upstream(1, rate_limits=limits, **fields)


# -- counting


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_exactly_the_limit_passes_and_later_as_many_again(new_limiter: Callable[..., Limiter], strategy: str) -> None:
    limiter, up = new_limiter(strategy=strategy), limited((5, 60.0))
    assert limiter.passed(up, 20) == 5
    limiter.now += 130.0
    assert limiter.passed(up, 20) == 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_limit_holds_over_processes(tmp_path: Path, strategy: str) -> None:
    found = in_processes(4, lambda _: Limiter(tmp_path, strategy=strategy).passed(limited((50, 60.0)), 40))
    assert sum(found) == 50


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_high_limit_of_busy_clients_holds_over_processes(tmp_path: Path, strategy: str) -> None:
    """Where a lease of a thousandth may be left over in each."""
    found = in_processes(4, lambda _: Limiter(tmp_path, strategy=strategy).passed(limited((20_000, 60.0)), 8_000))
    assert 20_000 - 4 * 20 <= sum(found) <= 20_000


def test_a_client_that_comes_in_bursts_loses_nothing_of_a_high_limit(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((3000, 600.0))
    for _ in range(170):
        assert limiter.passed(up, 17) == 17
        limiter.now += 0.2
    assert limiter.passed(up, 500) == 3000 - 170 * 17


def test_what_is_counted_before_a_window_ends_is_not_used_after(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((5000, 60.0))
    limiter.now += 59.99
    assert limiter.passed(up, 40) == 40
    limiter.now += 0.011
    assert 4955 <= limiter.passed(up, 6000) <= 4960


def test_a_lease_that_was_evicted_meanwhile_is_not_given_back(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(entries=8), limited((5000, 60.0))
    assert limiter.passed(up, 20) == 20
    for number in range(8):
        limiter.now += 0.001
        limiter.passed(up, 1, f"198.51.100.{number}")
    limiter.now += 1.0
    assert limiter.passed(up, 6000) == 5000


def test_clients_and_routes_are_counted_apart(new_limiter: Callable[..., Limiter]) -> None:
    limiter = new_limiter()
    one, two = limited((5, 60.0)), limited((5, 60.0), priority=1)
    assert [limiter.passed(one, 9), limiter.passed(one, 9, "192.0.2.2"), limiter.passed(two, 9)] == [5, 5, 5]


def test_a_route_that_registers_anew_does_not_forget_its_clients(new_limiter: Callable[..., Limiter]) -> None:
    limiter = new_limiter()
    assert limiter.passed(limited((5, 60.0)), 9) == 5
    assert limiter.passed(upstream(7, rate_limits=((5, 60.0),)), 9) == 0


def test_all_of_several_limits_must_hold(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(strategy="fixed-window"), limited((3, 1.0), (5, 60.0))
    assert limiter.passed(up, 9) == 3
    assert "3 requests in 1 s" in limiter.refused(up).detail
    limiter.now += 2.0
    assert limiter.passed(up, 2) == 2
    assert "5 requests in 60 s" in limiter.refused(up).detail
    limiter.now += 2.0
    assert limiter.refused(up).headers[0] == ("Retry-After", "56")
    limiter.now = NOW + 60.0
    assert limiter.passed(up, 9) == 3


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("limits", [((3, 1.0), (50, 60.0)), ((50, 60.0), (3, 1.0))])
def test_what_one_of_several_limits_refuses_counts_for_none(
        new_limiter: Callable[..., Limiter], strategy: str, limits: tuple[tuple[int, float], ...]) -> None:
    limiter, up = new_limiter(strategy=strategy), limited(*limits)
    passed = 0
    # A client that never waits: of the fifty of the minute none may be lost on what the second refuses.
    for _ in range(20):
        passed += limiter.passed(up, 10)
        limiter.now += 2.1
    assert passed == 50


def test_a_limit_added_to_others_does_not_forget_what_those_counted(new_limiter: Callable[..., Limiter]) -> None:
    limiter = new_limiter()
    assert limiter.passed(limited((5, 60.0)), 9) == 5
    assert limiter.passed(limited((3, 1.0), (5, 60.0)), 9) == 0


def test_no_clock_that_is_set_cuts_a_window_short(tmp_path: Path) -> None:
    # Without a clock of the test's: the gate is told another time of day with each request.
    gate = RateLimiter(Settings(), str(tmp_path))
    passed = [gate.hit(limited((5, 600.0)), CLIENT, now) is None for now in (NOW, NOW + 1e6, NOW - 1e6, 0.0, NOW, 4e9, NOW, NOW)]
    assert passed == [True] * 5 + [False] * 3
    gate.close()


# -- what the client is told


def test_the_answer_to_one_too_many_says_what_holds_and_when_to_come_back(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(strategy="fixed-window"), limited((5, 60.0))
    limiter.passed(up, 5)
    limiter.now += 17.5
    decision = limiter.refused(up)
    assert decision.headers == (
        ("Retry-After", "43"), ("RateLimit-Policy", '"default";q=5;w=60'), ("RateLimit", '"default";r=0;t=43'),
        ("X-RateLimit-Limit", "5"), ("X-RateLimit-Remaining", "0"), ("X-RateLimit-Reset", str(int(NOW + 60.0))))
    assert decision.detail == "more than 5 requests in 60 s from this address; try again in 43 s"


def test_answers_that_pass_carry_no_fields_unless_the_setting_asks_for_them(new_limiter: Callable[..., Limiter]) -> None:
    assert new_limiter().hit(limited((5, 60.0))) is None


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_the_setting_answers_that_pass_count_down(new_limiter: Callable[..., Limiter], strategy: str) -> None:
    limiter, up = new_limiter(headers=True, strategy=strategy), limited((3, 60.0))
    remaining = []
    for _ in range(3):
        decision = limiter.hit(up)
        assert decision is not None
        assert decision.allowed
        fields = dict(decision.headers)
        assert "Retry-After" not in fields
        assert (fields["RateLimit-Policy"], fields["X-RateLimit-Limit"]) == ('"default";q=3;w=60', "3")
        assert fields["RateLimit"].startswith(f'"default";r={fields["X-RateLimit-Remaining"]};t=')
        remaining.append(fields["X-RateLimit-Remaining"])
    assert remaining == ["2", "1", "0"]


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("amount", "window"), [(1, 10.0), (2, 10.0), (5, 60.0), (100, 60.0)])
@pytest.mark.parametrize("begin", [0.25, 3.75, 9.5])
def test_who_waits_as_told_passes_and_is_not_told_to_wait_much_longer_than_needed(
        new_limiter: Callable[..., Limiter], strategy: str, amount: int, window: float, begin: float) -> None:
    limiter, up = new_limiter(strategy=strategy), limited((amount, window))
    limiter.now += begin
    for _ in range(4):
        limiter.passed(up, amount)
        wait = int(dict(limiter.refused(up).headers)["Retry-After"])
        told = limiter.now + wait
        # No more than the whole seconds Retry-After counts in, the odd millisecond, and a part of the moving window.
        slack = 1.001 + window / 60
        while limiter.now < told - slack:
            limiter.now += min(0.25, told - slack - limiter.now)
            assert not limiter.passed(up, 1), f"passes {told - limiter.now} s before the {wait} s it was told to wait are over"
        limiter.now = told
        assert limiter.passed(up, 1) == 1


def test_with_several_limits_each_is_a_policy_with_its_own_name(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(strategy="fixed-window", headers=True), limited((3, 10.0), (5, 3600.0))
    first = limiter.hit(up)
    assert first is not None
    assert dict(first.headers) == {
        "RateLimit-Policy": '"10s";q=3;w=10, "1h";q=5;w=3600', "RateLimit": '"10s";r=2;t=10, "1h";r=4;t=3600',
        "X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "2", "X-RateLimit-Reset": str(int(NOW + 10))}
    limiter.passed(up, 2)
    limiter.now += 4
    # Of a refusal the field has what refused, alone: Retry-After must not be earlier than the end of its window.
    fields = dict(limiter.refused(up).headers)
    assert (fields["RateLimit-Policy"], fields["RateLimit"], fields["Retry-After"]) == (
        '"10s";q=3;w=10, "1h";q=5;w=3600', '"10s";r=0;t=6', "6")
    limiter.now += 6
    limiter.passed(up, 2)
    fields = dict(limiter.refused(up).headers)
    assert (fields["RateLimit"], fields["X-RateLimit-Limit"], fields["Retry-After"]) == ('"1h";r=0;t=3590', "5", "3590")


def test_while_something_remains_the_window_in_the_field_is_not_empty(new_limiter: Callable[..., Limiter]) -> None:
    # A client may take r / t for the rate it is welcome at.
    limiter, up = new_limiter(headers=True), limited((100, 60.0))
    limiter.now += 15.0
    decision = limiter.hit(up)
    assert decision is not None
    assert dict(decision.headers)["RateLimit"] == '"default";r=99;t=45'


# -- who a client is


def test_an_ipv6_client_is_its_whole_64(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((5, 60.0))
    assert sum(limiter.passed(up, 1, f"2001:db8:0:1::{number:x}") for number in range(1, 20)) == 5
    assert limiter.passed(up, 9, "2001:db8:0:1:ffff:ffff:ffff:ffff") == 0
    assert limiter.passed(up, 9, "2001:db8:0:2::1") == 5


def test_the_ipv6_prefix_is_a_setting(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(ipv6_prefix=128), limited((5, 60.0))
    assert limiter.passed(up, 9, "2001:db8::1") == limiter.passed(up, 9, "2001:db8::2") == 5


def test_ipv4_clients_are_told_apart_one_by_one_however_they_are_written(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((5, 60.0))
    assert limiter.passed(up, 3, "192.0.2.1") == 3
    assert limiter.passed(up, 9, "::ffff:192.0.2.1") == 2
    assert limiter.passed(up, 9, "::ffff:192.0.2.2") == 5


@pytest.mark.parametrize("client", ["", "unix", "fe80::1%eth0"])
def test_a_client_without_a_plain_address_is_limited_too(new_limiter: Callable[..., Limiter], client: str) -> None:
    assert new_limiter().passed(limited((5, 60.0)), 9, client) == 5


def test_no_limit_holds_for_networks_that_are_let_through(new_limiter: Callable[..., Limiter]) -> None:
    networks = tuple(ipaddress.ip_network(text) for text in ("192.0.2.0/28", "2001:db8::/32"))
    limiter, up = new_limiter(allow=networks, headers=True), limited((5, 60.0))
    assert limiter.passed(up, 50, "192.0.2.15") == limiter.passed(up, 50, "2001:db8::1") == 50
    assert limiter.hit(up, "192.0.2.15") is None
    assert limiter.passed(up, 50, "192.0.2.16") == 5


def test_a_mapped_ipv4_client_is_let_through_as_its_ipv4_address(new_limiter: Callable[..., Limiter]) -> None:
    limiter = new_limiter(allow=(ipaddress.ip_network("192.0.2.0/28"),))
    assert limiter.passed(limited((5, 60.0)), 50, "::ffff:192.0.2.1") == 50


# -- rejections for the database


def test_rejections_are_kept_by_route_minute_and_client_until_they_are_taken(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((5, 60.0))
    assert limiter.gate.take() is None
    limiter.passed(up, 8)
    limiter.passed(up, 6, "2001:db8::1")
    batch = limiter.gate.take()
    assert batch is not None
    minute = "2023-11-14T22:14:00.000Z"
    assert batch.rejected == {("r1", minute, CLIENT): 3, ("r1", minute, "2001:db8::/64"): 1}
    assert limiter.gate.take() is None


def test_a_flood_of_addresses_is_kept_in_few_rows(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((1, 3600.0))
    clients = [f"10.0.{number >> 8}.{number & 255}" for number in range(3000)]
    kept: dict[str, int] = {}
    for _ in range(2):
        for client in clients:
            limiter.passed(up, 1, client)
        # Written twice a minute, say: the row of a minute is one row all the same.
        for (_, _, client), count in (batch := limiter.gate.take()) and batch.rejected.items() or ():
            kept[client] = kept.get(client, 0) + count
    assert sum(kept.values()) == 3000
    assert len(kept) == 1001
    assert kept["others"] == 2000
    limiter.now += 60.0
    limiter.passed(up, 1, "10.9.9.9")
    limiter.refused(up, "10.9.9.9")
    batch = limiter.gate.take()
    assert batch is not None
    assert [client for _, _, client in batch.rejected] == ["10.9.9.9"]


def test_a_batch_given_back_is_added_to_what_came_since(new_limiter: Callable[..., Limiter]) -> None:
    limiter, up = new_limiter(), limited((5, 60.0))
    limiter.passed(up, 8)
    batch = limiter.gate.take()
    assert batch is not None
    limiter.passed(up, 2)
    limiter.gate.give_back(batch)
    again = limiter.gate.take()
    assert again is not None
    assert list(again.rejected.values()) == [5]


# -- Redis


def words(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [entry.getMessage() for entry in caplog.records if entry.name == "proxyd.ratelimit"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_redis_the_host_counts_alone_and_says_so_once(
        new_limiter: Callable[..., Limiter], strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxyd.ratelimit")
    limiter = new_limiter(strategy=strategy, storage=f"redis://127.0.0.1:{free_port()}/0", headers=True)
    up = limited((5, 60.0))
    assert limiter.passed(up, 9) == 5
    assert limiter.passed(up, 9) == 0
    assert len(words(caplog)) == 1
    assert "Redis can't be reached" in words(caplog)[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_while_redis_is_away_each_host_counts_with_its_share(
        tmp_path: Path, strategy: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "proxyd.ratelimit")
    away = f"redis://127.0.0.1:{free_port()}/0"
    hosts = [Limiter(tmp_path / name, strategy=strategy, storage=away) for name in ("a", "b", "c")]
    up = limited((100, 600.0))
    for host in hosts:
        host.gate.hosts = 3
        assert host.passed(up, 200) == 33
        decision = host.refused(up)
        assert "more than 33 requests" in decision.detail
        assert dict(decision.headers)["X-RateLimit-Remaining"] == "0"
    assert len(words(caplog)) == 3
    assert "each host counts with its share of each limit, one of 3" in words(caplog)[0]
    # A host is gone: those that are left share its part.
    hosts[0].gate.hosts = 2
    assert hosts[0].passed(limited((100, 600.0), service="other"), 200) == 50
    # Nobody is shut out by a share of nothing.
    assert hosts[0].passed(limited((1, 600.0), service="rare"), 5) == 1
    for host in hosts:
        host.gate.close()


def test_a_redis_that_does_not_answer_costs_a_moment_once_and_no_request(new_limiter: Callable[..., Limiter]) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        limiter = new_limiter(storage=f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        begun = time.monotonic()
        assert limiter.passed(limited((5, 60.0)), 500) == 5
        assert time.monotonic() - begun < patience(3.0)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_with_redis_the_limit_holds_over_hosts(tmp_path: Path, redis: Redis, strategy: str) -> None:
    # Directories of their own: nothing is shared but Redis.
    hosts = [Limiter(tmp_path / name, time.time(), strategy=strategy, storage=redis.url) for name in ("a", "b")]
    up = limited((10, 600.0))
    assert [hosts[0].passed(up, 6), hosts[1].passed(up, 6), hosts[0].passed(up, 6)] == [6, 4, 0]
    decision = hosts[1].refused(up)
    assert 1 <= int(dict(decision.headers)["Retry-After"]) <= 1200
    for host in hosts:
        host.gate.close()


def test_redis_lost_and_found_again_each_get_one_word_for_all_workers_and_cost_no_request(
        tmp_path: Path, redis: Redis, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO, "proxyd.ratelimit")
    monkeypatch.setattr("proxyd.store.memory.outage._PAUSE", 0.3)
    workers = [Limiter(tmp_path, time.time(), storage=redis.url, headers=True) for _ in range(3)]
    up = limited((1000, 600.0))
    assert sum(worker.passed(up, 10) for worker in workers) == 30
    redis.stop()
    assert sum(worker.passed(up, 10) for worker in workers) == 30
    assert len(words(caplog)) == 1
    # It is tried again in vain, which nobody needs to be told.
    wait_for(lambda: [worker.passed(up, 1) for worker in workers] and redis_tried(workers[0]), what="a try")
    redis.start()

    def remaining() -> list[str]:
        decisions = [worker.hit(up) for worker in workers]
        return [dict(decision.headers)["X-RateLimit-Remaining"] for decision in decisions if decision is not None]

    # Redis has forgotten: who counts there begins anew, and does so together.
    wait_for(lambda: all(int(left) > 990 for left in remaining()), what="counting in Redis again")
    first, second, third = map(int, remaining())
    assert (second, third) == (first - 1, first - 2)
    assert [word.partition(":")[2][:20].strip() for word in words(caplog)] == ["Redis can't be reac", "Redis answers again"]
    for worker in workers:
        worker.gate.close()


def redis_tried(worker: Limiter) -> bool:
    """Whether somebody tried Redis once more since it was lost."""
    now = time.monotonic()
    time.sleep(0.31)
    return worker.gate._host.outage.turn(now + 0.31) == TRY and worker.gate._host.outage.turn(now + 0.31) == WITHOUT


def test_a_redis_that_can_not_be_used_at_all_costs_no_request(new_limiter: Callable[..., Limiter], redis: Redis) -> None:
    redis.says(b"CONFIG SET requirepass secret")
    assert new_limiter(storage=redis.url).passed(limited((5, 60.0)), 9) == 5


def test_many_clients_at_once_share_the_few_connections_to_redis(tmp_path: Path, redis: Redis) -> None:
    # As in a worker: with sockets that wait by switching to another greenlet.
    done = subprocess.run([sys.executable, "-c", _CROWD, str(tmp_path), redis.url], capture_output=True, text=True, timeout=30, cwd=ROOT)
    assert done.stdout.split() == ["100", "16"], done.stdout + done.stderr


_CROWD = """
from gevent import monkey; monkey.patch_all()
import sys, gevent
from proxyd.proxy.gates.ratelimit import RateLimiter
from proxyd.config.sections import RatelimitSettings
from proxyd.config.settings import Settings
from tests.proxy.build import upstream
gate = RateLimiter(Settings(ratelimit=RatelimitSettings(storage=sys.argv[2])), sys.argv[1])
up = upstream(1, rate_limits=((100, 600.0),))
crowd = [gevent.spawn(gate.hit, up, "192.0.2.1", 0.0) for _ in range(1000)]
gevent.joinall(crowd)
print(sum(item.value is None for item in crowd))
print(len(gate._redis._limiter.storage.storage.client_list()))
"""


def test_clients_of_routes_that_are_gone_are_not_remembered_and_what_they_counted_is(new_limiter: Callable[..., Limiter]) -> None:
    limiter, gone, stays = new_limiter(), limited((5, 60.0)), limited((5, 60.0), priority=1)
    assert [limiter.passed(gone, 3), limiter.passed(stays, 3)] == [3, 3]
    limiter.gate.forget(lambda up: up is stays)
    assert [up for up, _ in limiter.gate._clients] == [stays]
    assert [limiter.passed(gone, 9), limiter.passed(stays, 9)] == [2, 2]
