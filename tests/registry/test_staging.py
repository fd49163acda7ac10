"""Staging with many routes: each command costs what it changes."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from proxyd.config.settings import load
from proxyd.events.bus import EventBus
from proxyd.registry import staging
from proxyd.registry.auth import EVERYTHING
from proxyd.registry.fields import SCOPES
from proxyd.registry.state import LiveSession, Registry
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql import migrations
from proxyd.store.sql.database import Store
from proxyd.store.sql.models import StagedChange
from tests.support.timing import least

MANY = 5000


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    folder: Path = tmp_path_factory.mktemp("staging")
    store = Store(f"sqlite:///{folder}/proxyd.db", 5.0)
    store.open()
    migrations.migrate(store)
    settings = load(None, {"PROXYD_REGISTRY_MAX_ROUTES_PER_SESSION": str(MANY + 5), "PROXYD_REGISTRY_MAX_STAGED_BYTES": "100m"})
    yield Registry(settings, store, Board(str(folder)), EventBus(store), CircuitBoard(str(folder)))
    store.close()


def session(registry: Registry, name: str) -> LiveSession:
    return registry.register(name, "i1", 0, {}, "127.0.0.1:1", object(), EVERYTHING)[0]


def add(registry: Registry, of: LiveSession, count: int) -> list[str]:
    return staging.add_routes(registry, of, [
        {"domains": (f"{of.service}-{number}.test",), "path": "/", "backend_url": "http://127.0.0.1:9", "priority": 0}
        for number in range(count)])


def test_a_command_costs_the_same_however_much_is_staged(registry: Registry) -> None:
    few, many = session(registry, "few"), session(registry, "many")
    ids = {few.service: add(registry, few, 1), many.service: add(registry, many, MANY)}

    def cost(of: LiveSession) -> float:
        first = ids[of.service][0]

        def command() -> None:
            staging.require_target(of, first)
            staging.require_route(of, first)
            staging.stage(registry, of, {("options", first, "timeout"): "5s"})

        return least(command)

    assert cost(many) < 4 * cost(few)
    removed = least(lambda: staging.remove_route(registry, many, ids[many.service].pop()))
    assert removed < 4 * cost(few)
    for item in (few, many):
        staging.rollback(registry, item)


def collections(work: Callable[[], object]) -> int:
    """How often Python looks for cycles in `work`, which with thousands of new objects takes longer than the work."""
    seen: list[str] = []

    def told(phase: str, _: dict[str, int]) -> None:
        if phase == "start":
            seen.append(phase)

    gc.callbacks.append(told)
    try:
        work()
    finally:
        gc.callbacks.remove(told)
    return len(seen)


def lines(work: Callable[[], object], of: str) -> int:
    """How many lines of a module run in `work`."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace if frame.f_code.co_filename.endswith(of) else None

    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(None)
    return count


def test_a_register_looks_at_sessions_of_its_own_names_alone(registry: Registry) -> None:
    before = lines(lambda: session(registry, "first"), "registry/state.py")
    for number in range(MANY):
        registry.take(LiveSession(f"s9{number}", f"service{number}", "i1", secret_hash=f"hash {number}"))
    assert lines(lambda: session(registry, "last"), "registry/state.py") == before > 10
    # One of the same names is found among them, and ends: it has no route.
    again = session(registry, "service7")
    assert registry.find("s97") is None and registry.find(again.session_id) is again
    registry.end(list(registry.sessions.values()), "test", "done")


def test_a_session_that_the_last_master_left_comes_back_without_a_wait_for_the_disk(registry: Registry,
                                                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    durable: list[bool] = []
    call = registry.store.call

    def watched(*args: Any, **named: Any) -> Any:
        durable.append(named["durable"])
        return call(*args, **named)

    owner = session(registry, "left")
    owner.holder = None
    monkeypatch.setattr(registry.store, "call", watched)
    registry.reconnect(owner, "127.0.0.1:2", object())
    registry.disconnect(owner, owner.holder)
    registry.reconnect(owner, "127.0.0.1:3", object())
    assert durable == [False, False, True]
    registry.end([owner], "test", "done")


def test_thousands_of_routes_are_applied_and_removed_and_the_database_knows(registry: Registry) -> None:
    owner = session(registry, "owner")
    ids = add(registry, owner, MANY)
    staging.stage(registry, owner, {("options", "ALL", "timeout"): "7s", ("options", ids[1], "timeout"): "8s"})
    staging.apply(registry, owner, SCOPES, "test")
    assert list(owner.routes) == ids and len(owner.staged) == owner.staged.size == 0
    rows = registry.active.rows
    assert [rows[route_id]["options"] for route_id in ids[:2]] == ['{"timeout": "7s"}', '{"timeout": "8s"}']
    assert registry.store.read(lambda: StagedChange.select().count()) == 0
    another = Registry(registry.settings, registry.store, registry.board, registry.bus, registry.circuits)
    # One follows when they are allowed again.
    assert collections(lambda: another.load(lambda name: EVERYTHING)) <= 1
    assert another.active.rows == registry.active.rows
    with pytest.raises(staging.StagingError, match="max_routes_per_session"):
        add(registry, owner, 6)
    staging.remove_route(registry, owner, ids[0])
    assert len(add(registry, owner, 6)) == 6
    registry.end([owner], "test", "done")
    assert registry.active.rows == {}
