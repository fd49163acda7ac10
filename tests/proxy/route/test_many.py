"""Thousands of routes with everything on: what a table of them costs to build, to look up in, and in memory.

The bounds are far above what is measured (docs/performance.md has that for 10,000 routes): they catch a cost that grows with the number of
routes, or with its square.
"""

from __future__ import annotations

import gc
import time
import tracemalloc

from proxyd.http1 import RequestHead
from proxyd.proxy.route.table import Table
from proxyd.store.sql.snapshot import RouteRecord, Snapshot
from tests.proxy.build import record

OPTIONS = {
    "allow": "10.0.0.0/8", "deny": "10.66.0.0/16", "cors_origins": "https://a.test", "forward_auth": "http://127.0.0.1:9091/",
    "rate_limit_key": "header:X-Key", "gates": "", "error_pages": "5xx -> /down.html", "compression": "yes", "retry": "yes",
    "sticky_cookie": "mark", "health_check_path": "/healthz", "circuit_breaker": "yes", "slow_warning": "1s"}
REWRITE = r"~ /users/([0-9]+)/(.*) -> /u/\1/\2"


def full(number: int) -> RouteRecord:
    """One of a hundred routes of its host: some have conditions, some a path, some are replicas."""
    options = {**OPTIONS, "timeout": f"{number % 50 + 1}s"}
    kind = number % 4
    if kind == 1:
        options["match_header"] = f"X-Version: {number // 4 % 25}"
    if kind == 2:
        options |= {"match_method": "GET, POST", "match_cookie": f"canary={number // 4 % 25}", "rewrite": REWRITE}
    path = f"/part{number % 20}" if kind == 3 else "/"
    return record(number, options, domains=(f"h{number // 100}.test", f"*.h{number // 100}.test"), path=path, priority=0,
                  headers=(("X-Frame-Options", "DENY"), ("X-Served-By", "{route}")), request_headers=(("X-Tenant", "blue"),),
                  rate_limits=((100, 60.0),))


def table(count: int) -> Table:
    return Table.empty().with_changes(Snapshot(1, True, tuple(full(number) for number in range(1, count + 1)), ()))


def lookups(made: Table, hosts: int, count: int) -> float:
    """Seconds of so many requests, each for another kind of route."""
    heads = [RequestHead("GET", "/", 11, [("Host", "h"), *fields], []) for fields in (
        [], [("X-Version", "3")], [("Cookie", "a=b; canary=7")], [("X-Version", "none"), ("Cookie", "canary=none")])]
    began = time.process_time()
    for number in range(count):
        assert made.match(f"h{number % hosts}.test", f"/part{number % 20}/x" if number % 4 == 3 else "/x", heads[number % 4]) is not None
    return time.process_time() - began


def test_thousands_of_routes_with_everything_on() -> None:
    began = time.process_time()
    made = table(2000)
    built = time.process_time() - began
    assert len(made.upstreams) == 2000
    # A millisecond a route would be ten seconds for 10,000.
    assert built < 10
    few, many = lookups(table(200), 2, 2000), lookups(made, 20, 2000)
    assert many < 5 * few + 0.5
    began = time.process_time()
    for version in range(20):
        made = made.with_changes(Snapshot(version + 2, False, (full(1 + 100 * version % 2000),), ()))
    assert time.process_time() - began < 10


def test_a_route_takes_a_few_kilobytes() -> None:
    table(100)
    gc.collect()
    tracemalloc.start()
    try:
        made = table(500)
        size = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(made.upstreams) == 500 and size < 500 * 20_000
