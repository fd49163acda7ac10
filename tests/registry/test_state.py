"""The registry's state: whose routes take traffic after their connections were lost."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from proxyd.config.settings import load
from proxyd.events.bus import EventBus
from proxyd.registry import staging
from proxyd.registry.auth import EVERYTHING
from proxyd.registry.fields import SCOPES
from proxyd.registry.state import MOVE, LiveSession, Registry
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql import migrations
from proxyd.store.sql.database import Store, StoreError


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    store = Store(f"sqlite:///{tmp_path}/proxyd.db", 5.0)
    store.open()
    migrations.migrate(store)
    yield Registry(load(None, {}), store, Board(str(tmp_path)), EventBus(store), CircuitBoard(str(tmp_path)))
    store.close()


def shop(registry: Registry) -> LiveSession:
    """A session with a route."""
    made = registry.register("shop", "i1", 0, {}, "127.0.0.1:1", object(), EVERYTHING)[0]
    staging.add_routes(registry, made, [{"domains": ("shop.test",), "path": "/", "backend_url": "http://127.0.0.1:9", "priority": 0}])
    staging.apply(registry, made, SCOPES, "test")
    return made


def serves(registry: Registry, session: LiveSession) -> bool:
    return all(registry.active.rows[route_id]["enabled"] for route_id in session.routes)


def test_what_a_new_master_reads_is_what_the_last_one_had_and_is_not_searched_for_cycles(registry: Registry) -> None:
    owner = shop(registry)
    staging.add_routes(registry, owner, [{"domains": ("later.test",), "path": "/", "backend_url": "http://127.0.0.1:9", "priority": 0}])
    successor = Registry(registry.settings, registry.store, registry.board, registry.bus, registry.circuits)
    before = gc.get_freeze_count()
    successor.load(lambda name: EVERYTHING)
    found = successor.sessions[owner.session_id]
    assert (found.routes, found.staged.routes, found.secret_hash) == (owner.routes, owner.staged.routes, owner.secret_hash)
    assert successor.everything() == registry.everything()
    assert [type(row["enabled"]) for row in successor.active.rows.values()] == [bool]
    assert gc.get_freeze_count() > before and gc.isenabled()


def test_a_client_that_has_to_move_twice_has_the_whole_time_each_time(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[Callable[[], object]] = []

    def later(seconds: float, function: Callable[..., object], *args: Any) -> None:
        assert seconds == MOVE
        timers.append(partial(function, *args))

    owner = shop(registry)
    monkeypatch.setattr("proxyd.registry.state.gevent.spawn_later", later)
    # Its host is gone; it comes back by a second one, and that is gone, too.
    assert registry.disconnect(owner, owner.holder, moves=True) and serves(registry, owner)
    registry.reconnect(owner, "127.0.0.1:2", object())
    assert registry.disconnect(owner, owner.holder, moves=True)
    first, second = timers
    first()
    assert serves(registry, owner), "the time since the first loss is over, that since the second is not"
    second()
    assert not serves(registry, owner)
    registry.reconnect(owner, "127.0.0.1:3", object())
    assert serves(registry, owner)
    for timer in timers:
        timer()
    assert serves(registry, owner)


def test_routes_whose_client_is_not_back_rest_once_the_database_can_be_written(registry: Registry, monkeypatch: pytest.MonkeyPatch,
                                                                               caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(logging.getLogger("proxyd"), "propagate", True)
    timers: list[Callable[[], object]] = []
    monkeypatch.setattr("proxyd.registry.state.gevent.spawn_later",
                        lambda seconds, function, *args: timers.append(partial(function, *args)))
    owner = shop(registry)
    registry.disconnect(owner, owner.holder, moves=True)
    call, pauses = registry.store.call, []

    def away(*args: Any, **named: Any) -> Any:
        raise StoreError("away")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            monkeypatch.setattr(registry.store, "call", call)

    monkeypatch.setattr(registry.store, "call", away)
    monkeypatch.setattr("proxyd.registry.state.gevent.sleep", pause)
    timers[0]()
    assert len(pauses) == 2 and not serves(registry, owner)
    assert caplog.text.count("the routes of shop/i1, which is not back, can't be disabled yet: away") == 1
