"""The database file: what a connection is set to, older files brought up to date, and what two processes do to each other."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxyd.store.sql import identity, migrations, models
from proxyd.store.sql.database import Store, StoreBusy, StoreEmpty, StoreError, busy, database
from proxyd.store.sql.observed import EventRow
from proxyd.store.sql.query import dicts
from tests.support.waiting import patience

NOW = "2026-01-31T23:59:59.125Z"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a directory" / "50%?#.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(f"sqlite:///{path}", busy_timeout=0.5)
    opened.open()
    migrations.migrate(opened)
    yield opened
    opened.close()


def pragma(name: str) -> Any:
    return database.execute_sql(f"PRAGMA {name}").fetchone()[0]


def add_session(session_id: str) -> None:
    models.Session.create(session_id=session_id, service_name="app", instance_name="i1", state="connected", connected_at=NOW,
                          last_activity=NOW)


def add_route(route_id: str, session_id: str) -> None:
    models.Route.create(
        route_id=route_id, session=session_id, service_name="app", instance_name="i1", domains='["a.test"]', path="/",
        backend_url="http://127.0.0.1:9", priority=0, enabled=True, slot=int(route_id[1:]), version=1, created_at=NOW, updated_at=NOW)


@contextlib.contextmanager
def by_another(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        yield other


# -- what is set


def test_a_connection_has_wal_a_busy_timeout_and_foreign_keys(store: Store) -> None:
    assert store.read(pragma, "journal_mode") == "wal"
    assert store.read(pragma, "foreign_keys") == 1
    assert 0 < store.read(pragma, "busy_timeout") <= 500


def test_what_is_to_last_is_written_through_and_statistics_are_not(store: Store) -> None:
    assert store.call(pragma, "synchronous", durable=True) == 2
    assert store.call(pragma, "synchronous") == 1


def test_a_session_takes_its_routes_along(store: Store) -> None:
    store.call(add_session, "s1")
    store.call(add_route, "r1", "s1")
    store.call(lambda: models.Session.delete().execute())
    assert store.read(lambda: models.Route.select().count()) == 0


def test_a_route_without_a_session_is_refused(store: Store) -> None:
    with pytest.raises(Exception, match="FOREIGN KEY"):
        store.call(add_route, "r1", "nobody")


def test_a_function_that_fails_changes_nothing(store: Store) -> None:
    def fail() -> None:
        add_session("s1")
        raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        store.call(fail)
    assert store.read(lambda: models.Session.select().count()) == 0


# -- older files


def older(path: Path, version: int) -> None:
    """Make the file what a proxyd of that schema version would have left."""
    later = (migrations.V1, migrations.V2, migrations.V3, migrations.V4)[version:]
    with by_another(path) as other:
        for (view,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            other.execute(f"DROP VIEW {view}")
        for model in chain.from_iterable(later):
            other.execute(f"DROP TABLE {model._meta.table_name}")
        other.execute("DELETE FROM schema_version WHERE version > ?", (version,))


def schema(path: Path) -> set[tuple[str, str, str]]:
    with by_another(path) as other:
        return set(other.execute("SELECT type, name, sql FROM sqlite_master WHERE sql IS NOT NULL"))


def test_what_the_workers_of_an_older_schema_wrote_of_themselves_makes_room_for_that_of_several_hosts(store: Store, path: Path) -> None:
    store.close()
    newest = schema(path)
    older(path, 4)
    with by_another(path) as other:
        other.execute("DROP TABLE route_in_flight")
        other.execute("CREATE TABLE route_in_flight (pid INTEGER, route_id TEXT, in_flight INTEGER, websocket_active INTEGER)")
        other.execute("INSERT INTO route_in_flight VALUES (1, 'r1', 2, 3)")
    again = Store(f"sqlite:///{path}")
    again.open()
    assert migrations.migrate(again) == (4, migrations.NEWEST)
    again.close()
    assert schema(path) == newest
    with by_another(path) as look:
        assert look.execute("SELECT * FROM route_in_flight").fetchall() == []


@pytest.mark.parametrize("version", [1, 2, 3])
def test_an_older_file_is_brought_up_to_date_with_what_is_in_it(store: Store, path: Path, version: int) -> None:
    store.call(add_session, "s1")
    store.call(add_route, "r7", "s1")
    store.close()
    newest = schema(path)
    older(path, version)
    assert schema(path) < newest
    environment = {**os.environ, "PROXYD_DATABASE_URL": f"sqlite:///{path}"}
    for told in (f"schema version {migrations.NEWEST} (was {version})", f"schema version {migrations.NEWEST}, nothing to do"):
        done = subprocess.run([sys.executable, "-m", "proxyd", "migrate"], env=environment, capture_output=True, text=True, timeout=30)
        assert (done.returncode, done.stdout) == (0, f"sqlite:///{path}: {told}\n"), done.stderr
    assert schema(path) == newest
    with by_another(path) as look:
        kept = look.execute("SELECT r.route_id, s.service_name FROM routes r JOIN sessions s USING (session_id)").fetchall()
        assert kept == [("r7", "app")]
        steps = [row[0] for row in look.execute("SELECT version FROM schema_version ORDER BY version")]
        assert steps == list(range(1, migrations.NEWEST + 1))


def test_tables_of_an_older_schema_get_the_new_columns(store: Store, path: Path) -> None:
    store.call(add_session, "s1")
    store.call(add_route, "r1", "s1")
    added = {"sessions": ["disconnected_clock"], "staged_changes": ["staged_clock"], "routes": ["drain_clock", "request_headers"]}
    columns = [(table, column) for table, names in added.items() for column in names]
    with by_another(path) as other:
        for (view,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            other.execute(f"DROP VIEW {view}")
        for table, column in columns:
            other.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
        other.execute("DELETE FROM schema_version WHERE version > 6")
    assert migrations.migrate(store) == (6, migrations.NEWEST)
    assert store.read(lambda: models.Session.get().disconnected_clock) is None
    assert store.read(lambda: models.Route.get().request_headers) == "{}"
    with by_another(path) as look:
        for table, column in columns:
            assert column in {row[1] for row in look.execute(f"PRAGMA table_info({table})")}


def test_what_events_tell_of_maintenance_and_deploys_is_kept_where_there_were_no_tables_for_it(store: Store, path: Path) -> None:
    def rows() -> None:
        add_session("s1")
        for route_id in ("r1", "r2", "r3"):
            add_route(route_id, "s1")
        identity.came(dicts(models.Route.select()), "a@1")
        plan = {"at": "2026-11-02T00:00:00.000Z", "seconds": 60, "page_url": "", "by": "bob"}
        models.Route.update(maintenance_since="2026-11-01T10:00:00.000Z", maintenance_plan=json.dumps(plan)).where(
            models.Route.route_id == "r2").execute()
        models.Route.delete().where(models.Route.route_id == "r3").execute()
        identity.went(["r3"], "2026-11-01T12:00:00.000Z", "carl", "CONFIG_APPLY")
        for at, route_id, active in (("08", "r1", True), ("09", "r1", False), ("10", "r2", True), ("11", "r3", True)):
            EventRow.create(at=f"2026-11-01T{at}:00:00.000Z", type="maintenance_changed", route_id=route_id, actor="alice",
                            detail=json.dumps({"active": active}))
        EventRow.create(at="2026-11-01T07:00:00.000Z", type="config_applied", actor="alice", detail=json.dumps(
            {"service": "shop", "instance": "shop-1", "routes": 2, "removed": ["r0"], "settings": 3}))

    store.call(rows)
    with by_another(path) as other:
        for (view,) in other.execute("SELECT name FROM sqlite_master WHERE type = 'view'").fetchall():
            other.execute(f"DROP VIEW {view}")
        for model in migrations.V27:
            other.execute(f"DROP TABLE {model._meta.table_name}")
        other.execute("DELETE FROM schema_version WHERE version > 26")
    migrations.migrate(store)
    with by_another(path) as look:
        told = look.execute("SELECT route_id, state, substr(started_at, 12, 2), substr(ended_at, 12, 2), entered_by, ended_by, ended_how "
                            "FROM v_maintenance ORDER BY route_id, state").fetchall()
        assert told == [("r1", "ended", "08", "09", "alice", "alice", "exited"), ("r2", "planned", None, None, "bob", None, None),
                        ("r2", "running", "10", None, "", None, None), ("r3", "ended", "11", "12", "alice", "carl", "removed")]
        assert look.execute("SELECT service_name, actor, places_added, changed_routes, removed_routes, changed_settings FROM v_deploys"
                            ).fetchall() == [("shop", "alice", None, 2, 1, 3)]


def test_a_step_that_fails_leaves_the_version_before_it(store: Store, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        database.execute_sql("CREATE TABLE half (way)")
        raise RuntimeError("power cut")

    monkeypatch.setattr(migrations, "STEPS", (*migrations.STEPS, (migrations.NEWEST + 1, "more", fail)))
    with pytest.raises(RuntimeError):
        migrations.migrate(store)
    assert store.read(migrations.current_version) == migrations.NEWEST
    assert not store.read(database.table_exists, "half")


def test_views_that_changed_are_made_anew(store: Store, path: Path) -> None:
    newest = schema(path)
    with by_another(path) as other:
        other.execute("DROP VIEW v_routes")
        other.execute("CREATE VIEW v_routes AS SELECT 1 AS one")
    migrations.migrate(store)
    assert schema(path) == newest


# -- other processes


def test_who_writes_waits_as_long_as_told_for_anothers_lock_and_who_reads_does_not_wait(store: Store, path: Path) -> None:
    with by_another(path) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        writers = [gevent.spawn(_outcome, store, f"s{number}") for number in range(8)]
        gevent.sleep(0.1)
        assert store.read(lambda: models.Session.select().count()) == 0
        assert time.monotonic() - began < patience(0.45)
        gevent.joinall(writers)
        assert {type(writer.value) for writer in writers} == {StoreBusy}
        assert 0.45 < time.monotonic() - began < patience(2)
        assert str(writers[0].value) == f"the database sqlite:///{path} is locked by another process; nothing was changed, try again"


def _outcome(store: Store, session_id: str) -> object:
    try:
        return store.call(add_session, session_id)
    except StoreError as error:
        return error


def test_who_writes_goes_on_when_the_lock_comes_free(store: Store, path: Path) -> None:
    with by_another(path) as other:
        other.execute("BEGIN IMMEDIATE")
        writers = [gevent.spawn(_outcome, store, f"s{number}") for number in range(8)]
        gevent.sleep(0.1)
        other.execute("ROLLBACK")
        gevent.joinall(writers)
    assert [writer.value for writer in writers] == [None] * 8
    assert store.read(lambda: models.Session.select().count()) == 8


def test_who_opens_a_database_that_is_locked_at_that_moment_tries_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two that make a new file at once, SQLite tells one without a wait that it is locked: about one in 200."""
    real, times = Store._connect, iter((1, 2))

    def connect(store: Store) -> Any:
        if next(times, 0):
            raise busy(store.name)
        return real(store)

    monkeypatch.setattr(Store, "_connect", connect)
    store = Store(f"sqlite:///{path}")
    store.open()
    assert store.read(pragma, "journal_mode") == "wal" and not next(times, 0)
    store.close()
    monkeypatch.setattr(Store, "_connect", _always_busy)
    with pytest.raises(StoreBusy):
        Store(f"sqlite:///{path}", busy_timeout=0.2).open()


def _always_busy(store: Store) -> Any:
    raise busy(store.name)


def test_a_follower_makes_no_file_and_waits_for_the_masters(path: Path) -> None:
    follower = Store(f"sqlite:///{path}", follow=True)
    try:
        with pytest.raises(StoreEmpty, match="there is no database .*; the master makes it when it starts"):
            follower.read(pragma, "journal_mode")
        assert not path.exists()
    finally:
        follower.close()


def test_a_deleted_file_is_put_back_and_one_that_somebody_else_made_is_left_alone(store: Store, path: Path) -> None:
    store.call(add_session, "s1")
    assert store.displaced() == ""
    path.unlink()
    assert store.displaced() == "deleted"
    store.put_back()
    assert store.displaced() == ""
    with by_another(path) as look:
        assert look.execute("SELECT session_id FROM sessions").fetchall() == [("s1",)]
    path.unlink()
    path.write_text("somebody's")
    assert store.displaced() == "replaced"
    with pytest.raises(StoreError, match="can't be written again"):
        store.put_back()
    assert path.read_text() == "somebody's"
    assert not list(path.parent.glob("*.again"))


def test_a_directory_in_the_place_of_the_file_is_told(tmp_path: Path) -> None:
    wrong = Store(f"sqlite:///{tmp_path}")
    try:
        with pytest.raises(StoreError, match="can't be opened; check owner and mode"):
            wrong.open()
    finally:
        wrong.close()
