"""Follows the master: replaces the route table when a new config version is posted, and reports the version back.

The board is read a few hundred times a second, which is a memory access. The database is read when there is something new, and
once in a while in case nobody posted it (another host's master, a restored backup).
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable

from proxyd.base import clock
from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.base.trouble import Trouble
from proxyd.proxy.route.table import Table
from proxyd.store.memory.board import Board
from proxyd.store.sql.database import Store, StoreEmpty, StoreError
from proxyd.store.sql.observed import Worker
from proxyd.store.sql.snapshot import Snapshot, load_snapshot
from proxyd.store.sql.traffic import forget_worker
from proxyd.store.sql.upsert import upsert

log = logging.getLogger("proxyd.proxy")

_TICK = 0.005
_HEARTBEAT = 1.0
_FAILURE_PAUSE = 0.5
#: If the database is missing or has no tables, the master is just making it. If that takes longer than this, the log says so.
_EMPTY_PAUSE = 0.02
_EMPTY_SILENCE = 3.0


class Sync:
    """Keeps a worker's table current. `on_table` gets every new table, the snapshot that it was made from, and the ids of removed
    routes."""

    def __init__(self, store: Store, board: Board, on_table: Callable[[Table, Snapshot, tuple[str, ...]], None],
                 poll: float) -> None:
        self._store = store
        self._board = board
        self._on_table = on_table
        self._poll = poll
        self._table = Table.empty()
        self._loaded = False
        self._trouble = Trouble(log, "can't read the routes", logging.ERROR)
        self._empty = False
        self._generation = 0
        self._started = clock.now()
        self._looked = 0.0
        self._jobs = (
            Job("routes", _TICK, self._follow, log),
            Job("heartbeat", _HEARTBEAT, self._beat, log, first=0.0, retry=_HEARTBEAT, expected=StoreError,
                trouble="worker row not written", level=logging.DEBUG))

    def start(self) -> None:
        """Join the board, load the routes, and follow changes. If the database can't be read yet, it is tried again."""
        self._board.join(clock.now())
        self._load()
        self._looked = time.monotonic()
        for job in self._jobs:
            job.start()

    def stop(self) -> None:
        """Leave the board."""
        for job in self._jobs:
            job.stop()
        try:
            self._store.call(_gone, os.getpid(), patience=0.25)
        except StoreError as error:
            log.debug("this worker's row stays behind in the database: %s", error)
        self._board.leave()

    def _follow(self) -> float | None:
        now = time.monotonic()
        if self._board.version > self._table.version or not self._loaded or now - self._looked >= self._poll:
            self._looked = now
            if not self._load():
                return _EMPTY_PAUSE if self._empty else _FAILURE_PAUSE
        return None

    def _load(self) -> bool:
        """Read what has changed and replace the table. Returns whether that succeeded."""
        try:
            snapshot = self._store.read(load_snapshot, self._table.version if self._loaded else 0)
            if self._store.generation != self._generation:
                # This is another database. Its versions do not tell what this table lacks, so read it all.
                snapshot = self._store.read(load_snapshot, 0)
                self._generation = self._store.generation
            if snapshot.full or snapshot.version != self._table.version or not self._loaded:
                self._take(snapshot)
        except Exception as error:
            self._empty = isinstance(error, StoreEmpty)
            if self._empty and not self._loaded and clock.now() - self._started < _EMPTY_SILENCE:
                log.debug("%s", error)
            else:
                self._trouble.goes_on(f"{error}; going on with version {self._table.version}",
                                      None if isinstance(error, StoreError) else error)
            return False
        self._trouble.is_over(f"; routing by version {self._table.version}")
        return True

    def _take(self, snapshot: Snapshot) -> None:
        before = self._table
        table = before.with_changes(snapshot)
        gone = snapshot.removed
        if snapshot.full:
            gone = tuple(route_id for route_id in before.upstreams if route_id not in table.upstreams)
        self._table = table
        self._loaded = True
        self._on_table(table, snapshot, gone)
        self._board.report(table.version, clock.now())

    def _beat(self) -> None:
        now = clock.now()
        self._board.report(self._table.version, now)
        self._store.call(_beat_row, os.getpid(), socket.gethostname(), clock.shown(self._started), clock.shown(now),
                         self._table.version, patience=0.25)


def _beat_row(pid: int, host: str, started: float, now: float, version: int) -> None:
    upsert(Worker, [{"pid": pid, "host": host, "started_at": rfc3339(started), "heartbeat_at": rfc3339(now),
                     "config_version": version}])


def _gone(pid: int) -> None:
    Worker.delete().where(Worker.pid == pid).execute()
    forget_worker(pid)
