"""Deletes old rows, a few hundred at a time, so that no other process waits long for the database.

Rows say when they were written by the time of day. If that is set ahead, all of them look older at once. A mistake must not cost the
history, so a new time of day is believed when it has lasted for an hour.
"""

from __future__ import annotations

import logging
from typing import Any

import gevent

from proxyd.base import clock
from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.config.sections import DatabaseSettings
from proxyd.store.sql import cost
from proxyd.store.sql.database import Store, StoreError, database
from proxyd.store.sql.retained import RETAINED, Retained

log = logging.getLogger("proxyd.retention")

_FIRST = 20.0
_PERIOD = 60.0
_PATIENCE = 0.25
#: Seconds that a time of day that was set ahead must last, and what is no more than steering.
_BELIEVED_AFTER = 3600.0
_STEERED = 60.0
#: Seconds between two batches, so that a process that waits for the lock gets it.
_PAUSE = 0.02
#: Pages that are given back at once (a megabyte).
_STEP = 256
#: What `PRAGMA auto_vacuum` says of a file that can be cut.
_INCREMENTAL = 2
#: Steps of a round, so that pruning comes round again.
_MOST_STEPS = 1000


class Retention:
    """A job that prunes once a minute."""

    def __init__(self, settings: DatabaseSettings, store: Store) -> None:
        self._settings = settings
        self._store = store
        #: By how much the time of day is set, as it is believed; and how it is set else, since when.
        self._believed = clock.shift()
        self._said, self._since = self._believed, clock.now()
        self._job = Job("retention", _PERIOD, self._round, log, first=_FIRST, retry=_PERIOD, expected=StoreError,
                        trouble="pruning waits for the next round")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin. The first round comes some seconds later, when the work of the start is done."""
        self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def _round(self) -> None:
        gone = self.prune(self.time_of_day(clock.shift(), clock.now()))
        if gone:
            log.info("pruned %s", ", ".join(f"{count} {table}" for table, count in gone.items()))
        pages = self.give_back()
        if pages:
            log.info("gave %d pages of the database file back to the disk", pages)

    def time_of_day(self, shift: float, now: float) -> float:
        """Unix seconds by the time of day that is believed. `shift`: by how much it is set (see `base.clock`), at instant `now`."""
        if abs(shift - self._said) > _STEERED:
            self._said, self._since = shift, now
        if shift <= self._believed + _STEERED or now - self._since >= _BELIEVED_AFTER:
            self._believed = shift
        return now + self._believed

    def prune(self, now: float) -> dict[str, int]:
        """Delete what is too old at `now` (Unix seconds). Returns the number of deleted rows by table.

        Raises StoreError; what was deleted before stays deleted.
        """
        gone: dict[str, int] = {}
        for kept in RETAINED:
            before = rfc3339(now - kept.age(self._settings))
            while count := self._store.call(_delete, kept, before, patience=_PATIENCE, history=True):
                name = kept.model._meta.table_name
                gone[name] = gone.get(name, 0) + count
                gevent.sleep(_PAUSE)
                if count < kept.batch:
                    break
        return gone


    def give_back(self) -> int:
        """Give free space of an SQLite file back in small steps, and keep some for what is written next. Returns the pages. Raises
        StoreError. A file of an older proxyd takes `proxyd db vacuum` first, once."""
        given = 0
        if self._store.path is None:
            return given
        for _ in range(_MOST_STEPS):
            count = 0 if self._store.history_held else self._store.plain(_shrink)
            given += count
            if not count:
                break
            gevent.sleep(_PAUSE)
        return given


def _shrink() -> int:
    """Cut a step of free pages off the file. Returns how many. Runs in the database thread, outside a transaction."""
    kind, pages, free, size = (int(database.execute_sql(f"PRAGMA {name}").fetchone()[0])
                               for name in ("auto_vacuum", "page_count", "freelist_count", "page_size"))
    count = min(_STEP, free - max(cost.LEAST_SPARE // size, pages // cost.SPARE_SHARE))
    if kind != _INCREMENTAL or count <= 0:
        return 0
    # `execute` would stop at the first page: this statement has as many steps as pages, and no columns.
    connection: Any = database.connection()
    connection.executescript(f"PRAGMA incremental_vacuum({count})")
    return count


def _delete(kept: Retained, before: str) -> int:
    """Delete one batch of rows older than an instant, in any order. Returns how many. Runs in the database thread."""
    return cost.delete(kept, lambda query: query.where(kept.old(before)))
