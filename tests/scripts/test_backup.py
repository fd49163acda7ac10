"""scripts/backup and scripts/restore, run as an operator runs them."""

from __future__ import annotations

import gzip
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from proxyd.store.sql.database import Store
from proxyd.store.sql.lock import MasterLock
from proxyd.store.sql.migrations import migrate
from proxyd.store.sql.observed import EventRow
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import patience

ROOT = Path(__file__).resolve().parents[2]


def script(name: str, store: Store, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PROXYD_")}
    return subprocess.run([ROOT / "scripts" / name, *map(str, arguments)], env={**clean, "PROXYD_DATABASE_URL": store.url, **environment},
                          cwd="/", capture_output=True, text=True, timeout=30)


def add(store: Store, name: str) -> None:
    store.call(lambda: EventRow.create(at="2026-01-01T00:00:00.000Z", type=name))


def types(path: Path | str) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        return [row[0] for row in connection.execute("SELECT type FROM events ORDER BY id")]
    finally:
        connection.close()


def back_up(store: Store, directory: Path) -> Path:
    done = script("backup", store, directory)
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def test_a_backup_holds_what_is_only_in_the_log_and_is_alone_in_its_directory(store: Store, tmp_path: Path) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "backups")
    assert list((tmp_path / "backups").iterdir()) == [made]
    (tmp_path / "plain.db").write_bytes(gzip.decompress(made.read_bytes()))
    assert types(tmp_path / "plain.db") == ["one"]
    assert made.stat().st_mode & 0o007 == 0, "not for everybody to read"


def test_a_backup_made_while_others_write_is_of_one_moment(store: Store, tmp_path: Path) -> None:
    assert store.path is not None
    stop = threading.Event()

    def write() -> None:
        other = sqlite3.connect(str(store.path), timeout=5, isolation_level=None)
        while not stop.is_set():
            other.execute("BEGIN IMMEDIATE")
            for name in ("left", "right"):
                other.execute("INSERT INTO events (at, type, actor, detail) VALUES ('', ?, '', ?)", (name, "x" * 2000))
            other.execute("COMMIT")
        other.close()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        made = back_up(store, tmp_path / "backups")
    finally:
        stop.set()
        writer.join()
    (tmp_path / "plain.db").write_bytes(gzip.decompress(made.read_bytes()))
    found = types(tmp_path / "plain.db")
    assert found and found.count("left") == found.count("right")


def test_only_the_newest_backups_of_this_database_stay(store: Store, tmp_path: Path) -> None:
    directory = tmp_path / "backups"
    directory.mkdir()
    for number in range(4):
        file = directory / f"p-2020010{number + 1}T000000Z.db.gz"
        file.touch()
        os.utime(file, (number, number))
    others = [directory / name for name in ("q-20200101T000000Z.db.gz", "p-notes.db.gz", "p-x-20200101T000000Z.db.gz")]
    for file in others:
        file.touch()
    done = script("backup", store, "--keep", 2, directory)
    assert done.returncode == 0, done.stderr
    assert set(directory.iterdir()) == {*others, directory / "p-20200104T000000Z.db.gz", Path(done.stdout.strip())}


def test_a_failed_backup_leaves_nothing_and_removes_nothing(store: Store, tmp_path: Path) -> None:
    first = back_up(store, tmp_path / "backups")
    store.close()
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"p.db{suffix}").unlink(missing_ok=True)
    (tmp_path / "p.db").write_text("not a database " * 1000)
    done = script("backup", store, "--keep", 1, tmp_path / "backups")
    assert done.returncode == 1
    assert "file is not a database" in done.stderr
    assert list((tmp_path / "backups").iterdir()) == [first]


def test_restore_brings_the_backup_back_and_sets_the_old_database_aside(store: Store, tmp_path: Path) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "backups")
    add(store, "two")
    (tmp_path / "p.db").chmod(0o600)
    store.close()
    done = script("restore", store, made)
    assert done.returncode == 0, done.stderr
    assert types(tmp_path / "p.db") == ["one"]
    assert (tmp_path / "p.db").stat().st_mode & 0o777 == 0o600
    aside = [path for path in tmp_path.glob("p.db.before-restore-*") if path.suffix != ".lock"]
    assert len(aside) == 1 and str(aside[0]) in done.stdout
    assert types(aside[0]) == ["one", "two"]
    store.open()
    assert migrate(store)[0] == migrate(store)[1], "the master can start with it"


def test_a_log_left_by_a_crash_does_not_get_into_the_restored_database(store: Store, tmp_path: Path) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "backups")
    add(store, "two")
    log = (tmp_path / "p.db-wal").read_bytes()
    before = (tmp_path / "p.db").read_bytes()
    store.close()
    (tmp_path / "p.db").write_bytes(before)
    (tmp_path / "p.db-wal").write_bytes(log)
    done = script("restore", store, made)
    assert done.returncode == 0, done.stderr
    assert types(tmp_path / "p.db") == ["one"]
    aside = next(path for path in tmp_path.glob("p.db.before-restore-*Z"))
    assert types(aside) == ["one", "two"]


def test_a_corrupt_database_is_replaced_and_kept_with_its_log(store: Store, tmp_path: Path) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "backups")
    store.close()
    (tmp_path / "p.db").write_text("not a database " * 1000)
    (tmp_path / "p.db-wal").write_text("rubbish")
    (tmp_path / "p.db-shm").write_text("rubbish")
    done = script("restore", store, made)
    assert done.returncode == 0, done.stderr
    assert types(tmp_path / "p.db") == ["one"]
    aside = next(path for path in tmp_path.glob("p.db.before-restore-*Z"))
    assert aside.read_text().startswith("not a database")


def test_restore_works_where_no_database_is(store: Store, tmp_path: Path) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "backups")
    target = tmp_path / "new" / "p.db"
    done = script("restore", store, made, PROXYD_DATABASE_URL=f"sqlite:///{target}")
    assert done.returncode == 0, done.stderr
    assert types(target) == ["one"]


def test_restore_refuses_while_a_master_runs(store: Store, tmp_path: Path) -> None:
    made = back_up(store, tmp_path / "backups")
    add(store, "two")
    store.close()
    lock = MasterLock(store.path, str(tmp_path))
    assert lock.take()
    try:
        done = script("restore", store, made)
        assert script("restore", store, "--check", made).returncode == 0
    finally:
        lock.release()
    assert done.returncode == 1
    assert f"a master (pid {os.getpid()}) holds" in done.stderr
    assert types(tmp_path / "p.db") == ["two"]
    assert not list(tmp_path.glob("*.before-restore-*"))


def test_restore_refuses_while_a_worker_has_the_database_open(store: Store, tmp_path: Path) -> None:
    made = back_up(store, tmp_path / "backups")
    add(store, "two")
    began = time.monotonic()
    done = script("restore", store, made)
    assert done.returncode == 1
    assert "still open in another process" in done.stderr
    assert time.monotonic() - began < patience(10)
    add(store, "three")
    assert types(tmp_path / "p.db") == ["two", "three"]


@pytest.mark.parametrize("kind", ["cut", "flipped", "text", "foreign", "missing"])
def test_a_bad_backup_is_refused_and_nothing_is_changed(store: Store, tmp_path: Path, kind: str) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "backups")
    add(store, "two")
    store.close()
    if kind == "cut":
        made.write_bytes(made.read_bytes()[:-500])
    elif kind == "flipped":
        content = bytearray(made.read_bytes())
        content[len(content) // 2] ^= 0xFF
        made.write_bytes(content)
    elif kind == "text":
        made.write_text("no backup")
    elif kind == "foreign":
        made.unlink()
        with sqlite3.connect(made) as other:
            other.execute("CREATE TABLE cats (name)")
    else:
        made.unlink()
    before = sorted(path.name for path in tmp_path.iterdir())
    done = script("restore", store, made)
    assert done.returncode == 1
    assert done.stderr.startswith("scripts/restore: ") and "Traceback" not in done.stderr
    assert types(tmp_path / "p.db") == ["one", "two"]
    assert sorted({path.name for path in tmp_path.iterdir()} - {"p.db.lock"}) == before


def test_the_config_file_names_the_database(store: Store, tmp_path: Path) -> None:
    (tmp_path / "proxyd.ini").write_text(f"[database]\nurl = {store.url}\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROXYD_")}
    done = subprocess.run([ROOT / "scripts/backup", "-c", "proxyd.ini", "here"], cwd=tmp_path, env=environment, capture_output=True,
                          text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path / "here"


@pytest.mark.parametrize("name", ["backup", "restore"])
def test_help_suffices_and_wrong_usage_is_told(store: Store, name: str) -> None:
    shown = script(name, store, "--help")
    assert shown.returncode == 0
    assert f"Usage: scripts/{name} [--config FILE]" in shown.stdout
    assert "Exit status" in shown.stdout and "set -euo" not in shown.stdout
    for arguments in (["--wrong"], ["-c"], ["a", "b"], *([["--keep", "x"]] if name == "backup" else [[]])):
        done = script(name, store, *arguments)
        assert done.returncode == 2
        assert "--help" in done.stderr


@pytest.mark.parametrize("name", ["backup", "restore"])
def test_a_database_server_is_not_for_these_scripts(store: Store, tmp_path: Path, name: str) -> None:
    done = script(name, store, tmp_path / "x", PROXYD_DATABASE_URL="postgresql://host/db")
    assert done.returncode == 1
    assert "use pg_" in done.stderr


@pytest.mark.slow
def test_a_running_proxyd_is_backed_up_looked_after_and_restored(new_system: Callable[..., System], backend: Backend,
                                                                 tmp_path: Path) -> None:
    system = new_system()
    client = system.client("kept")
    client.route("kept.test", backend.url)

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*map(str, command)], env=system.environment, cwd=ROOT, capture_output=True, text=True, timeout=60)

    made = run("scripts/backup", tmp_path / "backups")
    assert made.returncode == 0, made.stderr
    for action in ("check", "stats", "vacuum", "check"):
        done = run(sys.executable, "-m", "proxyd", "db", action)
        assert done.returncode == 0, done.stderr
    client.route("late.test", backend.url)
    refused = run("scripts/restore", made.stdout.strip())
    assert refused.returncode == 1 and "stop proxyd first" in refused.stderr
    assert system.get("/", "late.test").status == 200
    system.stop()
    done = run("scripts/restore", made.stdout.strip())
    assert done.returncode == 0, done.stderr
    system.start()
    assert ("kept:s1", "") in system.sql("SELECT session_id, secret_hash FROM sessions")
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "REREGISTER"
    assert system.get("/", "kept.test").status == 200
    assert system.get("/", "late.test").status == 404


def test_what_is_set_aside_keeps_its_directory_where_the_name_is_taken(tmp_path: Path) -> None:
    directory = tmp_path / "Zoo"
    directory.mkdir()
    store = Store(f"sqlite:///{directory}/p.db")
    store.open()
    migrate(store)
    made = back_up(store, tmp_path / "backups")
    store.close()
    for seconds in range(30):
        at = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(time.time() + seconds))
        (directory / f"p.db.before-restore-{at}").touch()
    done = script("restore", store, made)
    assert done.returncode == 0, done.stderr
    (aside,) = directory.glob("p.db.before-restore-*Z-1")
    assert done.stdout.rstrip().endswith(f"the old one is {aside}")


def test_the_latest_backup_is_found_where_it_was_made(store: Store, tmp_path: Path) -> None:
    add(store, "one")
    made = back_up(store, tmp_path / "elsewhere")
    for what in ("latest", tmp_path / "elsewhere"):
        done = script("restore", store, "--check", what)
        assert done.returncode == 0 and str(made) in done.stdout, done.stderr
    made.unlink()
    done = script("restore", store, "--check", "latest")
    assert done.returncode == 1 and f"{tmp_path}/elsewhere or var/backups" in done.stderr
