"""What a worker counted goes to the database, twice a second and in one transaction; a database that is locked or full
delays it, and requests notice nothing."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import gevent

from proxyd.store.sql.database import Store, StoreBusy, StoreError

if TYPE_CHECKING:
    from proxyd.proxy.gates.ratelimit import RateLimiter
    from proxyd.proxy.record.slow import Rows
    from proxyd.proxy.record.stats import Stats
    from proxyd.store.memory.board import Board

log = logging.getLogger("proxyd.proxy")

PERIOD = 0.5
_PATIENCE = 0.25


def _write(batches: list[Any]) -> None:
    for batch in batches:
        batch.write()


class Flusher:
    """Takes batches from the counters and writes them; the board says up to when."""

    def __init__(self, store: Store, board: Board, stats: Stats, rows: Rows, limiter: RateLimiter) -> None:
        self._store = store
        self._board = board
        self._stats = stats
        self._rows = rows
        self._limiter = limiter
        self._failing = False
        self._greenlet: gevent.Greenlet | None = None

    def start(self) -> None:
        """Begin to write every half second."""
        self._greenlet = gevent.spawn(self._run)

    def stop(self) -> None:
        """Write what is left, once."""
        if self._greenlet is not None:
            self._greenlet.kill()
        self.flush()

    def _run(self) -> None:
        while True:
            gevent.sleep(PERIOD)
            try:
                self.flush()
            except Exception:
                log.exception("counters could not be written")

    def flush(self) -> None:
        """Write what there is; what can't be written is kept for the next time."""
        taken = time.monotonic()
        sources: list[tuple[Any, Any]] = [
            (self._stats, self._stats.take(time.time())), (self._rows, self._rows.take()), (self._limiter, self._limiter.take())]
        batches = [batch for _, batch in sources if batch is not None]
        if not batches:
            self._board.count(taken)
            return
        try:
            self._store.call(_write, batches, patience=_PATIENCE)
        except Exception as error:
            for source, batch in sources:
                if batch is not None:
                    source.give_back(batch)
            if not isinstance(error, StoreError):
                raise
            if not self._failing and not isinstance(error, StoreBusy):
                self._failing = True
                log.error("counters are kept in memory: %s", error)
        else:
            self._failing = False
            self._board.count(taken)
