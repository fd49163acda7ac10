"""`proxyd db`: sound and unsound files, sizes, and giving space back while others work."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.cli.dbtool import run, size_of
from proxyd.config.sections import DatabaseSettings
from proxyd.config.settings import Settings
from proxyd.store.sql import migrations, models, observed
from proxyd.store.sql.database import Store
from proxyd.store.sql.migrations import TABLES


def fill(store: Store, count: int) -> None:
    row = {"at": "2026-01-01T00:00:00.000Z", "type": "x", "detail": "d" * 500}
    store.call(lambda: [observed.EventRow.insert_many([row] * 100).execute() for _ in range(count // 100)])


def settings(store: Store, busy_timeout: float = 1.0) -> Settings:
    return Settings(database=DatabaseSettings(url=store.url, busy_timeout=busy_timeout))


def test_a_sound_database_is_summed_up(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 100)
    assert run(settings(store), "check") == 0
    lines = [line.split(None, 1) for line in capsys.readouterr().out.splitlines()]
    facts = {words[0]: words[1] for words in lines}
    assert facts["integrity"] == "ok"
    assert facts["schema"] == f"{migrations.NEWEST}, the newest"
    assert (facts["sessions"], facts["routes"]) == ("0", "0")
    assert facts["last"].endswith("2026-01-01T00:00:00.000Z")


def test_it_is_run_by_the_command(store: Store) -> None:
    environment = {**os.environ, "PROXYD_DATABASE_URL": store.url}
    done = subprocess.run([sys.executable, "-m", "proxyd", "db", "stats"], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "route_status_codes" in done.stdout


def test_rows_and_bytes_of_every_table_are_shown(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 200)
    assert run(settings(store), "stats") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["table", "rows", "bytes"]
    assert lines[1][:2] == ["events", "200"], "the largest is first"
    assert {model._meta.table_name for model in TABLES} < {line[0] for line in lines}
    assert int(lines[1][2]) > 100_000 or lines[1][2] == "-"


def test_a_damaged_file_is_told_with_what_to_do(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 2000)
    store.close()
    assert store.path is not None
    with open(store.path, "r+b") as file:
        file.seek(size_of(store.path) // 2)
        file.write(os.urandom(8192))
    assert run(settings(store), "check") == 1
    assert "scripts/restore" in capsys.readouterr().err


def test_a_row_without_its_parent_is_told(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert store.path is not None
    with sqlite3.connect(store.path) as other:
        other.execute("INSERT INTO session_settings VALUES ('gone', 'options', 'ALL', 'x', '1')")
    assert run(settings(store), "check") == 1
    captured = capsys.readouterr()
    assert "session_settings: row 1 names a row of sessions that does not exist" in captured.out
    assert "scripts/restore" in captured.err


@pytest.mark.parametrize(("version", "told"), [(99, "newer proxyd"), (None, "proxyd migrate")])
def test_another_schema_version_is_told(store: Store, capsys: pytest.CaptureFixture[str], version: int | None, told: str) -> None:
    def change() -> None:
        if version is None:
            newest = models.SchemaVersion.version == migrations.NEWEST
            models.SchemaVersion.delete().where(newest).execute()
        else:
            models.SchemaVersion.create(version=version, description="", applied_at="")

    store.call(change)
    assert run(settings(store), "check") == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("action", ["check", "vacuum", "stats"])
def test_a_missing_file_is_told_and_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str], action: str) -> None:
    path = tmp_path / "none.db"
    assert run(Settings(database=DatabaseSettings(url=f"sqlite:///{path}")), action) == 1
    assert "proxyd migrate" in capsys.readouterr().err
    assert not path.exists()


def test_an_empty_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.db").touch()
    empty = Settings(database=DatabaseSettings(url=f"sqlite:///{tmp_path}/empty.db"))
    assert run(empty, "check") == 1
    assert run(empty, "stats") == 1
    assert "proxyd migrate" in capsys.readouterr().err


def test_a_file_that_is_no_database_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.db").write_text("no database " * 1000)
    assert run(Settings(database=DatabaseSettings(url=f"sqlite:///{tmp_path}/text.db")), "check") == 1
    assert "scripts/restore" in capsys.readouterr().err


def test_vacuum_gives_space_back_while_another_has_the_database_open(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 4000)
    store.call(lambda: observed.EventRow.delete().execute())
    assert store.path is not None
    assert run(settings(store), "vacuum") == 0
    numbers = {words[0]: int(words[1]) for words in (line.split() for line in capsys.readouterr().out.splitlines())}
    assert numbers["before"] - numbers["after"] == numbers["freed"] > 1_000_000
    fill(store, 100)
    assert run(settings(store), "check") == 0


READER = """
import sqlite3, sys
c = sqlite3.connect(sys.argv[1], isolation_level=None)
c.execute("BEGIN")
c.execute("SELECT COUNT(*) FROM events").fetchall()
print("reads", flush=True)
sys.stdin.read()
"""


def test_vacuum_says_who_keeps_the_log(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", READER, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "reads\n"
        fill(store, 20_000)
        assert run(settings(store), "vacuum") == 0
        assert f"(pid {reader.pid}); end it" in capsys.readouterr().out
        reader.communicate("")
    assert run(settings(store), "vacuum") == 0
    assert "end it" not in capsys.readouterr().out


def test_vacuum_says_so_where_a_writer_does_not_end(store: Store, capsys: pytest.CaptureFixture[str],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxyd.cli.vacuum._PATIENCE", 0.1)
    assert store.path is not None
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    assert run(settings(store, 0.1), "vacuum") == 1
    assert "try again" in capsys.readouterr().err
    assert run(settings(store, 0.1), "check") == 0, "reading goes on"
    other.close()


WRITER = """
import sqlite3, sys, time
c = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
print("open", flush=True)
longest = 0.0
while sys.stdin.readable() and not __import__("select").select([sys.stdin], [], [], 0.005)[0]:
    began = time.monotonic()
    c.execute("INSERT INTO events (at, type, actor, detail) VALUES ('2026-01-01T00:00:00.000Z', 'x', '', '{}')")
    longest = max(longest, time.monotonic() - began)
print(longest, flush=True)
"""


@pytest.fixture
def writer(store: Store) -> Iterator[subprocess.Popen[str]]:
    """A process that writes all the time until its input ends, and then says how long it waited for the longest."""
    with subprocess.Popen([sys.executable, "-c", WRITER, str(store.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        yield process
        process.kill()


def test_vacuum_gives_space_back_in_steps_while_another_process_writes(store: Store, writer: subprocess.Popen[str],
                                                                    capsys: pytest.CaptureFixture[str]) -> None:
    fill(store, 20_000)
    store.call(lambda: observed.EventRow.delete().execute())
    assert run(settings(store), "vacuum") == 0
    assert int(capsys.readouterr().out.split("freed")[1].split()[0]) > 1_000_000
    said, _ = writer.communicate("")
    # It waits for steps of some hundredths of a second, whatever the file's size; a busy machine makes more of that.
    assert float(said) < 5
    assert run(settings(store), "check") == 0


def test_vacuum_of_a_file_that_can_only_be_written_anew_is_refused_while_it_is_used(tmp_path: Path,
                                                                                 capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.db"
    sqlite3.connect(path).executescript("PRAGMA journal_mode = wal; CREATE TABLE early (x)")
    old = Store(f"sqlite:///{path}")
    old.open()
    migrations.migrate(old)
    given = settings(old)
    old.close()
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "open\n"
        assert run(given, "vacuum") == 1
        said = capsys.readouterr().err
        assert f"(pid {process.pid})" in said and "Stop proxyd" in said
        process.communicate("")
    assert run(given, "vacuum") == 0
    assert sqlite3.connect(path).execute("PRAGMA auto_vacuum").fetchone() == (2,)
