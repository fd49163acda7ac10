"""Rate limits over hosts: exact while they count in Redis, and by shares while Redis is away."""

from __future__ import annotations

import itertools
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

from tests.hosts.conftest import MakeHost
from tests.support.backends import Backend
from tests.support.redis import Redis
from tests.support.system import System
from tests.support.waiting import wait_for


def ask_all(hosts: list[System], name: str, each: int) -> Counter[int]:
    """The statuses of `each` requests to each host, many at once."""
    with ThreadPoolExecutor(24) as threads:
        return Counter(threads.map(lambda number: hosts[number % len(hosts)].get("/", name, timeout=30).status, range(each * len(hosts))))


def test_a_limit_holds_over_hosts_and_by_shares_while_redis_is_away(new_host: MakeHost, redis: Redis, backend: Backend) -> None:
    hosts = [new_host(name, ratelimit__storage=redis.url, proxy__trusted_proxies="127.0.0.0/8") for name in ("web1", "web2")]
    client = hosts[0].client("shop")
    for name, limit in (("exact.test", 100), ("shared.test", 100), ("alone.test", 2)):
        route_id = client.route(name, backend.url, apply=False)
        # A window that ends meanwhile lets one more pass: of a day, hardly one does.
        client.ok(f"RATELIMIT_SET|SID|{route_id}|{limit}|1d")
    client.apply()
    wait_for(lambda: hosts[1].get("/", "alone.test").status == 200, 10, "the routes on the other host")
    assert ask_all(hosts, "exact.test", 150) == {200: 100, 429: 200}
    redis.stop()
    clients = (f"10.0.{number >> 8}.{number & 255}" for number in itertools.count(1))

    def passing(host: System) -> int:
        """How many of two requests pass where two may: by half a limit one, by a whole one two. Each try is another client."""
        client = next(clients)
        return [host.get("/", "alone.test", X_Forwarded_For=client).status for _ in range(2)].count(200)

    # A host that has come just now is known to the others within a second or so.
    for host in hosts:
        wait_for(lambda host=host: passing(host) == 1, 15, "a host that knows of the other one", pause=0.2)  # type: ignore[misc]
    assert ask_all(hosts, "shared.test", 150) == {200: 100, 429: 200}
    assert [host.log().count("Redis can't be reached") for host in hosts] == [1, 1], hosts[0].log() + hosts[1].log()
    # The host that is left has the whole limit after a while.
    hosts[1].kill()
    assert passing(hosts[0]) == 1
    wait_for(lambda: passing(hosts[0]) == 2, 40, "the whole limit", pause=0.5)
