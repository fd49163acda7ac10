"""Old rows go, young ones stay, and nobody waits for it."""

from __future__ import annotations

import sqlite3
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import gevent
import pytest

from proxyd.base import clock
from proxyd.base.text import rfc3339
from proxyd.chores import retention
from proxyd.chores.retention import Retention
from proxyd.config.sections import DatabaseSettings
from proxyd.store.sql import cost, identity, models, observed
from proxyd.store.sql.database import Store, StoreBusy, database

DAY = 86400.0
NOW = time.time()
ROUTE = {"service_name": "s", "instance_name": "i", "domains": "[]", "path": "/", "backend_url": "http://b:1", "priority": 0,
         "enabled": True, "version": 1, "created_at": "", "updated_at": ""}


def add_session(name: str, state: str, days: float) -> None:
    at = rfc3339(NOW - days * DAY)
    models.Session.create(session_id=name, service_name="s", instance_name="i", state=state, connected_at=at, last_activity=at,
                          ended_at=at if state == "ended" else None)


def add_traffic(route_id: str, days: float) -> None:
    observed.RouteStats.create(route_id=route_id, updated_at=rfc3339(NOW - days * DAY))
    observed.RouteStatusCode.create(route_id=route_id, status_code=200, responses=1)
    observed.RouteLatency.create(route_id=route_id, bucket=3, requests=1)


def ids(store: Store, model: type[models.StoredTable], column: str = "route_id") -> set[str]:
    rows: list[tuple[str]] = store.read(lambda: list(model.select(getattr(model, column)).tuples()))  # type: ignore[arg-type]
    return {row[0] for row in rows}


def at(days: float) -> str:
    return rfc3339(NOW - days * DAY)


def test_each_table_keeps_what_is_younger_than_its_setting(store: Store) -> None:
    limits = {"health": 2, "stats": 30, "events": 90, "slow": 14}

    def fill() -> None:
        for name, shift in (("old", 1), ("young", -1)):
            health, stats, events, slow = (at(limits[key] + shift) for key in ("health", "stats", "events", "slow"))
            observed.HealthResult.create(route_id=name, checked_at=health, ok=True)
            observed.RouteMinute.create(route_id=name, minute=stats, requests=1, errors=0, latency_ms_sum=1, bytes_sent=0,
                                      bytes_received=0)
            observed.RateLimitRejection.create(route_id=name, minute=stats, address="::1", rejected=1)
            observed.EventRow.create(at=events, type="x", route_id=name)
            observed.CircuitTransition.create(route_id=name, at=events, from_state="closed", to_state="open", reason="r")
            observed.SlowRequest.create(route_id=name, at=slow, level="warning", method="GET", url="u", status_code=200, total_ms=1,
                                      queue_ms=0, connect_ms=0, first_byte_ms=0, body_ms=0, request_id="q", upstream="b")
            observed.WebSocketConnection.create(route_id=name, opened_at=slow, closed_at=slow, client="c", bytes_sent=0,
                                              bytes_received=0, reason="r")

    store.call(fill)
    gone = Retention(DatabaseSettings(), store).prune(NOW)
    tables = (observed.HealthResult, observed.RouteMinute, observed.RateLimitRejection, observed.EventRow, observed.CircuitTransition,
              observed.SlowRequest, observed.WebSocketConnection)
    for model in tables:
        assert ids(store, model) == {"young"}, model
    assert gone == {model._meta.table_name: 1 for model in tables}


def test_a_websocket_that_was_open_for_weeks_is_as_old_as_its_end(store: Store) -> None:
    store.call(lambda: observed.WebSocketConnection.create(route_id="r1", opened_at=at(40), closed_at=at(1), client="c",
                                                         bytes_sent=0, bytes_received=0, reason="r"))
    Retention(DatabaseSettings(), store).prune(NOW)
    assert ids(store, observed.WebSocketConnection) == {"r1"}


def test_only_sessions_that_ended_go_and_take_their_settings_along(store: Store) -> None:
    def fill() -> None:
        add_session("long-ended", "ended", 8)
        add_session("just-ended", "ended", 6)
        add_session("long-lived", "connected", 100)
        for name in ("long-ended", "long-lived"):
            models.SessionSetting.create(session=name, scope="options", target="ALL", name="x", value="1")

    store.call(fill)
    Retention(DatabaseSettings(), store).prune(NOW)
    assert ids(store, models.Session, "session_id") == {"just-ended", "long-lived"}
    assert ids(store, models.SessionSetting, "session_id") == {"long-lived"}


def test_sums_of_routes_that_are_gone_for_long_go_but_not_those_of_routes_or_of_no_route(store: Store) -> None:
    def fill() -> None:
        add_session("s", "connected", 50)
        models.Route.create(route_id="r1", session="s", slot=1, **ROUTE)
        for name, days in (("r1", 40), ("r2", 40), ("r3", 20), ("-", 40)):
            add_traffic(name, days)

    store.call(fill)
    Retention(DatabaseSettings(), store).prune(NOW)
    for model in (observed.RouteStats, observed.RouteStatusCode, observed.RouteLatency):
        assert ids(store, model) == {"r1", "r3", "-"}, model


def test_a_route_that_is_gone_stays_as_long_as_history_that_refers_to_it(store: Store) -> None:
    def fill() -> None:
        for number, days in enumerate((40, 100, 0), 1):
            row = {**ROUTE, "route_id": f"r{number}", "session": "s", "domains": '["a.test"]', "path": f"/{number}", "created_at": at(500)}
            identity.came([row], "somebody")
            if days:
                identity.went([f"r{number}"], at(days), "somebody", "CONFIG_APPLY")

    store.call(fill)
    settings = DatabaseSettings(retain_routes=DAY)
    Retention(settings, store).prune(NOW)
    # Events are kept for 90 days.
    assert ids(store, models.RouteHistory) == {"r1", "r3"}
    assert ids(store, models.Endpoint, "path") == {"/1", "/3"}
    Retention(replace(settings, retain_events=DAY, retain_stats=DAY, retain_slow=DAY), store).prune(NOW)
    assert ids(store, models.RouteHistory) == {"r3"} and ids(store, models.Service, "service_name") == {"s"}


def test_many_rows_go_in_small_batches_between_which_others_can_write(store: Store, tmp_path: Path,
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"route_id": "r1", "checked_at": at(8), "ok": True} for _ in range(1750)]
    store.call(lambda: [observed.HealthResult.insert_many(rows[i:i + 250]).execute() for i in range(0, len(rows), 250)])
    other = sqlite3.connect(tmp_path / "p.db", timeout=0, isolation_level=None)
    left: list[int] = []

    def between(seconds: float) -> None:
        other.execute("INSERT INTO events (at, type, actor, detail) VALUES (?, 'x', '', '{}')", (at(0),))
        left.append(other.execute("SELECT COUNT(*) FROM health_results").fetchone()[0])

    # In this module alone: whatever else of this process sleeps must go on doing so.
    monkeypatch.setattr(retention, "gevent", SimpleNamespace(sleep=between))
    assert Retention(DatabaseSettings(), store).prune(NOW) == {"health_results": 1750}
    other.close()
    assert left == [1250, 750, 250, 0]


def test_a_locked_database_is_left_for_the_next_round(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_FIRST", 0.01)
    monkeypatch.setattr(retention, "_PERIOD", 0.05)
    store.call(lambda: observed.HealthResult.create(route_id="r1", checked_at=at(8), ok=True))
    other = sqlite3.connect(tmp_path / "p.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    part = Retention(DatabaseSettings(), store)
    with pytest.raises(StoreBusy):
        part.prune(NOW)
    part.start()
    try:
        gevent.sleep(0.4)
        assert ids(store, observed.HealthResult) == {"r1"}
        other.execute("COMMIT")
        deadline = time.monotonic() + 5
        while ids(store, observed.HealthResult) and time.monotonic() < deadline:
            gevent.sleep(0.02)
        assert not ids(store, observed.HealthResult)
    finally:
        part.stop()
        other.close()


def test_a_time_of_day_set_ahead_is_believed_when_it_has_lasted_for_an_hour(store: Store) -> None:
    retention = Retention(DatabaseSettings(), store)
    now, year = clock.now(), 365 * DAY
    assert retention.time_of_day(0.0, now) == now
    assert [retention.time_of_day(year, now + seconds) for seconds in (60.0, 1800.0)] == [now + 60, now + 1800]
    # Set right in time: nothing was lost, and the next mistake has an hour, too.
    assert retention.time_of_day(0.0, now + 2000) == now + 2000
    assert retention.time_of_day(year, now + 3000) == now + 3000
    assert retention.time_of_day(year, now + 6500) == now + 6500
    assert retention.time_of_day(year, now + 6700) == now + 6700 + year
    assert retention.time_of_day(year - 3600.0, now + 6800) == now + 6800 + year - 3600.0


def test_space_of_rows_that_went_is_given_back_in_steps_and_some_is_kept(store: Store) -> None:
    row = {"at": at(200), "type": "x", "detail": "d" * 3000}
    store.call(lambda: [observed.EventRow.insert_many([row] * 200).execute() for _ in range(40)])
    job = Retention(DatabaseSettings(), store)
    assert job.give_back() == 0, "nothing is free yet"
    before = pages(store)
    assert job.prune(NOW)["events"] == 8000
    given = job.give_back()
    kept = pages(store)
    assert given > 3 * retention._STEP and kept <= before - given
    assert cost.LEAST_SPARE // 4096 <= store.read(lambda: database.execute_sql("PRAGMA freelist_count").fetchone()[0]) < before - given
    assert job.give_back() == 0


def pages(store: Store) -> int:
    return int(store.read(lambda: database.execute_sql("PRAGMA page_count").fetchone()[0]))
