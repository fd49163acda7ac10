"""A database that is locked, deleted, replaced or has no room: said clearly, and traffic and the rest go on."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("troubled"), database__busy_timeout="2s")
    yield running
    running.stop()


@contextlib.contextmanager
def locked(system: System) -> Iterator[None]:
    """Another process's write transaction that does not end."""
    with contextlib.closing(sqlite3.connect(system.database, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


def statuses(system: System, host: str) -> set[int]:
    return {system.get("/", host).status for _ in range(8)}


def kill_a_worker(system: System) -> None:
    before = set(system.worker_pids())
    os.kill(min(before), signal.SIGKILL)
    wait_for(lambda: len(set(system.worker_pids()) - before) == 1 and system.admin("/readyz").status == 200, 10, "a new worker")


def kill_the_master(system: System) -> None:
    before = system.master_pid()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: system.master_pid() not in (0, before) and listening(system), 10, "a new master")


def listening(system: System) -> bool:
    try:
        system.connect().close()
    except OSError:
        return False
    return True


def taken_up(system: System, client: RegistryClient) -> RegistryClient:
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    back.session_id = client.session_id
    return back


def test_a_locked_database_refuses_all_changes_at_the_same_time_and_holds_up_nothing_else(troubled: System, backend: Backend) -> None:
    client = troubled.client("locked")
    route_id = client.route("locked.test", backend.url)
    writers = [troubled.client("locked", f"w{number}") for number in range(12)]
    for writer in writers[6:]:
        writer.ok("HEADERS_SET|SID|ALL|X-A|1")
    with locked(troubled):
        began = time.monotonic()
        for writer in writers[:6]:
            writer.send("HEADERS_SET|SID|ALL|X-A|1")
        for writer in writers[6:]:
            writer.send("CONFIG_APPLY|SID")
        assert client.json(f"ROUTE_STATUS|SID|{route_id}")["enabled"]
        assert client.command("PING|SID") == "PONG"
        assert troubled.admin("/readyz").status == 200
        assert time.monotonic() - began < patience(1.8), "who reads does not wait for the lock"
        told = f"ERROR|the database sqlite:///{troubled.database} is locked by another process; nothing was changed, try again"
        assert {writer.line() for writer in writers} == {told}
        assert time.monotonic() - began < patience(5), "each would have waited for the one before"
        assert statuses(troubled, "locked.test") == {200}
        kill_a_worker(troubled)
        assert statuses(troubled, "locked.test") == {200}
    for writer in writers:
        assert writer.command("HEADERS_SET|SID|ALL|X-A|1") == "HEADERS_OK"
        assert writer.command("CONFIG_APPLY|SID") == "OK"


def test_a_master_starts_with_a_locked_database(troubled: System, backend: Backend) -> None:
    client = troubled.client("starts")
    client.route("starts.test", backend.url)
    with locked(troubled):
        kill_the_master(troubled)
        other = troubled.connect()
        assert other.command(f"RECONNECT|{client.session_id}").startswith("ERROR|the database sqlite:///")
        assert statuses(troubled, "starts.test") == {200}
        assert "Traceback" not in troubled.log()
    taken_up(troubled, client).route("more.starts.test", backend.url)
    assert statuses(troubled, "more.starts.test") == {200}


def deleted(system: System, *suffixes: str) -> None:
    told = len(system.log())
    for suffix in suffixes:
        os.unlink(system.database + suffix)
    wait_for(lambda: "was deleted while in use: the master has written it again" in system.log()[told:], what="the message")


def test_a_deleted_database_is_written_again_with_all_that_was_in_it(troubled: System, backend: Backend) -> None:
    client = troubled.client("deleted")
    client.route("deleted.test", backend.url)
    client.route("staged.deleted.test", backend.url, apply=False)
    deleted(troubled, "")
    assert statuses(troubled, "deleted.test") == {200}
    kill_a_worker(troubled)
    assert statuses(troubled, "deleted.test") == {200}
    client.route("after.deleted.test", backend.url)
    kill_the_master(troubled)
    back = taken_up(troubled, client)
    assert [route["status"] for route in back.json("ROUTE_LIST|SID")] == ["active", "active", "active"]
    for host in ("deleted.test", "staged.deleted.test", "after.deleted.test"):
        assert statuses(troubled, host) == {200}


@pytest.mark.parametrize("suffixes", [("", "-wal", "-shm"), ("-wal",)])
def test_so_is_one_whose_log_was_deleted_with_it_or_without_it(troubled: System, backend: Backend, suffixes: tuple[str, ...]) -> None:
    name = f"log{len(suffixes)}"
    client = troubled.client(name)
    route_id = client.route(f"{name}.test", backend.url)
    deleted(troubled, *suffixes)
    after = client.route(f"after.{name}.test", backend.url)
    assert statuses(troubled, f"after.{name}.test") == {200}
    with contextlib.closing(sqlite3.connect(troubled.database)) as look:
        assert look.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert look.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert {route_id, after} <= {row[0] for row in look.execute("SELECT route_id FROM routes")}


def test_the_master_starts_again_with_a_database_that_took_the_place_of_its_own(troubled: System, backend: Backend, tmp_path: Path) -> None:
    client = troubled.client("replaced")
    client.route("kept.replaced.test", backend.url)
    with contextlib.closing(sqlite3.connect(troubled.database)) as source, contextlib.closing(sqlite3.connect(tmp_path / "b.db")) as copy:
        source.backup(copy)
    client.route("lost.replaced.test", backend.url)
    before = troubled.master_pid()
    for suffix in ("-wal", "-shm"):
        os.unlink(troubled.database + suffix)
    os.replace(tmp_path / "b.db", troubled.database)
    wait_for(lambda: "was replaced by another file while in use" in troubled.log(), what="the message")
    wait_for(lambda: troubled.master_pid() not in (0, before) and listening(troubled), 30, "a new master")
    wait_for(lambda: statuses(troubled, "lost.replaced.test") == {404}, 5, "the other database's routes")
    assert statuses(troubled, "kept.replaced.test") == {200}
    # The client can't know what the other database lacks, so it must declare everything again.
    back = troubled.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "REREGISTER"
    assert back.command(f"RECONNECT|kept:{client.session_id}") == "REREGISTER"
    back.register("replaced").route("new.replaced.test", backend.url)
    assert statuses(troubled, "new.replaced.test") == {200}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 48 MiB: shared memory takes 27 of them."""
    where = tmp_path / "disk"
    where.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", where], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("needs the right to mount")
    yield where
    subprocess.run(["umount", "-l", where], check=False)


def fill(path: Path) -> None:
    with path.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


@pytest.mark.skipif(shutil.which("mount") is None, reason="needs mount")
def test_a_full_disk_stops_changes_and_nothing_else(new_system: Callable[..., System], small_disk: Path, backend: Backend) -> None:
    system = new_system(database__url=f"sqlite:///{small_disk}/proxyd.db", log__access=f"{small_disk}/access.log",
                        master__pid_file=f"{small_disk}/master.pid")
    system.database = f"{small_disk}/proxyd.db"
    client = system.client("full")
    client.route("full.test", backend.url)
    fill(small_disk / "filler")
    told = (f"ERROR|the database sqlite:///{system.database} can't be written (database or disk is full); free space on its disk")
    assert wait_for(lambda: client.command("HEADERS_SET|SID|ALL|X-A|1") == told, what="the error")
    assert client.command("DRAIN_START|SID|5s") == told
    assert client.json("ROUTE_LIST|SID")[0]["status"] == "active"
    assert statuses(system, "full.test") == {200}
    wait_for(lambda: f"can't write the access log {small_disk}/access.log: No space left on device" in system.log(), what="the message")
    kill_a_worker(system)
    master = next(int(line.split("proxyd.master[")[1].split("]")[0]) for line in system.log().splitlines() if "the master serves" in line)
    os.kill(master, signal.SIGKILL)
    wait_for(lambda: system.log().count("the master serves") == 2, 10, "a new master")
    assert statuses(system, "full.test") == {200}
    assert "Traceback" not in system.log()
    troubled_ones = [f"proxyd.proxy[{pid}] can't write the access log" for pid in system.worker_pids()]
    wait_for(lambda: statuses(system, "full.test") and any(told in system.log() for told in troubled_ones), what="a worker in trouble")
    (small_disk / "filler").unlink()
    taken_up(system, client).route("after.full.test", backend.url)
    assert statuses(system, "after.full.test") == {200}
    wait_for(lambda: statuses(system, "full.test") and "lines were lost" in system.log(), what="the end of the trouble")
