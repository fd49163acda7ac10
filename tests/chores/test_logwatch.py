"""A reader that stays open makes SQLite's log grow: no further than its bound, and proxyd says who it is."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from proxyd.chores.logwatch import LogWatch
from proxyd.store.sql import walreaders
from proxyd.store.sql.database import Store, StoreBusy
from proxyd.store.sql.observed import EventRow

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
