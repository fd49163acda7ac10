"""Rate limits over real workers: exact, told to the client, seen in SQL, and kept over a worker's end."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.redis import Redis
from tests.support.system import MakeSystem, System
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Four workers that believe X-Forwarded-For, so that a test can be many clients."""
    running = System(tmp_path_factory.mktemp("ratelimit"), workers=4, proxy__trusted_proxies="127.0.0.0/8", ratelimit__headers="yes",
                     ratelimit__allow="10.99.0.0/16")
    yield running
    running.stop()


def limited(system: System, name: str, backend: Backend, requests: int, window: str) -> str:
    """Register a service with a limit at `name`.test; returns the route id."""
    client = system.client(name)
    route_id = client.route(f"{name}.test", backend.url, apply=False)
    assert client.command(f"RATELIMIT_SET|SID|{route_id}|{requests}|{window}") == "RATELIMIT_OK"
    client.apply()
    return route_id


def test_of_500_concurrent_requests_over_four_workers_exactly_the_limit_of_100_passes(system: System, backend: Backend) -> None:
    route_id = limited(system, "burst", backend, 100, "1d")
    with ThreadPoolExecutor(40) as threads:
        statuses = Counter(threads.map(lambda _: system.get("/", "burst.test", timeout=30).status, range(500)))
    assert statuses == {200: 100, 429: 400}
    assert len(backend.seen("/")) == 100
    # Counted in STATS, and in SQL by minute and address, not by request.
    wait_for(lambda: system.sql("SELECT rate_limited FROM route_stats WHERE route_id = ?", route_id) == [(400,)], what="the count in SQL")
    # Four workers tell theirs at times of their own.
    rows = wait_for(lambda: (rows := system.sql("SELECT address, rejected FROM rate_limit_rejections WHERE route_id = ?", route_id))
                    and sum(count for _, count in rows) == 400 and rows, what="the rejections in SQL")
    assert {address for address, _ in rows} == {"127.0.0.1"}
    assert len(rows) <= 2  # the minute may have turned meanwhile
    pids_before = set(system.worker_pids())
    os.kill(min(pids_before), signal.SIGKILL)
    wait_for(lambda: set(system.worker_pids()) != pids_before and system.ready(), what="the new worker")
    assert {system.get("/", "burst.test").status for _ in range(12)} == {429}


def test_stats_and_route_status_tell_how_many_were_refused(system: System, backend: Backend) -> None:
    client = system.client("told")
    route_id = client.route("told.test", backend.url, apply=False)
    client.ok("RATELIMIT_SET|SID|ALL|2|1d")
    client.apply()
    assert [system.get("/", "told.test").status for _ in range(5)] == [200, 200, 429, 429, 429]
    wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["rate_limited"] == 3, what="rate_limited in STATS")
    status = wait_for(lambda: (found := client.json(f"ROUTE_STATUS|SID|{route_id}")["ratelimit"])["rejected"] == 3 and found)
    assert (status["requests"], status["window_seconds"]) == (2, 86400)


def test_a_refused_client_is_told_when_to_come_back_in_every_usual_way(system: System, backend: Backend) -> None:
    # An hour, which hardly ever ends in between.
    limited(system, "fields", backend, 2, "1h")
    first = system.get("/", "fields.test")
    assert first.headers["RateLimit-Policy"] == '"default";q=2;w=3600'
    assert first.headers["RateLimit"].startswith('"default";r=1;t=')
    assert first.headers["X-RateLimit-Limit"] == "2"
    assert first.headers["X-RateLimit-Remaining"] == "1"
    system.get("/", "fields.test")
    asked = time.time()
    refused = system.get("/", "fields.test")
    answered = time.time()
    assert refused.status == 429
    assert 1 <= int(refused.headers["Retry-After"]) <= 3600
    assert refused.headers["X-Proxyd-Reason"] == "rate_limited"
    assert refused.headers["RateLimit"].startswith('"default";r=0;t=')
    assert refused.headers["X-RateLimit-Remaining"] == "0"
    assert asked - 2 <= int(refused.headers["X-RateLimit-Reset"]) - int(refused.headers["Retry-After"]) <= answered + 2
    assert refused.headers["Content-Type"] == "application/problem+json"
    assert refused.json()["code"] == "rate_limited"
    page = system.get("/", "fields.test", Accept="text/html")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "429 Too Many Requests" in page.text


def test_who_waits_as_long_as_retry_after_says_passes(system: System, backend: Backend) -> None:
    limited(system, "patient", backend, 2, "1s")
    for _ in range(2):
        assert system.get("/", "patient.test").status == 200
    refused = wait_for(lambda: [answer for answer in [system.get("/", "patient.test")] if answer.status == 429])[0]
    time.sleep(int(refused.headers["Retry-After"]))
    assert system.get("/", "patient.test").status == 200


def test_each_client_address_has_a_limit_of_its_own_and_listed_networks_have_none(system: System, backend: Backend) -> None:
    limited(system, "clients", backend, 1, "1d")
    for address in ("192.0.2.1", "192.0.2.2"):
        assert [system.get("/", "clients.test", X_Forwarded_For=address).status for _ in range(2)] == [200, 429]
    assert {system.get("/", "clients.test", X_Forwarded_For="10.99.3.4").status for _ in range(5)} == {200}


def test_an_ipv6_client_can_not_go_round_its_limit_within_its_own_network(system: System, backend: Backend) -> None:
    limited(system, "six", backend, 1, "1d")
    assert system.get("/", "six.test", X_Forwarded_For="2001:db8:0:1::5").status == 200
    assert system.get("/", "six.test", X_Forwarded_For="2001:db8:0:1:ffff::77").status == 429
    assert system.get("/", "six.test", X_Forwarded_For="2001:db8:0:2::5").status == 200


def test_a_client_that_is_not_trusted_can_not_name_another_address(new_system: MakeSystem, backend: Backend) -> None:
    system: System = new_system(workers=1)
    limited(system, "liar", backend, 1, "1d")
    assert [system.get("/", "liar.test", X_Forwarded_For=f"192.0.2.{number}").status for number in range(3)] == [200, 429, 429]


def test_a_site_file_sets_several_limits_at_once(system: System, backend: Backend) -> None:
    sites = Path(str(system.settings["sites__directory"]))
    sites.mkdir(exist_ok=True)
    (sites / "many.ini").write_text(f"[route main]\ndomains = many.test\nbackends = {backend.url}\n"
                                    "[ratelimit]\nlimits = 3/hour; 100/minute\n")
    # Until each worker has it: one that is asked first may be ahead of the others.
    clients = itertools.count()
    wait_for(lambda: all(system.get("/", "many.test", X_Forwarded_For=f"10.99.{(n := next(clients)) // 250}.{n % 250}").status == 200
                         for _ in range(16)), 15, "the site")
    assert [system.get("/", "many.test", X_Forwarded_For="192.0.2.9").status for _ in range(4)] == [200, 200, 200, 429]
    refused = system.get("/", "many.test", X_Forwarded_For="192.0.2.9")
    assert refused.headers["RateLimit-Policy"] == '"1h";q=3;w=3600, "1m";q=100;w=60'
    assert refused.headers["RateLimit"] == f'"1h";r=0;t={refused.headers["Retry-After"]}'


def test_the_limit_that_holds_after_an_apply_is_the_new_one(system: System, backend: Backend) -> None:
    client = system.client("moved")
    route_id = client.route("moved.test", backend.url, apply=False)
    client.ok(f"RATELIMIT_SET|SID|{route_id}|1|1d")
    client.apply()
    assert [system.get("/", "moved.test").status for _ in range(2)] == [200, 429]
    client.ok(f"RATELIMIT_SET|SID|{route_id}|50|1d")
    client.apply()
    assert {system.get("/", "moved.test").status for _ in range(8)} == {200}


def test_over_two_hosts_that_share_a_redis_exactly_the_limit_passes_and_its_end_fails_no_request(
        new_system: Callable[..., System], backend: Backend, redis: Redis) -> None:
    # Two systems with nothing in common but Redis: databases, shared memory, masters are each host's own. Nine processes that start on a
    # busy machine may let Redis's answer lie for long, and a host that does not get it rightly counts alone.
    hosts = [new_system(workers=4, ratelimit__storage=redis.url, ratelimit__storage_timeout="20s") for _ in range(2)]
    for host in hosts:
        limited(host, "far", backend, 100, "1d")
        limited(host, "lost", backend, 100_000, "10m")
    with ThreadPoolExecutor(40) as threads:
        statuses = Counter(threads.map(lambda number: hosts[number % 2].get("/", "far.test", timeout=30).status, range(500)))
        assert statuses == {200: 100, 429: 400}, hosts[0].log() + hosts[1].log()

        def ask(number: int) -> int:
            if number == 200:
                redis.stop()
            return hosts[number % 2].get("/", "lost.test", timeout=30).status

        assert Counter(threads.map(ask, range(600))) == {200: 600}
    # All eight workers met the end of Redis; each host says so once.
    assert [host.log().count("Redis can't be reached") for host in hosts] == [1, 1]
    assert [host.get("/", "far.test").status for host in hosts] == [200, 200]


def test_several_limits_of_a_site_file_hold_together_over_all_workers(system: System, backend: Backend) -> None:
    sites = Path(str(system.settings["sites__directory"]))
    sites.mkdir(exist_ok=True)
    (sites / "both.ini").write_text(f"[route main]\ndomains = both.test\nbackends = {backend.url}\n"
                                    "[ratelimit]\nlimits = 30/hour; 50/day; 20/10m\n")
    # Said when all workers have it; one of them answers earlier.
    wait_for(lambda: "site both applied" in system.log(), 15, "the site")
    backend.requests.clear()
    with ThreadPoolExecutor(20) as threads:
        answers = list(threads.map(lambda _: system.get("/", "both.test", X_Forwarded_For="192.0.2.77"), range(100)))
    assert Counter(answer.status for answer in answers) == {200: 20, 429: 80}
    refused = next(answer for answer in answers if answer.status == 429)
    assert refused.headers["RateLimit-Policy"] == '"1h";q=30;w=3600, "1d";q=50;w=86400, "10m";q=20;w=600'
    assert refused.headers["RateLimit"] == f'"10m";r=0;t={refused.headers["Retry-After"]}'
    # What the ten minutes refused has taken nothing from the hour.
    with_room = [answer for answer in answers if answer.status == 200]
    assert min(int(answer.headers["RateLimit"].split(", ")[0].split(";r=")[1].split(";")[0]) for answer in with_room) == 10
