"""The tables of what is observed: workers, health, circuits, traffic, events. What the registry declares is in `models.py`, where the
forms of instants and durations are explained, too."""

from __future__ import annotations

from peewee import SQL, AutoField, BooleanField, CompositeKey, FloatField, IntegerField, TextField

from proxyd.base.counters import COUNTERS
from proxyd.store.sql.models import StoredTable


class Worker(StoredTable):
    """A gunicorn worker: the config version it routes by and its last sign of life."""

    pid = IntegerField(primary_key=True)
    host = TextField()
    started_at = TextField()
    heartbeat_at = TextField()
    config_version = IntegerField()

    class Meta:
        table_name = "workers"


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
    response_time_ms = FloatField(null=True)
    success_rate_percent = FloatField(null=True)
    consecutive_failures = IntegerField(default=0)
    consecutive_successes = IntegerField(default=0)
    checks = IntegerField(default=0)

    class Meta:
        table_name = "health_status"


class HealthResult(StoredTable):
    """One health check that was made."""

    id = AutoField()
    route_id = TextField()
    checked_at = TextField(index=True)
    ok = BooleanField()
    status_code = IntegerField(null=True)
    response_time_ms = FloatField(null=True)
    error = TextField(null=True)

    class Meta:
        table_name = "health_results"
        indexes = ((("route_id", "checked_at"), False),)


class Circuit(StoredTable):
    """The circuit breaker of a route's upstream, as the workers agree on it."""

    route_id = TextField(primary_key=True)
    state = TextField()
    reason = TextField(default="")
    failures = IntegerField(default=0)
    successes = IntegerField(default=0)
    opened_at = TextField(null=True)
    last_failure = TextField(null=True)
    next_attempt = TextField(null=True)
    changed_at = TextField()

    class Meta:
        table_name = "circuits"


class CircuitTransition(StoredTable):
    """One change of a circuit's state."""

    id = AutoField()
    route_id = TextField(index=True)
    at = TextField(index=True)
    from_state = TextField()
    to_state = TextField()
    reason = TextField()

    class Meta:
        table_name = "circuit_transitions"


# Made before the class, since columns stand in the order in which their fields were made.
_SUMS = {counter.name: IntegerField(default=0) if counter.whole else FloatField(default=0) for counter in COUNTERS}


class RouteStats(StoredTable):
    """Sums since the route began, over all workers; workers add what they counted about every half second."""

    route_id = TextField(primary_key=True)
    updated_at = TextField()

    class Meta:
        table_name = "route_stats"


for _name, _field in _SUMS.items():
    RouteStats._meta.add_field(_name, _field)


class RouteStatusCode(StoredTable):
    route_id = TextField()
    status_code = IntegerField()
    responses = IntegerField()

    class Meta:
        table_name = "route_status_codes"
        primary_key = CompositeKey("route_id", "status_code")


class RouteLatency(StoredTable):
    """Latency histogram of a route: requests in bucket `bucket` (bounds in docs/database.md)."""

    route_id = TextField()
    bucket = IntegerField()
    requests = IntegerField()

    class Meta:
        table_name = "route_latency"
        primary_key = CompositeKey("route_id", "bucket")


class RouteMinute(StoredTable):
    """Traffic of a route in one minute."""

    route_id = TextField()
    minute = TextField(index=True)
    requests = IntegerField()
    errors = IntegerField()
    latency_ms_sum = FloatField()
    bytes_sent = IntegerField()
    bytes_received = IntegerField()

    class Meta:
        table_name = "route_minutes"
        primary_key = CompositeKey("route_id", "minute")


class RouteInFlight(StoredTable):
    """What each worker has open for a route now."""

    pid = IntegerField()
    route_id = TextField()
    in_flight = IntegerField()
    websocket_active = IntegerField()
    queued = IntegerField(default=0, constraints=[SQL("DEFAULT 0")])

    class Meta:
        table_name = "route_in_flight"
        primary_key = CompositeKey("pid", "route_id")


class RateLimitRejection(StoredTable):
    """Requests refused by rate limits, summed a minute, route and client address."""

    route_id = TextField()
    minute = TextField(index=True)
    address = TextField()
    rejected = IntegerField()

    class Meta:
        table_name = "rate_limit_rejections"
        primary_key = CompositeKey("route_id", "minute", "address")


class SlowRequest(StoredTable):
    """The slowest requests of each route and hour."""

    id = AutoField()
    route_id = TextField()
    at = TextField(index=True)
    level = TextField()
    method = TextField()
    url = TextField()
    status_code = IntegerField()
    total_ms = FloatField()
    queue_ms = FloatField()
    connect_ms = FloatField()
    first_byte_ms = FloatField()
    body_ms = FloatField()
    request_id = TextField()
    upstream = TextField()

    class Meta:
        table_name = "slow_requests"
        indexes = ((("route_id", "at"), False),)


class WebSocketConnection(StoredTable):
    """One WebSocket that was open."""

    id = AutoField()
    route_id = TextField(index=True)
    opened_at = TextField(index=True)
    closed_at = TextField()
    client = TextField()
    bytes_sent = IntegerField()
    bytes_received = IntegerField()
    reason = TextField()

    class Meta:
        table_name = "websocket_connections"


class RefusalCount(StoredTable):
    """How many requests the proxy refused or failed to serve, by reason code (docs/reasons.md)."""

    reason = TextField(primary_key=True)
    requests = IntegerField()

    class Meta:
        table_name = "refusals"


class EventRow(StoredTable):
    """What happened, newest last: also the audit trail (`actor` says who asked)."""

    id = AutoField()
    at = TextField(index=True)
    type = TextField(index=True)
    route_id = TextField(null=True)
    session_id = TextField(null=True)
    actor = TextField(default="")
    detail = TextField(default="{}")

    class Meta:
        table_name = "events"
