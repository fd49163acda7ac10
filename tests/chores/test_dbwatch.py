"""The watch over the files that are held open: one that is deleted under those who use it is told, whichever it is."""

from __future__ import annotations

import logging
from pathlib import Path

import gevent
import pytest

from proxyd.chores.dbwatch import DatabaseWatch
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.counts import HostCounts
from proxyd.store.memory.ratelimits import SharedCounters
from proxyd.store.memory.shared import CLIENTS, FILES, IN_FLIGHT, WEBSOCKETS
from proxyd.store.sql.database import Store
from proxyd.store.sql.lock import MasterLock
from proxyd.store.sql.migrations import migrate


@pytest.mark.parametrize("name", FILES)
def test_each_shared_file_that_is_deleted_is_told_once(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("proxyd"), "propagate", True)
    directory = str(tmp_path)
    store = Store(f"sqlite:///{directory}/proxyd.db")
    store.open()
    migrate(store)
    lock = MasterLock(store.path, directory)
    assert lock.take()
    board, circuits = Board(directory), CircuitBoard(directory)
    ends: list[str] = []
    watch = DatabaseWatch(store, lock, directory, (board.file, circuits.file), lambda: ends.append("end"))
    job, = watch.jobs

    def look_twice() -> None:
        runs = job.runs
        while job.runs < runs + 2:
            gevent.sleep(0.01)

    def told() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]

    watch.start()
    try:
        with gevent.Timeout(20):
            look_twice()
            # Workers start after the master, and make what it does not have.
            for counted in (WEBSOCKETS, IN_FLIGHT, CLIENTS):
                HostCounts(directory, counted)
            SharedCounters(directory=directory, entries=64)
            assert {path.name for path in tmp_path.iterdir() if path.name in FILES} == set(FILES)
            look_twice()
            assert told() == []
            (tmp_path / name).unlink()
            look_twice()
            look_twice()
    finally:
        watch.stop()
        lock.release()
        store.close()
    message, = told()
    assert str(tmp_path / name) in message and FILES[name] in message
    assert ends == []
