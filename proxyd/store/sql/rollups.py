"""The tables of what is summed up by endpoint: incidents, health and traffic by minute, hour and day. What was observed by route is in
`observed.py`."""

from __future__ import annotations

from peewee import BigIntegerField, BooleanField, CompositeKey, DoubleField, TextField

from proxyd.store.sql.models import StoredTable


class _HealthSums(StoredTable):
    """Seconds and checks of an endpoint in one span of time."""

    endpoint_id = BigIntegerField()
    up_seconds = DoubleField()
    down_seconds = DoubleField()
    maintenance_seconds = DoubleField()
    good = BigIntegerField()
    bad = BigIntegerField()


class HealthMinute(_HealthSums):
    """What the health checks of an endpoint found in one minute."""

    minute = TextField(index=True)

    class Meta:
        table_name = "health_minutes"
        primary_key = CompositeKey("endpoint_id", "minute")


class HealthHour(_HealthSums):
    """The same by the hour."""

    hour = TextField(index=True)

    class Meta:
        table_name = "health_hours"
        primary_key = CompositeKey("endpoint_id", "hour")


class HealthDay(_HealthSums):
    """The same by the day, in UTC."""

    day = TextField(index=True)

    class Meta:
        table_name = "health_days"
        primary_key = CompositeKey("endpoint_id", "day")


class Incident(StoredTable):
    """An outage, as the health checks found it: of an endpoint, or of a service, when none of its instances was up at a place."""

    incident_id = BigIntegerField(primary_key=True)
    kind = TextField()
    endpoint_id = BigIntegerField(null=True, index=True)
    service_name = TextField()
    instance_name = TextField()
    domain = TextField()
    path = TextField()
    route_id = TextField()
    planned = BooleanField()
    started_at = TextField(index=True)
    first_failed_at = TextField()
    ended_at = TextField(null=True, index=True)
    ended_how = TextField(null=True)
    cause = TextField()

    class Meta:
        table_name = "incidents"


class _TrafficSums(StoredTable):
    """Traffic of an endpoint in one span of time, over all its routes."""

    endpoint_id = BigIntegerField()
    requests = BigIntegerField()
    errors = BigIntegerField()
    latency_ms_sum = DoubleField()
    bytes_sent = BigIntegerField()
    bytes_received = BigIntegerField()
    rate_limited = BigIntegerField()
    circuit_rejected = BigIntegerField()
    maintenance_hits = BigIntegerField()
    drain_rejected = BigIntegerField()
    status_2xx = BigIntegerField()
    status_3xx = BigIntegerField()
    status_4xx = BigIntegerField()
    status_5xx = BigIntegerField()


class TrafficHour(_TrafficSums):
    """Traffic of an endpoint in one hour, over all its routes."""

    hour = TextField(index=True)

    class Meta:
        table_name = "traffic_hours"
        primary_key = CompositeKey("endpoint_id", "hour")


class TrafficDay(_TrafficSums):
    """The same by the day, in UTC."""

    day = TextField(index=True)

    class Meta:
        table_name = "traffic_days"
        primary_key = CompositeKey("endpoint_id", "day")


class LatencyHour(StoredTable):
    """Latency histogram of an endpoint in one hour: requests in bucket `bucket`. Hours and endpoints add up."""

    endpoint_id = BigIntegerField()
    hour = TextField(index=True)
    bucket = BigIntegerField()
    requests = BigIntegerField()

    class Meta:
        table_name = "latency_hours"
        primary_key = CompositeKey("endpoint_id", "hour", "bucket")
