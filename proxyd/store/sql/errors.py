"""Errors by the hour, grouped, with the last request of each group; and the hosts that were asked for and that no route names.

Workers write both in batches. Everything here runs in the database thread.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peewee import BigIntegerField, CompositeKey, TextField

from proxyd.base.reasons import is_of_backend
from proxyd.store.sql.database import database
from proxyd.store.sql.identity import endpoints_of
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.upsert import add

#: The endpoint of requests that matched no route.
NO_ENDPOINT = 0
#: Hosts that are kept: the most asked ones. So many more may be there for a while.
HOSTS_KEPT, _HOSTS_SPARE = 1000, 200
#: Who made an error.
BACKEND, PROXY, CLIENT = "backend", "proxy", "client"
#: A group of a worker: route id, status, reason; requests, when (RFC 3339), method, url, upstream and request id of the last one.
Group = tuple[str, int, str, int, str, str, str, str, str]


class ErrorHour(StoredTable):
    """Errors of an endpoint in one hour with one status and one reason, and the last of them."""

    endpoint_id = BigIntegerField()
    hour = TextField(index=True)
    status_code = BigIntegerField()
    reason = TextField()
    made_by = TextField()
    requests = BigIntegerField()
    last_at = TextField()
    last_method = TextField()
    last_url = TextField()
    last_upstream = TextField()
    last_request_id = TextField()

    class Meta:
        table_name = "error_hours"
        primary_key = CompositeKey("endpoint_id", "hour", "status_code", "reason")


class UnknownHost(StoredTable):
    """A host that was asked for and that no route names."""

    host = TextField(primary_key=True)
    requests = BigIntegerField()
    last_at = TextField(index=True)

    class Meta:
        table_name = "unknown_hosts"


def made_by(status: int, reason: str) -> str:
    """Who made an error: the backend, the proxy, or the client (statuses below 500)."""
    if is_of_backend(reason) or status in (502, 504):
        return BACKEND
    return PROXY if status >= 500 else CLIENT


@dataclass(slots=True)
class ErrorBatch:
    """What one worker saw since its last batch: groups of errors, and requests by unknown host, up to the instant `at`."""

    groups: list[Group]
    hosts: dict[str, int]
    at: str

    def write(self) -> None:
        """Add everything to the tables."""
        endpoints = endpoints_of({group[0] for group in self.groups})
        rows: dict[tuple[int, str, int, str], tuple[Any, ...]] = {}
        for route_id, status, reason, requests, at, *last in self.groups:
            key = endpoints.get(route_id, NO_ENDPOINT), at[:13] + ":00:00.000Z", status, reason
            before = rows.get(key)
            total = requests + (before[0] if before is not None else 0)
            rows[key] = (total, at, *last) if before is None or at >= before[1] else (total, *before[1:])
        # In one order, so that workers which write to a server at the same time never wait for each other in a circle.
        add(ErrorHour, ("endpoint_id", "hour", "status_code", "reason", "made_by", "requests", "last_at", "last_method", "last_url",
                        "last_upstream", "last_request_id"),
            [(*key, made_by(*key[2:]), *values) for key, values in sorted(rows.items())], ("requests",))
        if self.hosts:
            add(UnknownHost, ("host", "requests", "last_at"), [(host, count, self.at) for host, count in sorted(self.hosts.items())],
                ("requests",))
            _keep_most_asked()


def _keep_most_asked() -> None:
    if UnknownHost.select().count() <= HOSTS_KEPT + _HOSTS_SPARE:
        return
    most = UnknownHost.select(UnknownHost.host).order_by(UnknownHost.requests.desc(), UnknownHost.last_at.desc()).limit(HOSTS_KEPT)
    UnknownHost.delete().where(UnknownHost.host.not_in(most)).execute()


#: The columns of a group, as the API says them. `route_id`: one that is there now.
COLUMNS = ("service", "domain", "path", "status", "reason", "made_by", "requests", "first_hour", "last_at", "last_method", "last_url",
           "last_upstream", "last_request_id")
_KEY = "p.service_name, p.domain, p.path, e.status_code, e.reason"
_GROUPS = f"""
    SELECT COALESCE(x.service_name, ''), COALESCE(x.domain, ''), COALESCE(x.path, ''), x.status_code, x.reason, x.made_by, x.total,
           x.first_hour, x.last_at, x.last_method, x.last_url, x.last_upstream, x.last_request_id
    FROM (SELECT e.*, p.service_name, p.domain, p.path, SUM(e.requests) OVER (PARTITION BY {_KEY}) AS total,
                 MIN(e.hour) OVER (PARTITION BY {_KEY}) AS first_hour,
                 ROW_NUMBER() OVER (PARTITION BY {_KEY} ORDER BY e.last_at DESC) AS place
          FROM error_hours e LEFT JOIN endpoints p ON p.endpoint_id = e.endpoint_id WHERE e.hour >= ? AND e.last_at >= ?WHERE) x
    WHERE x.place = 1 ORDER BY CASE WHEN x.status_code >= 500 THEN 0 ELSE 1 END, x.total DESC, x.last_at DESC"""


def groups(since: str, made: str = "", service: str = "", endpoint: tuple[str, str, str] | None = None) -> list[dict[str, Any]]:
    """Errors since an instant, those with a status from 500 first, the most frequent first. `made`: only those that the backend, the
    proxy or the client made. `service`: only of this one. `endpoint`: only of this service, domain and path."""
    hour = since[:13] + ":00:00.000Z"
    wanted: list[tuple[str, str]] = []
    if made:
        wanted.append(("e.made_by", made))
    if service:
        wanted.append(("p.service_name", service))
    if endpoint is not None:
        wanted += zip(("p.service_name", "p.domain", "p.path"), endpoint, strict=True)
    tests = "".join(f" AND {name} = ?" for name, _ in wanted)
    statement = _GROUPS.replace("?WHERE", f"?{tests}").replace("?", database.obj.param)
    found = database.execute_sql(statement, [hour, since, *[value for _, value in wanted]])
    # PostgreSQL adds whole numbers up to a Decimal, which JSON does not know.
    return [{**dict(zip(COLUMNS, row, strict=True)), "requests": int(row[6])} for row in found]


def unknown_hosts(limit: int) -> list[dict[str, Any]]:
    """The hosts that are asked for most and that no route names."""
    query = UnknownHost.select().order_by(UnknownHost.requests.desc(), UnknownHost.last_at.desc()).limit(limit)
    return [{"host": row.host, "requests": row.requests, "last_at": row.last_at} for row in query]
