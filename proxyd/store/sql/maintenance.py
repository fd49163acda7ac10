"""The history of maintenance: each window in which an endpoint was, or is to be, in maintenance. Everything here runs in the database
thread, inside the transaction that changes the routes, so that the history never tells something else than what was."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from peewee import BigAutoField, BigIntegerField, TextField, chunked

from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.query import among
from proxyd.store.sql.upsert import insert

#: What becomes of windows: planned, not planned any more, begun, ended.
PLAN, UNPLAN, BEGIN, END = "plan", "unplan", "begin", "end"
#: How a window ended.
EXITED, OVER, REMOVED, CANCELLED, MISSED = "exited", "over", "removed", "cancelled", "missed"
_READ_CHUNK = 250
_ENDPOINTS = ("SELECT h.route_id, p.endpoint_id, p.service_name, p.instance_name, p.domain, p.path FROM route_history h "
              "JOIN endpoints p ON p.endpoint_id = h.endpoint_id WHERE h.route_id IN")


class MaintenanceWindow(StoredTable):
    """A time in which an endpoint was, is, or is to be in maintenance. It belongs to the endpoint, and says by which of its routes."""

    window_id = BigAutoField()
    endpoint_id = BigIntegerField(index=True)
    service_name = TextField()
    instance_name = TextField()
    domain = TextField()
    path = TextField()
    route_id = TextField(index=True)
    planned_start = TextField(null=True)
    planned_end = TextField(null=True)
    started_at = TextField(null=True, index=True)
    entered_by = TextField(default="")
    reason = TextField(default="")
    ended_at = TextField(null=True, index=True)
    ended_by = TextField(null=True)
    ended_how = TextField(null=True)

    class Meta:
        table_name = "maintenance_windows"


@dataclass(frozen=True, slots=True)
class Turn:
    """What happens to the maintenance of routes. `what`: PLAN, UNPLAN, BEGIN or END. `at`: when, RFC 3339; `by`: whom it is done by.
    `start` and `until`: when it is to begin (PLAN) and to end, None for no end. `how`: how it ended (END, UNPLAN)."""

    what: str
    route_ids: Sequence[str]
    at: str
    by: str
    until: str | None = None
    start: str | None = None
    reason: str = ""
    how: str = ""


def write(turn: Turn) -> None:
    """Note what happens."""
    waiting, running = _open(turn.route_ids)
    if turn.what == END:
        _end(running.values(), turn.at, turn.by, turn.how)
    elif turn.what == UNPLAN:
        _end(waiting.values(), turn.at, turn.by, turn.how)
    elif turn.what == PLAN:
        _end(waiting.values(), turn.at, turn.by, CANCELLED)
        _add(turn, turn.route_ids, None)
    else:
        # Who enters again sets another end, and perhaps another reason; who began it, and when, stays.
        columns: dict[str, Any] = {"planned_end": turn.until, **({"reason": turn.reason} if turn.reason else {})}
        _update(running.values(), columns)
        due = [waiting[route_id] for route_id in turn.route_ids if turn.start and route_id in waiting and route_id not in running]
        _update(due, {"started_at": turn.at, "planned_end": turn.until})
        known = running.keys() | (waiting.keys() if turn.start else set())
        _add(turn, [route_id for route_id in turn.route_ids if route_id not in known], turn.at)


def routes_went(route_ids: Sequence[str], at: str, by: str) -> None:
    """Routes are gone, and their maintenance with them, planned or not."""
    waiting, running = _open(route_ids)
    _end([*waiting.values(), *running.values()], at, by, REMOVED)


def found(rows: Sequence[dict[str, Any]]) -> None:
    """Note the windows of rows of table routes that come from elsewhere: an older database, or the kept table."""
    for row in rows:
        if row.get("maintenance_since"):
            _add(Turn(BEGIN, [row["route_id"]], row["maintenance_since"], "", row.get("maintenance_until")), [row["route_id"]],
                 row["maintenance_since"])
        if row.get("maintenance_plan"):
            plan = json.loads(row["maintenance_plan"])
            _add(Turn(PLAN, [row["route_id"]], plan["at"], plan["by"], None, plan["at"], plan.get("reason", "")), [row["route_id"]], None)


def _open(route_ids: Iterable[str]) -> tuple[dict[str, int], dict[str, int]]:
    """The windows of routes that have not ended, by route: those that are planned, and those that have begun."""
    waiting: dict[str, int] = {}
    running: dict[str, int] = {}
    for number, route_id, began in among("SELECT window_id, route_id, started_at FROM maintenance_windows WHERE ended_at IS NULL "
                                         "AND route_id IN", route_ids):
        (running if began else waiting)[route_id] = number
    return waiting, running


def _update(windows: Iterable[int], columns: dict[str, Any]) -> None:
    for numbers in chunked(windows, _READ_CHUNK):
        MaintenanceWindow.update(**columns).where(MaintenanceWindow.window_id.in_(numbers)).execute()


def _end(windows: Iterable[int], at: str, by: str, how: str) -> None:
    _update(windows, {"ended_at": at, "ended_by": by, "ended_how": how})


def _add(turn: Turn, route_ids: Iterable[str], began: str | None) -> None:
    insert(MaintenanceWindow, [
        {"endpoint_id": endpoint, "service_name": service, "instance_name": instance, "domain": domain, "path": path, "route_id": route_id,
         "planned_start": turn.start, "planned_end": turn.until, "started_at": began, "entered_by": turn.by, "reason": turn.reason}
        for route_id, endpoint, service, instance, domain, path in among(_ENDPOINTS, route_ids)])


def going_on(route_ids: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Why those of the routes are in maintenance that are, and who entered it."""
    return {route_id: (reason, by) for route_id, reason, by in among(
        "SELECT route_id, reason, entered_by FROM maintenance_windows WHERE ended_at IS NULL AND started_at IS NOT NULL AND route_id IN",
        route_ids)}


def from_events(changes: Iterable[dict[str, Any]]) -> None:
    """Note what rows of table events of type `maintenance_changed`, the oldest first, tell of the time before this table. What goes on is
    left to `found`."""
    began: dict[str, dict[str, Any]] = {}
    for row in changes:
        if json.loads(row["detail"]).get("active"):
            began.setdefault(row["route_id"], row)
        elif (first := began.pop(row["route_id"], None)) is not None:
            _past(first, row["at"], row["actor"], EXITED)
    for route_id, at, by in among("SELECT route_id, removed_at, removed_by FROM route_history WHERE removed_at IS NOT NULL "
                                  "AND route_id IN", list(began)):
        _past(began[route_id], at, by, REMOVED)


def _past(first: dict[str, Any], at: str, by: str, how: str) -> None:
    write(Turn(BEGIN, [first["route_id"]], first["at"], first["actor"]))
    write(Turn(END, [first["route_id"]], at, by, how=how))
