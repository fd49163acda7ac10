"""A reader that stays open makes SQLite's log grow: no further than its bound, and proxyd says who it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from proxyd.chores import logwatch
from proxyd.chores.logwatch import LogWatch
from proxyd.store.sql import walreaders
from proxyd.store.sql.database import Store, StoreBusy
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.observed import EventRow
from tests.support.postgres import Postgres
from tests.support.waiting import wait_for

BOUND = 4 << 20
ROW = {"at": "2026-01-01T00:00:00.000Z", "type": "x", "detail": "d" * 1000}


def write(store: Store) -> None:
    store.call(lambda: EventRow.insert_many([ROW] * 100).execute(), history=True)


@pytest.fixture
def reader(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that has read something, and leaves its transaction open until its input ends."""
    write(store)
    program = ("import sqlite3, sys\nc = sqlite3.connect(sys.argv[1], isolation_level=None)\nc.execute('BEGIN')\n"
               "c.execute('SELECT COUNT(*) FROM events').fetchone()\nprint('reads', flush=True)\nsys.stdin.read()\n")
    with subprocess.Popen([sys.executable, "-c", program, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "reads\n"
        yield process
        process.kill()


def test_the_log_grows_to_its_bound_and_the_reader_is_named(store: Store, reader: subprocess.Popen[str]) -> None:
    assert store.path is not None
    watch = LogWatch(store, BOUND)
    for _ in range(1000):
        watch.look()
        try:
            write(store)
        except StoreBusy as error:
            assert f"(pid {reader.pid})" in str(error)
            break
    else:
        pytest.fail("the log has no bound")
    size = walreaders.log_size(store.path)
    assert BOUND <= size < BOUND + (1 << 20)
    said, = watch.problems()
    assert f"(pid {reader.pid})" in said and "no history is written" in said
    # What is no history is written all the same.
    store.call(lambda: EventRow.insert_many([ROW]).execute())
    assert [item.pid for item in walreaders.readers(store.path)] == [reader.pid]
    reader.communicate("")
    watch.look()
    assert watch.problems() == [] and walreaders.log_size(store.path) == 0
    write(store)


def test_a_log_without_readers_is_nobodys_problem(store: Store) -> None:
    watch = LogWatch(store, BOUND)
    for _ in range(80):
        write(store)
        watch.look()
        assert watch.problems() == []
    assert store.path is not None and walreaders.readers(store.path) == []


def test_a_transaction_that_is_left_open_on_a_server_is_told_with_who_has_it(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    url = postgres.new_database()
    store = Store(url, busy_timeout=2.0)
    store.open()
    try:
        migrate(store)
        watch = LogWatch(store, BOUND)
        assert [job.name for job in watch.jobs] == ["database-log"]
        watch.look_at_server()
        assert watch.problems() == []
        monkeypatch.setattr(logwatch, "_OLD", 0.0)
        program = ("import psycopg2, sys\nc = psycopg2.connect(sys.argv[1], application_name='a report')\nc.cursor().execute('SELECT 1')\n"
                   "print(c.get_backend_pid(), flush=True)\nsys.stdin.read()\n")
        with subprocess.Popen([sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            pid = process.stdout.readline().strip()
            watch.look_at_server()
            said, = watch.problems()
            assert "a report" in said and "idle in transaction" in said and f"pg_terminate_backend({pid})" in said
            process.communicate("")

        def over() -> bool:
            watch.look_at_server()
            return watch.problems() == []

        wait_for(over)
    finally:
        store.close()
