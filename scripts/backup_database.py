"""The part of scripts/backup that is Python: backup_database.py DIRECTORY KEEP, from the checkout's top directory."""

from __future__ import annotations

import contextlib
import glob
import gzip
import os
import re
import shutil
import sqlite3
import sys
import time

from database_file import Failure, configured, note_of_backups, remove, verdict

from proxyd.base import private


def copy(source: str, target: str) -> None:
    """SQLite's online backup: one consistent moment, while others read and write. Then verified. Raises Failure."""
    with contextlib.closing(sqlite3.connect(source, timeout=30)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        # In one step, within one read transaction: copying in parts would begin anew at each write of others.
        old.backup(new, pages=-1)
        new.execute("PRAGMA journal_mode = DELETE")
        found = verdict(new)
        if found != "ok":
            raise Failure(f"the database is not sound ({found}), so this backup is not kept; see: proxyd db check")


def rotate(directory: str, name: str, keep: int) -> None:
    """Remove all but the newest `keep` backups of this database; with 0, none."""
    mine = re.compile(re.escape(name) + r"-\d{8}T\d{6}Z(-\d+)?\.db\.gz")
    found = [path for path in glob.glob(os.path.join(glob.escape(directory), "*.db.gz")) if mine.fullmatch(os.path.basename(path))]
    found.sort(key=lambda path: (os.stat(path).st_mtime_ns, path))
    for path in found[:-keep] if keep else []:
        os.unlink(path)


def back_up(directory: str, keep: int) -> str:
    """Make a backup; its path. Raises Failure, OSError and sqlite3.Error, with nothing left behind."""
    source = configured("pg_dump")
    if not os.path.isfile(source):
        raise Failure(f"there is no database {source}")
    os.makedirs(directory, exist_ok=True)
    name = os.path.basename(source).removesuffix(".db")
    base = os.path.join(directory, f"{name}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}")
    target, number = f"{base}.db.gz", 1
    while os.path.exists(target):
        target, number = f"{base}-{number}.db.gz", number + 1
    partial = f"{target}.{os.getpid()}.part"
    try:
        private.make(partial)
        private.make(f"{partial}.gz")
        copy(source, partial)
        with open(partial, "rb") as plain, open(f"{partial}.gz", "wb") as file:
            with gzip.GzipFile("", "wb", 6, file) as packed:
                shutil.copyfileobj(plain, packed, 1 << 20)
            file.flush()
            os.fsync(file.fileno())
        os.rename(f"{partial}.gz", target)
    finally:
        remove((partial, f"{partial}-journal", f"{partial}.gz"))
    rotate(directory, name, keep)
    # For "scripts/restore latest". Whoever may not write beside the database has his backup all the same.
    with contextlib.suppress(OSError):
        private.make(note_of_backups(source))
        with open(note_of_backups(source), "w", encoding="utf-8") as note:
            note.write(f"{os.path.abspath(directory)}\n")
    return target


if __name__ == "__main__":
    try:
        print(back_up(sys.argv[1], int(sys.argv[2])))
    except (Failure, OSError, sqlite3.Error) as error:
        sys.exit(f"scripts/backup: {error}")
