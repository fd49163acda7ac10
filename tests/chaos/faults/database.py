"""Faults of the database: locked, full, read-only, corrupt, an older one."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.faults.declared import WHOLE, fault
from tests.chaos.faults.processes import end_master, stop_all
from tests.chaos.stage import MASTER_STARTS, Stage

ROOT = Path(__file__).resolve().parents[3]


@fault(5, "database")
def lock_database(stage: Stage, chance: random.Random) -> None:
    """Another process holds the write lock, shorter or longer than a change waits."""
    seconds = chance.choice((0.1, 1.0, 4.0))
    stage.say("lock_database", f"for {seconds:g} s")
    with stage.excuse("lock_database", "refused", after=0.5), contextlib.closing(
            sqlite3.connect(stage.system.database, timeout=20, isolation_level=None)) as other:
        try:
            other.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            stage.say("lock_database", f"no lock: {error}")
            return
        time.sleep(seconds)
        other.execute("ROLLBACK")


#: Seconds after which a change is in the kept table, and so outlives the database and the master.
_KEPT_AFTER = 2.0


#: What is said of a database that was overwritten: one of these.
_TOLD = ("was overwritten while in use", "and it is whole", "set aside as")


def _no_disk(stage: Stage) -> str:
    return "" if stage.disk == "tmpfs" else "needs the right to mount"


@fault(3, "database", missing=_no_disk)
def fill_disk(stage: Stage, chance: random.Random) -> None:
    """The disk of the database is full for a while."""
    seconds = chance.uniform(0.2, 3.0)
    stage.say("fill_disk", f"for {seconds:.1f} s")
    filler = stage.var / "filler"
    with stage.excuse("fill_disk", "refused", after=1.0), stage.ends(starts=True):
        with filler.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096, 1):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(b"x" * size)
        time.sleep(seconds)
        filler.unlink()


@contextlib.contextmanager
def _read_only(stage: Stage) -> Iterator[None]:
    """The folder of the database is one that can't be written. It is made so under another name: a mount on which somebody has a file
    open to write it can't be made read-only."""
    other = tempfile.mkdtemp()
    subprocess.run(["mount", "--bind", stage.var, other], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", other], check=True)
        subprocess.run(["mount", "--bind", other, stage.var], check=True)
    finally:
        subprocess.run(["umount", "-l", other], check=True)
        os.rmdir(other)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", stage.var], check=True)


@fault(2, "database", missing=_no_disk)
def read_only_folder(stage: Stage, chance: random.Random) -> None:
    """The folder of the database can't be written by what opens it anew; a worker is killed meanwhile."""
    seconds = chance.uniform(0.5, 3.0)
    pid = stage.worker(chance.random())
    stage.say("read_only_folder", f"for {seconds:.1f} s, worker {pid} is killed")
    # A master that starts meanwhile says why it can't, and ends; it is started again and again.
    with stage.excuse("read_only_folder", "refused", after=5.0), stage.ends(master=True), _read_only(stage):
        with stage.excuse("read_only_folder", "cut", after=0.1):
            stage.kill(pid)
        time.sleep(seconds)


@fault(2, "database", "master")
def corrupt_database(stage: Stage, chance: random.Random) -> None:
    """The master is killed, and its database is destroyed before the next one starts."""
    begin, size = chance.choice((0, 100, 4096)), chance.choice((100, 5000))
    stage.say("corrupt_database", f"{size} bytes at {begin}, while the master is away")
    with stage.excuse("corrupt_database", "master", "refused", "forgotten", after=3.0):
        kept = time.monotonic()
        time.sleep(_KEPT_AFTER)
        end_master(stage)
        stage.restored(kept)
        with contextlib.suppress(FileNotFoundError), open(stage.system.database, "r+b") as file:
            file.seek(begin)
            file.write(chance.randbytes(size))
        stage.wait_for_master()
        time.sleep(2.0)


@fault(1, "database", "files", "master")
def overwrite_database(stage: Stage, chance: random.Random) -> None:
    """Somebody writes into the database while it is in use: garbage, or an end before its end; or cuts its log."""
    how, part = chance.choice(("garbage", "cut", "cut log")), chance.choice((0.0, 0.3, 0.9))
    stage.say("overwrite_database", how)
    path, since = Path(stage.system.database), len(stage.system.log())
    with (stage.excuse("overwrite_database", "master", "refused", "forgotten", after=3.0), stage.ends(master=True),
          contextlib.suppress(FileNotFoundError)):
        if how == "cut log":
            os.truncate(f"{path}-wal", 0)
        elif how == "cut":
            os.truncate(path, int(path.stat().st_size * part))
        else:
            with path.open("r+b") as file:
                file.write(chance.randbytes(path.stat().st_size))
        # A log that has just been brought into the file is not missed, and one that has all of the file makes it whole. A master that is
        # only starting ends, and its successor sets the file aside.
        stage.wait(lambda: any(text in stage.system.log()[since:] for text in _TOLD), 30, "what is said of the database", invariant="told")
        if (told := stage.system.log().find("was overwritten while in use", since)) >= 0:
            # The one that says it still answers, and its pid may not yet be in the file.
            stage.wait(lambda: "the master serves" in stage.system.log()[told:], MASTER_STARTS, "another master")
        stage.wait_for_master()
        time.sleep(2.0)


@fault(1, WHOLE)
def restore_backup(stage: Stage, chance: random.Random) -> None:
    """A backup is made, and put back after some seconds, while everything is stopped."""
    seconds = chance.uniform(0.5, 3.0)
    stage.say("restore_backup", f"one that is {seconds:.1f} s old")
    backup = _script(stage, "backup", str(stage.system.directory / "backups"))
    time.sleep(seconds)
    with stage.excuse("restore_backup", "down", "cut", "slow", "master", "forgotten", after=3.0):
        stop_all(stage)
        stage.restored()
        _script(stage, "restore", backup)
        stage.system.start()


def _script(stage: Stage, name: str, *arguments: str) -> str:
    """What it prints."""
    done = subprocess.run([ROOT / "scripts" / name, *arguments], env=stage.system.environment, cwd=ROOT, capture_output=True,
                          text=True, check=False, timeout=60)
    if done.returncode:
        stage.judge.breach("settled", time.monotonic(), f"scripts/{name} failed: {done.stdout} {done.stderr}")
    return done.stdout.strip()
