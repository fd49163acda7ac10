"""What backup_database.py and restore_database.py share: where the database is, how a failure is told, and who owns a new file."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable
from pathlib import Path

from proxyd.config.settings import SettingsError, load


class Failure(Exception):
    """Why nothing was done, as a sentence for the operator."""


def configured(instead: str) -> str:
    """The SQLite file that the settings name. Raises Failure; `instead` is the program for a PostgreSQL database."""
    try:
        url = load().database.url
    except SettingsError as error:
        raise Failure(str(error)) from None
    if not url.startswith("sqlite:///"):
        raise Failure(f"the database is not an SQLite file; use {instead} for PostgreSQL")
    return url.removeprefix("sqlite:///")


def note_of_backups(database: str) -> str:
    """The path of the file that says where the last backup of a database was made."""
    folder, name = os.path.split(database)
    return os.path.join(folder, f".backups-of-{name}")


def verdict(connection: sqlite3.Connection) -> str:
    """What SQLite says about the file: `ok` where it is sound."""
    return str(connection.execute("PRAGMA quick_check").fetchone()[0])


def remove(paths: Iterable[str]) -> None:
    """Delete those files that are there."""
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
