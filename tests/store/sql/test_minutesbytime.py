"""The sums of minutes of an older file: all of them are there after the migration, by their time, also if it was cut off in the middle."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from proxyd.base.text import rfc3339
from proxyd.chores.retention import Retention
from proxyd.config.sections import DatabaseSettings
from proxyd.store.sql import longsteps, tablesizes
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import NEWEST, migrate
from proxyd.store.sql.minutesbytime import MinutesByTime
from proxyd.store.sql.rollups import HealthMinute
from proxyd.store.sql.schema import SHARED_RESULTS

ENDPOINTS, MINUTES = 30, 90
NOW = time.time() // 60 * 60


def _older() -> None:
    """The tables as the version before made them, with rows. Runs in the database thread."""
    for statement in (
            "DROP TABLE health_minutes",
            "CREATE TABLE health_minutes (endpoint_id INTEGER NOT NULL, up_seconds REAL NOT NULL, down_seconds REAL NOT NULL, "
            "maintenance_seconds REAL NOT NULL, good INTEGER NOT NULL, bad INTEGER NOT NULL, minute TEXT NOT NULL, "
            "response_us_sum INTEGER, response_us_min INTEGER, response_us_max INTEGER, "
            "PRIMARY KEY (endpoint_id, minute))",
            "CREATE INDEX healthminute_minute ON health_minutes (minute)",
            "DROP TABLE health_results",
            "CREATE TABLE health_results (id INTEGER NOT NULL PRIMARY KEY, route_id TEXT NOT NULL, checked_at TEXT NOT NULL, "
            "ok INTEGER NOT NULL, status_code INTEGER, response_time_ms REAL, error TEXT)",
            f"INSERT INTO health_results (route_id, checked_at, ok, response_time_ms) VALUES ('r1', '{rfc3339(NOW)}', 1, 2.5)",
            "DROP VIEW v_uptime_24h", "DROP VIEW v_checks",
            f"DELETE FROM schema_version WHERE version >= {SHARED_RESULTS}"):
        database.execute_sql(statement)
    database.cursor().executemany("INSERT INTO health_minutes VALUES (?, 59.5, 0.5, 0.0, 6, 0, ?, 9, 1, 2)", [
        (endpoint, rfc3339(NOW - 60 * minute)) for endpoint in range(ENDPOINTS) for minute in range(MINUTES)])


@pytest.fixture
def older(tmp_path: Path) -> Store:
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrate(store)
    store.call(_older)
    return store


def _found() -> tuple[list[tuple[object, ...]], str, tuple[object, ...]]:
    rows = database.execute_sql("SELECT COUNT(*), COUNT(DISTINCT minute), SUM(up_seconds), SUM(good), SUM(response_us_sum) "
                                "FROM health_minutes").fetchall()
    made = database.execute_sql("SELECT sql FROM sqlite_master WHERE name = 'health_minutes'").fetchone()[0]
    return rows, made, database.execute_sql("SELECT checks, min_ms, last_checked_at FROM v_checks").fetchone()


@pytest.mark.parametrize("cut_off", [False, True])
def test_an_older_file_keeps_all_its_minutes(older: Store, monkeypatch: pytest.MonkeyPatch, cut_off: bool) -> None:
    monkeypatch.setattr(MinutesByTime, "rows", 500)
    if cut_off:
        assert older.call(MinutesByTime().piece)
    monkeypatch.setattr(longsteps, "_SAID", 0.0)
    told: list[int] = []
    assert migrate(older, lambda: told.append(1)) == (SHARED_RESULTS - 1, NEWEST)
    # Who waits for the master is told that it lives, piece by piece.
    assert len(told) >= 4
    rows, made, check = older.read(_found)
    total = ENDPOINTS * MINUTES
    assert rows == [(total, MINUTES, 59.5 * total, 6 * total, 9 * total)] and "WITHOUT ROWID" in made
    assert check == (1, 2.5, rfc3339(NOW))
    older.close()


def test_rows_without_numbers_are_pruned_and_their_cost_is_known(older: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    migrate(older)
    monkeypatch.setattr(tablesizes, "_COUNTED", 500)
    assert older.read(tablesizes.sizes)["health_minutes"].rows == ENDPOINTS * MINUTES
    settings = DatabaseSettings(retain_minutes=1800.0)
    gone = Retention(settings, older).prune(NOW + 1)
    assert gone["health_minutes"] == ENDPOINTS * (MINUTES - 30)
    left = older.read(lambda: HealthMinute.select().count())
    assert left == ENDPOINTS * 30
    older.close()
