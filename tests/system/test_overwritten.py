"""Somebody writes into a file of the proxy while it is in use: it is told within a second, and nothing of it is mixed with what was."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

HOST = "app.test"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("overwritten"), workers=2)
    yield running
    running.stop()


def copied(system: System, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(system.database)) as source, contextlib.closing(sqlite3.connect(target)) as copy:
        source.backup(copy)


def brought_in(system: System) -> bool:
    """Bring the log into the file, as a shell can do. It is somebody else's writing, and does no harm."""
    with contextlib.closing(sqlite3.connect(system.database)) as shell:
        busy, _, _ = shell.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    return not busy


def brought_in_and_told(system: System, client: RegistryClient) -> None:
    """Bring the log in until the master says that it saw it: in the middle of a step of its own it can't tell whose work that was, and need
    not, for it does no harm."""
    for seconds in range(10, 20):
        since = len(system.log())
        client.options("ALL", timeout=f"{seconds}s")
        wait_for(lambda: brought_in(system))
        with contextlib.suppress(AssertionError):
            return told(system, since, "has written into the database")
    raise AssertionError("nobody has told of what a shell has done, ten times")


def told(system: System, since: int, text: str) -> None:
    """It is in the log a second later, or a little more."""
    wait_for(lambda: text in system.log()[since:], 3, text)


def again(system: System, before: int) -> bool:
    return system.master_pid() not in (0, before) and system.ready()


def answers(system: System, client: RegistryClient) -> str:
    """What a client that comes back is told."""
    with contextlib.closing(RegistryClient(system.registry_port)) as back:
        return back.command(f"RECONNECT|{client.session_id}")


def test_a_shell_that_brings_the_log_into_the_database_does_no_harm(system: System, backend: Backend) -> None:
    system.await_ready()
    client = system.client("app")
    client.route(HOST, backend.url)
    since, master = len(system.log()), system.master_pid()
    brought_in_and_told(system, client)
    client = system.client("more")
    client.route("more.test", backend.url)
    assert system.get("/", "more.test").status == 200
    assert system.master_pid() == master and "was overwritten" not in system.log()[since:]
    client.command("CLIENT_SHUTDOWN|SID")


@pytest.mark.parametrize("how", ["older", "garbage", "emptied", "emptied and opened", "half", "log emptied"])
def test_a_database_that_is_written_into_is_told_and_never_mixed(system: System, backend: Backend, tmp_path: Path, how: str) -> None:
    system.await_ready()
    app = system.client("app")
    app.route(HOST, backend.url)
    copied(system, tmp_path / "copy")
    if how == "log emptied":
        brought_in_and_told(system, app)
    late = system.client("late")
    late.route("late.test", backend.url)
    if how != "log emptied":
        # Else the log would make of an older copy what the database is.
        wait_for(lambda: brought_in(system))
    since, master = len(system.log()), system.master_pid()
    if how == "older":
        shutil.copyfile(tmp_path / "copy", system.database)
    elif how == "log emptied":
        os.truncate(f"{system.database}-wal", 0)
    elif how == "garbage":
        with open(system.database, "r+b") as file:
            file.write(os.urandom(os.path.getsize(system.database)))
    else:
        os.truncate(system.database, os.path.getsize(system.database) // 2 if how == "half" else 0)
        if how == "emptied and opened":
            # SQLite deletes the log of an empty file.
            with contextlib.closing(sqlite3.connect(system.database)) as shell, contextlib.suppress(sqlite3.Error):
                shell.execute("SELECT count(*) FROM sqlite_master").fetchall()
    told(system, since, "was overwritten while in use")
    statuses = set()

    def serving() -> bool:
        statuses.add(system.get("/", HOST).status)
        return again(system, master)

    wait_for(serving, 30, "another master")
    assert statuses == {200}
    assert answers(system, late).startswith("REREGISTER")
    # The copy serves if nothing has been written on top of it meanwhile, else the kept table.
    assert system.get("/", "late.test").status in ({404, 200} if how == "older" else {200})
    system.client("late").route("late.test", backend.url)
    assert {system.get("/", "late.test").status for _ in range(6)} == {200}
    assert system.sql("PRAGMA integrity_check") == [("ok",)]
    assert "Traceback" not in system.log()[since:]
