"""Rows of queries as plain values."""

from __future__ import annotations

from typing import Any

import pytest

from proxyd.store.sql import changes
from proxyd.store.sql.changes import RegistryChange
from proxyd.store.sql.database import Store
from proxyd.store.sql.models import Route, RouteRemoval, StoredCounter
from proxyd.store.sql.observed import EventRow
from proxyd.store.sql.query import dicts, pieces, rows_of
from proxyd.store.sql.snapshot import load_snapshot
from proxyd.store.sql.upsert import insert

SESSION = {"session_id": "", "service_name": "shop", "instance_name": "i1", "state": "connected", "connected_at": "then",
           "last_activity": "then"}


def route(number: int, enabled: bool = True, share: float | None = None) -> dict[str, Any]:
    return {"route_id": f"r{number}", "session": "s1", "service_name": "shop", "instance_name": "i1", "domains": '["a.test"]', "path": "/",
            "backend_url": "http://127.0.0.1:9", "priority": 0, "enabled": enabled, "rollout_share": share, "slot": number,
            "created_at": "then", "updated_at": "now"}


def declare(store: Store, *rows: dict[str, Any]) -> int:
    store.call(changes.write, RegistryChange(session=dict(SESSION), begins=True))
    return store.call(changes.write, RegistryChange(session_id="s1", routes=list(rows), declares=True))


def test_rows_of_a_table_are_as_peewee_gives_them(store: Store) -> None:
    declare(store, route(1), route(2, enabled=False, share=12.5))
    plain, slow = store.read(lambda: (rows_of(Route), dicts(Route.select())))
    assert plain == slow and len(plain) == 2
    assert [(row["session"], row["enabled"] is True, row["rollout_share"]) for row in plain] == [("s1", True, None), ("s1", False, 12.5)]


def test_rows_may_be_those_that_a_condition_holds_for(store: Store) -> None:
    version = declare(store, route(1))
    store.call(changes.write, RegistryChange(session_id="s1", routes=[route(2)], declares=True))
    assert [row["route_id"] for row in store.read(rows_of, Route, "version > ?", (version,))] == ["r2"]
    assert store.read(rows_of, Route, "version > ? AND enabled = ?", (version, False)) == []


@pytest.mark.parametrize(("count", "expected"), [(0, []), (2, [2]), (3, [3]), (7, [3, 3, 1])])
def test_pieces_of_a_sequence(count: int, expected: list[int]) -> None:
    found = list(pieces(range(count), 3))
    assert [len(piece) for piece in found] == expected
    assert [item for piece in found for item in piece] == list(range(count))


def test_removals_are_forgotten_when_there_are_too_many(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "REMOVALS_KEPT", 5)
    version = declare(store, *(route(number) for number in range(1, 1003)))
    for removed in (range(1, 1001), [1001], [1002]):
        store.call(changes.write, RegistryChange(removed=[f"r{number}" for number in removed], by="me", why="test"))
    assert not store.read(load_snapshot, version + 1).full
    store.call(lambda: insert(RouteRemoval, [{"route_id": f"x{number}", "version": version + 4} for number in range(10)]))
    store.call(changes.write, RegistryChange(session_id="s1", routes=[route(2000)], removed=["r5000"], by="me", why="test"))
    kept, since = store.read(lambda: (len(rows_of(RouteRemoval)), StoredCounter.get_by_id("removals_from").value))
    assert kept < 20 and since >= version + 3
    assert store.read(load_snapshot, version + 1).full


def test_a_change_writes_its_events_and_ends_what_a_session_had(store: Store) -> None:
    declare(store, route(1))
    store.call(changes.write, RegistryChange(session_id="s1", settings={("options", "ALL", "retry"): "true"}))
    store.call(changes.stage, "s1", {("options", "ALL", "timeout"): "1s"}, (), "then", "")
    events = [{"at": "now", "type": "config_applied", "session_id": "s1", "actor": "me", "detail": "{}"}, {"at": "now", "type": "other"}]
    store.call(changes.write, RegistryChange(ended=["s1"], ended_at="now", removed=["r1"], by="me", why="over", events=events))
    loaded = store.read(changes.load)
    assert (loaded.sessions, loaded.settings, loaded.staged, loaded.routes) == ([], {}, {}, [])
    assert [(row["type"], row["actor"]) for row in store.read(rows_of, EventRow)] == [("config_applied", "me"), ("other", "")]
