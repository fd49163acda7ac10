"""The tables of what is summed up by endpoint: incidents, health and traffic by minute, hour and day. What was observed by route is in
`observed.py`."""

from __future__ import annotations

from typing import Any

from peewee import SQL, BigIntegerField, BooleanField, CompositeKey, DoubleField, TextField

from proxyd.store.sql.models import StoredTable, of_key
from proxyd.store.sql.observed import LatencyBuckets, TrafficSums
from proxyd.store.sql.query import is_sqlite


class _HealthSums(StoredTable):
    """Seconds and checks of an endpoint in one span of time."""

    endpoint_id = of_key(BigIntegerField())
    up_seconds = DoubleField()
    down_seconds = DoubleField()
    maintenance_seconds = DoubleField()
    good = BigIntegerField()
    bad = BigIntegerField()
    # Microseconds: as whole numbers they take half the room, or less, in the largest table there is. NULL in rows of older versions.
    response_us_sum = BigIntegerField(null=True)
    response_us_min = BigIntegerField(null=True)
    response_us_max = BigIntegerField(null=True)
    in_maintenance = BigIntegerField(default=0, constraints=[SQL("DEFAULT 0")])


class HealthMinute(_HealthSums):
    """What the health checks of an endpoint found in one minute. The rows lie by their time, so that those of a minute are written, and
    pruned, side by side, and the table has no index beside itself."""

    minute = of_key(TextField())

    class Meta:
        table_name = "health_minutes"
        primary_key = CompositeKey("minute", "endpoint_id")
        #: In an SQLite file the rows lie by their key, and have no number.
        lies_by_key = True

    @classmethod
    def create_table(cls, safe: bool = True, **options: Any) -> None:
        """Make the table as the engine that is open has it."""
        cls._meta.without_rowid = is_sqlite()
        super().create_table(safe, **options)


class _RunningHealthSums(_HealthSums):
    """The same, with what all earlier rows of the endpoint add up to: see `running.py`."""

    up_seconds_before = DoubleField(null=True)
    down_seconds_before = DoubleField(null=True)
    maintenance_seconds_before = DoubleField(null=True)
    good_before = BigIntegerField(null=True)
    bad_before = BigIntegerField(null=True)
    # Rows of older versions know of none.
    in_maintenance_before = BigIntegerField(null=True, constraints=[SQL("DEFAULT 0")])


class HealthHour(_RunningHealthSums):
    """The same by the hour."""

    hour = of_key(TextField(index=True))

    class Meta:
        table_name = "health_hours"
        primary_key = CompositeKey("endpoint_id", "hour")


class HealthDay(_RunningHealthSums):
    """The same by the day, in UTC."""

    day = of_key(TextField(index=True))

    class Meta:
        table_name = "health_days"
        primary_key = CompositeKey("endpoint_id", "day")


class _ServiceSums(StoredTable):
    """Seconds of a service at one place in one span of time."""

    service_name = of_key(TextField())
    domain = of_key(TextField())
    path = of_key(TextField())
    up_seconds = DoubleField()
    down_seconds = DoubleField()
    maintenance_seconds = DoubleField()
    up_seconds_before = DoubleField(null=True)
    down_seconds_before = DoubleField(null=True)
    maintenance_seconds_before = DoubleField(null=True)


class ServiceHour(_ServiceSums):
    """Whether users were served: a service at a place is up while one of its instances is, by the hour."""

    hour = of_key(TextField(index=True))

    class Meta:
        table_name = "service_hours"
        primary_key = CompositeKey("service_name", "domain", "path", "hour")


class ServiceDay(_ServiceSums):
    """The same by the day, in UTC."""

    day = of_key(TextField(index=True))

    class Meta:
        table_name = "service_days"
        primary_key = CompositeKey("service_name", "domain", "path", "day")


class Objective(StoredTable):
    """A service level objective (options `slo_availability`, `slo_latency`) of a service at a place. `v_slo` has what became of it."""

    service_name = TextField()
    domain = TextField()
    path = TextField()
    objective = TextField()
    target_percent = DoubleField()
    limit_ms = DoubleField(null=True)

    class Meta:
        table_name = "objectives"
        primary_key = CompositeKey("service_name", "domain", "path", "objective")


class UnwellRow(StoredTable):
    """What is unwell, as the master saw it last, the worst first. `proxyctl status` shows the same."""

    rank = BigIntegerField(primary_key=True)
    severity = TextField()
    kind = TextField()
    what = TextField()
    why = TextField()
    since = TextField(null=True)
    service_name = TextField()
    routes = TextField()
    todo = TextField()

    class Meta:
        table_name = "unwell"


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


class _EndpointTraffic(TrafficSums):
    """Traffic of an endpoint in one span of time, over all its routes."""

    endpoint_id = of_key(BigIntegerField())
    rate_limited = BigIntegerField()
    circuit_rejected = BigIntegerField()
    maintenance_hits = BigIntegerField()
    drain_rejected = BigIntegerField()


class TrafficHour(_EndpointTraffic):
    """Traffic of an endpoint in one hour, over all its routes."""

    hour = of_key(TextField(index=True))

    class Meta:
        table_name = "traffic_hours"
        primary_key = CompositeKey("endpoint_id", "hour")


class TrafficDay(_EndpointTraffic):
    """The same by the day, in UTC."""

    day = of_key(TextField(index=True))

    class Meta:
        table_name = "traffic_days"
        primary_key = CompositeKey("endpoint_id", "day")


class LatencyMinute(LatencyBuckets):
    """Latency histogram of an endpoint in one minute, for the last hour alone: `latency_hours` has the rest."""

    endpoint_id = of_key(BigIntegerField())
    minute = of_key(TextField(index=True))

    class Meta:
        table_name = "latency_minutes"
        primary_key = CompositeKey("endpoint_id", "minute", "bucket")


class LatencyHour(LatencyBuckets):
    """Latency histogram of an endpoint in one hour: requests in bucket `bucket`. Hours and endpoints add up."""

    endpoint_id = of_key(BigIntegerField())
    hour = of_key(TextField(index=True))

    class Meta:
        table_name = "latency_hours"
        primary_key = CompositeKey("endpoint_id", "hour", "bucket")
