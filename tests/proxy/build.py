"""Records, upstreams and pools for tests of the request path, made as a worker makes them: through a route table."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from proxyd.http1 import RequestHead
from proxyd.proxy.core.upstreams import Pool, Upstream
from proxyd.proxy.route.table import Table
from proxyd.store.sql.snapshot import RouteRecord, Snapshot


def record(number: int, options: dict[str, str] | None = None, **fields: Any) -> RouteRecord:
    """Route r<number> for host h with its own backend; `fields` are those of RouteRecord that differ."""
    made = RouteRecord(f"r{number}", "s", "svc", f"i{number}", ("h",), "/", f"http://127.0.0.1:{3000 + number}", 0, True,
                       number, 1, tuple((options or {}).items()), (), (), 0.0, "", 0.0, 0.0)
    return replace(made, **fields)


def pool_of(*records: RouteRecord) -> Pool:
    """The pool of records that share one host, path and priority."""
    pool = Table.empty().with_changes(Snapshot(1, True, records, ())).match("h", "/", RequestHead("GET", "/", 11, [], []))
    assert pool is not None
    return pool


def upstream(number: int = 1, options: dict[str, str] | None = None, **fields: Any) -> Upstream:
    """One upstream alone in its pool."""
    return pool_of(record(number, options, **fields)).members[0]
