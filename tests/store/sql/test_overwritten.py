"""What somebody else writes into the file of a database is found out, and what this process writes is not taken for it."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxyd.store.sql import overwritten, restored
from proxyd.store.sql.changes import bump
from proxyd.store.sql.database import Store, StoreBusy, StoreError, database
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.models import StoredCounter


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{tmp_path}/p.db")
    opened.open()
    migrate(opened)
    opened.call(lambda: StoredCounter.create(name=restored.MARK, value=77))
    assert opened.touched()[0] == ""
    yield opened
    opened.close()


def shell(store: Store, statement: str) -> None:
    assert store.path is not None
    with closing(sqlite3.connect(store.path)) as connection:
        connection.execute(statement)


def damage(store: Store, mark: int = 77, version: int = 1, routes: dict[str, tuple[int, str]] | None = None) -> str | None:
    return store.plain(overwritten.damage, store.path or "", mark, version, routes or {})


def test_what_the_process_does_itself_is_no_touch(store: Store) -> None:
    for _ in range(3):
        store.call(bump, "config_version")
        store.plain(lambda: sqlite3.connect(":memory:").close())
        store.plain(lambda: database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    assert store.touched()[0] == ""
    # Of itself, SQLite brings the log in once it has a thousand pages.
    for number in range(5):
        store.call(lambda number=number: StoredCounter.insert_many(
            [{"name": f"{number} {row} {'x' * 2000}", "value": 0} for row in range(1000)]).execute())
        assert store.touched()[0] == ""
    assert os.path.getsize(store.path or "") > 5_000_000, "it was brought in"


def test_a_shell_touches_it_and_does_no_harm(store: Store) -> None:
    store.call(bump, "config_version")
    shell(store, "PRAGMA wal_checkpoint(TRUNCATE)")
    store.call(bump, "config_version")
    assert store.touched()[0] == "written"
    assert damage(store, version=3) == ""
    store.untouched()
    assert store.touched()[0] == ""


@pytest.mark.parametrize("how", ["garbage", "emptied", "older"])
@pytest.mark.parametrize("writes", [False, True])
def test_what_comes_in_the_middle_of_an_own_step_is_a_touch_too(store: Store, tmp_path: Path, how: str, writes: bool) -> None:
    path, older = Path(store.path or ""), tmp_path / "older.db"
    with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(older)) as copy:
        source.backup(copy)
    store.call(bump, "config_version")
    # Else the log would make of an older copy what the database is.
    store.plain(lambda: database.execute_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
    assert store.touched()[0] == ""

    def in_between() -> None:
        if writes:
            StoredCounter.create(name="another", value=1)
        path.write_bytes({"garbage": os.urandom(path.stat().st_size), "emptied": b"", "older": older.read_bytes()}[how])

    (store.call if writes else store.plain)(in_between)
    assert store.touched()[0] == "written"
    assert writes or damage(store, version=2)


def test_what_sqlite_says_of_a_database_that_was_written_into_is_a_touch(store: Store) -> None:
    def broken() -> None:
        raise sqlite3.DatabaseError("file is not a database")

    with pytest.raises(StoreError, match="corrupt"):
        store.plain(broken)
    assert store.touched()[0] == "written"


def test_a_cut_log_is_told_from_a_file_that_was_written_into(store: Store) -> None:
    shell(store, "PRAGMA wal_checkpoint(TRUNCATE)")
    store.touched()
    store.untouched()
    for _ in range(3):
        store.call(bump, "config_version")
    os.truncate(f"{store.path}-wal", 0)
    assert store.touched()[0] == "cut"
    assert "corrupt" in str(damage(store, version=4))
    assert store.path is not None and store.give_up(aside=True).startswith(f"{store.path}.corrupt-")
    assert not os.path.exists(store.path)


def test_a_log_that_is_cut_in_the_middle_of_an_own_step_is_found_out_and_nobody_waits_for_those_who_have_it_open(store: Store) -> None:
    assert store.path is not None
    for _ in range(3):
        store.call(bump, "config_version")

    def cut() -> None:
        os.truncate(f"{store.path}-wal", 5000)

    store.plain(cut)
    assert store.touched()[0] == "cut"
    # Another master that starts now, while this process has it open.
    asking = f"from proxyd.store.sql.rescue import is_corrupt; print(is_corrupt({store.path!r}))"
    assert subprocess.run([sys.executable, "-c", asking], capture_output=True, text=True, check=True).stdout == "its log was cut\n"


@pytest.mark.parametrize("left", [0, 9000])
def test_a_log_that_is_cut_in_the_middle_of_a_transaction_and_goes_on_behind_the_hole_is_found_out(store: Store, left: int) -> None:
    for _ in range(5):
        store.call(bump, "config_version")
    before = os.path.getsize(f"{store.path}-wal")

    def cut() -> None:
        os.truncate(f"{store.path}-wal", left)
        bump("config_version")

    store.call(cut)
    assert os.path.getsize(f"{store.path}-wal") > before, "SQLite wrote where the log had ended"
    assert store.touched()[0] == "cut"
    assert str(damage(store, version=7)).startswith("it is corrupt")


def test_a_cut_log_is_found_out_by_what_sqlite_says(store: Store) -> None:
    store.call(bump, "config_version")

    def cut() -> None:
        os.truncate(f"{store.path}-wal", 0)
        raise sqlite3.OperationalError("disk I/O error")

    with pytest.raises(StoreError, match="disk I/O"):
        store.plain(cut)
    assert store.touched()[0] == "cut"


def test_what_is_written_between_the_opening_and_the_watch_is_a_touch(store: Store) -> None:
    store.call(bump, "config_version")
    late = Store(store.url)
    late.open()
    os.truncate(f"{store.path}-wal", 0)
    assert late.touched()[0] == "cut"
    late.close()


@pytest.mark.parametrize("content", [b"", b"garbage" * 20_000])
def test_a_file_that_is_no_database_is_found_out_and_gets_another_number(store: Store, content: bytes) -> None:
    assert store.path is not None
    shell(store, "PRAGMA wal_checkpoint(TRUNCATE)")
    with open(store.path, "wb") as file:
        file.write(content)
    assert store.touched()[0] == "written"
    assert str(damage(store)).startswith("it is corrupt" if content else "it is empty")
    assert store.give_up(aside=False) == ""
    assert store.displaced() == "replaced"
    assert Path(store.path).read_bytes() == content
    assert sorted(Path(store.path).parent.glob("*.again")) == []


def test_another_database_is_found_out_by_its_mark_its_version_and_its_routes(store: Store) -> None:
    assert damage(store) == ""
    assert damage(store, version=0) is None
    for mark, version, routes in ((76, 1, {}), (77, 2, {}), (76, 0, {}), (77, 1, {"r1": (1, "")})):
        assert damage(store, mark, version, routes) == "another database was written into it"


def test_nothing_is_written_while_that_is_held(store: Store) -> None:
    store.held = "the database was overwritten"
    with pytest.raises(StoreBusy, match="was overwritten"):
        store.call(bump, "config_version")
    store.held = ""
    store.call(bump, "config_version")
