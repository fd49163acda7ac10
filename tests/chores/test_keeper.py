"""The table that is kept in a file follows what the registry has."""

from __future__ import annotations

import os
import time
from pathlib import Path

import gevent
import pytest

from proxyd.chores import keeper
from proxyd.config.settings import load
from proxyd.events.bus import EventBus
from proxyd.registry.state import Registry
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql import kept
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from tests.support.waiting import patience

ROW = {"route_id": "r1", "session": "s1", "service_name": "app", "instance_name": "i1", "domains": '["a.test"]', "path": "/",
       "backend_url": "http://127.0.0.1:9", "priority": 0, "enabled": True, "slot": 1, "version": 1, "options": "{}", "headers": "{}",
       "request_headers": "{}", "rate_limits": "[]", "maintenance_since": None, "maintenance_page_url": None, "drain_started_at": None,
       "drain_clock": None, "drain_seconds": None, "hold_until": None, "hold_clock": None, "rollout_share": None, "updated_at": ""}


def a_registry(folder: Path) -> tuple[Store, Registry]:
    """One with a route, and its database."""
    store = Store(f"sqlite:///{folder}/p.db")
    store.open()
    migrate(store)
    registry = Registry(load(None, {}), store, Board(str(folder)), EventBus(store), CircuitBoard(str(folder)))
    registry.active.rows["r1"] = ROW
    return store, registry


def test_one_that_is_removed_as_soon_as_it_is_there_is_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_PERIOD", 0.05)
    replace = os.replace
    removed: list[str] = []

    def replace_and_remove(source: str, target: str) -> None:
        replace(source, target)
        if not removed:
            removed.append(target)
            os.unlink(target)

    monkeypatch.setattr(os, "replace", replace_and_remove)
    store, registry = a_registry(tmp_path)
    registry.version = 7
    keeping = keeper.Keeper(keeper.OfRegistry(registry), str(tmp_path))
    keeping.start()
    try:
        until = time.monotonic() + patience(3.0)
        while not removed or not (tmp_path / kept.NAME).exists():
            assert time.monotonic() < until, "it is not written again"
            gevent.sleep(0.01)
    finally:
        keeping.drop()
        store.close()


def test_where_the_last_masters_file_is_others_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "_PERIOD", 600.0)
    store, registry = a_registry(tmp_path)
    for version in (7, 8):
        registry.version = version
        keeping = keeper.Keeper(keeper.OfRegistry(registry), str(tmp_path))
        keeping.start()
        until = time.monotonic() + (patience(3.0) if version == 7 else 0.1)
        while not keeping.jobs[0].runs and time.monotonic() < until:
            gevent.sleep(0.01)
        assert keeping.jobs[0].runs == (1 if version == 7 else 0)
        keeping.drop()
    store.close()


def test_a_write_that_was_held_up_does_not_hold_up_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that is stopped amid a write, or waits for its disk, has spent nothing on it."""
    monkeypatch.setattr(keeper, "_PERIOD", 0.05)
    monkeypatch.setattr(keeper, "_SLICE_PAUSE", 0.3)
    monkeypatch.setattr(keeper, "_REST", 200)
    store, registry = a_registry(tmp_path)
    keeping = keeper.Keeper(keeper.OfRegistry(registry), str(tmp_path))
    path = str(tmp_path / kept.NAME)

    def follows(version: int) -> None:
        registry.version = version
        until = time.monotonic() + patience(3.0)
        while (found := kept.read(path)) is None or found.snapshot.version != version:
            assert time.monotonic() < until, f"version {version} is not kept"
            gevent.sleep(0.01)

    keeping.start()
    try:
        follows(7)
        follows(8)
    finally:
        keeping.stop()
        store.close()
