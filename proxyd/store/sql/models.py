"""The tables of what the registry declares, as peewee models; `observed.py` has those of what is observed, `migrations.py` the list of
all. Names are what a person would guess in SQL (docs/database.md describes each).

Instants are text, RFC 3339 UTC with milliseconds (`2026-01-31T23:59:59.125Z`): they sort, and SQLite's date
functions read them. Durations are seconds. Lists and objects are JSON text.
"""

from __future__ import annotations

from typing import Any, TypeVar

from peewee import BigAutoField, BigIntegerField, BooleanField, CompositeKey, DoubleField, Field, ForeignKeyField, Model, TextField

from proxyd.store.sql.database import database

#: Ids of the sessions that stand for site files begin so.
SITE_PREFIX = "site:"
#: And those that stand for routes by hand: such a session has one route, and its id ends with the route's.
HAND_PREFIX = "hand:"
#: Sessions without a client: nobody connects, resumes or replaces them, and they have no grace.
CLIENTLESS = (SITE_PREFIX, HAND_PREFIX)


class StoredTable(Model):
    """What all tables share: the database of this process, set when it is opened."""

    class Meta:
        database = database
        legacy_table_names = False


_Column = TypeVar("_Column", bound=Field)


def of_key(column: _Column) -> _Column:
    """A column of a key of several. It stands before those that its table has from a mix-in, which were made earlier."""
    field: Any = column
    # As peewee sorts them: columns that are the key alone, all others, and each of them as they were made.
    rank, number = field._sort_key
    field._sort_key = rank - 0.5, number
    return column


class SchemaVersion(StoredTable):
    version = BigIntegerField(primary_key=True)
    description = TextField()
    applied_at = TextField()


class StoredCounter(StoredTable):
    """Counters of the registry: config_version, next_route_number, next_session_number, removals_from."""

    name = TextField(primary_key=True)
    value = BigIntegerField()

    class Meta:
        table_name = "counters"


class Lead(StoredTable):
    """Which master may write to a PostgreSQL database: one row, with the number of its term. SQLite has a lock file instead."""

    id = BigIntegerField(primary_key=True)
    term = BigIntegerField()
    host = TextField()
    pid = BigIntegerField()
    since = TextField()

    class Meta:
        table_name = "leadership"


class Host(StoredTable):
    """A host that shares this PostgreSQL database, and its master's last sign of life. SQLite has none: it is one host's."""

    name = TextField(primary_key=True)
    boot = TextField()
    pid = BigIntegerField()
    backend = BigIntegerField()
    release = TextField()
    config_version = BigIntegerField(default=0)
    started_at = TextField()
    heartbeat_at = TextField()
    beat = BigIntegerField()
    #: Where its master's registry is reached while that leads. None: a master of an older version wrote the row.
    registry = TextField(null=True)
    #: What its clock said (a mark of `base.clock`), and when, in Unix seconds by the clock of the database server.
    clock = TextField(null=True)
    clock_at = DoubleField(null=True)
    #: Where its admin HTTP is reached, for what is to be done by the leader.
    admin = TextField(null=True)
    #: Since when, and at whose wish, it is drained for an upgrade. None: it is not.
    drained_at = TextField(null=True)
    drained_by = TextField(null=True)
    #: Registry connections that are open there, its own or passed on.
    connections = BigIntegerField(null=True)

    class Meta:
        table_name = "hosts"


class Session(StoredTable):
    """One registration. `state`: connected, disconnected (within the grace), ended. Sites have ids `site:<file>`.

    `session_id` is a public number (`s1`, `s2`, ...). The id that the client has for RECONNECT is a secret: only its hash is here.
    """

    session_id = TextField(primary_key=True)
    service_name = TextField(index=True)
    instance_name = TextField()
    maintenance_port = BigIntegerField(default=0)
    metadata = TextField(default="{}")
    state = TextField()
    address = TextField(default="")
    token_name = TextField(default="")
    connected_at = TextField()
    disconnected_at = TextField(null=True)
    disconnected_clock = TextField(null=True)
    ended_at = TextField(null=True)
    last_activity = TextField()
    last_apply = TextField(null=True)
    secret_hash = TextField(default="")

    class Meta:
        table_name = "sessions"


class SessionSetting(StoredTable):
    """Active settings of a session as declared. `scope`: headers, request_headers, options, health, ratelimit, circuit_breaker."""

    session = ForeignKeyField(Session, column_name="session_id", on_delete="CASCADE", backref="settings")
    scope = TextField()
    target = TextField()
    name = TextField()
    value = TextField()

    class Meta:
        table_name = "session_settings"
        primary_key = CompositeKey("session", "scope", "target", "name")


class StagedChange(StoredTable):
    """Staged, not yet applied changes; `value` NULL removes. Scope `routes` holds whole routes as JSON."""

    session = ForeignKeyField(Session, column_name="session_id", on_delete="CASCADE")
    scope = TextField()
    target = TextField()
    name = TextField()
    value = TextField(null=True)
    staged_at = TextField()
    staged_clock = TextField(null=True)

    class Meta:
        table_name = "staged_changes"
        primary_key = CompositeKey("session", "scope", "target", "name")


class Route(StoredTable):
    """One active route, complete: all that a worker needs to serve it. `version` is its last change."""

    route_id = TextField(primary_key=True)
    session = ForeignKeyField(Session, column_name="session_id", on_delete="CASCADE", backref="routes")
    service_name = TextField(index=True)
    instance_name = TextField()
    domains = TextField()
    path = TextField()
    backend_url = TextField()
    priority = BigIntegerField()
    enabled = BooleanField()
    options = TextField(default="{}")
    headers = TextField(default="{}")
    request_headers = TextField(default="{}")
    rate_limits = TextField(default="[]")
    maintenance_since = TextField(null=True)
    maintenance_page_url = TextField(null=True)
    maintenance_until = TextField(null=True)
    maintenance_clock = TextField(null=True)
    maintenance_plan = TextField(null=True)
    drain_started_at = TextField(null=True)
    drain_clock = TextField(null=True)
    drain_seconds = DoubleField(null=True)
    hold_until = TextField(null=True)
    hold_clock = TextField(null=True)
    rollout_share = DoubleField(null=True)
    slot = BigIntegerField(unique=True)
    version = BigIntegerField(index=True)
    created_at = TextField()
    updated_at = TextField()

    class Meta:
        table_name = "routes"


class RouteRemoval(StoredTable):
    """Routes gone since, so that workers can follow without reading all rows again."""

    route_id = TextField(primary_key=True)
    version = BigIntegerField(index=True)

    class Meta:
        table_name = "route_removals"


class Service(StoredTable):
    """A service that was ever registered."""

    service_id = BigAutoField()
    service_name = TextField(unique=True)
    first_seen = TextField()

    class Meta:
        table_name = "services"


class Endpoint(StoredTable):
    """A place that an instance of a service serves: it stays the same when the service registers anew, is deployed or moves to another
    host, while its routes get new ids. History belongs to it, by `route_history`."""

    endpoint_id = BigAutoField()
    service = ForeignKeyField(Service, column_name="service_id", on_delete="CASCADE")
    service_name = TextField()
    instance_name = TextField()
    domain = TextField(index=True)
    path = TextField()
    first_seen = TextField()

    class Meta:
        table_name = "endpoints"
        indexes = ((("service_name", "instance_name", "domain", "path"), True),)


class RouteHistory(StoredTable):
    """Every route, also those that are gone, and the endpoint that it was for: history by route joins to endpoints here."""

    route_id = TextField(primary_key=True)
    # The index below begins with it. Beside one of its own, PostgreSQL would choose that, and read every route that an endpoint ever had.
    endpoint = ForeignKeyField(Endpoint, column_name="endpoint_id", on_delete="CASCADE", index=False)
    session_id = TextField()
    backend_url = TextField()
    added_at = TextField()
    added_by = TextField()
    removed_at = TextField(null=True, index=True)
    removed_by = TextField(null=True)
    removed_why = TextField(null=True)

    class Meta:
        table_name = "route_history"
        indexes = ((("endpoint", "removed_at"), False),)
