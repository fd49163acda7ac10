"""Starts without the database: a worker accepts when it has a table, and the last one is kept in a file."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import Backend
from tests.support.system import ROOT, System
from tests.support.waiting import wait_for

#: Runs gunicorn without root's right to write where the mode forbids it (util-linux).
MODES_HOLD = ("setpriv", "--inh-caps=-all", "--bounding-set=-dac_override,-dac_read_search")


class Bounded(System):
    """A proxyd for which the modes of files hold, although tests may run as root."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        super().__init__(directory, start=False, database__url=f"sqlite:///{directory}/var/proxyd.db", **settings)
        self.database = f"{directory}/var/proxyd.db"
        self.var = directory / "var"
        if os.geteuid() == 0:
            self.command = [*MODES_HOLD, *self.command]

    def kept(self) -> Path:
        return self.var / "proxyd.table"

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        self.var.chmod(0o555)
        try:
            yield
        finally:
            self.var.chmod(0o755)

    def remove_database(self) -> None:
        for path in self.var.glob("proxyd.db*"):
            path.unlink()

    def serves(self, before: set[int]) -> bool:
        now = set(self.worker_pids())
        return not before & now and len(now) == 2

    def stop(self) -> None:
        """TERM while the services are connected, as at an end of the host. A service that has left before has no traffic."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(15)
        super().stop()

    def answers(self) -> bool:
        """Whether the port does. Without a database there is no master."""
        assert self.process is not None
        assert self.process.poll() is None, f"gunicorn ended ({self.process.returncode}):\n{self.log()}"
        try:
            self.get(timeout=1)
        except OSError:
            return False
        return True


@pytest.fixture
def kept(tmp_path: Path, backend: Backend) -> Iterator[Bounded]:
    """A proxyd with a route `app.test`, which its file has."""
    running = Bounded(tmp_path / "kept")
    running.start()
    client = running.client()
    client.route("app.test", backend.url)
    version = running.sql("SELECT value FROM counters WHERE name = 'config_version'")[0][0]
    assert version > 1
    wait_for(lambda: _has(running.kept(), b"app.test"), what="the kept table")
    yield running
    running.var.chmod(0o755)
    running.stop()


def _has(path: Path, text: bytes) -> bool:
    return path.exists() and text in path.read_bytes()


def test_a_read_only_directory_then_hup_and_a_killed_worker_lose_nothing(kept: Bounded) -> None:
    assert kept.kept().stat().st_mode & 0o777 == 0o640
    assert not list(kept.var.glob("*.new"))
    with kept.read_only():
        before = set(kept.worker_pids())
        kept.signal(signal.SIGHUP)
        wait_for(lambda: kept.serves(before), 20, "new workers")
        assert [kept.get().status for _ in range(10)] == [200] * 10
        os.kill(kept.worker_pids()[0], signal.SIGKILL)
        wait_for(lambda: len(kept.worker_pids()) == 2, 10, "a worker instead of the killed one")
        assert [kept.get().status for _ in range(20)] == [200] * 20


@pytest.mark.parametrize("kept_too", [True, False])
def test_a_read_only_database_is_read(kept: Bounded, kept_too: bool) -> None:
    kept.stop()
    if not kept_too:
        kept.kept().unlink()
    assert not Path(f"{kept.database}-wal").exists()
    with kept.read_only():
        kept.start(until=kept.answers)
        assert kept.get().status == 200


def test_the_whole_proxy_starts_without_a_database(kept: Bounded) -> None:
    kept.stop()
    kept.remove_database()
    Path(kept.database).mkdir()
    kept.start(until=kept.answers)
    assert kept.get().status == 200
    wait_for(lambda: "can't read the routes" in kept.log(), what="word of the routes that can't be read")
    Path(kept.database).rmdir()
    wait_for(kept.ready, 20, "the master")
    assert kept.get().status == 200


@pytest.mark.parametrize("damage", ["deleted", "garbage"])
def test_the_last_table_is_served_until_services_are_back(kept: Bounded, backend: Backend, damage: str) -> None:
    kept.client("other").route("other.test", backend.url)
    wait_for(lambda: _has(kept.kept(), b"other.test"), what="the kept table")
    master = kept.master_pid()
    statuses = set()
    os.kill(master, signal.SIGSTOP)
    if damage == "deleted":
        kept.remove_database()
    else:
        os.truncate(f"{kept.database}-wal", 0)
        with open(kept.database, "r+b") as file:
            file.write(b"this is no database at all" * 200)
    os.kill(master, signal.SIGKILL)
    before = set(kept.worker_pids())
    os.kill(min(before), signal.SIGKILL)

    def again() -> bool:
        statuses.add(kept.get().status)
        statuses.add(kept.get(host="other.test").status)
        return kept.master_pid() not in (0, master) and kept.ready()

    wait_for(again, 20, "a master with a new database")
    # One service comes back, at another place; what the other one had is not touched.
    client = kept.connect()
    client.register("app", "i1", "null")
    assert kept.get().status == 200
    client.route("moved.test", backend.url)
    assert kept.get(host="moved.test").status == 200
    assert kept.get().status == 404
    assert kept.get(host="other.test").status == 200
    assert statuses == {200}
    # One that comes back to say that it goes takes along what went on for it.
    gone = kept.client("other")
    assert kept.get(host="other.test").status == 200
    assert gone.command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    assert {kept.get(host="other.test").status for _ in range(6)} == {404}


def test_what_is_kept_ends_with_the_grace(tmp_path: Path, backend: Backend) -> None:
    running = Bounded(tmp_path / "short", registry__reconnect_grace="4s")
    running.start()
    try:
        client = running.client()
        client.route("app.test", backend.url)
        wait_for(lambda: _has(running.kept(), b"app.test"), what="the kept table")
        running.stop()
        running.remove_database()
        running.start()
        assert running.get().status == 200
        stale = running.connect()
        assert stale.command(f"RECONNECT|{client.session_id}") == "REREGISTER"
        assert stale.command(f"RECONNECT|kept:{client.session_id}") == "REREGISTER"
        wait_for(lambda: running.get().status == 404, 10, "the end of the grace")
    finally:
        running.stop()


def test_a_file_that_cannot_be_used_is_said_and_ignored(kept: Bounded) -> None:
    kept.stop()
    kept.kept().write_bytes(kept.kept().read_bytes()[:-1])
    kept.start()
    assert kept.get().status == 200
    assert f"the kept table {kept.kept()} is not used: it is torn" in kept.log()
    wait_for(lambda: _has(kept.kept(), b"app.test"), what="another file")
    kept.kept().unlink()
    wait_for(lambda: _has(kept.kept(), b"app.test"), what="the file again, which somebody removed")


def test_nobody_is_accepted_without_a_table(tmp_path: Path) -> None:
    system = Bounded(tmp_path / "none", master__spawn="no")
    system.var.mkdir()
    with open(tmp_path / "none" / "var" / "proxyd.db", "wb") as file:
        file.write(b"this is no database at all" * 200)
    try:
        system.start(until=lambda: "can't read the routes" in system.log() and len(system.worker_pids()) == 2)
        with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=1) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: app.test\r\n\r\n")
            client.settimeout(0.5)
            with pytest.raises(TimeoutError):
                client.recv(100)
            system.remove_database()
            client.settimeout(10)
            migrate = [sys.executable, "-m", "proxyd", "migrate"]
            assert subprocess.run(migrate, env=system.environment, cwd=ROOT, capture_output=True, check=False).returncode == 0
            assert client.recv(100).startswith(b"HTTP/1.1 404 ")
    finally:
        system.stop()


def test_a_table_that_could_not_be_kept_is_kept_soon_after_it_can_be(tmp_path: Path, backend: Backend) -> None:
    system = Bounded(tmp_path, workers=1)
    system.start()
    try:
        client = system.client()
        client.route("one.test", backend.url)
        wait_for(lambda: _has(system.kept(), b"one.test"), 5, "the kept table")
        with system.read_only():
            client.route("two.test", backend.url)
            wait_for(lambda: "the last table can't be kept in a file" in system.log(), 5, "the message")
        wait_for(lambda: b"two.test" in system.kept().read_bytes(), 4, "the table, in a second or two")
        # It follows each change, and is not written for each.
        began, seen = time.monotonic(), set()
        for number in range(30):
            client.route(f"n{number}.test", backend.url)
            seen.add(system.kept().stat().st_ino)
        wait_for(lambda: b"n29.test" in system.kept().read_bytes(), 4, "the last change")
        assert len(seen) <= 2 + (time.monotonic() - began)
    finally:
        system.stop()
