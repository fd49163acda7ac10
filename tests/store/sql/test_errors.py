"""Errors by the hour and unknown hosts: what batches add up to, and how they are read, on SQLite and on PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.base.text import rfc3339
from proxyd.store.sql.database import Store, database
from proxyd.store.sql.errors import HOSTS_KEPT, ErrorBatch, groups, unknown_hosts
from proxyd.store.sql.identity import came
from proxyd.store.sql.migrations import migrate


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A database of each kind, with an endpoint that two routes were for."""
    sqlite = request.param == "sqlite"
    opened = Store(f"sqlite:///{tmp_path}/p.db" if sqlite else request.getfixturevalue("postgres").new_database())
    opened.open()
    migrate(opened)
    opened.call(came, [
        {"route_id": f"r{number}", "session": f"s{number}", "service_name": "shop", "instance_name": f"i{number}",
         "domains": '["shop.test"]', "path": "/", "backend_url": "http://127.0.0.1:1", "created_at": rfc3339(time.time())}
        for number in (1, 2)], "x")
    yield opened
    opened.close()


def test_errors_of_all_instances_and_hours_are_one_group_with_the_last_request(store: Store) -> None:
    now = time.time()
    before, later, old = rfc3339(now - 7200), rfc3339(now - 60), rfc3339(now - 40 * 86400)
    batch = ErrorBatch([
        ("r1", 500, "", 2, later, "GET", "shop.test/new", "127.0.0.1:1", "id-2"),
        ("r2", 500, "", 3, before, "POST", "shop.test/old", "127.0.0.1:2", "id-1"),
        ("r1", 500, "", 9, old, "GET", "shop.test/older", "127.0.0.1:1", "id-0"),
        ("r1", 429, "rate_limited", 50, later, "GET", "shop.test/", "", "id-3"),
        ("-", 404, "unknown_host", 1, later, "GET", "nobody.test/", "", "id-4")], {}, later)
    store.call(batch.write)
    store.call(batch.write)
    found = store.read(groups, rfc3339(now - 86400))
    assert [(one["service"], one["status"], one["made_by"], one["requests"], one["last_request_id"]) for one in found] == [
        ("shop", 500, "backend", 10, "id-2"), ("shop", 429, "client", 100, "id-3"), ("", 404, "client", 2, "id-4")]
    assert found[0]["first_hour"] == before[:13] + ":00:00.000Z"
    assert [one["status"] for one in store.read(groups, rfc3339(now - 86400), "backend")] == [500]
    assert [one["status"] for one in store.read(groups, rfc3339(now - 86400), "", "", ("shop", "shop.test", "/"))] == [500, 429]
    rows = store.read(lambda: list(database.execute_sql("SELECT status_code, requests, last_url FROM v_errors ORDER BY status_code")))
    assert [tuple(row) for row in rows] == [(404, 2, "nobody.test/"), (429, 100, "shop.test/"), (500, 10, "shop.test/new")]


def test_the_most_asked_hosts_stay_however_many_are_asked_for_once(store: Store) -> None:
    at = rfc3339(time.time())
    store.call(ErrorBatch([], {"forgotten.test": 5}, at).write)
    for part in range(8):
        store.call(ErrorBatch([], {f"scan{part}-{number}.test": 1 for number in range(200)}, at).write)
    store.call(ErrorBatch([], {"forgotten.test": 2}, at).write)
    assert store.read(unknown_hosts, 1) == [{"host": "forgotten.test", "requests": 7, "last_at": at}]
    assert len(store.read(unknown_hosts, 10_000)) <= HOSTS_KEPT + 200
