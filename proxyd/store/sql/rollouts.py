"""Rollouts: one row each, what the registry remembers of it included. Everything here runs in the database thread."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from peewee import BigAutoField, BigIntegerField, DoubleField, TextField, chunked

from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.observed import RouteLatency, RouteStats
from proxyd.store.sql.query import dicts, tuples
from proxyd.store.sql.upsert import upsert

RUNNING, COMPLETED, ROLLED_BACK, ABORTED, ENDED = "running", "completed", "rolled_back", "aborted", "ended"
_CHUNK = 250


class Rollout(StoredTable):
    """Traffic given to one instance of a service step by step. The figures are those of its last step, up to now or to its end: of the
    instance, and of the others (`other_`)."""

    rollout_id = BigAutoField()
    service_name = TextField(index=True)
    instance_name = TextField()
    session_id = TextField()
    state = TextField()
    share = DoubleField()
    steps = TextField()
    step = BigIntegerField()
    step_at = TextField()
    step_clock = TextField()
    every_seconds = DoubleField()
    max_errors = DoubleField()
    max_slower = DoubleField()
    requests = BigIntegerField(default=0)
    errors = BigIntegerField(default=0)
    p95_ms = DoubleField(null=True)
    other_requests = BigIntegerField(default=0)
    other_errors = BigIntegerField(default=0)
    other_p95_ms = DoubleField(null=True)
    memory = TextField(default="{}")
    started_at = TextField()
    started_by = TextField(default="")
    ended_at = TextField(null=True)
    why = TextField(default="")

    class Meta:
        table_name = "rollouts"


@dataclass(slots=True)
class Counted:
    """What was counted: requests, those of them with a status from 500, and latencies by bucket."""

    requests: int = 0
    errors: int = 0
    latency: dict[int, int] = field(default_factory=dict)


def write(row: dict[str, Any]) -> None:
    """Write a rollout. A new one has no `rollout_id`, and gets it."""
    if "rollout_id" not in row:
        row["rollout_id"] = Rollout.insert(**row).execute()
        return
    upsert(Rollout, [row])


def running() -> list[dict[str, Any]]:
    """The rollouts that go on."""
    return dicts(Rollout.select().where(Rollout.state == RUNNING))


def last(service: str) -> dict[str, Any] | None:
    """The newest rollout of a service."""
    found = dicts(Rollout.select().where(Rollout.service_name == service).order_by(Rollout.rollout_id.desc()).limit(1))
    return found[0] if found else None


def counted(route_ids: Iterable[str]) -> dict[str, Counted]:
    """What was counted for routes since they began."""
    found: dict[str, Counted] = {}
    for piece in chunked(route_ids, _CHUNK):
        for row in dicts(RouteStats.select().where(RouteStats.route_id.in_(piece))):
            found[row["route_id"]] = Counted(row["requests"], row["errors"])
        for route_id, bucket, number in tuples(RouteLatency.select(RouteLatency.route_id, RouteLatency.bucket, RouteLatency.requests).where(
                RouteLatency.route_id.in_(piece))):
            found.setdefault(route_id, Counted()).latency[bucket] = number
    return found
