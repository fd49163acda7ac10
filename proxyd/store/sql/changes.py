"""What the registry writes: sessions, settings, staged changes and active routes. Everything here runs in the database
thread, inside one transaction of the caller."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from proxyd.base import clock
from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.store.sql import deploys, hostclocks, identity, maintenance, rollouts
from proxyd.store.sql.database import database
from proxyd.store.sql.models import Route, RouteRemoval, Session, SessionSetting, StagedChange, StoredCounter
from proxyd.store.sql.observed import Circuit, EventRow, HealthStatus, RouteInFlight, Worker
from proxyd.store.sql.query import dicts, is_sqlite, rows_of
from proxyd.store.sql.snapshot import counter
from proxyd.store.sql.upsert import change as alter
from proxyd.store.sql.upsert import delete, insert, upsert
from proxyd.store.sql.words import COMMITTED

SettingKey = tuple[str, str, str]
#: The fields that name a setting, staged or not.
_SETTING = ("session", "scope", "target", "name")
#: Removals that are remembered, so that a worker that was away can follow without a full load.
REMOVALS_KEPT = 20_000


@dataclass(slots=True)
class RegistryChange:
    """One transaction of the registry. Rows are dicts by column; route rows get the new version here. `begins`: the session is new,
    and gets its number here. `by` and `why`: who removes routes, and for what reason; `ended_why`: the reason for those of sessions
    that end, if it is another. `declares`: routes are new or other than before, and not only in another state."""

    session: dict[str, Any] | None = None
    session_updates: dict[str, Any] = field(default_factory=dict)
    session_id: str = ""
    begins: bool = False
    ended: list[str] = field(default_factory=list)
    ended_at: str = ""
    #: Sessions that were replaced and whose routes go on, with the columns that say so.
    replaced: list[str] = field(default_factory=list)
    replaced_columns: dict[str, Any] = field(default_factory=dict)
    routes: list[dict[str, Any]] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    settings: dict[SettingKey, str | None] = field(default_factory=dict)
    unstaged: list[SettingKey] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    by: str = ""
    why: str = ""
    ended_why: str = ""
    #: The row of a rollout as it is from now on. A new one gets its number here.
    rollout: dict[str, Any] | None = None
    declares: bool = False
    #: What the history tells of it: the row of a deploy, and what becomes of the maintenance of routes.
    deploy: dict[str, Any] | None = None
    maintenance: maintenance.Turn | None = None


def bump(name: str, by: int = 1) -> int:
    """Add to a counter and return its new value."""
    if is_sqlite():
        database.execute_sql("UPDATE counters SET value = value + ? WHERE name = ?", (by, name))
        row = database.execute_sql("SELECT value FROM counters WHERE name = ?", (name,)).fetchone()
    else:
        # Each statement is a way there and back.
        row = database.execute_sql("UPDATE counters SET value = value + %s WHERE name = %s RETURNING value", (by, name)).fetchone()
    return int(row[0])


def write(change: RegistryChange) -> int:
    """Carry out a change; returns the config version it made, or 0 where no route changed."""
    for session_id in change.ended:
        end(session_id, change.ended_at)
    _update_sessions(change.replaced, change.replaced_columns)
    if change.session is not None and change.begins:
        change.session_id = change.session["session_id"] = f"s{bump('next_session_number') - 1}"
    if change.session is not None:
        upsert(Session, [change.session])
    _update_sessions([change.session_id], change.session_updates)
    version = 0
    if change.routes or change.removed:
        version = bump("config_version")
        gone = [(route_id,) for route_id in change.removed]
        for model in (Route, HealthStatus, Circuit, RouteInFlight):
            delete(model, ("route_id",), gone)
        upsert(RouteRemoval, [{"route_id": route_id, "version": version} for route_id in change.removed])
        at = rfc3339(time.time())
        identity.went(change.removed, at, change.by, change.why, change.ended, change.ended_why)
        maintenance.routes_went(change.removed, at, change.by)
        upsert(Route, [{**row, "version": version} for row in change.routes])
        if change.declares:
            identity.came(change.routes, change.by)
        if change.removed:
            _trim_removals()
        if not is_sqlite():
            # The server tells it when this transaction is committed.
            database.execute_sql(f"SELECT pg_notify('{COMMITTED}', %s)", (str(version),))
    session_id = change.session_id
    delete(SessionSetting, _SETTING, [(session_id, *key) for key, value in change.settings.items() if value is None])
    upsert(SessionSetting, [{"session": session_id, "scope": scope, "target": target, "name": name, "value": value}
                            for (scope, target, name), value in change.settings.items() if value is not None])
    delete(StagedChange, _SETTING, [(session_id, *key) for key in change.unstaged])
    for row in change.events:
        insert(EventRow, [row])
    if change.rollout is not None:
        rollouts.write(change.rollout)
    if change.deploy is not None:
        deploys.write(change.deploy, version or counter("config_version"))
    if change.maintenance is not None:
        maintenance.write(change.maintenance)
    return version


def end(session_id: str, at: str) -> None:
    """End a session at that time (as text); what it has staged and set goes, its routes do not."""
    delete(StagedChange, ("session",), [(session_id,)])
    delete(SessionSetting, ("session",), [(session_id,)])
    _update_sessions([session_id], {"state": "ended", "ended_at": at})


def _update_sessions(session_ids: Sequence[str], columns: Mapping[str, Any]) -> None:
    if columns:
        alter(Session, ("session_id",), tuple(columns), [(session_id, *columns.values()) for session_id in session_ids])


def _trim_removals() -> None:
    if database.execute_sql("SELECT COUNT(*) FROM route_removals").fetchone()[0] <= REMOVALS_KEPT + 1000:
        return
    oldest = RouteRemoval.select(RouteRemoval.version).order_by(RouteRemoval.version.desc()).offset(REMOVALS_KEPT).first()
    RouteRemoval.delete().where(RouteRemoval.version <= oldest.version).execute()
    StoredCounter.update(value=oldest.version).where(StoredCounter.name == "removals_from").execute()


def stage(session_id: str, entries: dict[SettingKey, str | None], gone: Iterable[SettingKey], at: str, marked: str) -> None:
    """Write staged changes (a None value removes when applied) and drop others. `at` and `marked`: when, as text (see `base.clock`)."""
    delete(StagedChange, _SETTING, [(session_id, *key) for key in gone])
    upsert(StagedChange, [
        {"session": session_id, "scope": scope, "target": target, "name": name, "value": value, "staged_at": at,
         "staged_clock": marked}
        for (scope, target, name), value in entries.items()])


def stage_routes(session_id: str, texts: Sequence[str], at: str, marked: str) -> int:
    """Write new routes into the staged copy; returns the number of the first."""
    first = bump("next_route_number", len(texts)) - len(texts)
    stage(session_id, {("routes", f"r{first + index}", ""): text for index, text in enumerate(texts)}, (), at, marked)
    return first


def unstage_all(session_id: str) -> None:
    """Drop all staged changes of a session."""
    delete(StagedChange, ("session",), [(session_id,)])


def new_route_numbers(count: int) -> int:
    """Reserve that many route numbers; returns the first."""
    return bump("next_route_number", count) - count


@dataclass(frozen=True, slots=True)
class Loaded:
    """Everything the registry keeps in memory, as the database has it."""

    version: int
    sessions: list[dict[str, Any]]
    settings: dict[str, dict[SettingKey, str]]
    staged: dict[str, dict[SettingKey, str | None]]
    staged_at: dict[str, float]
    routes: list[dict[str, Any]]
    workers: int


def load() -> Loaded:
    """Read the live sessions with their settings, staged changes and routes."""
    hostclocks.learn()
    sessions = dicts(Session.select().where(Session.state != "ended"))
    settings: dict[str, dict[SettingKey, str]] = {}
    for row in dicts(SessionSetting.select()):
        settings.setdefault(row["session"], {})[(row["scope"], row["target"], row["name"])] = row["value"]
    staged: dict[str, dict[SettingKey, str | None]] = {}
    staged_at: dict[str, float] = {}
    for row in dicts(StagedChange.select().order_by(StagedChange.staged_at)):
        staged.setdefault(row["session"], {})[(row["scope"], row["target"], row["name"])] = row["value"]
        staged_at[row["session"]] = clock.remembered(row["staged_clock"], parse_rfc3339(row["staged_at"]))
    version = StoredCounter.get_by_id("config_version").value
    return Loaded(version, sessions, settings, staged, staged_at, rows_of(Route), Worker.select().count())


def parse_json(text: str | None, default: Any) -> Any:
    """A JSON column's value, or the default where there is none."""
    return json.loads(text) if text else default
