"""A year of history for the figures of docs/database.md: 1,000 endpoints of 500 services, redeployed every week, with outages.

`scripts/year fill URL` writes it into a new database, `scripts/year measure URL` times each view. The rows are made by the database
itself, from a table of endpoints and one of instants, some hundred thousand in a transaction: the same SQL serves both engines.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from proxyd.base.text import rfc3339
from proxyd.store.sql.database import Store, StoreError, database
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.query import is_sqlite
from proxyd.store.sql.running import Reckoning
from proxyd.store.sql.views import VIEWS

DAY = 86400
#: Rows of a transaction.
_BATCH = 200_000
_RUNS = 3
_BOUND = 600.0

#: What each table gets: spans between two rows of an endpoint in seconds, days back, and the row. `e.n` is the endpoint, `t.at` the
#: instant, `t.k` its number; `mix` is a number from 0 to 99 that differs from row to row.
_SUMS = "CASE WHEN mix < 2 THEN 0.95 ELSE 1.0 END * {span}, CASE WHEN mix < 2 THEN 0.05 ELSE 0.0 END * {span}, 0.0, {span} / 10, mix / 98"
_TRAFFIC = ("{span} / 60 * (1 + mix), CASE WHEN mix < 5 THEN mix ELSE 0 END, 0, mix / 50, 20.0 * {span} / 60 * (1 + mix), "
            "{span} * 1000, {span} * 10, 0, 0, 0, 0, {span} / 60 * (1 + mix), 0, 0, 0")
_COLUMNS = ("requests, errors, proxy_errors, late, latency_ms_sum, bytes_sent, bytes_received, rate_limited, circuit_rejected, "
            "maintenance_hits, drain_rejected, status_2xx, status_3xx, status_4xx, status_5xx")
_HEALTH = "up_seconds, down_seconds, maintenance_seconds, good, bad"
_PLACE = "service_name, domain, path"
#: Of a service, only its first endpoint makes rows.
_SERVICES = ("'svc' || (e.n / 2), 'svc' || (e.n / 2) || '.test', '/', t.at, CASE WHEN mix < 1 THEN 0.98 ELSE 1.0 END * {span}, "
             "CASE WHEN mix < 1 THEN 0.02 ELSE 0.0 END * {span}, 0.0")
TABLES: tuple[tuple[str, str, str, int, int, str], ...] = (
    ("health_days", f"endpoint_id, day, {_HEALTH}", f"e.n, t.at, {_SUMS}", DAY, 365, ""),
    ("health_hours", f"endpoint_id, hour, {_HEALTH}", f"e.n, t.at, {_SUMS}", 3600, 90, ""),
    ("health_minutes", f"endpoint_id, minute, {_HEALTH}", f"e.n, t.at, {_SUMS}", 60, 2, ""),
    ("service_days", f"{_PLACE}, day, up_seconds, down_seconds, maintenance_seconds", _SERVICES, DAY, 365, "AND e.n / 2 * 2 = e.n"),
    ("service_hours", f"{_PLACE}, hour, up_seconds, down_seconds, maintenance_seconds",_SERVICES, 3600, 90, "AND e.n / 2 * 2 = e.n"),
    ("traffic_days", f"endpoint_id, day, {_COLUMNS}", f"e.n, t.at, {_TRAFFIC}", DAY, 365, ""),
    ("traffic_hours", f"endpoint_id, hour, {_COLUMNS}", f"e.n, t.at, {_TRAFFIC}", 3600, 90, ""),
    ("latency_hours", "endpoint_id, hour, bucket, requests", "e.n, t.at, b.bucket, 10 + mix", 3600, 90, "CROSS JOIN story_buckets b"),
    # A check a minute of a thousand routes, as `[health] results_per_second` writes them.
    ("health_results", "route_id, checked_at, ok, status_code, response_time_ms, checks, last_checked_at, response_time_ms_min, "
     "response_time_ms_max", "'r' || e.n, t.at, {true}, 200, 2.0 + mix / 10.0, 3 + mix / 67, t.next, 2.0, 12.0", 200, 2, ""),
    ("route_minutes", "route_id, minute, requests, errors, latency_ms_sum, bytes_sent, bytes_received",
     "'r' || e.n, t.at, 1 + mix, mix / 98, 20.0 * (1 + mix), 1000, 10", 600, 30, ""),
    ("route_history", "route_id, endpoint_id, session_id, backend_url, added_at, added_by, removed_at, removed_by, removed_why",
     "'r' || e.n || '-' || t.k, e.n, 's1', 'http://127.0.0.1:8080', t.at, 'year', t.next, 'year', 'redeployed'", 7 * DAY, 358, ""),
    ("incidents", "kind, endpoint_id, service_name, instance_name, domain, path, route_id, planned, started_at, first_failed_at, ended_at, "
     "ended_how, cause, incident_id", "'endpoint', e.n, 'svc' || (e.n / 2), 'i' || e.n, 'svc' || (e.n / 2) || '.test', '/', 'r' || e.n, "
     "{false}, t.at, t.at, t.soon, 'recovered', 'refused', t.k * 10000 + e.n", DAY, 365, "AND mix < 1"),
    ("slow_requests", "route_id, at, level, method, url, status_code, total_ms, queue_ms, connect_ms, first_byte_ms, body_ms, request_id, "
     "upstream", "'r' || e.n, t.at, 'warning', 'GET', 'svc.test/', 200, 500.0 + mix * 7, 0.0, 1.0, 490.0, 1.0, 'q', 'b'", 3600, 14, ""),
    ("events", "at, type, route_id, actor, detail", "t.at, CASE WHEN mix < 20 THEN 'config_applied' ELSE 'backend_health_changed' END, "
     "'r' || e.n, 'year', '{{\"service\": \"svc\", \"instance\": \"i\", \"routes\": 1, \"removed\": [], \"settings\": 0}}'", DAY, 90, ""),
    ("deploys", "at, service_name, instance_name, actor, config_version, places_added, places_changed, places_removed, routes_set, "
     "routes_removed, settings_changed, change", "t.at, 'svc' || (e.n / 2), 'i' || e.n, 'year', t.k, 0, 1, 0, 1, 1, 0, '{{}}'", DAY, 365,
     "AND mix < 20"),
    ("maintenance_windows", "endpoint_id, service_name, instance_name, domain, path, route_id, started_at, entered_by, reason, ended_at, "
     "ended_by, ended_how", "e.n, 'svc' || (e.n / 2), 'i' || e.n, 'svc' || (e.n / 2) || '.test', '/', 'r' || e.n, t.at, 'year', '', "
     "t.soon, 'year', 'exited'", DAY, 365, "AND mix < 3"),
    ("circuit_transitions", "route_id, at, from_state, to_state, reason", "'r' || e.n, t.at, 'closed', 'open', 'failures'", DAY, 90,
     "AND mix < 10"),
    ("rate_limit_rejections", "route_id, minute, address, rejected", "'r' || e.n, t.at, '192.0.2.' || mix, 3", 6 * 3600, 30, ""),
    ("error_hours", "endpoint_id, hour, status_code, reason, made_by, requests, last_at, last_method, last_url, last_upstream, "
     "last_request_id", "e.n, t.at, 502, 'upstream_closed', 'backend', 1 + mix, t.at, 'GET', 'svc.test/', 'b', 'q'", 3600, 30,
     "AND mix < 5"),
)
_MIX = "((e.n * 7919 + t.k * 104729) - (e.n * 7919 + t.k * 104729) / 100 * 100)"

#: How each view is asked: as a person would, for the last day, or for one service.
_DAY_AGO = "(SELECT day_ago FROM v_now)"
_ONE = "service_name = 'svc100'"
ASKED = {"v_events": f"at >= {_DAY_AGO}", "v_checks": "checked_at >= (SELECT hour_ago FROM v_now)",
         "v_traffic": "minute >= (SELECT hour_ago FROM v_now)",
         "v_health_by_minute": "minute >= (SELECT hour_ago FROM v_now)", "v_health_by_hour": f"hour >= {_DAY_AGO}",
         "v_health_by_day": "day >= (SELECT month_ago FROM v_now)", "v_traffic_by_day": "day >= (SELECT month_ago FROM v_now)",
         "v_route_history": _ONE,
         "v_traffic_by_hour": f"{_ONE} AND hour >= (SELECT week_ago FROM v_now)",
         "v_latency_by_hour": f"{_ONE} AND hour >= {_DAY_AGO}", "v_incidents": f"started_at >= {_DAY_AGO}",
         "v_deploys": f"at >= {_DAY_AGO}", "v_maintenance": f"started_at >= {_DAY_AGO}", "v_certificate_history": f"at >= {_DAY_AGO}",
         "v_down_at": f"{_DAY_AGO} BETWEEN since AND until", "v_websockets": f"opened_at >= {_DAY_AGO}"}


def _now(epoch: int) -> list[tuple[int, str]]:
    return [(epoch // span * span, rfc3339(epoch // span * span)) for span in (60, 3600, DAY)]


def _begin(endpoints: int) -> None:
    """The endpoints, with a route each now, and what the rows are made of. Runs in the database thread."""
    database.execute_sql("CREATE TABLE story_endpoints (n INTEGER PRIMARY KEY)")
    database.execute_sql("CREATE TABLE story_times (k INTEGER PRIMARY KEY, at TEXT, soon TEXT, next TEXT)")
    database.execute_sql("CREATE TABLE story_buckets (bucket INTEGER PRIMARY KEY)")
    _many("story_endpoints (n)", [(number,) for number in range(1, endpoints + 1)])
    _many("story_buckets (bucket)", [(number,) for number in (180, 190, 205, 230)])
    early = rfc3339(time.time() - 365 * DAY)
    for statement in (
        "INSERT INTO services (service_id, service_name, first_seen) SELECT e.n / 2 + 1, 'svc' || (e.n / 2), '{early}' "
        "FROM story_endpoints e WHERE e.n / 2 * 2 = e.n OR e.n = 1",
        "INSERT INTO endpoints (endpoint_id, service_id, service_name, instance_name, domain, path, first_seen) SELECT e.n, e.n / 2 + 1, "
        "'svc' || (e.n / 2), 'i' || e.n, 'svc' || (e.n / 2) || '.test', '/', '{early}' FROM story_endpoints e",
        "INSERT INTO route_history (route_id, endpoint_id, session_id, backend_url, added_at, added_by) SELECT 'r' || e.n, e.n, 's1', "
        "'http://127.0.0.1:8080', '{early}', 'year' FROM story_endpoints e",
        "INSERT INTO sessions (session_id, service_name, instance_name, maintenance_port, metadata, state, address, token_name, "
        "connected_at, last_activity, secret_hash) VALUES ('s1', 'svc', 'i', 0, '{{}}', 'connected', '', '', '{early}', '{early}', '')",
        "INSERT INTO routes (route_id, session_id, service_name, instance_name, domains, path, backend_url, priority, enabled, options, "
        "headers, request_headers, rate_limits, slot, version, created_at, updated_at) SELECT 'r' || e.n, 's1', 'svc' || (e.n / 2), "
        "'i' || e.n, "
        "'[\"svc' || (e.n / 2) || '.test\"]', '/', 'http://127.0.0.1:8080', 0, {true}, '{{}}', '{{}}', '{{}}', '[]', e.n, 1, '{early}', "
        "'{early}' FROM story_endpoints e",
        "INSERT INTO objectives (service_name, domain, path, objective, target_percent) SELECT 'svc' || (e.n / 2), "
        "'svc' || (e.n / 2) || '.test', '/', 'availability', 99.9 FROM story_endpoints e WHERE e.n / 2 * 2 = e.n OR e.n = 1",
    ):
        database.execute_sql(statement.format(early=early, true="1" if is_sqlite() else "TRUE"))


def _hurry() -> None:
    """Rows come by time, and keys begin with the endpoint: without a cache of its own size, each row is a page that is read and written."""
    database.execute_sql("PRAGMA cache_size = -1000000")
    database.execute_sql("PRAGMA synchronous = OFF")
    database.execute_sql("PRAGMA wal_autocheckpoint = 50000")


def _many(into: str, rows: list[tuple[Any, ...]]) -> None:
    mark = f"({', '.join([database.obj.param] * len(rows[0]))})"
    for first in range(0, len(rows), 200):
        piece = rows[first:first + 200]
        database.execute_sql(f"INSERT INTO {into} VALUES {', '.join([mark] * len(piece))}", [value for row in piece for value in row])


def _times(span: int, days: int) -> int:
    """Lay out the instants of a table, the newest first. Returns how many. Runs in the database thread."""
    database.execute_sql("DELETE FROM story_times")
    newest = int(time.time()) // min(span, DAY) * min(span, DAY)
    instants = [newest - number * span for number in range(days * DAY // span)]
    _many("story_times (k, at, soon, next)", [(number, rfc3339(at), rfc3339(at + 240), rfc3339(at + span))
                                             for number, at in enumerate(reversed(instants))])
    return len(instants)


def _copy(name: str, columns: str, row: str, span: int, more: str, first: int, last: int) -> None:
    values = row.format(span=span, true="1" if is_sqlite() else "TRUE", false="0" if is_sqlite() else "FALSE").replace("mix", _MIX)
    join, _, condition = more.partition("AND ")
    database.execute_sql(f"INSERT INTO {name} ({columns}) SELECT {values} FROM story_times t CROSS JOIN story_endpoints e {join} "
                         f"WHERE t.k >= {first} AND t.k < {last} {'AND ' + condition.replace('mix', _MIX) if condition else ''}")


def fill(store: Store, endpoints: int) -> None:
    """Write the year. Raises StoreError."""
    migrate(store)
    if store.path is not None:
        store.plain(_hurry)
    store.call(_begin, endpoints, bound=_BOUND)
    for name, columns, row, span, days, more in TABLES:
        began = time.monotonic()
        count = store.call(_times, span, days, bound=_BOUND)
        step = max(1, _BATCH // endpoints)
        for first in range(0, count, step):
            store.call(_copy, name, columns, row, span, more, first, first + step, bound=_BOUND)
        print(f"{name:<24} {time.monotonic() - began:7.1f} s", flush=True)
    reckoning = Reckoning()
    while store.call(reckoning.piece, bound=_BOUND):
        pass
    for table in ("story_endpoints", "story_times", "story_buckets"):
        store.call(database.execute_sql, f"DROP TABLE {table}")
    store.call(database.execute_sql, "ANALYZE", bound=_BOUND)


def questions() -> Iterator[tuple[str, str]]:
    """Each view, and how it is asked."""
    for name in VIEWS:
        yield name, f"SELECT * FROM {name}{' WHERE ' + ASKED[name] if name in ASKED else ''}"
    for name in ("v_uptime", "v_uptime_services"):
        yield f"{name} (one service)", f"SELECT * FROM {name} WHERE {_ONE}"
        yield f"{name} (24h)", f"SELECT * FROM {name} WHERE period = '24h'"
        yield f"{name} (1y)", f"SELECT * FROM {name} WHERE period = '1y'"
    for name in ("v_slo", "v_unused", "v_errors", "v_slowest_endpoints"):
        yield f"{name} (one service)", f"SELECT * FROM {name} WHERE {_ONE}"


def _alone() -> Path | None:
    """Have a server do all of a question in one process, and compile none, as the role of docs/database.md has it. Returns where the kernel
    says how long that process has run; None for a file, or a server elsewhere. Runs in the database thread."""
    if is_sqlite():
        return None
    for name, value in (("jit", "off"), ("max_parallel_workers_per_gather", "0")):
        database.execute_sql(f"SELECT set_config('{name}', '{value}', FALSE) FROM pg_settings WHERE name = '{name}'")
    number, address = database.execute_sql("SELECT pg_backend_pid(), host(inet_server_addr())").fetchone()
    times = Path(f"/proc/{number}/schedstat")
    return times if address in (None, "127.0.0.1", "::1") and times.exists() else None


def _busy(server: Path | None) -> float:
    """Seconds of processor time so far: of the server's process, or of this thread."""
    return int(server.read_text().split()[0]) / 1e9 if server is not None else time.thread_time()


def _timed(sql: str, server: Path | None) -> tuple[float, float, int]:
    """Milliseconds by the clock and of processor time, and rows. Runs in the database thread."""
    began, busy = time.monotonic(), _busy(server)
    rows = len(database.execute_sql(sql).fetchall())
    return 1000 * (time.monotonic() - began), 1000 * (_busy(server) - busy), rows


def measure(store: Store) -> None:
    """Print each view's shortest time of some, and how many rows it gave. Raises StoreError."""
    print(f"{'view':<34} {'ms':>9} {'cpu ms':>9} {'rows':>8}")
    server = store.plain(_alone)
    for name, sql in questions():
        runs = [store.plain(_timed, sql, server)]
        # What takes seconds is told by one run.
        runs += [store.plain(_timed, sql, server) for _ in range(_RUNS - 1) if runs[0][0] < 2000]
        print(f"{name:<34} {min(run[0] for run in runs):9.1f} {min(run[1] for run in runs):9.1f} {runs[0][2]:8}", flush=True)


def main(arguments: list[str]) -> int:
    """Fill or measure; exit status."""
    parser = argparse.ArgumentParser(prog="scripts/year", description="Fill a new database with a year of history, and time its views.")
    parser.add_argument("action", choices=["fill", "measure"])
    parser.add_argument("url", help="as [database] url; fill takes a new database")
    parser.add_argument("--endpoints", type=int, default=1000, choices=range(2, 10_001), metavar="2..10000")
    given = parser.parse_args(arguments)
    store = Store(given.url, busy_timeout=_BOUND)
    try:
        store.open()
        if given.action == "fill":
            fill(store, given.endpoints)
        else:
            measure(store)
    except StoreError as error:
        print(f"scripts/year: {error}", file=sys.stderr)
        return 1
    finally:
        store.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
