"""A backup in the place of the database: nobody resumes a session of it, and its routes serve meanwhile."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from proxyd.store.memory.board import Board
from proxyd.store.sql import models, restored
from proxyd.store.sql.changes import bump
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.snapshot import load_snapshot

ROUTE = {"service_name": "s", "instance_name": "i", "domains": "[]", "path": "/", "backend_url": "http://b:1", "priority": 0,
         "enabled": True, "version": 1, "created_at": "", "updated_at": ""}


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    opened = Board(str(tmp_path))
    yield opened
    opened.close()


class Life:
    """A master's use of the database, from its start on."""

    def __init__(self, directory: Path, board: Board) -> None:
        self.store = Store(f"sqlite:///{directory}/p.db")
        self.store.open()
        migrate(self.store)
        self.aside = restored.look(self.store, board)
        self._board = board
        board.post(self.store.read(restored._state)[1])

    def apply(self) -> None:
        self._board.post(self.store.call(bump, "config_version"))

    def ids(self) -> list[str]:
        return self.store.read(lambda: sorted(row.session_id for row in models.Session.select()))

    def end(self) -> None:
        self.store.close()


@pytest.fixture
def used(tmp_path: Path, board: Board) -> Path:
    """A database with sessions of a client and of a site, of which a backup was made."""
    life = Life(tmp_path, board)
    for name in ("one", "site:two"):
        life.store.call(lambda: models.Session.create(session_id=name, service_name="s", instance_name="i", state="connected",  # noqa: B023
                                                      connected_at="", last_activity=""))
    life.store.call(lambda: models.Route.create(route_id="r1", session="one", slot=1, **ROUTE))
    life.store.call(lambda: models.SessionSetting.create(session="one", scope="options", target="ALL", name="a", value="1"))
    life.apply()
    assert life.aside == 0
    with closing(sqlite3.connect(tmp_path / "p.db")) as source, closing(sqlite3.connect(tmp_path / "backup")) as copy:
        source.backup(copy)
    life.end()
    return tmp_path


def bring_back(directory: Path) -> None:
    for suffix in ("-wal", "-shm"):
        (directory / f"p.db{suffix}").unlink(missing_ok=True)
    shutil.copy(directory / "backup", directory / "p.db")


def test_masters_that_follow_each_other_resume_all_sessions(used: Path, board: Board) -> None:
    for _ in range(3):
        life = Life(used, board)
        life.apply()
        assert (life.aside, life.ids()) == (0, ["one", "site:two"])
        life.end()


def test_a_backup_of_an_earlier_master_is_found_out(used: Path, board: Board) -> None:
    Life(used, board).end()
    bring_back(used)
    life = Life(used, board)
    assert (life.aside, life.ids()) == (1, ["kept:one", "site:two"])
    held, = life.store.read(lambda: [row.__data__["session"] for row in models.Route.select()])
    setting, = life.store.read(lambda: [row.__data__["session"] for row in models.SessionSetting.select()])
    assert held == setting == "kept:one"
    life.end()
    again = Life(used, board)
    assert (again.aside, again.ids()) == (0, ["kept:one", "site:two"])
    again.end()


def test_who_had_taken_anothers_place_and_not_applied_yet_holds_nothing(used: Path, board: Board) -> None:
    """Each service finds one session whose routes its first apply replaces."""
    bring_back(used)
    with closing(sqlite3.connect(used / "p.db")) as database:
        database.execute("UPDATE sessions SET ended_at = 'x' WHERE session_id = 'one'")
        database.execute("INSERT INTO sessions SELECT * FROM sessions WHERE session_id = 'one'"
                         .replace("*", ", ".join("'next'" if name == "session_id" else "NULL" if name == "ended_at" else name
                                                 for _, name, *_ in database.execute("PRAGMA table_info(sessions)").fetchall())))
        database.execute("INSERT INTO counters (name, value) VALUES ('mark', 0) ON CONFLICT (name) DO UPDATE SET value = 0")
        database.commit()
    life = Life(used, board)
    assert life.aside == 2
    going = life.store.read(lambda: [row.session_id for row in models.Session.select().where(models.Session.state != "ended")])
    assert sorted(going) == ["kept:one", "site:two"]
    life.end()


def test_no_version_stands_for_two_configurations(used: Path, board: Board) -> None:
    """A worker that still has the table of the lost database would be taken for one that has the new one."""
    life = Life(used, board)
    for _ in range(3):
        life.apply()
    lost = board.version
    life.end()
    bring_back(used)
    life = Life(used, board)
    assert life.aside == 1 and board.version == lost + 1
    assert life.store.read(load_snapshot, lost).full
    life.end()


def test_so_is_one_from_before_the_last_apply_of_the_same_master(used: Path, board: Board) -> None:
    bring_back(used)
    unchanged = Life(used, board)
    assert unchanged.aside == 0
    with closing(sqlite3.connect(used / "p.db")) as source, closing(sqlite3.connect(used / "backup")) as copy:
        source.backup(copy)
    unchanged.apply()
    unchanged.end()
    bring_back(used)
    life = Life(used, board)
    assert life.aside == 1
    life.end()


def test_one_that_was_marked_is_found_out_without_the_board(used: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(used / "p.db")) as database:
        database.execute("INSERT OR REPLACE INTO counters (name, value) VALUES ('mark', 0)")
        database.commit()
    elsewhere = Board(str(tmp_path / "elsewhere"))
    life = Life(used, elsewhere)
    assert life.aside == 1
    life.end()
    elsewhere.close()


def test_a_new_board_tells_nothing(used: Path, tmp_path: Path) -> None:
    elsewhere = Board(str(tmp_path / "elsewhere"))
    life = Life(used, elsewhere)
    assert life.aside == 0
    life.end()
    elsewhere.close()
