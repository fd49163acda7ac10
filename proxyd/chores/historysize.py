"""Keeps the database within `[database] max_size`: where the history costs more, its oldest rows go before their time, and that is said."""

from __future__ import annotations

import logging
import os
import time
from math import inf

import gevent

from proxyd.base import clock
from proxyd.base.jobs import Job, Working
from proxyd.base.text import format_size
from proxyd.base.trouble import Trouble
from proxyd.events.bus import EventBus
from proxyd.store.sql import cost, tablesizes, walreaders
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.tablesizes import HistoryNumbers, TableSize

log = logging.getLogger("proxyd.retention")

_FIRST, _PERIOD, _PATIENCE = 30.0, 60.0, 0.25
#: Seconds between two batches, so that a process that waits for the lock gets it; and batches of a round.
_PAUSE, _MOST_BATCHES = 0.02, 1000
#: Whether history goes early is said again after so long.
_SAID_AGAIN = 86400.0


class HistorySize(Working):
    """A job that looks once a minute. `bound`: bytes (`[database] max_size`), 0 for none. `access_log`: where the access log goes, as
    `[log] access` says."""

    def __init__(self, store: Store, bus: EventBus, bound: int, access_log: str = "off") -> None:
        self._store, self._bus, self._bound, self._access_log = store, bus, bound, access_log
        self._said_at = -inf
        self._trouble = Trouble(log, "the history is too large")
        #: Bytes in use as the last look found them, and rows that went early since the start, by table.
        self.used, self.dropped = 0, dict[str, int]()
        self._tables: dict[str, TableSize] = {}
        self.jobs = (Job("history-size", _PERIOD, self._round, log, first=_FIRST, retry=_PERIOD, expected=StoreError,
                         trouble="history that is too large waits for the next round"),)

    def problems(self) -> list[str]:
        """What keeps the database from being as small as it should be."""
        return [self._trouble.reason] if self._trouble.reason else []

    def numbers(self) -> HistoryNumbers:
        """What the last look found, for metrics and the status."""
        return HistoryNumbers(self.used, self._bound, dict(self.dropped), self._tables, self._log_bytes(),
                              walreaders.log_size(self._store.path) if self._store.path is not None else None)

    def _log_bytes(self) -> int | None:
        try:
            return os.path.getsize(self._access_log) if self._access_log not in ("-", "off") else None
        except OSError:
            return None

    def _round(self) -> None:
        self.look(time.time())
        self.measure()

    def measure(self) -> None:
        """Find out what each table costs. Raises StoreError."""
        self._tables = self._store.read(tablesizes.sizes)

    def look(self, now: float) -> dict[str, int]:
        """Look once, and delete what is too much. `now`: Unix seconds. Returns the rows by table. Raises StoreError; what was deleted
        before stays deleted."""
        self.used = self._store.read(cost.used)
        if not self._bound:
            return {}
        room = self._store.read(cost.room, self._bound)
        if self.used > room and self._store.path is None:
            self._store.call(cost.analyze, history=True)
            self.used = self._store.read(cost.used)
        gone, oldest, full = self._shrink(now, room) if self.used > room else ({}, "", False)
        if gone:
            self._say(gone, oldest)
        if full:
            self._trouble.goes_on(f"the database {self._store.name} is larger than {format_size(self._bound)} ([database] max_size), and "
                                  "all that may go early is gone: allow more, or shorten [database] retain_days and retain_events")
        else:
            self._trouble.is_over()
        return gone

    def _shrink(self, now: float, room: int) -> tuple[dict[str, int], str, bool]:
        """Returns the rows by table, the instant that history now begins before, and whether that was not enough."""
        sizes = self._store.read(cost.row_sizes)
        gone: dict[str, int] = {}
        oldest = ""
        for _ in range(_MOST_BATCHES):
            found = self._store.read(cost.first_to_go, now)
            if found is None:
                return gone, oldest, True
            kept, oldest = found
            name = kept.model._meta.table_name
            count = self._store.call(cost.drop, kept, now, patience=_PATIENCE, history=True)
            gone[name] = gone.get(name, 0) + count
            self.dropped[name] = self.dropped.get(name, 0) + count
            gevent.sleep(_PAUSE)
            self.used = self._store.read(cost.used) if self._store.path is not None else self.used - round(count * sizes.get(name, 0))
            if self.used <= room:
                break
        return gone, oldest, False

    def _say(self, gone: dict[str, int], oldest: str) -> None:
        rows = ", ".join(f"{count} {table}" for table, count in sorted(gone.items()))
        if clock.now() - self._said_at < _SAID_AGAIN:
            log.info("dropped %s: the database has %s ([database] max_size)", rows, format_size(self._bound))
            return
        self._said_at = clock.now()
        log.warning("the database %s is as large as it may be (%s, [database] max_size): its oldest history goes before its time, now up "
                    "to %s (%s)", self._store.name, format_size(self._bound), oldest, rows)
        self._bus.publish("history_dropped", {"max_size": self._bound, "rows": sum(gone.values()), "tables": sorted(gone), "up_to": oldest})
