"""What workers count goes to the database through files, which the master takes up: a worker never holds the database's write lock.

SQLite has one writer at a time, and a process that is stopped amid its transaction would keep all others from writing for as long as
it is stopped. A worker writes a batch into a file of its own and waits until the master has committed it; meanwhile it counts on in
memory. So there is one file for each worker, however long the master is away. Each batch is written once: the master first marks the
files of a round with its number, which the transaction then commits.
"""

from __future__ import annotations

import contextlib
import logging
import marshal
import os
import secrets
from dataclasses import fields
from typing import Any

import gevent

from proxyd.base.processes import runs
from proxyd.base.trouble import host_lacks
from proxyd.store.sql.database import Store, StoreBusy, StoreError
from proxyd.store.sql.errors import ErrorBatch
from proxyd.store.sql.models import StoredCounter
from proxyd.store.sql.refusals import RefusalBatch
from proxyd.store.sql.snapshot import counter
from proxyd.store.sql.traffic import RejectionBatch, RowBatch, Traffic, TrafficBatch
from proxyd.store.sql.upsert import upsert

log = logging.getLogger("proxyd.master")

FOLDER = "proxyd.counts"
#: More come only of workers that start and end again and again without a master.
_MOST_FILES = 1000
#: Files that one transaction takes up.
_AT_ONCE = 64
_LOOK, _LONGEST_LOOK = 0.02, 0.5
_ROUND = "counts_round"
_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in (TrafficBatch, RejectionBatch, RowBatch, RefusalBatch, ErrorBatch)}


def _packed(batches: list[Any]) -> bytes:
    return marshal.dumps([(type(batch).__name__, _values(batch)) for batch in batches])


def _values(batch: Any) -> tuple[Any, ...]:
    """The fields of a batch, as plain values. Nothing is copied (dataclasses.astuple copies each number of each route)."""
    values = tuple(getattr(batch, field.name) for field in fields(batch))
    if not isinstance(batch, TrafficBatch):
        return values
    return tuple({route_id: (counted.sums, counted.codes, counted.latency) for route_id, counted in value.items()}
                 if value is batch.routes else value for value in values)


def _unpacked(data: bytes) -> list[Any]:
    """Raises ValueError, EOFError, TypeError, KeyError for what no worker wrote, or only in part."""
    found = []
    for name, values in marshal.loads(data):
        batch = _KINDS[name](*values)
        if isinstance(batch, TrafficBatch) and not isinstance(batch.worker, tuple):
            # From before workers had more than a process id.
            batch.worker = ("", "", batch.worker)
        if isinstance(batch, TrafficBatch):
            batch.routes = {route_id: Traffic(*counted) for route_id, counted in batch.routes.items()}  # type: ignore[misc]
        found.append(batch)
    return found


class Outbox:
    """A worker's way to the master."""

    def __init__(self, directory: str) -> None:
        self._folder = os.path.join(directory, FOLDER)
        self._prefix = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._count = 0

    def write(self, batches: list[Any], patience: float | None) -> None:
        """Leave batches for the master. Returns when they are in the database, or after `patience` seconds: then they will be, as
        soon as there is a master. Raises StoreError where they can't be left."""
        name = f"{self._prefix}-{self._count}"
        self._count += 1
        path = os.path.join(self._folder, name)
        try:
            os.makedirs(self._folder, mode=0o700, exist_ok=True)
            if len(os.listdir(self._folder)) >= _MOST_FILES:
                raise StoreBusy(f"{self._folder} is full: no master takes up what workers counted")
            try:
                with open(f"{path}.new", "wb") as file:
                    file.write(_packed(batches))
                os.rename(f"{path}.new", path)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(f"{path}.new")
                raise
        except OSError as error:
            raise StoreError(f"can't write into {self._folder}: {error.strerror}") from None
        waited, pause = 0.0, _LOOK
        while self._is_there(name) and (patience is None or waited < patience):
            gevent.sleep(pause)
            waited += pause
            # A master may be away for hours.
            pause = min(pause * 1.1, _LONGEST_LOOK) if waited > 1.0 else _LOOK

    def _is_there(self, name: str) -> bool:
        try:
            return any(found == name or found.startswith(f"{name}.") for found in os.listdir(self._folder))
        except OSError as error:
            return host_lacks(error)


class Intake:
    """The master's side."""

    def __init__(self, directory: str, store: Store) -> None:
        self._folder = os.path.join(directory, FOLDER)
        self._store = store
        self._round = -1

    def take(self, patience: float) -> bool:
        """Write what lies there into the database; whether there was something. Raises StoreError; the files stay then."""
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StoreError(f"can't read {self._folder}: {error.strerror}") from None
        if not names:
            return False
        if self._round < 0:
            self._round = self._store.read(counter, _ROUND)
            names = self._tidied(names)
        waiting = sorted(name for name in names if not name.endswith(".new"))[:_AT_ONCE]
        if not waiting:
            return False
        number = self._round + 1
        files = [self._marked(name, number) for name in waiting]
        batches = [batch for path in files for batch in _read(path)]
        self._store.call(_write, batches, number, patience=patience, history=True)
        self._round = number
        for path in files:
            with contextlib.suppress(OSError):
                os.unlink(path)
        return True

    def _marked(self, name: str, number: int) -> str:
        """Name a file after the round that takes it up; returns its path. Raises StoreError."""
        path = os.path.join(self._folder, f"{name.partition('.')[0]}.{number}")
        try:
            os.rename(os.path.join(self._folder, name), path)
        except OSError as error:
            raise StoreError(f"can't write into {self._folder}: {error.strerror}") from None
        return path

    def _tidied(self, names: list[str]) -> list[str]:
        """At a start: without the files that the last master had committed, and those that a worker has not finished."""
        left = []
        for name in names:
            number = name.partition(".")[2]
            done = number.isdigit() and int(number) <= self._round
            if done or number == "new" and not runs(int(name.partition("-")[0])):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self._folder, name))
            else:
                left.append(name)
        return left


def _read(path: str) -> list[Any]:
    """What a worker left there; nothing if it can't be understood. Raises StoreError where another try may succeed."""
    try:
        with open(path, "rb") as file:
            return _unpacked(file.read())
    except OSError as error:
        if host_lacks(error):
            raise StoreError(f"can't read {path}: {error}") from None
        log.warning("what a worker counted is lost: %s can't be read (%s)", path, error)
        return []
    except (ValueError, EOFError, TypeError, KeyError) as error:
        log.warning("what a worker counted is lost: %s can't be read (%s)", path, error)
        return []


def _write(batches: list[Any], number: int) -> None:
    for batch in batches:
        batch.write()
    upsert(StoredCounter, [{"name": _ROUND, "value": number}])
