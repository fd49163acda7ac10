"""What a worker makes of the database that it finds."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxyd.proxy.route import sync as syncing
from proxyd.proxy.route.sync import Sync
from proxyd.store.memory.board import Board
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.kept import KeptFile
from proxyd.store.sql.migrations import migrate


def keep(path: Path, version: int) -> None:
    file = KeptFile(str(path), version, {})
    file.add([])
    file.finish()


def until(condition: Callable[[], bool]) -> None:
    with gevent.Timeout(10):
        while not condition():
            gevent.sleep(0.01)


def a_database(folder: Path) -> tuple[str, sqlite3.Connection, Board]:
    """The url of a new database, and what its master writes it and its board with."""
    url = f"sqlite:///{folder}/p.db"
    made = Store(url)
    made.open()
    migrate(made)
    made.close()
    return url, sqlite3.connect(folder / "p.db"), Board(str(folder))


def commit(master: sqlite3.Connection, version: int) -> None:
    """Let the database have another config version."""
    with master:
        master.execute("UPDATE counters SET value = ? WHERE name = 'config_version'", (version,))


def test_a_database_that_is_older_than_what_was_posted_waits_for_the_masters_word(tmp_path: Path, caplog: pytest.LogCaptureFixture,
                                                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("proxyd"), "propagate", True)
    url, master, posts = a_database(tmp_path)
    commit(master, 7)
    posts.post(7)
    taken: list[int] = []
    worker, board = Store(url, follow=True), Board(str(tmp_path))
    sync = Sync(worker, board, lambda table, snapshot, gone: taken.append(table.version), 0.02, str(tmp_path / "none"), 60.0,
                ("host", "boot", 1), lambda: None)
    sync.start()
    try:
        until(lambda: taken == [7])
        # Somebody has cut its log, or brought a backup.
        commit(master, 5)
        until(lambda: "is at version 5, older than the master said" in caplog.text)
        assert taken == [7]
        # A new master says what holds: its versions go on above, or, after a power cut, go back.
        posts.post(5)
        until(lambda: taken == [7, 5])
        commit(master, 9)
        posts.post(9)
        until(lambda: taken == [7, 5, 9])
    finally:
        sync.stop()
        for opened in (worker, master, board, posts):
            opened.close()


def test_a_worker_that_starts_while_the_database_is_broken_waits_for_the_kept_table_of_what_was_posted(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "_PATIENCE", 60.0)
    (tmp_path / "p.db").write_bytes(b"not a database" * 1000)
    keep(tmp_path / "kept", 5)
    posts, board = Board(str(tmp_path)), Board(str(tmp_path))
    posts.post(7)
    taken: list[int] = []
    worker = Store(f"sqlite:///{tmp_path}/p.db", follow=True)
    sync = Sync(worker, board, lambda table, snapshot, gone: taken.append(table.version), 0.02, str(tmp_path / "kept"), 60.0,
                ("host", "boot", 1), lambda: None)
    starting = gevent.spawn(sync.start)
    try:
        until(lambda: taken == [5])
        keep(tmp_path / "kept", 6)
        until(lambda: taken == [5, 6])
        assert not sync.fit()
        keep(tmp_path / "kept", 7)
        until(sync.fit)
        assert taken == [5, 6, 7]
        starting.get(timeout=10)
    finally:
        sync.stop()
        for opened in (worker, board, posts):
            opened.close()


def test_a_worker_is_not_outdated_by_changes_that_come_faster_than_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stale_after = 0.5
    url, master, posts = a_database(tmp_path)

    def change(version: int) -> None:
        commit(master, version)
        posts.post(version)

    change(7)
    taken: list[int] = []
    reads: list[float] = []
    worker, board = Store(url, follow=True), Board(str(tmp_path))
    read, broken = worker.read, False

    def overtaken(*args: Any) -> Any:
        """Read; by then there is something newer."""
        if broken:
            raise StoreError("away")
        began = time.monotonic()
        found = read(*args)
        change(found.version + 1)
        reads.append(began)
        return found

    monkeypatch.setattr(worker, "read", overtaken)
    sync = Sync(worker, board, lambda table, snapshot, gone: taken.append(table.version), 0.02, str(tmp_path / "none"), 60.0,
                ("host", "boot", 1), lambda: None, stale_after)
    sync.start()
    try:
        begin = time.monotonic()
        while time.monotonic() < begin + 3 * stale_after or len(taken) < 10:
            # On a busy machine a read may take so long that the table is too old indeed.
            assert sync.catch_up() or time.monotonic() - reads[-1] > stale_after / 2
            assert board.version > taken[-1]
            gevent.sleep(0.01)
        broken = True
        until(lambda: not sync.catch_up())
        # The worker looks at the clock a moment before the read begins.
        assert time.monotonic() - reads[-1] > 0.9 * stale_after
    finally:
        sync.stop()
        for opened in (worker, master, board, posts):
            opened.close()


def test_a_worker_that_had_no_turn_waits_for_what_it_missed_and_not_for_what_comes_all_the_time(tmp_path: Path,
                                                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "_CATCH_UP", 60.0)
    url, master, posts = a_database(tmp_path)
    worker, board = Store(url, follow=True), Board(str(tmp_path))
    read = worker.read

    def overtaken(*args: Any) -> Any:
        """Read; by then there is something newer."""
        found = read(*args)
        commit(master, found.version + 1)
        posts.post(found.version + 1)
        return found

    monkeypatch.setattr(worker, "read", overtaken)
    taken: list[int] = []
    sync = Sync(worker, board, lambda table, snapshot, gone: taken.append(table.version), 0.02, str(tmp_path / "none"), 60.0,
                ("host", "boot", 1), lambda: None)
    sync.start()
    try:
        for _ in range(3):
            # No other greenlet runs meanwhile, as in a process that is stopped.
            time.sleep(2 * syncing._STALE)
            missed = board.version
            assert missed > taken[-1]
            with gevent.Timeout(10):
                assert sync.catch_up()
            assert taken[-1] >= missed
    finally:
        sync.stop()
        for opened in (worker, master, board, posts):
            opened.close()


def test_a_worker_that_is_stopped_once_more_waits_for_what_it_missed_then(tmp_path: Path) -> None:
    url, master, posts = a_database(tmp_path)
    commit(master, 7)
    posts.post(7)
    taken: list[int] = []
    worker, board = Store(url, follow=True), Board(str(tmp_path))
    sync = Sync(worker, board, lambda table, snapshot, gone: taken.append(table.version), 0.02, str(tmp_path / "none"), 60.0,
                ("host", "boot", 1), lambda: None)
    sync.start()
    try:
        until(lambda: taken == [7] and sync.valid_until > time.monotonic())
        # What is posted can't be read yet.
        posts.post(9)
        time.sleep(2 * syncing._STALE)
        # It looks, and finds that it is behind.
        gevent.sleep(2 * syncing._GLANCE)
        time.sleep(syncing._CATCH_UP)
        gevent.spawn_later(0.1, commit, master, 9)
        assert sync.catch_up() and taken == [7, 9]
    finally:
        sync.stop()
        for opened in (worker, master, board, posts):
            opened.close()
