"""Files that all processes share are lost under them: it is told, they share new ones, and OK means what it says meanwhile."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyd.store.memory.shared import BOARD, CIRCUITS, FILES
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("files"), workers=2, proxy__max_connections_per_client=1000)
    yield running
    running.stop()


@pytest.fixture
def ends(new_backend: Callable[..., Backend]) -> list[Backend]:
    return [new_backend("one"), new_backend("two")]


def mapped(system: System, name: str) -> set[tuple[int, str]]:
    """Who of the running processes maps the file that has the name now: workers, and the master for those that it needs."""
    inode = (system.directory / name).stat().st_ino
    pids = [*system.worker_pids(), *([system.master_pid()] if name in (BOARD, CIRCUITS) else [])]
    lines = []
    for pid in pids:
        with contextlib.suppress(OSError):
            lines += [(pid, line.split()) for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if name in line]
    return {(pid, "this" if int(line[4]) == inode and "(deleted)" not in line else "another") for pid, line in lines}


def all_map(system: System, name: str) -> bool:
    path = system.directory / name
    if not path.exists():
        return False
    found = mapped(system, name)
    return {kind for _, kind in found} == {"this"} and len(found) == (3 if name in (BOARD, CIRCUITS) else 2)


def flip(system: System, client: RegistryClient, route_id: str, ends: list[Backend], host: str, times: int) -> None:
    """Change the backend to and fro. After OK every worker answers by the new one."""
    for turn in range(times):
        end = ends[turn % 2]
        client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{end.url}")
        client.apply()
        answers = [system.get("/", host) for _ in range(6)]
        assert [(answer.status, answer.headers["X-Backend"]) for answer in answers] == [(200, end.name)] * 6


def lose(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "replaced":
        copy = path.with_name("copy")
        shutil.copy(path, copy)
        copy.replace(path)
    elif how == "overwritten":
        with path.open("r+b") as file:
            file.write(bytes(path.stat().st_size))
    else:
        os.truncate(path, 0)


@pytest.mark.parametrize("name", FILES)
def test_a_deleted_shared_file_is_told_and_shared_again_within_a_second(system: System, name: str, ends: list[Backend]) -> None:
    path = system.directory / name
    path.unlink()
    began = time.monotonic()
    wait_for(lambda: all_map(system, name) and re.search(f"critical.*{path} was (deleted|replaced) while in use", system.log()), 5,
             f"another {name}")
    taken = time.monotonic() - began
    assert taken < patience(3)
    wait_for(lambda: system.admin("/readyz").status == 200, 3, "readiness")
    told = system.admin("/api/v1/status").json()
    assert any(str(path) in problem and FILES[name] in problem for problem in told["problems"])
    assert len(told["workers"]) == 2


@pytest.mark.parametrize(("how", "restarted"), [*itertools.product(("deleted", "replaced"), ("nobody", "worker", "master")),
                                                ("overwritten", "nobody")])
def test_without_its_board_no_ok_is_said_too_early(system: System, ends: list[Backend], how: str, restarted: str) -> None:
    name = f"{how}{restarted}"
    client = system.client(name)
    route_id = client.route(f"{name}.test", ends[1].url)
    lose(system.directory / BOARD, how)
    if restarted == "worker":
        os.kill(min(system.worker_pids()), signal.SIGKILL)
    elif restarted == "master":
        before = system.master_pid()
        os.kill(before, signal.SIGKILL)
        back = wait_for(lambda: reconnected(system, client), 10, "another master")
        client, back.session_id = back, client.session_id
    flip(system, client, route_id, ends, f"{name}.test", 12)
    wait_for(lambda: all_map(system, BOARD) and system.ready(), 10, "a board for all")
    flip(system, client, route_id, ends, f"{name}.test", 4)


def reconnected(system: System, client: RegistryClient) -> RegistryClient | None:
    try:
        back = system.connect()
        return back if back.command(f"RECONNECT|{client.session_id}") == "OK" else None
    except OSError:
        return None


@pytest.mark.parametrize("name", [BOARD, CIRCUITS])
def test_who_maps_a_truncated_file_is_replaced(system: System, name: str, ends: list[Backend]) -> None:
    """Memory beyond the end of a file kills who touches it, sooner or later. Services are back when the master is."""
    client = system.client(f"cut{name}")
    host = f"{name}.test".replace("proxyd.", "cut")
    client.route(host, ends[0].url)
    path = system.directory / name
    os.truncate(path, 0)
    wait_for(lambda: path.exists() and path.stat().st_size, 5, "another file")
    wait_for(lambda: all_map(system, name) and system.ready(), 15, "a file for all")
    back = wait_for(lambda: reconnected(system, client) if not connected(client) else client, 10, "the registry")
    back.session_id = client.session_id
    flip(system, back, back.json("ROUTE_LIST|SID")[0]["route_id"], ends, host, 4)


def connected(client: RegistryClient) -> bool:
    try:
        return client.command("PING|SID") == "PONG"
    except OSError:
        return False


@pytest.mark.parametrize("how", ["deleted", "overwritten"])
def test_the_kept_table_is_told_and_written_again(system: System, ends: list[Backend], how: str) -> None:
    system.client("kept").route("kept.test", ends[0].url)
    path, since = system.directory / "proxyd.table", len(system.log())
    wait_for(lambda: path.exists() and b"kept.test" in path.read_bytes(), 10, "the kept table")

    def is_told() -> bool:
        if how == "deleted":
            path.unlink()
        else:
            path.write_bytes(b"no table")
        wait_for(lambda: path.exists() and b"kept.test" in path.read_bytes(), 10, "the table again")
        return f"the kept table {path} was {how} while in use" in system.log()[since:]

    # It may just have been due to be written anyway, because something else had changed.
    wait_for(is_told, 20, "the message", pause=1.5)


@pytest.mark.parametrize("content", [b"", b"9999999\n"])
def test_an_overwritten_lock_file_says_again_which_files_belong_together(system: System, content: bytes) -> None:
    wait_for(system.ready, 10, "a ready system")
    path, since = Path(f"{system.database}.lock"), len(system.log())
    before = path.read_bytes()
    path.write_bytes(content)
    wait_for(lambda: path.read_bytes() == before, 10, "the lock file")
    wait_for(lambda: f"{path} was overwritten" in system.log()[since:], 10, "the message")


def test_a_deleted_pid_file_is_written_again(system: System) -> None:
    wait_for(system.ready, 10, "a ready system")
    path, pid = system.directory / "master.pid", system.master_pid()
    path.unlink()
    wait_for(lambda: system.master_pid() == pid, 3, "the pid file")
    wait_for(lambda: f"{path} was deleted" in system.log(), 3)
