"""The part of scripts/restore that is Python: restore_database.py BACKUP restore|check, from the checkout's top directory."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import gzip
import os
import shutil
import sqlite3
import sys
import tempfile
import time
import zlib

from database_file import Failure, configured, note_of_backups, remove, verdict

from proxyd.base import private


def newest(target: str, directory: str = "") -> str:
    """The newest backup of this database: in a directory, or else where the last backup was made and in var/backups. Raises Failure where
    there is none."""
    places = [directory] if directory else ["var/backups"]
    if not directory:
        with contextlib.suppress(OSError), open(note_of_backups(target), encoding="utf-8") as note:
            places.insert(0, note.readline().strip())
    name = glob.escape(os.path.basename(target).removesuffix(".db"))
    found = [path for place in places for path in glob.glob(os.path.join(glob.escape(place), f"{name}-*.db.gz"))]
    if not found:
        raise Failure(f"there is no backup of {target} in {' or '.join(places)}; give the directory or the file")
    return max(found, key=lambda path: os.stat(path).st_mtime_ns)


def unpack(backup: str, target: str) -> int:
    """Write the backup to a plain file, on disk for sure, and verify it; its schema version.

    Raises Failure where it is no sound database of proxyd.
    """
    private.make(target)
    with open(backup, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with gzip.open(backup) if packed else open(backup, "rb") as source, open(target, "wb") as plain:
        shutil.copyfileobj(source, plain, 1 << 20)
        plain.flush()
        os.fsync(plain.fileno())
    with contextlib.closing(sqlite3.connect(target)) as connection:
        found = verdict(connection)
        if found != "ok":
            raise Failure(f"{backup} is not sound ({found}); nothing was changed, take another backup")
        try:
            version: int = connection.execute("SELECT MAX(version) FROM schema_version").fetchone()[0]
        except sqlite3.OperationalError:
            raise Failure(f"{backup} is a database, but not one of proxyd; nothing was changed") from None
        return version


def lock(path: str) -> None:
    """Hold the master's lock until this process ends, so that none starts meanwhile. Raises Failure where a master runs."""
    private.make(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT, private.MODE)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        pid = os.pread(fd, 32, 0).decode("ascii", "replace").partition("\n")[0].strip() or "unknown"
        raise Failure(f"a master (pid {pid}) holds {path}: stop proxyd first (systemctl stop proxyd proxyd-master); "
                      "nothing was changed") from None


def give(path: str, like: str) -> None:
    """Run as root, what is made here belongs to whom the database or its directory belongs to."""
    if os.geteuid() == 0:
        status = os.stat(like)
        os.chown(path, status.st_uid, status.st_gid)


def settle(target: str) -> None:
    """Bring what is only in the log into the file. That needs it alone, so workers that still run are found here (Failure)."""
    try:
        with contextlib.closing(sqlite3.connect(target, timeout=2)) as old:
            old.execute("PRAGMA journal_mode = DELETE").fetchone()
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise Failure(f"{target} is still open in another process (workers?): stop all of proxyd first; "
                          "nothing was changed") from None
    except sqlite3.DatabaseError:
        pass  # corrupt: a reason to restore


def put(fresh: str, target: str) -> str | None:
    """Set the old files aside and put the new one in their place; where the old database is now, or None."""
    base = f"{target}.before-restore-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    aside, number = base, 1
    while os.path.exists(aside):
        aside, number = f"{base}-{number}", number + 1
    had = os.path.exists(target)
    if had:
        settle(target)
        shutil.copymode(target, fresh)
        private.tighten(fresh)
        os.link(target, aside)
    # A log that is left (of a corrupt database) belongs to the old file; with the new one it would be poison.
    if had and os.path.exists(f"{target}-wal"):
        os.rename(f"{target}-wal", f"{aside}-wal")
    remove((f"{target}-wal", f"{target}-shm"))
    os.rename(fresh, target)
    folder = os.open(os.path.dirname(os.path.abspath(target)), os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    return aside if had else None


def unmark(fresh: str) -> None:
    """Let the master know that this is a backup: clients must not resume its sessions, but register again, and so replay what they
    declare now."""
    with contextlib.closing(sqlite3.connect(fresh)) as database:
        database.execute("INSERT OR REPLACE INTO counters (name, value) VALUES ('mark', 0)")
        database.commit()


def check(backup: str) -> str:
    """Verify a backup away from the database; what to tell. Raises Failure."""
    with tempfile.TemporaryDirectory(prefix="proxyd-restore-") as directory:
        version = unpack(backup, os.path.join(directory, "check.db"))
    return f"{backup} is sound, schema version {version}"


def restore(backup: str, target: str) -> str:
    """Put a backup in the database's place; what to tell. Raises Failure."""
    directory = os.path.dirname(os.path.abspath(target))
    os.makedirs(directory, exist_ok=True)
    like = target if os.path.exists(target) else directory
    lock(f"{target}.lock")
    give(f"{target}.lock", like)
    fresh = f"{target}.restoring"
    try:
        version = unpack(backup, fresh)
        unmark(fresh)
        give(fresh, like)
        aside = put(fresh, target)
    finally:
        remove((fresh, f"{fresh}-journal", f"{fresh}-wal", f"{fresh}-shm"))
    return f"{target} is now {backup} (schema version {version})" + (f"; the old one is {aside}" if aside else "")


def main(backup: str, mode: str) -> None:
    """Check or restore `backup`; "latest" is the newest one. Raises Failure."""
    target = configured("pg_restore")
    if backup == "latest":
        backup = newest(target)
    elif os.path.isdir(backup):
        backup = newest(target, backup)
    if not os.path.isfile(backup):
        raise Failure(f"there is no backup {backup}")
    print(check(backup) if mode == "check" else restore(backup, target))


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except Failure as failure:
        sys.exit(f"scripts/restore: {failure}")
    except (OSError, EOFError, zlib.error, sqlite3.Error) as error:
        sys.exit(f"scripts/restore: {error}; nothing was changed")
