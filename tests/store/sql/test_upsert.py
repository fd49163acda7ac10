"""Insert or update: the row that is there takes the new values and nothing else of it is lost."""

from __future__ import annotations

from typing import Any

from peewee import fn

from proxyd.store.sql.database import Store
from proxyd.store.sql.models import RouteRemoval, StoredCounter, StoredTable
from proxyd.store.sql.observed import HealthStatus, RouteStatusCode
from proxyd.store.sql.upsert import upsert


def put(store: Store, model: type[StoredTable], *rows: dict[str, Any]) -> None:
    store.call(lambda: upsert(model, list(rows)))


def held(store: Store, model: type[StoredTable]) -> list[tuple[Any, ...]]:
    """All rows."""
    rows: Any = store.read(lambda: list(model.select().tuples()))
    return sorted(rows)


def test_rows_are_added_and_then_changed(store: Store) -> None:
    put(store, RouteRemoval, {"route_id": "r1", "version": 1}, {"route_id": "r2", "version": 1})
    put(store, RouteRemoval, {"route_id": "r2", "version": 7}, {"route_id": "r3", "version": 7})
    assert held(store, RouteRemoval) == [("r1", 1), ("r2", 7), ("r3", 7)]


def test_a_row_is_known_by_all_columns_of_its_key(store: Store) -> None:
    put(store, RouteStatusCode, {"route_id": "r1", "status_code": 200, "responses": 5},
        {"route_id": "r1", "status_code": 404, "responses": 1})
    put(store, RouteStatusCode, {"route_id": "r1", "status_code": 404, "responses": 2})
    assert held(store, RouteStatusCode) == [("r1", 200, 5), ("r1", 404, 2)]


def test_any_number_of_rows_is_written(store: Store) -> None:
    put(store, RouteRemoval, *({"route_id": f"r{number}", "version": 1} for number in range(200)))
    put(store, RouteRemoval, *({"route_id": f"r{number}", "version": 2} for number in range(200)))
    assert store.read(lambda: RouteRemoval.select(fn.COUNT(), fn.MIN(RouteRemoval.version)).tuples()[0]) == (200, 2)


def test_no_rows_are_no_statement(store: Store) -> None:
    put(store, RouteRemoval)
    assert held(store, RouteRemoval) == []


def test_a_row_of_nothing_but_its_key_that_is_there_stays_as_it_is(store: Store) -> None:
    put(store, StoredCounter, {"name": "n", "value": 3})
    put(store, StoredCounter, {"name": "n"})
    assert ("n", 3) in held(store, StoredCounter)


def test_columns_that_are_not_said_keep_their_values(store: Store) -> None:
    said = {"route_id": "r1", "url": "http://a/", "status": "down", "reason": "refused", "since": "then"}
    put(store, HealthStatus, {**said, "last_error": "refused", "checks": 9})
    put(store, HealthStatus, {**said, "status": "healthy"})
    columns = HealthStatus.status, HealthStatus.last_error, HealthStatus.checks
    assert store.read(lambda: list(HealthStatus.select(*columns).tuples())) == [("healthy", "refused", 9)]
