"""Insert or update: the row that is there takes the new values and nothing else of it is lost."""

from __future__ import annotations

from typing import Any

import pytest
from peewee import fn

from proxyd.store.sql.database import Store
from proxyd.store.sql.models import RouteRemoval, Service, Session, StoredCounter, StoredTable
from proxyd.store.sql.observed import HealthStatus, RouteStatusCode
from proxyd.store.sql.query import among
from proxyd.store.sql.upsert import delete, insert, upsert


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
    assert store.read(lambda: RouteRemoval.select(fn.COUNT(RouteRemoval.route_id), fn.MIN(RouteRemoval.version)).tuples()[0]) == (200, 2)


def test_no_rows_are_no_statement(store: Store) -> None:
    put(store, RouteRemoval)
    assert held(store, RouteRemoval) == []


@pytest.mark.sqlite
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


def test_rows_are_deleted_by_some_of_their_columns_and_others_stay(store: Store) -> None:
    put(store, RouteStatusCode, *({"route_id": f"r{number}", "status_code": code, "responses": 1}
                                  for number in range(250) for code in (200, 404)))
    keys: list[tuple[Any, ...]] = [(f"r{number}",) for number in range(249)]
    store.call(lambda: delete(RouteStatusCode, ("route_id",), keys))
    assert held(store, RouteStatusCode) == [("r249", 200, 1), ("r249", 404, 1)]
    store.call(lambda: delete(RouteStatusCode, ("route_id", "status_code"), [("r249", 404), ("r7", 200)]))
    store.call(lambda: delete(RouteStatusCode, ("route_id",), []))
    assert held(store, RouteStatusCode) == [("r249", 200, 1)]


def test_columns_that_are_not_said_get_their_defaults_and_the_database_numbers_new_rows(store: Store) -> None:
    store.call(lambda: insert(Service, [{"service_name": f"s{number}", "first_seen": "then"} for number in range(3)]))
    assert [row[:2] for row in held(store, Service)] == [(1, "s0"), (2, "s1"), (3, "s2")]
    put(store, Session, {"session_id": "s1", "service_name": "a", "instance_name": "b", "state": "connected", "connected_at": "then",
                         "last_activity": "then"})
    assert store.read(lambda: Session.get_by_id("s1").metadata) == "{}"


def test_values_are_found_however_many_are_asked_for(store: Store) -> None:
    put(store, RouteRemoval, *({"route_id": f"r{number}", "version": number % 2} for number in range(1300)))
    wanted = [f"r{number}" for number in range(1400)]
    found = store.read(lambda: list(among("SELECT route_id FROM route_removals WHERE version = ? AND route_id IN", wanted, 1)))
    assert sorted(found) == sorted((f"r{number}",) for number in range(1, 1300, 2))
