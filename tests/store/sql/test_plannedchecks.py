"""Single checks of an older database: those that were made in maintenance are marked by a migration, which goes on after a kill."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from proxyd.base.text import rfc3339
from proxyd.store.sql import maintenance, migrations, running
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.maintenance import MaintenanceWindow
from proxyd.store.sql.models import Endpoint, Route, RouteHistory, Service, Session
from proxyd.store.sql.observed import HealthResult
from proxyd.store.sql.plannedchecks import PlannedChecks
from proxyd.store.sql.schema import PLANNED_APART
from proxyd.store.sql.upsert import insert
from proxyd.store.sql.views import VIEWS
from tests.support.postgres import Postgres

NOW = time.time() - 10
#: What the step brings.
COLUMNS = (("health_results", "planned"), ("route_minutes", "maintenance_hits"), ("health_minutes", "in_maintenance"),
           *((table, name) for table in ("health_hours", "health_days") for name in ("in_maintenance", running.before("in_maintenance"))))


def at(minutes: float) -> str:
    """So many minutes ago."""
    return rfc3339(NOW - 60 * minutes)


@pytest.fixture(params=["sqlite", "postgresql"])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A database of the version before, with three routes and their checks, one in each of the last 100 minutes."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/p.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.new_database()
    store = Store(url)
    store.open()
    migrations.migrate(store)
    store.call(_fill)
    store.call(_age)
    request.addfinalizer(store.close)
    return store


def _fill() -> None:
    Session.create(session_id="s1", service_name="shop", instance_name="i", state="connected", connected_at=at(200), last_activity=at(0))
    Service.insert(service_id=1, service_name="shop", first_seen=at(200)).execute()
    for number in (1, 2, 3):
        Endpoint.insert(endpoint_id=number, service=1, service_name="shop", instance_name=f"i{number}", domain="shop.test", path="/",
                        first_seen=at(200)).execute()
        RouteHistory.insert(route_id=f"r{number}", endpoint=number, session_id="s1", backend_url="b", added_at=at(200),
                            added_by="").execute()
        Route.insert(route_id=f"r{number}", session="s1", service_name="shop", instance_name=f"i{number}", domains="[]", path="/",
                     backend_url="b", priority=0, enabled=True, version=2, created_at=at(200), updated_at=at(200), slot=number).execute()
        # Down from the 40th minute to the 31st, and of r1 also in the last but one.
        insert(HealthResult, [{"route_id": f"r{number}", "checked_at": at(minute + 0.5), "response_time_ms": 2.0,
                               "ok": not (31 <= minute < 41 or number == 1 and minute == 1)} for minute in range(100)])
    # r1 and r2 are in maintenance meanwhile, r1 a second time before; r3 is to be. r1's window of long ago has no checks any more.
    for name, begun, ended in (("r1", 150000, 149900), ("r1", 60, 50), ("r1", 41, 31), ("r2", 41, None)):
        maintenance.write(maintenance.Turn(maintenance.BEGIN, [name], at(begun), "alice"))
        if ended is not None:
            maintenance.write(maintenance.Turn(maintenance.END, [name], at(ended), "alice", how=maintenance.EXITED))
    maintenance.write(maintenance.Turn(maintenance.PLAN, ["r3"], at(41), "alice", start=at(-60)))
    assert MaintenanceWindow.select().count() == 5


def _age() -> None:
    for name in reversed(VIEWS):
        database.execute_sql(f"DROP VIEW {name}")
    for table, column in COLUMNS:
        database.execute_sql(f"ALTER TABLE {table} DROP COLUMN {column}")
    database.execute_sql("CREATE INDEX route_history_endpoint_id ON route_history (endpoint_id)")
    database.execute_sql(f"DELETE FROM schema_version WHERE version >= {PLANNED_APART}")


def found() -> list[tuple[Any, ...]]:
    rows = database.execute_sql("SELECT route_id, checks, good, in_maintenance, uptime_percent FROM v_uptime_24h ORDER BY route_id")
    return [(*row[:4], float(row[4])) for row in rows.fetchall()]


@pytest.mark.parametrize("cut_off", [False, True])
def test_what_was_planned_does_not_count_after_the_migration(older: Store, monkeypatch: pytest.MonkeyPatch, cut_off: bool) -> None:
    monkeypatch.setattr(PlannedChecks, "rows", 1)
    if cut_off:
        step = next(step for number, _, step in migrations.STEPS if number == PLANNED_APART)
        older.call(step)
        assert older.call(PlannedChecks().piece)
    rest = PlannedChecks()
    monkeypatch.setitem(migrations.PIECES, PLANNED_APART, lambda: rest)
    assert migrations.migrate(older) == (PLANNED_APART - 1, migrations.NEWEST)
    assert older.read(found) == [("r1", 80, 79, 20, 98.75), ("r2", 59, 59, 41, 100.0), ("r3", 100, 90, 0, 90.0)]
    # What a part of it had marked is not written again.
    assert rest.done == 61 - 10 * cut_off
    # Of two indexes that begin with the endpoint, the server would choose the one that leads to all routes of years.
    indexes = {index.name for index in older.read(database.get_indexes, "route_history")}
    assert "route_history_endpoint_id_removed_at" in indexes and "route_history_endpoint_id" not in indexes
    # And it can be written as before.
    older.call(insert, HealthResult, [{"route_id": "r3", "checked_at": at(0), "ok": True, "planned": True}])
    assert older.read(found)[2] == ("r3", 100, 90, 1, 90.0)


def test_nothing_is_to_be_marked_where_there_are_no_checks(older: Store) -> None:
    older.call(lambda: HealthResult.delete().execute())
    assert migrations.migrate(older) == (PLANNED_APART - 1, migrations.NEWEST) and older.read(found) == []
