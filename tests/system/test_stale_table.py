"""[proxy] stale_after: a worker that knows of a newer configuration, and can't read it, refuses rather than answer by its old routes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from proxyd.store.memory.board import Board
from tests.support.backends import Backend
from tests.support.system import MakeSystem, System
from tests.support.waiting import wait_for


@contextlib.contextmanager
def announced(system: System) -> Iterator[None]:
    """While it lasts, a version is posted that the database does not have."""
    board = Board(str(system.directory))
    version = board.version
    board.post(version + 1)
    try:
        yield
    finally:
        board.post(version)
        board.close()


def code(system: System) -> str:
    answer = system.get("/", "shop.test")
    return answer.headers.get("X-Proxyd-Reason", "") or str(answer.status)


@pytest.mark.parametrize("stale_after", ["0.3s", "0"])
def test_old_routes_are_used_as_long_as_the_setting_says(new_system: MakeSystem, backend: Backend, stale_after: str) -> None:
    system = new_system(proxy__workers=1, proxy__stale_after=stale_after)
    system.client("shop").route("shop.test", backend.url)
    assert code(system) == "200"
    with announced(system):
        if stale_after == "0":
            # It waits for a moment, as after a stop, and goes on.
            assert code(system) == code(system) == "200"
            return
        wait_for(lambda: code(system) == "stale_table", 5, "the refusal")
        refused = system.get("/", "shop.test")
        assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
    wait_for(lambda: code(system) == "200", 5, "an answer by routes that are current")
