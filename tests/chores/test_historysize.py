"""A database that costs more than it may loses its oldest raw rows first, and says so."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.base.text import rfc3339
from proxyd.chores.historysize import HistorySize
from proxyd.cli import dbtool
from proxyd.config.sections import DatabaseSettings
from proxyd.config.settings import setting_declarations
from proxyd.events.bus import Event, EventBus
from proxyd.store.sql import cost, tablesizes
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.models import StoredTable
from proxyd.store.sql.observed import EventRow, HealthResult, SlowRequest
from proxyd.store.sql.rollups import HealthDay, HealthHour
from tests.support.postgres import Postgres

NOW = time.time()
HOUR, DAY = 3600.0, 86400.0
SUMS = {"up_seconds": 60.0, "down_seconds": 0.0, "maintenance_seconds": 0.0, "good": 6, "bad": 0}
SLOW = {"route_id": "r1", "level": "warning", "method": "GET", "status_code": 200, "total_ms": 1.0, "queue_ms": 0.0, "connect_ms": 0.0,
        "first_byte_ms": 0.0, "body_ms": 0.0, "request_id": "q", "upstream": "b"}


def at(hours: float) -> str:
    return rfc3339(NOW - hours * HOUR)


@pytest.fixture
def server(postgres: Postgres) -> Iterator[Store]:
    opened = Store(postgres.new_database(), busy_timeout=2.0)
    opened.open()
    migrate(opened)
    yield opened
    opened.close()


def fill(store: Store, checks: int) -> None:
    """Checks of the last two days, slow requests of which the older half is older than the checks, and sums."""
    def write() -> None:
        row = {"route_id": "r1", "ok": False, "error": "e" * 200}
        for first in range(0, checks, 250):
            rows = [{**row, "checked_at": at(48 - 48 * number / checks)} for number in range(first, first + 250)]
            HealthResult.insert_many(rows).execute()
        SlowRequest.insert_many([{**SLOW, "at": at(hours), "url": "u" * 200} for hours in (96, 72, 24, 0.5)]).execute()
        HealthHour.insert_many([{"endpoint_id": 1, "hour": at(hours), **SUMS} for hours in (1000, 100)]).execute()
        HealthDay.insert_many([{"endpoint_id": 1, "day": at(1000), **SUMS}]).execute()
        EventRow.insert_many([{"at": at(1000), "type": "x"}]).execute()

    store.call(write)


def oldest(store: Store, model: type[StoredTable], column: str) -> str:
    found: str = store.read(lambda: min(getattr(row, column) for row in model.select()))
    return found


def numbers(store: Store) -> dict[str, int]:
    return store.read(lambda: {model._meta.table_name: model.select().count() for model in (
        HealthResult, SlowRequest, HealthHour, HealthDay, EventRow)})


@pytest.mark.parametrize("engine", ["store", "server"])
def test_the_oldest_raw_rows_go_first_and_it_is_said(engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    store: Store = request.getfixturevalue(engine)
    monkeypatch.setattr(cost, "LEAST_SPARE", 0)
    fill(store, 5000)
    if engine == "server":
        # The server counts a connection's rows up to a second later, and would add them to those that ANALYZE has counted.
        store.call(database.execute_sql, "SELECT pg_stat_force_next_flush()")
        store.call(database.execute_sql, "ANALYZE")
    told: list[Event] = []
    bus = EventBus(store)
    bus.subscribe(told.append)
    used = store.read(cost.used)
    before = numbers(store)
    # What is in use is to lose a third.
    size = HistorySize(store, bus, int(used * 0.67) * 10 // 9 if engine == "store" else int(used * 0.67))
    gone = size.look(NOW)
    after = numbers(store)
    assert set(gone) == {"health_results", "slow_requests"}
    assert gone == {name: before[name] - after[name] for name in gone} == size.dropped
    assert 1000 <= gone["health_results"] <= 3500
    assert {name: after[name] for name in ("health_hours", "health_days", "events")} == {"health_hours": 2, "health_days": 1, "events": 1}
    # The oldest of all went, whatever their kind.
    assert oldest(store, SlowRequest, "at") >= at(49) and oldest(store, HealthResult, "checked_at") > at(48)
    event, = [item for item in told if item.type == "history_dropped"]
    assert event.data["rows"] == sum(gone.values()) and event.data["tables"] == sorted(gone)
    assert "[database] max_size" in caplog.text and size.problems() == []
    assert size.numbers().used <= used * 0.68 and size.numbers().dropped == gone


def test_what_must_stay_stays_and_is_a_problem_if_it_is_too_much(store: Store) -> None:
    fill(store, 500)
    size = HistorySize(store, EventBus(store), cost.LEAST_SPARE + 1)
    size.look(NOW)
    left = numbers(store)
    # A check of the last hour, a slow request of half an hour ago, hours of the last week, and all days and events.
    assert left["slow_requests"] == 1 and 0 < left["health_results"] <= 11
    assert (left["health_hours"], left["health_days"], left["events"]) == (1, 1, 1)
    problem, = size.problems()
    assert "max_size" in problem and "retain_days" in problem
    assert oldest(store, HealthResult, "checked_at") >= at(1)


@pytest.mark.parametrize("engine", ["store", "server"])
def test_what_each_table_costs_is_known_without_reading_it(engine: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
                                                           tmp_path: Path) -> None:
    store: Store = request.getfixturevalue(engine)
    monkeypatch.setattr(tablesizes, "_COUNTED", 1000)
    fill(store, 5000)
    store.call(database.execute_sql, "ANALYZE")
    (tmp_path / "access.log").write_text("a line\n")
    size = HistorySize(store, EventBus(store), 0, str(tmp_path / "access.log"))
    assert size.numbers().tables == {} and size.numbers().access_log == 7
    # A server has no log of its own that a reader keeps.
    assert size.numbers().log == (os.path.getsize(f"{store.path}-wal") if store.path is not None else None)
    size.measure()
    tables = size.numbers().tables
    counts, exact = store.read(dbtool.row_counts), store.read(dbtool.sizes)
    # What a session has inserted reaches the server's statistics after its ANALYZE, and counts twice for a while.
    most = 1 if engine == "store" else 2
    assert all(counts[name] <= tables[name].rows <= most * counts[name] for name in tablesizes.HISTORY)
    assert 0.7 < tables["health_results"].bytes / exact["health_results"] < 1.4
    assert max(tables, key=lambda name: tables[name].bytes) == "health_results"
    assert HistorySize(store, EventBus(store), 0, "-").numbers().access_log is None


def test_without_a_bound_nothing_goes_early(store: Store) -> None:
    fill(store, 500)
    before = numbers(store)
    size = HistorySize(store, EventBus(store), DatabaseSettings().max_size)
    assert size.look(NOW + 30 * DAY) == {} and numbers(store) == before and size.numbers().used > 0


def test_the_setting_takes_sizes_and_off() -> None:
    parse = setting_declarations("database")["max_size"].kind.parse
    assert [parse(word) for word in ("off", "64m", "3g")] == [0, 64 << 20, 3 << 30]
    with pytest.raises(ValueError, match="less than 64m"):
        parse("1m")
