"""Every file of var/ is made unreadable, while proxyd runs without root's rights and before it starts: it is told, and readable again."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.waiting import wait_for
from tests.system.test_kept_table import Bounded


@pytest.fixture
def system(tmp_path: Path, backend: Backend) -> Iterator[Bounded]:
    var = tmp_path / "all" / "var"
    running = Bounded(tmp_path / "all", workers=1, master__pid_file=f"{var}/master.pid", proxy__max_connections_per_client=100)
    running.start()
    yield running
    running.stop()


def unreadable(system: Bounded) -> list[Path]:
    """The files of var/ that their owner can't read."""
    return [path for path in system.var.iterdir() if path.is_file() and not path.stat().st_mode & 0o400]


def test_whatever_is_made_unreadable_is_told_and_readable_again(system: Bounded, backend: Backend) -> None:
    client = system.client()
    route_id = client.route("app.test", backend.url)
    wait_for(lambda: system.kept().exists() and b"app.test" in system.kept().read_bytes(), 10, "the kept table")
    names = {path.name for path in system.var.iterdir() if path.is_file()}
    assert {"proxyd.db", "proxyd.db-wal", "proxyd.db-shm", "proxyd.db.lock", "proxyd.board", "proxyd.circuits", "proxyd.limits",
            "proxyd.table", "master.pid"} <= names
    since = len(system.log())
    for name in names:
        (system.var / name).chmod(0)
    wait_for(lambda: not unreadable(system), 10, "files that can be read")
    # Told once all are readable again.
    wanted = [f"{name} could not"
              for name in ("proxyd.db", "proxyd.db-wal", "proxyd.db-shm", "proxyd.db.lock", "master.pid", "proxyd.board")]
    wait_for(lambda: all(text in system.log()[since:] for text in wanted), what="the word of each")
    assert "was deleted" not in system.log()[since:]
    # Whoever starts now opens them all.
    os.kill(system.worker_pids()[0], signal.SIGKILL)
    wait_for(system.ready, 20, "another worker")
    assert system.get().status == 200
    client.ok(f"HEADERS_SET|SID|{route_id}|X-Again|yes")
    client.apply()
    assert system.get().headers["X-Again"] == "yes"

    assert system.process is not None
    system.process.terminate()
    system.process.wait(20)
    for path in system.var.iterdir():
        if path.is_file():
            path.chmod(0)
    since = len(system.log())
    system.start()
    assert system.get().headers["X-Again"] == "yes"
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    assert not unreadable(system)
    # A worker may be quicker than the master: it goes on with the kept table until the database can be read.
    assert "can't start" not in system.log()[since:]
