"""Migrations of what is large: done while workers write their counts, and gone on with after a kill in the middle."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Protocol

import gevent

from proxyd.store.sql.database import Store, database

log = logging.getLogger("proxyd.database")

#: The longest time in seconds that a step may take on a server: the tables of years are written anew.
LONGEST = 3600.0
#: Seconds between two pieces, so that a process that waits for the lock gets it, and between two lines that say how far it is.
_PAUSE, _SAID = 0.02, 10.0


class Work(Protocol):
    """What is done piece by piece. `done`: rows so far."""

    done: int

    def piece(self) -> bool:
        """Do some in the database thread. Returns whether more is left."""


def in_pieces(store: Store, description: str, work: Work, goes_on: Callable[[], None] = lambda: None) -> None:
    """Do what must be done to all rows, a piece in each transaction. `goes_on` is called every few seconds. Raises StoreError; what was
    done stays done."""
    began = said = time.monotonic()
    log.info("migrating %s: %s", store.name, description)
    while store.call(work.piece, bound=LONGEST):
        gevent.sleep(_PAUSE)
        if time.monotonic() - said >= _SAID:
            said = time.monotonic()
            log.info("migrating %s: %s, %d rows so far", store.name, description, work.done)
            goes_on()
    if work.done:
        log.info("migrated %s: %s, %d rows in %.1f s", store.name, description, work.done, time.monotonic() - began)


def index(store: Store, name: str, on: str) -> None:
    """Make an index on what is there, beside those who write. SQLite can't: there its step makes it, and counts wait in memory meanwhile.
    Raises StoreError."""
    if store.path is None:
        store.plain(_index, name, on, bound=LONGEST)


def _index(name: str, on: str) -> None:
    """Runs in the database thread, outside a transaction."""
    unsound = database.execute_sql("SELECT 1 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid "
                                   "WHERE c.relname = %s AND NOT i.indisvalid", [name]).fetchone()
    # It waits for all transactions that are older than itself.
    database.execute_sql("SET lock_timeout = 0")
    try:
        if unsound:
            # One that was cut off in the middle is kept up to date by all writers, and used by nobody.
            database.execute_sql(f"DROP INDEX CONCURRENTLY {name}")
        database.execute_sql(f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {on}")
    finally:
        database.execute_sql("RESET lock_timeout")
