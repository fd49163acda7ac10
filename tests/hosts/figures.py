"""Figures of hosts for docs/hosts.md: `python -m tests.hosts.figures` prints them, with the load of the machine. It measures

- how long an apply takes with 1,000 routes until its OK, on one, two and three hosts;
- how many of 500 requests to three hosts pass a limit of 100 that Redis counts;
- what the database does for an apply, a host and a route: transactions, bytes of its log, and its own processor time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil

from tests.hosts.together import Addresses, Host, Hosts
from tests.support.guard import guarded
from tests.support.registry import RegistryClient
from tests.support.waiting import wait_for

_APPLIES = 60
#: Routes in a line of the protocol.
_AT_ONCE = 100


def main() -> None:
    """Measure, and print one JSON object."""
    parser = argparse.ArgumentParser("python -m tests.hosts.figures")
    parser.add_argument("--routes", type=int, default=1000, help="routes that there are (1000)")
    options = parser.parse_args()
    with guarded("figures-") as folder, contextlib.ExitStack() as stack:
        print(json.dumps(_measured(folder, stack, options.routes), indent=1), flush=True)


def _measured(folder: Path, stack: contextlib.ExitStack, routes: int) -> dict[str, Any]:
    hosts = Hosts(folder, stack, Addresses())
    leader = hosts.leader()
    others = [host for host in hosts.hosts if host is not leader]
    said: dict[str, Any] = {"load": os.getloadavg()[0], "limit": _limited(hosts, leader)}
    client = RegistryClient(leader.registry_port, 120.0, leader.address).register("many")
    begin = time.monotonic()
    for first in range(0, routes, _AT_ONCE):
        found = client.json("ROUTE_ADD_BULK|SID|" + json.dumps([
            {"domains": [f"r{number}.test"], "path": "/", "backend_url": f"{hosts.backends[0].url}/v0", "priority": 0}
            for number in range(first, min(first + _AT_ONCE, routes))]))
    client.apply()
    said["first apply of all routes"] = time.monotonic() - begin
    route = found[0]["route_id"]
    # An idle host asks, too: what it costs the database beside all changes.
    said["three hosts idle, a second"] = _of_database(hosts, lambda: time.sleep(5.0), 5.0)
    applies: dict[str, Any] = {}
    while True:
        applies[f"{len(others) + 1} hosts"] = _applied(hosts, client, route)
        if not others:
            break
        last = others.pop()
        last.stop()
        wait_for(lambda: hosts.servers[0].sql("SELECT count(DISTINCT host) FROM workers", hosts.database) == str(len(others) + 1), 20,
                 "the end of a host")
        time.sleep(3.0)
    return {**said, "applies": applies, "load at the end": os.getloadavg()[0]}


def _applied(hosts: Hosts, client: RegistryClient, route: str) -> dict[str, Any]:
    """Apply one route again and again: milliseconds, and what an apply costs the database."""
    times: list[float] = []

    def apply() -> None:
        # Each changes something: the route begins with number 0, or with the last one.
        for number in range(1, _APPLIES + 1):
            client.ok(f"ROUTE_UPDATE|SID|{route}|backend_url|{hosts.backends[0].url}/v{number}")
            begin = time.monotonic()
            client.apply()
            times.append((time.monotonic() - begin) * 1000)

    cost = _of_database(hosts, apply, _APPLIES)
    times.sort()
    return {"median ms": statistics.median(times), "best ms": times[0], "90 % below ms": times[int(len(times) * 0.9)], "database": cost}


def _of_database(hosts: Hosts, act: Any, units: float) -> dict[str, float]:
    """What a unit of something costs the database server."""
    sql = ("SELECT xact_commit + xact_rollback, pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0') FROM pg_stat_database "
           f"WHERE datname = '{hosts.database}'")

    def look() -> list[float]:
        server = hosts.servers[0]
        assert server.process is not None
        used = 0.0
        for process in (one := psutil.Process(server.process.pid), *one.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                used += sum(process.cpu_times()[:2])
        return [*map(float, server.sql(sql).split("|")), used * 1000]

    time.sleep(1.5)
    before = look()
    act()
    time.sleep(1.5)
    return {name: round((after - then) / units, 2) for name, after, then in zip(
        ("transactions", "bytes of log", "processor ms"), look(), before, strict=True)}


def _limited(hosts: Hosts, leader: Host) -> dict[int, int]:
    """The statuses of 500 requests to three hosts at once, by a limit of 100 in ten minutes."""
    client = RegistryClient(leader.registry_port, address=leader.address).register("limited")
    route = client.route("limited.test", hosts.backends[0].url, apply=False)
    client.ok(f"RATELIMIT_SET|SID|{route}|100|10m")
    client.apply()
    with ThreadPoolExecutor(24) as threads:
        found = Counter(threads.map(lambda number: hosts.hosts[number % 3].get("/", "limited.test", timeout=60).status, range(500)))
    client.close()
    return dict(found)


if __name__ == "__main__":
    main()
