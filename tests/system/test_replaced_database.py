"""Another file takes the place of the database while it is in use: it is what serves then, whole, whatever lies beside it."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

HOST = "kept.test"


@pytest.fixture
def system(tmp_path: Path) -> Iterator[System]:
    running = System(tmp_path / "replaced", workers=2, database__busy_timeout="1s")
    yield running
    running.stop()


class Busy:
    """Requests to a route that each copy has, and a client that applies all the time and registers again where it must."""

    def __init__(self, system: System, url: str) -> None:
        self.wrong: list[int] = []
        self.applied = 0
        self._system, self._url = system, url
        self._over = threading.Event()
        self._threads = [threading.Thread(target=run, daemon=True) for run in (self._ask, self._apply)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(20)

    def _ask(self) -> None:
        while not self._over.is_set():
            try:
                status = self._system.get("/", HOST).status
            except (OSError, http.client.HTTPException):
                # Its worker was killed.
                status = 0
            if status not in (0, 200):
                self.wrong.append(status)
            self._over.wait(0.002)

    def _apply(self) -> None:
        while not self._over.is_set():
            with contextlib.suppress(OSError, AssertionError):
                client = RegistryClient(self._system.registry_port, timeout=5)
                with contextlib.closing(client):
                    client.register("busy")
                    route_id = client.route("busy.test", self._url)
                    for number in range(1 << 30):
                        if self._over.is_set():
                            return
                        client.ok(f"HEADERS_SET|SID|{route_id}|X-Number|{number} {'x' * 1000}")
                        client.apply()
                        self.applied += 1
            self._over.wait(0.05)


def copy_of(path: str, target: Path) -> set[str]:
    """Make a copy as `.backup` does. Returns the routes that it has."""
    with contextlib.closing(sqlite3.connect(path)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)
        return {row[0] for row in copy.execute("SELECT domains FROM routes")}


def serves_again(system: System, before: int) -> bool:
    if system.master_pid() in (0, before):
        return False
    with contextlib.suppress(OSError):
        system.connect().close()
        return system.ready()
    return False


def test_a_copy_that_is_moved_over_the_database_is_what_serves_and_is_never_mixed_with_the_old_one(
        system: System, backend: Backend, tmp_path: Path) -> None:
    system.client("kept").route(HOST, backend.url)
    busy = Busy(system, backend.url)
    try:
        for turn in range(5):
            applied = busy.applied
            wait_for(lambda before=applied: busy.applied > before + 5, 20, "applies")  # type: ignore[misc]
            had = copy_of(system.database, tmp_path / "copy")
            system.client("late", f"l{turn}").route(f"late{turn}.test", backend.url)
            assert system.get("/", f"late{turn}.test").status == 200
            master = system.master_pid()
            if turn == 1:
                os.kill(master, signal.SIGKILL)
            os.replace(tmp_path / "copy", system.database)
            if turn == 2:
                os.kill(min(system.worker_pids()), signal.SIGKILL)
            wait_for(lambda before=master: serves_again(system, before), 40, "a master with the copy")  # type: ignore[misc]
            wait_for(lambda late=turn: {system.get("/", f"late{late}.test").status for _ in range(6)} == {404}, 10,  # type: ignore[misc]
                     "the routes of the copy")
            assert {system.get("/", HOST).status for _ in range(6)} == {200}
            with contextlib.closing(sqlite3.connect(f"file:{system.database}?mode=ro", uri=True, timeout=5)) as look:
                assert look.execute("PRAGMA integrity_check").fetchone() == ("ok",)
                assert had - {'["busy.test"]'} <= {row[0] for row in look.execute("SELECT domains FROM routes")}
    finally:
        busy.stop()
    assert not busy.wrong
    for word in ("corrupt", "malformed", "Traceback"):
        assert word not in system.log()
    assert system.log().count("was replaced by another file while in use") == 4
    assert system.log().count("the log of the old database is") == 5
    assert not list(Path(system.database).parent.glob("*.corrupt-*"))
