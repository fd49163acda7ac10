"""Schema migrations: each is a step with a number and a description; a database is brought up to the newest at start.

A file of a newer proxyd is refused. Steps run in one transaction each, so that a crash leaves the step before or after. What a step must
do to every row of a history (`PIECES`) is done before it, in many short transactions: workers write their counts in between, and a
migration that is killed goes on where it was.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from proxyd.base.counters import COUNTERS, Counter
from proxyd.base.text import rfc3339
from proxyd.store.sql import deploys, longsteps, maintenance
from proxyd.store.sql.certhistory import CertificateHistory
from proxyd.store.sql.certificates import COUNTER, AcmeAccount, AcmeChallenge, CertificateOrder, StoredCertificate
from proxyd.store.sql.database import Store, StoreError, database
from proxyd.store.sql.deploys import Deploy
from proxyd.store.sql.errors import ErrorHour, UnknownHost
from proxyd.store.sql.identity import came
from proxyd.store.sql.longsteps import LONGEST
from proxyd.store.sql.maintenance import MaintenanceWindow
from proxyd.store.sql.minutesbytime import MinutesByTime
from proxyd.store.sql.models import (
    Endpoint,
    Host,
    Lead,
    Route,
    RouteHistory,
    RouteRemoval,
    SchemaVersion,
    Service,
    Session,
    SessionSetting,
    StagedChange,
    StoredCounter,
    StoredTable,
)
from proxyd.store.sql.observed import (
    Circuit,
    CircuitTransition,
    EventRow,
    HealthResult,
    HealthStatus,
    RateLimitRejection,
    RefusalCount,
    RouteInFlight,
    RouteLatency,
    RouteMinute,
    RouteStats,
    RouteStatusCode,
    SlowRequest,
    WebSocketConnection,
    Worker,
)
from proxyd.store.sql.plannedchecks import PlannedChecks
from proxyd.store.sql.query import dicts, is_sqlite
from proxyd.store.sql.rollouts import Rollout
from proxyd.store.sql.rollups import (
    HealthDay,
    HealthHour,
    HealthMinute,
    Incident,
    LatencyHour,
    LatencyMinute,
    Objective,
    ServiceDay,
    ServiceHour,
    TrafficDay,
    TrafficHour,
    UnwellRow,
)
from proxyd.store.sql.running import KINDS, Reckoning
from proxyd.store.sql.running import before as before_column
from proxyd.store.sql.schema import HOSTS_CONNECTIONS, HOSTS_DRAINED, HOSTS_TOGETHER, LATENCY_BY_MINUTE, PLANNED_APART, SHARED_RESULTS
from proxyd.store.sql.servicesums import ServiceLatency, ServiceStats, ServiceStatusCode, fill_from_routes
from proxyd.store.sql.sessionids import forget_log, hide_session_ids
from proxyd.store.sql.views import create_views, views_are_current

#: What PostgreSQL calls the types of older tables, and what they become.
_WIDER = {"integer": "BIGINT", "real": "DOUBLE PRECISION"}

#: The step that brought sums that run on.
RUNNING_SUMS = 30

#: Which step made which tables.
V1: list[type[StoredTable]] = [Session, StoredCounter, SessionSetting, StagedChange, Route, RouteRemoval, Worker, EventRow]
V2: list[type[StoredTable]] = [HealthStatus, HealthResult, Circuit, CircuitTransition, RouteStats, RouteStatusCode, RouteLatency,
                               RouteMinute, RouteInFlight]
V3: list[type[StoredTable]] = [RateLimitRejection, SlowRequest, WebSocketConnection]
V4: list[type[StoredTable]] = [RefusalCount]
V8: list[type[StoredTable]] = [Lead]
V12: list[type[StoredTable]] = [Service, Endpoint, RouteHistory]
V13: list[type[StoredTable]] = [Incident, HealthMinute, HealthHour, HealthDay]
V14: list[type[StoredTable]] = [StoredCertificate, CertificateOrder, AcmeChallenge, AcmeAccount]
V15: list[type[StoredTable]] = [TrafficHour, TrafficDay, LatencyHour]
V17: list[type[StoredTable]] = [Rollout]
V18: list[type[StoredTable]] = [Host]
V19: list[type[StoredTable]] = [ServiceHour, ServiceDay, Objective, UnwellRow]
V20: list[type[StoredTable]] = [ServiceStats, ServiceStatusCode, ServiceLatency]
V21: list[type[StoredTable]] = [ErrorHour, UnknownHost]
V27: list[type[StoredTable]] = [MaintenanceWindow, Deploy]
V28: list[type[StoredTable]] = [CertificateHistory]
V31: list[type[StoredTable]] = [LatencyMinute]
#: All tables, in an order in which rows can be copied: what a row refers to comes before it.
TABLES: tuple[type[StoredTable], ...] = (SchemaVersion, *V1, *V2, *V3, *V4, *V8, *V12, *V13, *V14, *V15, *V17, *V18, *V19, *V20, *V21,
                                         *V27, *V28, *V31)


def _first() -> None:
    database.create_tables(V1)
    # Config versions begin at 1: a worker that has loaded nothing yet is at 0, and behind.
    for name, value in (("config_version", 1), ("next_route_number", 1), ("removals_from", 0)):
        StoredCounter.create(name=name, value=value)


def _second() -> None:
    database.create_tables(V2)


def _third() -> None:
    database.create_tables(V3)


def _fourth() -> None:
    database.create_tables(V4)


def _fifth() -> None:
    _add_column(RouteInFlight, "queued", "INTEGER NOT NULL DEFAULT 0")


def _sixth() -> None:
    """PostgreSQL's integers have 32 bits and its floats 24 bits of precision, unless told otherwise. SQLite's have 64 and 53 anyway."""
    if is_sqlite():
        return
    for model in TABLES:
        table = model._meta.table_name
        there = {column.name: column.data_type for column in database.get_columns(table)}
        wider = [f"ALTER COLUMN {name} TYPE {_WIDER[kind]}" for name, kind in there.items() if kind in _WIDER]
        if wider:
            database.execute_sql(f"ALTER TABLE {table} {', '.join(wider)}")
        if "id" in there:
            database.execute_sql(f"ALTER SEQUENCE {table}_id_seq AS bigint")


def _seventh() -> None:
    for model, column in ((Session, "disconnected_clock"), (StagedChange, "staged_clock"), (Route, "drain_clock")):
        _add_column(model, column)


def _lead() -> None:
    database.create_tables(V8)


def _tenth() -> None:
    for column in ("maintenance_until", "maintenance_clock", "hold_until", "hold_clock"):
        _add_column(Route, column)


def _eleventh() -> None:
    _add_column(Route, "request_headers", "TEXT NOT NULL DEFAULT '{}'")


def _twelfth() -> None:
    database.create_tables(V12)
    came(dicts(Route.select()), "")


def _thirteenth() -> None:
    database.create_tables(V13)


def _certificates() -> None:
    database.create_tables(V14)
    # A database can have been brought back to an older schema with this row in it.
    if StoredCounter.get_or_none(StoredCounter.name == COUNTER) is None:
        StoredCounter.create(name=COUNTER, value=1)


def _fifteenth() -> None:
    _add_column(Route, "maintenance_plan")


def _traffic_by_endpoint() -> None:
    database.create_tables(V15)


def _rollouts() -> None:
    _add_column(Route, "rollout_share", "REAL" if is_sqlite() else "DOUBLE PRECISION")
    database.create_tables(V17)


def _workers_of_hosts() -> None:
    """What is in these tables now is written anew by the workers that live."""
    for model in (Worker, RouteInFlight):
        database.execute_sql(f"DROP TABLE {model._meta.table_name}")
    database.create_tables([Worker, RouteInFlight])
    database.create_tables(V18)


def _objectives() -> None:
    """What was counted before has no such columns: its errors count as the backends'."""
    whole = "INTEGER" if is_sqlite() else "BIGINT"
    for model in (RouteMinute, TrafficHour, TrafficDay):
        for column in ("proxy_errors", "late"):
            _add_column(model, column, f"{whole} NOT NULL DEFAULT 0")
    database.create_tables(V19)


def _sums_of_services() -> None:
    database.create_tables(V20)
    fill_from_routes()


def _errors() -> None:
    database.create_tables(V21)


def _classes_by_minute() -> None:
    whole = "INTEGER" if is_sqlite() else "BIGINT"
    for first in (2, 3, 4, 5):
        _add_column(RouteMinute, f"status_{first}xx", f"{whole} NOT NULL DEFAULT 0")


def _registry_of_hosts() -> None:
    _add_column(Host, "registry")


def _hosts_together() -> None:
    """The rows of circuits are written anew from the shared memory of each host."""
    kind = "REAL" if is_sqlite() else "DOUBLE PRECISION"
    if is_sqlite():
        database.execute_sql("DROP TABLE circuits")
        database.create_tables([Circuit])
    elif "host" not in {column.name for column in database.get_columns("circuits")}:
        # Views hang on the table.
        database.execute_sql("DELETE FROM circuits")
        database.execute_sql("ALTER TABLE circuits ADD COLUMN host TEXT NOT NULL, DROP CONSTRAINT circuits_pkey, "
                             "ADD PRIMARY KEY (host, route_id)")
        database.execute_sql("CREATE INDEX circuits_route_id ON circuits (route_id)")
    _add_column(CircuitTransition, "host", "TEXT NOT NULL DEFAULT ''")
    _add_column(Worker, "counted_at", kind)
    _add_column(Host, "clock")
    _add_column(Host, "clock_at", kind)


def _drained_hosts() -> None:
    for column in ("admin", "drained_at", "drained_by"):
        _add_column(Host, column)


def _connections_of_hosts() -> None:
    _add_column(Host, "connections", "INTEGER" if is_sqlite() else "BIGINT")


def _slowest_by_index() -> None:
    """The hundred slowest requests of all that are kept were found by sorting them. A new table has the index already."""
    database.execute_sql("CREATE INDEX IF NOT EXISTS slow_requests_total_ms ON slow_requests (total_ms)")


def _maintenance_and_deploys() -> None:
    """With what the events tell of both."""
    database.create_tables(V27)
    events = EventRow.select(EventRow.at, EventRow.route_id, EventRow.actor, EventRow.detail).order_by(EventRow.id)
    maintenance.from_events(dicts(events.where(EventRow.type == "maintenance_changed")))
    maintenance.found(dicts(Route.select().where(Route.maintenance_since.is_null(False) | Route.maintenance_plan.is_null(False))))
    deploys.from_events(dicts(events.where(EventRow.type == "config_applied")))


def _history_of_certificates() -> None:
    database.create_tables(V28)


def _running_sums() -> None:
    """Columns for what earlier rows add up to: `Reckoning` fills those of the rows that are there, for all sums of today."""
    _checks_in_maintenance()
    real, whole = ("REAL", "INTEGER") if is_sqlite() else ("DOUBLE PRECISION", "BIGINT")
    for kind in KINDS:
        for model, _ in kind.tables:
            for name in kind.sums:
                _add_column(model, before_column(name), real if name.endswith("_seconds") else whole)


def _latency_by_minute() -> None:
    database.create_tables(V31)


def _response_times() -> None:
    """Of the checks before there is none: an average of nothing is NULL."""
    for model in (HealthMinute, HealthHour, HealthDay):
        for name in ("response_us_sum", "response_us_min", "response_us_max"):
            _add_column(model, name, "INTEGER" if is_sqlite() else "BIGINT")


def _shared_results() -> None:
    """Columns of rows that stand for several checks, and the routes of an endpoint by when they went. `MinutesByTime` moves the sums of
    minutes."""
    real, whole = ("REAL", "INTEGER") if is_sqlite() else ("DOUBLE PRECISION", "BIGINT")
    for name, kind in (("checks", f"{whole} NOT NULL DEFAULT 1"), ("last_checked_at", "TEXT"), ("response_time_ms_min", real),
                       ("response_time_ms_max", real)):
        _add_column(HealthResult, name, kind)
    database.execute_sql(f"CREATE INDEX IF NOT EXISTS {INDEXES[SHARED_RESULTS][0]} ON {INDEXES[SHARED_RESULTS][1]}")


def _checks_in_maintenance() -> None:
    for model in (HealthMinute, HealthHour, HealthDay):
        _add_column(model, "in_maintenance", f"{'INTEGER' if is_sqlite() else 'BIGINT'} NOT NULL DEFAULT 0")


def _planned_apart() -> None:
    """Checks and answers in planned maintenance, apart from the others. `PlannedChecks` marks those single checks of which that is known;
    of sums it is not."""
    whole, flag = ("INTEGER", "INTEGER NOT NULL DEFAULT 0") if is_sqlite() else ("BIGINT", "BOOLEAN NOT NULL DEFAULT FALSE")
    _add_column(HealthResult, "planned", flag)
    _checks_in_maintenance()
    for model in (HealthHour, HealthDay):
        _add_column(model, before_column("in_maintenance"), f"{whole} DEFAULT 0")
    _add_column(RouteMinute, "maintenance_hits", f"{whole} NOT NULL DEFAULT 0")


def _one_index_of_routes() -> None:
    """Of two indexes that begin with the endpoint, PostgreSQL chose the one without the end of each route."""
    database.execute_sql("DROP INDEX IF EXISTS route_history_endpoint_id")


def _add_column(model: type[StoredTable], name: str, kind: str = "TEXT") -> None:
    """Add a column that may be empty, or has a default. A new database has it already: its tables are made as the models are now."""
    table = model._meta.table_name
    if name not in {column.name for column in database.get_columns(table)}:
        database.execute_sql(f"ALTER TABLE {table} ADD COLUMN {name} {kind}")


#: Number, what it brings, and how. Never change one that was released: add the next.
STEPS: tuple[tuple[int, str, Callable[[], None]], ...] = (
    (1, "sessions, routes, settings, workers, events", _first),
    (2, "health, circuits, traffic", _second),
    (3, "rate-limit rejections, slow requests, WebSockets", _third),
    (4, "refusals by reason", _fourth),
    (5, "requests that wait in a queue", _fifth),
    (6, "64-bit counters and ids", _sixth),
    (7, "when waits began, by a clock that nobody sets", _seventh),
    (8, "who leads", _lead),
    (9, "session ids stored as hashes", hide_session_ids),
    (10, "holds, and maintenance with an end", _tenth),
    (11, "request headers of routes", _eleventh),
    (12, "services, endpoints and the history of routes", _twelfth),
    (13, "incidents, and health by minute, hour and day", _thirteenth),
    (14, "certificates", _certificates),
    (15, "planned maintenance", _fifteenth),
    (16, "traffic by hour and day", _traffic_by_endpoint),
    (17, "rollouts", _rollouts),
    (18, "hosts, and the workers of each", _workers_of_hosts),
    (19, "uptime of services, objectives, what is unwell, errors by who made them", _objectives),
    (20, "sums of services, which go on over redeploys", _sums_of_services),
    (21, "errors by the hour, and unknown hosts", _errors),
    (22, "status classes by the minute", _classes_by_minute),
    (23, "where the registry of a host is reached", _registry_of_hosts),
    (24, "an index of slow requests by how slow they were", _slowest_by_index),
    (HOSTS_TOGETHER, "circuits by host, and the clocks of hosts", _hosts_together),
    (HOSTS_DRAINED, "where the admin HTTP of a host is reached, and which hosts are drained", _drained_hosts),
    (27, "maintenance windows and deploys", _maintenance_and_deploys),
    (28, "the history of certificates", _history_of_certificates),
    (HOSTS_CONNECTIONS, "how many registry connections a host has", _connections_of_hosts),
    (RUNNING_SUMS, "what earlier hours and days of health add up to", _running_sums),
    (LATENCY_BY_MINUTE, "latencies by the minute", _latency_by_minute),
    (32, "response times of health checks, by minute, hour and day", _response_times),
    (SHARED_RESULTS, "rows that equal checks share, and minutes of health by their time", _shared_results),
    (PLANNED_APART, "checks and answers in planned maintenance, apart from the others", _planned_apart),
    (35, "one index of the routes of an endpoint", _one_index_of_routes),
)
#: Steps after whose first run every row of a history is changed, and what does that. Such a step runs twice, and notes its number in the
#: end.
PIECES: dict[int, Callable[[], longsteps.Work]] = {RUNNING_SUMS: Reckoning, SHARED_RESULTS: MinutesByTime,
                                                 PLANNED_APART: PlannedChecks}
#: Steps that make an index on what is there: a server makes it beside its writers, before the step. Its name, and what it is on.
INDEXES: dict[int, tuple[str, str]] = {
    24: ("slow_requests_total_ms", "slow_requests (total_ms)"),
    SHARED_RESULTS: ("route_history_endpoint_id_removed_at", "route_history (endpoint_id, removed_at)")}
NEWEST = STEPS[-1][0]


def current_version() -> int:
    """The schema version of the open database, 0 for an empty one. Runs in the database thread."""
    if not database.table_exists("schema_version"):
        return 0
    row = SchemaVersion.select().order_by(SchemaVersion.version.desc()).first()
    return row.version if row else 0


def migrate(store: Store, goes_on: Callable[[], None] = lambda: None) -> tuple[int, int]:
    """Bring the database up to date; returns the version before and after. `goes_on` is called every few seconds while a long step runs.
    Raises StoreError for a newer database.

    Counters that are new in COUNTERS get their columns without a step. A database that is up to date already is only read: a locked
    database or a full disk must not keep a master from starting.
    """
    before = store.read(current_version)
    if before > NEWEST:
        raise StoreError(f"the database {store.name} has schema version {before}, this proxyd knows {NEWEST}: "
                         "install the newer proxyd, or restore a backup made before the upgrade")
    for number, description, step in STEPS:
        if number > before:
            if before and number in INDEXES:
                longsteps.index(store, *INDEXES[number])
            if before and number in PIECES:
                store.call(step, durable=True, bound=LONGEST)
                longsteps.in_pieces(store, description, PIECES[number](), goes_on)
            store.call(_run, number, description, step, durable=True, bound=LONGEST)
            if step is hide_session_ids and before and store.path is not None:
                forget_log(store.path)
    if store.read(_missing_counters):
        store.call(_add_counters, durable=True)
    if not store.read(views_are_current):
        store.call(create_views)
    return before, NEWEST


def _missing_counters() -> list[tuple[str, Counter]]:
    """Tables, and the counters that they have no column for."""
    found = []
    for model in (RouteStats, ServiceStats):
        there = {column.name for column in database.get_columns(model._meta.table_name)}
        found += [(model._meta.table_name, counter) for counter in COUNTERS if there and counter.name not in there]
    return found


def _add_counters() -> None:
    # With a default in the table itself, so that a worker of the older proxyd can still write its rows.
    whole, other = ("INTEGER", "REAL") if is_sqlite() else ("BIGINT", "DOUBLE PRECISION")
    for table, counter in _missing_counters():
        kind = whole if counter.whole else other
        database.execute_sql(f"ALTER TABLE {table} ADD COLUMN {counter.name} {kind} NOT NULL DEFAULT 0")


def _run(number: int, description: str, step: Callable[[], None]) -> None:
    database.create_tables([SchemaVersion])
    if current_version() >= number:
        return
    step()
    SchemaVersion.create(version=number, description=description, applied_at=rfc3339(time.time()))
