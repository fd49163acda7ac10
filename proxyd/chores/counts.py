"""Writes for the workers: what they counted, and the rows that say that they live. A worker that is stopped holds no lock then."""

from __future__ import annotations

import logging
import time

from proxyd.base import clock
from proxyd.base.hosts import BOOT
from proxyd.base.jobs import Job, Working
from proxyd.base.text import rfc3339
from proxyd.store.memory.board import Board
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.observed import Worker
from proxyd.store.sql.outbox import Intake
from proxyd.store.sql.upsert import upsert

log = logging.getLogger("proxyd.master")

_PERIOD, _HEARTBEAT = 0.05, 1.0
_PATIENCE = 0.25
#: After counts that took some time to write, the next ones may wait this many times as long, and so many seconds at most: those of a
#: thousand busy routes took an eighth of a processor, written twice a second. Workers sum up what they count meanwhile.
_REST, _LONGEST_REST = 20.0, 2.0


class Counts(Working):
    """Jobs for an SQLite database. Workers write to a database server themselves: there nobody waits for all others."""

    def __init__(self, store: Store, board: Board, directory: str, host: str) -> None:
        self._store = store
        self._board = board
        self._host = host
        self._intake = Intake(directory, store)
        self.jobs = () if store.path is None else (
            Job("counts", _PERIOD, self._take, log, retry=0.5, expected=StoreError, trouble="counts of workers wait for the database",
                level=logging.INFO),
            Job("workers", _HEARTBEAT, self._beat, log, first=0.0, retry=_HEARTBEAT, expected=StoreError,
                trouble="worker rows not written", level=logging.DEBUG))

    def stop(self) -> None:
        """End, and write what lies there."""
        super().stop()
        if self.jobs:
            try:
                self._intake.take(_PATIENCE)
            except StoreError as error:
                log.info("counts of workers wait for the next master: %s", error)

    def _take(self) -> float | None:
        began = time.monotonic()
        if not self._intake.take(_PATIENCE):
            return None
        return max(_PERIOD, min(_LONGEST_REST, _REST * (time.monotonic() - began)))

    def _beat(self) -> None:
        rows = [{"host": self._host, "boot": BOOT, "pid": worker.pid, "started_at": rfc3339(clock.shown(worker.started)),
                 "heartbeat_at": rfc3339(clock.shown(worker.heartbeat)), "config_version": worker.version}
                for worker in self._board.workers()]
        if rows:
            self._store.call(upsert, Worker, rows, patience=_PATIENCE, history=True)
