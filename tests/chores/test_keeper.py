"""The table that is kept in a file follows what the registry has."""

from __future__ import annotations

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


def test_a_write_that_was_held_up_does_not_hold_up_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A master that is stopped amid a write, or waits for its disk, has spent nothing on it."""
    monkeypatch.setattr(keeper, "_PERIOD", 0.05)
    monkeypatch.setattr(keeper, "_SLICE_PAUSE", 0.3)
    monkeypatch.setattr(keeper, "_REST", 200)
    store = Store(f"sqlite:///{tmp_path}/p.db")
    store.open()
    migrate(store)
    registry = Registry(load(None, {}), store, Board(str(tmp_path)), EventBus(store), CircuitBoard(str(tmp_path)))
    registry.active.rows["r1"] = ROW
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
