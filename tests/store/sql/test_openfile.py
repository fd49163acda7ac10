"""The log of a database is never taken for that of another one that took its place, and nobody deletes the new one's."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.store.sql import openfile
from proxyd.store.sql.database import Store, StoreBusy, StoreError, database
from proxyd.store.sql.lock import MasterLock
from proxyd.store.sql.openfile import Files


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "p.db")


@pytest.fixture
def store(path: str) -> Iterator[Store]:
    """A master's, with two rows, the second of which is in the log only."""
    opened = Store(f"sqlite:///{path}", busy_timeout=0.3)
    opened.open()
    opened.call(run, "CREATE TABLE t (x)", "INSERT INTO t VALUES ('both')")
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    opened.call(run, "INSERT INTO t VALUES ('old')")
    yield opened
    opened.close()


def run(*statements: str) -> None:
    for statement in statements:
        database.execute_sql(statement)


def rows() -> list[str]:
    return [row[0] for row in database.execute_sql("SELECT x FROM t").fetchall()]


def replace(path: str) -> Files:
    """Put a copy in the place of the database that lacks its last row. Returns the files of the old one."""
    old = Files.at(path)
    with contextlib.closing(sqlite3.connect(f"{path}.copy")) as copy:
        with contextlib.closing(sqlite3.connect(path)) as source:
            source.backup(copy)
        copy.execute("DELETE FROM t WHERE x = 'old'")
        copy.commit()
    os.replace(f"{path}.copy", path)
    return old


def test_files_are_noted_as_text() -> None:
    # The last one was made while the clock was before 1970.
    for files in (Files((1, 2, 3), (3, 18446744073709551615, 4), None), Files(None, None, None), Files((1, 2, -3), None, None)):
        assert Files.parse(str(files)) == files
    # As an older proxyd noted them.
    assert Files.parse("1:2 - 3:4") == Files((1, 2, 0), None, (3, 4, 0))
    for wrong in ("", "1:2", "1:2 3:4 5", "1:2 3:4 5:6 7:8", "a:b - -", f"{'9' * 21}:1 - -", "1:2:3:4 - -", "1:2: - -", ":1 - -"):
        assert Files.parse(wrong) is None


def test_who_follows_waits_until_the_old_log_is_away_and_then_reads_the_new_file(store: Store, path: str) -> None:
    follower = Store(f"sqlite:///{path}", busy_timeout=0.1, follow=True)
    try:
        assert follower.read(rows) == ["both", "old"]
        old = replace(path)
        assert store.displaced() == "replaced"
        with pytest.raises(StoreBusy, match="whose log still lies beside it"):
            follower.read(rows)
        assert openfile.part(path, old) == f"{path}.replaced-wal"
        assert follower.read(rows) == ["both"]
    finally:
        follower.close()


@pytest.mark.parametrize("suffix", [openfile.LOG, openfile.INDEX])
def test_who_comes_later_waits_too_if_the_master_has_noted_its_files(store: Store, path: str, suffix: str) -> None:
    lock = MasterLock(path, "")
    assert lock.take()
    assert store.displaced() == ""
    lock.note(store.files)
    replace(path)
    for other in {openfile.LOG, openfile.INDEX} - {suffix}:
        os.rename(path + other, f"{path}.away")
    fresh = Store(f"sqlite:///{path}", busy_timeout=0.1, follow=True)
    try:
        with pytest.raises(StoreBusy, match="whose log still lies beside it"):
            fresh.read(rows)
        # The master dies, and its successor knows it from the lock.
        lock.release()
        successor = MasterLock(path, "")
        assert successor.take()
        assert successor.holder() == os.getpid()
        assert successor.noted == store.files
        openfile.part(path, successor.noted)
        assert fresh.read(rows) == ["both"]
        successor.release()
    finally:
        fresh.close()


def test_the_last_who_leaves_the_old_file_leaves_the_new_ones_log(store: Store, path: str) -> None:
    openfile.part(path, replace(path))
    with contextlib.closing(sqlite3.connect(path)) as new:
        new.execute("PRAGMA wal_autocheckpoint = 0")
        new.execute("PRAGMA journal_mode = wal")
        new.execute("INSERT INTO t VALUES ('new')")
        new.commit()
        files = Files.at(path)
        store.close()
        assert Files.at(path) == files
        with contextlib.closing(sqlite3.connect(path)) as look:
            assert look.execute("SELECT x FROM t").fetchall() == [("both",), ("new",)]


def test_a_pin_keeps_the_last_who_closes_from_writing_the_log_into_the_file(store: Store, path: str) -> None:
    files = Files.at(path)
    pin = openfile.Pin(path)
    assert pin.identity() == files.database
    pin.keep()
    store.close()
    assert Files.at(path) == files
    pin.close()


def test_who_closes_the_only_connection_of_a_file_in_its_place_still_clears_up(store: Store, path: str) -> None:
    store.close()
    assert sorted(os.listdir(os.path.dirname(path))) == ["p.db"]


def test_a_deleted_index_of_the_log_is_told(store: Store, path: str) -> None:
    assert store.displaced() == ""
    os.unlink(path + openfile.INDEX)
    assert store.displaced() == "deleted"
    store.put_back()
    assert store.displaced() == ""
    assert store.read(rows) == ["both", "old"]
    with contextlib.closing(sqlite3.connect(path)) as look:
        assert look.execute("SELECT count(*) FROM t").fetchone() == (2,)


def test_a_log_of_another_database_is_left_where_it_is(store: Store, path: str) -> None:
    assert store.displaced() == ""
    replace(path)
    assert openfile.part(path, None) == ""
    assert openfile.part(path, Files((1, 1, 1), (1, 1, 1), (1, 1, 1))) == ""
    assert os.path.exists(path + openfile.LOG)
    assert openfile.part(path, store.files)


def test_new_files_are_not_taken_for_those_that_were_taken_away(path: str) -> None:
    """A file system gives the number of a deleted file that nobody has open, a killed master's, to the next one that is made."""
    log, index = Path(path + openfile.LOG), Path(path + openfile.INDEX)
    for file in (Path(path), Path(f"{path}.copy"), log, index):
        file.write_text(file.name)
    old = Files.at(path)
    # A worker has the database open.
    with open(path, encoding="ascii"):
        os.replace(f"{path}.copy", path)
        openfile.part(path, old)
        assert Path(f"{path}.replaced-wal").read_text() == log.name
        for _ in range(20):
            for file in (index, log):
                file.touch()
            assert old.strangers(path) == []
            for file in (index, log):
                file.unlink()


def test_the_number_of_a_log_that_was_deleted_may_come_again(store: Store, path: str) -> None:
    worker = Store(f"sqlite:///{path}", busy_timeout=0.3, follow=True)
    assert worker.read(rows) == ["both", "old"]
    number = f"{path}.number"
    os.link(f"{path}-wal", number)
    for suffix in ("", "-wal", "-shm"):
        os.unlink(path + suffix)
    Path(path).write_bytes(b"no database" * 500)
    with pytest.raises(StoreError, match="corrupt"):
        worker.read(rows)
    # The next database has a log, of which the number was another's.
    os.truncate(number, 0)
    with contextlib.closing(sqlite3.connect(f"{path}.next")) as following:
        following.execute("CREATE TABLE t AS SELECT 'new' AS x")
        following.commit()
    os.rename(number, f"{path}-wal")
    os.replace(f"{path}.next", path)
    assert worker.read(rows) == ["new"]
    worker.close()


def test_a_log_with_the_number_of_one_that_was_deleted_is_not_taken_away(store: Store, path: str) -> None:
    """The last who closed a database deleted its log. Another database took its place, and a worker made that one's log."""
    assert store.displaced() == ""
    old = store.files
    replace(path)
    openfile.part(path, old)
    worker = Store(f"sqlite:///{path}", busy_timeout=0.3, follow=True)
    try:
        assert worker.read(rows) == ["both"]
        now = Files.at(path)
        assert now.log is not None and now.index is not None and old.log is not None and old.index is not None
        again = Files(old.database, (*now.log[:2], old.log[2]), (*now.index[:2], old.index[2]))
        assert again.strangers(path) == []
        assert openfile.part(path, again) == ""
        # An older proxyd did not note when they were made.
        older = Files(old.database, (*now.log[:2], 0), (*now.index[:2], 0))
        assert older.strangers(path) == [path + openfile.INDEX, path + openfile.LOG]
    finally:
        worker.close()


def test_a_worker_whose_log_was_taken_away_reads_by_the_new_one(store: Store, path: str) -> None:
    store.close()
    worker = Store(f"sqlite:///{path}", busy_timeout=0.3, follow=True)
    try:
        assert worker.read(rows) == ["both", "old"]
        for suffix in (openfile.INDEX, openfile.LOG):
            os.rename(path + suffix, f"{path}.replaced{suffix}")
        with contextlib.closing(sqlite3.connect(path)) as new:
            new.execute("PRAGMA wal_autocheckpoint = 0")
            new.execute("INSERT INTO t VALUES ('new')")
            new.commit()
            files = Files.at(path)
            assert worker.read(rows) == ["both", "old", "new"]
            # Its old log went into nothing, and the new one is in its place.
            assert Files.at(path) == files
            new.execute("INSERT INTO t VALUES ('newer')")
            new.commit()
            assert worker.read(rows) == ["both", "old", "new", "newer"]
    finally:
        worker.close()
