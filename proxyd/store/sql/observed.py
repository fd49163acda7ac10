"""The tables of what is observed: workers, health, circuits, traffic, events. What the registry declares is in `models.py`, where the
forms of instants and durations are explained, too."""

from __future__ import annotations

from typing import TypeVar

from peewee import SQL, BigAutoField, BigIntegerField, BooleanField, CompositeKey, DoubleField, TextField

from proxyd.base.counters import COUNTERS
from proxyd.store.sql.models import StoredTable, of_key

_Table = TypeVar("_Table", bound=type[StoredTable])


def with_counters(table: _Table) -> _Table:
    """Give a table a column for each counter (base/counters.py), behind its own."""
    for counter in COUNTERS:
        table._meta.add_field(counter.name, BigIntegerField(default=0) if counter.whole else DoubleField(default=0))
    return table


class TrafficSums(StoredTable):
    """Columns for the traffic of something in one span of time."""

    requests = BigIntegerField()
    errors = BigIntegerField()
    proxy_errors = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    late = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    latency_ms_sum = DoubleField()
    bytes_sent = BigIntegerField()
    bytes_received = BigIntegerField()
    status_2xx = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    status_3xx = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    status_4xx = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])
    status_5xx = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])


class StatusCodes(StoredTable):
    """Columns for the responses of something, by status code."""

    status_code = BigIntegerField()
    responses = BigIntegerField()


class LatencyBuckets(StoredTable):
    """Columns for a latency histogram: requests in bucket `bucket` (bounds in docs/database.md)."""

    bucket = BigIntegerField()
    requests = BigIntegerField()


class Worker(StoredTable):
    """A gunicorn worker: the config version it routes by and its last sign of life."""

    host = TextField()
    boot = TextField()
    pid = BigIntegerField()
    started_at = TextField()
    heartbeat_at = TextField()
    config_version = BigIntegerField()
    #: All that it had counted until then is in the tables; Unix seconds by the clock of the database server. None: nobody knows.
    counted_at = DoubleField(null=True)

    class Meta:
        table_name = "workers"
        primary_key = CompositeKey("host", "boot", "pid")


class HealthStatus(StoredTable):
    """The health of a route's upstream now."""

    route_id = TextField(primary_key=True)
    url = TextField()
    status = TextField()
    reason = TextField()
    since = TextField()
    last_check = TextField(null=True)
    last_success = TextField(null=True)
    last_error = TextField(null=True)
    response_time_ms = DoubleField(null=True)
    success_rate_percent = DoubleField(null=True)
    consecutive_failures = BigIntegerField(default=0)
    consecutive_successes = BigIntegerField(default=0)
    checks = BigIntegerField(default=0)

    class Meta:
        table_name = "health_status"


class HealthResult(StoredTable):
    """One health check that was made, or several of a route in a row that had the same outcome."""

    id = BigAutoField()
    route_id = TextField()
    checked_at = TextField(index=True)
    ok = BooleanField()
    status_code = BigIntegerField(null=True)
    response_time_ms = DoubleField(null=True)
    error = TextField(null=True)
    checks = BigIntegerField(default=1, constraints=[SQL("DEFAULT 1")])
    last_checked_at = TextField(null=True)
    response_time_ms_min = DoubleField(null=True)
    response_time_ms_max = DoubleField(null=True)
    planned = BooleanField(default=False, constraints=[SQL("DEFAULT FALSE")])

    class Meta:
        table_name = "health_results"
        indexes = ((("route_id", "checked_at"), False),)


class Circuit(StoredTable):
    """The circuit breaker of a route's upstream on one host, as the workers of that host agree on it."""

    host = TextField()
    route_id = TextField(index=True)
    state = TextField()
    reason = TextField(default="")
    failures = BigIntegerField(default=0)
    successes = BigIntegerField(default=0)
    opened_at = TextField(null=True)
    last_failure = TextField(null=True)
    next_attempt = TextField(null=True)
    changed_at = TextField()

    class Meta:
        table_name = "circuits"
        primary_key = CompositeKey("host", "route_id")


class CircuitTransition(StoredTable):
    """One change of a circuit's state."""

    id = BigAutoField()
    route_id = TextField(index=True)
    at = TextField(index=True)
    from_state = TextField()
    to_state = TextField()
    reason = TextField()
    host = TextField(default="", constraints=[SQL("DEFAULT ''")])

    class Meta:
        table_name = "circuit_transitions"


@with_counters
class RouteStats(StoredTable):
    """Sums since the route began, over all workers; workers add what they counted about every half second."""

    route_id = TextField(primary_key=True)
    updated_at = TextField()

    class Meta:
        table_name = "route_stats"


class RouteStatusCode(StatusCodes):
    """Responses of a route by status code, since it began."""

    route_id = of_key(TextField())

    class Meta:
        table_name = "route_status_codes"
        primary_key = CompositeKey("route_id", "status_code")


class RouteLatency(LatencyBuckets):
    """Latency histogram of a route: requests in bucket `bucket` (bounds in docs/database.md)."""

    route_id = of_key(TextField())

    class Meta:
        table_name = "route_latency"
        primary_key = CompositeKey("route_id", "bucket")


class RouteMinute(TrafficSums):
    """Traffic of a route in one minute."""

    route_id = of_key(TextField())
    minute = of_key(TextField(index=True))
    maintenance_hits = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "route_minutes"
        primary_key = CompositeKey("route_id", "minute")


class RouteInFlight(StoredTable):
    """What each worker has open for a route now."""

    host = TextField()
    boot = TextField()
    pid = BigIntegerField()
    route_id = TextField()
    in_flight = BigIntegerField()
    websocket_active = BigIntegerField()
    queued = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "route_in_flight"
        primary_key = CompositeKey("host", "boot", "pid", "route_id")


class RateLimitRejection(StoredTable):
    """Requests refused by rate limits, summed a minute, route and client address."""

    route_id = TextField()
    minute = TextField(index=True)
    address = TextField()
    rejected = BigIntegerField()

    class Meta:
        table_name = "rate_limit_rejections"
        primary_key = CompositeKey("route_id", "minute", "address")


class SlowRequest(StoredTable):
    """The slowest requests of each route and hour."""

    id = BigAutoField()
    route_id = TextField()
    at = TextField(index=True)
    level = TextField()
    method = TextField()
    url = TextField()
    status_code = BigIntegerField()
    total_ms = DoubleField(index=True)
    queue_ms = DoubleField()
    connect_ms = DoubleField()
    first_byte_ms = DoubleField()
    body_ms = DoubleField()
    request_id = TextField()
    upstream = TextField()

    class Meta:
        table_name = "slow_requests"
        indexes = ((("route_id", "at"), False),)


class WebSocketConnection(StoredTable):
    """One WebSocket that was open."""

    id = BigAutoField()
    route_id = TextField(index=True)
    opened_at = TextField(index=True)
    closed_at = TextField()
    client = TextField()
    bytes_sent = BigIntegerField()
    bytes_received = BigIntegerField()
    reason = TextField()

    class Meta:
        table_name = "websocket_connections"


class RefusalCount(StoredTable):
    """How many requests the proxy refused or failed to serve, by reason code (docs/reasons.md)."""

    reason = TextField(primary_key=True)
    requests = BigIntegerField()

    class Meta:
        table_name = "refusals"


class EventRow(StoredTable):
    """What happened, newest last: also the audit trail (`actor` says who asked)."""

    id = BigAutoField()
    at = TextField(index=True)
    type = TextField(index=True)
    route_id = TextField(null=True)
    session_id = TextField(null=True)
    actor = TextField(default="")
    detail = TextField(default="{}")

    class Meta:
        table_name = "events"
