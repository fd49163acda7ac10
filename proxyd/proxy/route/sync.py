"""Follows the master: replaces the route table when a new config version is posted, and reports the version back.

The board is read a few hundred times a second, which is a memory access. The database is read when there is something new, and
once in a while in case nobody posted it (another host's master, a restored backup). A worker begins with the table that the master
keeps in a file, and then reads what differs from it in the database, or goes on with it while the database can't be read.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.event import Event as Signal

from proxyd.base import clock
from proxyd.base.hosts import WorkerKey
from proxyd.base.jobs import Glance, Job
from proxyd.base.lean import uncollected
from proxyd.base.text import rfc3339
from proxyd.base.trouble import Trouble
from proxyd.proxy.route.table import Table
from proxyd.store.memory.board import Board
from proxyd.store.memory.shared import SharedMemoryError
from proxyd.store.sql import kept
from proxyd.store.sql.database import Store, StoreEmpty, StoreError
from proxyd.store.sql.observed import Worker
from proxyd.store.sql.schema import HOSTS_TOGETHER, has_step
from proxyd.store.sql.sharing import server_time
from proxyd.store.sql.snapshot import Snapshot, Stamp, load_difference, load_snapshot
from proxyd.store.sql.traffic import forget_worker, of_worker

log = logging.getLogger("proxyd.proxy")

#: Seconds between two looks at the board, and in between for who waits for a newer table.
_GLANCE, _TICK = 0.02, 0.005
_HEARTBEAT = 1.0
_FAILURE_PAUSE = 0.5
#: If the database is missing or has no tables, the master is just making it. If that takes longer than this, the log says so.
_EMPTY_PAUSE = 0.02
_EMPTY_SILENCE = 3.0
#: Seconds for which a worker that starts waits for a database that does not answer, before it accepts clients with the kept table. And
#: those beside the time in which a server has to answer: other hosts may have gone on since that table was kept, so a server's silence
#: alone is a reason to use it, and not that the machine is busy.
_PATIENCE, _SERVER_PATIENCE = 2.0, 2.0
#: A worker that ran has looked at the board. One that has not for so long was stopped, or had no turn: it compares its table with the board
#: before it answers by it, and waits for what is posted there, though not for ever: the database may not answer. What is posted later it
#: hears of as one does that was not stopped.
_STALE, _CATCH_UP = 0.1, 2.0


class Sync:
    """Keeps a worker's table current. `on_table` gets every new table, the snapshot that it was made from, and the ids of removed
    routes. `kept_file`: that of the kept table. `grace`: seconds for which an empty database does not replace a table with routes:
    its master, or the services, bring them back meanwhile. `worker`: who this is; `on_dropped` is called when its rows were dropped from
    the database, because it had given no sign of life for too long. `stale_after`: seconds for which a table may be used though a newer one
    is known; 0.0: for ever."""

    def __init__(self, store: Store, board: Board, on_table: Callable[[Table, Snapshot, tuple[str, ...]], None],
                 poll: float, kept_file: str, grace: float, worker: WorkerKey, on_dropped: Callable[[], None],
                 stale_after: float = 0.0) -> None:
        self._store = store
        self._board = board
        self._on_table = on_table
        self._kept_file = kept_file
        self._grace = grace
        self._worker = worker
        self._on_dropped = on_dropped
        self._stale_after = stale_after
        #: Since when a newer table than this one has been known (monotonic seconds); 0.0: none is.
        self._outdated_since = 0.0
        self._table = Table.empty()
        self._loaded = False
        #: The routes of the kept table, until they have been compared with the database.
        self._known: dict[str, Stamp] | None = None
        self._fit = Signal()
        self._trouble = Trouble(log, "can't read the routes", logging.ERROR)
        self._empty_since = 0.0
        self._generation = 0
        self._started = clock.now()
        self._patience = 0.0
        #: Whether the table is being read, and the time (monotonic seconds) before which that is not tried again.
        self._reading = False
        self._not_before = 0.0
        #: Until when (time.monotonic() seconds) requests may be answered by the table without another look at the board.
        self.valid_until = 0.0
        #: When this process last looked at the board, and when it came back from its last stop (monotonic seconds); the version that was
        #: posted by then, 0 once the table has it.
        self._looked, self._back_since, self._missed = 0.0, 0.0, 0
        self._glance = Glance(_GLANCE, self._look)
        self._following = Job("routes", poll, self._follow, log, wakes=True, first=0.0)
        self._jobs = (
            self._following,
            Job("heartbeat", _HEARTBEAT, self._beat, log, first=0.0, retry=_HEARTBEAT, expected=StoreError,
                trouble="worker row not written", level=logging.DEBUG))

    def start(self) -> None:
        """Join the board, take the kept table, and follow changes. Returns when clients may come, or after a moment. If the database
        can't be read yet, it is tried again."""
        self._board.join(clock.now())
        self._patience = time.monotonic() + (
            _PATIENCE if self._store.path is not None else self._store.busy_timeout + _SERVER_PATIENCE)
        self._take_kept()
        self._awake()
        self._glance.start()
        for job in self._jobs:
            job.start()
        self._fit.wait(_PATIENCE)

    def fit(self) -> bool:
        """Whether clients may come: there is a table, and it is the newest, or nobody knows whether it is."""
        if self._loaded and time.monotonic() >= self._patience:
            self._fit.set()
        found: bool = self._fit.is_set()
        return found

    def stop(self) -> None:
        """Leave the board."""
        self._glance.stop()
        for job in self._jobs:
            job.stop()
        try:
            if self._store.path is None:
                self._store.call(forget_worker, self._worker, patience=0.25)
        except StoreError as error:
            log.debug("this worker's row stays behind in the database: %s", error)
        self._board.leave()

    def _take_kept(self) -> None:
        try:
            found = kept.read(self._kept_file)
        except kept.KeptError as error:
            log.error("the kept table %s is not used: %s; the master writes another one", self._kept_file, error)
            return
        if found is not None and (not self._loaded or self._table.version < found.snapshot.version <= self._board.version):
            self._known = {record.route_id: (record.version, record.updated) for record in found.snapshot.routes}
            self._take(found.snapshot)
            if self._board.version == self._table.version and self._store.path is not None:
                # On several hosts the board may be as old as the table: the master that posted there may be gone.
                self._fit.set()

    def _look(self) -> None:
        """Find out whether there is something to do; called by the event loop."""
        self._awake()
        if self._board.version > self._table.version and not self._reading and time.monotonic() >= self._not_before:
            self._following.wake()

    def _awake(self) -> None:
        """Find out whether this process was stopped, and whether it still lacks something of what was posted by its return."""
        now = time.monotonic()
        if now - self._looked > _STALE:
            with contextlib.suppress(SharedMemoryError):
                self._board.file.look()
            self._back_since, self._missed = now, self._board.version
        self._looked = now
        if self._stale_after and self._outdated(now):
            # Each request has to ask.
            self.valid_until = 0.0
            return
        # The board may go back: after a power cut, or for another database.
        if self._table.version < min(self._missed, self._board.version) and now - self._back_since < _CATCH_UP:
            return
        self._missed = 0
        self.valid_until = now + _STALE

    def _outdated(self, now: float) -> bool:
        """Whether a newer table has been known for `stale_after`."""
        if self._board.version <= self._table.version:
            self._outdated_since = 0.0
            return False
        self._outdated_since = self._outdated_since or now
        return now - self._outdated_since >= self._stale_after

    def catch_up(self) -> bool:
        """For a request that came later than `valid_until`: wait until the table has what was posted by then. False if it must not be
        answered by the table, because a newer one has been known for too long."""
        self._awake()
        until = time.monotonic() + _CATCH_UP
        while (now := time.monotonic()) > self.valid_until:
            if self._stale_after and self._outdated(now):
                return False
            if now > until:
                # Of one that is stopped time and again.
                return True
            gevent.sleep(_TICK)
            self._awake()
        return True

    def _follow(self) -> float | None:
        self._reading = True
        try:
            if self._load():
                return None
        finally:
            self._reading = False
        now = time.monotonic()
        pause = _EMPTY_PAUSE if 0.0 < now - self._empty_since < _EMPTY_SILENCE else _FAILURE_PAUSE
        self._not_before = now + pause
        return pause

    def _load(self) -> bool:
        """Read what has changed and replace the table. Returns whether that succeeded."""
        began, known = time.monotonic(), self._board.version
        try:
            snapshot = self._read()
            if snapshot.full or snapshot.version != self._table.version or not self._loaded:
                self._take(snapshot)
        except Exception as error:
            self._failed(error)
            return False
        if self._outdated_since and self._table.version >= known:
            # Whatever is newer still has been known since then at the earliest: where changes come all the time, there always is something.
            self._outdated_since = max(self._outdated_since, began)
        self._known = None
        self._empty_since = 0.0
        self._trouble.is_over(f"; routing by version {self._table.version}")
        self._fit.set()
        return True

    def _read(self) -> Snapshot:
        """What this table lacks. Raises StoreEmpty for a new database that has nothing to put in its place yet."""
        if self._known is not None:
            snapshot = self._store.read(load_difference, self._known, self._table.version)
        else:
            snapshot = self._store.read(load_snapshot, self._table.version if self._loaded else 0)
            if self._store.generation != self._generation and not snapshot.full:
                # This is another database. Its versions do not tell what this table lacks, so read it all.
                snapshot = self._store.read(load_snapshot, 0)
        if self._table.upstreams and snapshot.full and not snapshot.routes and snapshot.version <= kept.NEW and self._in_grace():
            raise StoreEmpty(f"the database {self._store.name} is new and empty")
        if self._loaded and self._store.path is not None and snapshot.version < self._table.version <= self._board.version:
            # Its log was cut, or it is a backup. What came after is in the kept table, or in none: the master decides, and says so.
            raise StoreError(f"the database {self._store.name} is at version {snapshot.version}, older than the master said; waiting for "
                             "the next one")
        self._generation = self._store.generation
        return snapshot

    def _in_grace(self) -> bool:
        return not self._empty_since or time.monotonic() - self._empty_since < self._grace

    def _failed(self, error: Exception) -> None:
        if isinstance(error, StoreEmpty):
            self._empty_since = self._empty_since or time.monotonic()
            if time.monotonic() - self._empty_since < _EMPTY_SILENCE:
                log.debug("%s", error)
                return
        self._trouble.goes_on(f"{error}; going on with version {self._table.version}" if self._loaded else
                              f"{error}; no client is accepted before they are read", None if isinstance(error, StoreError) else error)
        if self._loaded and not self._fit.is_set():
            if self._board.version > self._table.version:
                # The kept table was read before the master kept what it has posted since.
                self._take_kept()
            else:
                self._fit.set()

    def _take(self, snapshot: Snapshot) -> None:
        before = self._table
        with uncollected():
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
        if self._store.path is not None:
            # The master writes the rows of an SQLite database: see store.sql.outbox.
            return
        if self._store.call(_beat_row, self._worker, clock.shown(self._started), clock.shown(now), self._table.version, self._board.counted,
                            patience=0.25):
            self._on_dropped()


def _beat_row(worker: WorkerKey, started: float, now: float, version: int, counted: float) -> bool:
    """Renew a worker's row. `counted`: up to when its counts are in the tables (time.monotonic() seconds). Returns whether the row had to
    be made."""
    host, boot, pid = worker
    said: dict[str, Any] = {"heartbeat_at": rfc3339(now), "config_version": version}
    if has_step(HOSTS_TOGETHER):
        # Its age as it is when the answer is here: the time that the answer took only makes the counts seem older.
        said["counted_at"] = server_time() - (time.monotonic() - counted)
    if Worker.update(**said).where(of_worker(Worker, worker)).execute():
        return False
    Worker.insert(host=host, boot=boot, pid=pid, started_at=rfc3339(started), **said).execute()
    return True
