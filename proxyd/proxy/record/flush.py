"""Writes a worker's counts to the database, twice a second and in one transaction, or has the master write them. A database that is
locked or full delays this, but no request."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proxyd.base.jobs import Job
from proxyd.base.trouble import Trouble
from proxyd.store.sql.database import Store, StoreBusy, StoreError

if TYPE_CHECKING:
    from proxyd.store.memory.board import Board
    from proxyd.store.sql.outbox import Outbox

log = logging.getLogger("proxyd.proxy")

PERIOD = 0.5
_PATIENCE = 0.25
#: How long a worker that stops waits for the master.
_LAST_PATIENCE = 0.5


def _write(batches: list[Any]) -> None:
    for batch in batches:
        batch.write()


class Flusher:
    """Takes batches from the counters, writes them, and posts on the board up to when.

    `sources`: pairs of functions. The first takes a batch (None if there is nothing to write). The second gives back a batch that
    could not be written. `outbox`: the way of the batches through the master; None: they are written here.
    """

    def __init__(self, store: Store, board: Board, sources: Sequence[tuple[Callable[[], Any], Callable[[Any], None]]],
                 outbox: Outbox | None = None) -> None:
        self._store = store
        self._board = board
        self._sources = sources
        self._outbox = outbox
        self._trouble = Trouble(log, "counters are kept in memory", logging.ERROR)
        self._job = Job("counters", PERIOD, self.flush, log, retry=PERIOD, trouble="counters could not be written")

    def start(self) -> None:
        """Begin to write every half second."""
        self._job.start()

    def stop(self) -> None:
        """Write what is left, once."""
        self._job.stop()
        self.flush(_LAST_PATIENCE)

    def flush(self, patience: float | None = None) -> None:
        """Write what has been counted. What can't be written is kept for the next time. `patience`: how long to wait for the master,
        None: until it has written."""
        taken = time.monotonic()
        taken_from = [(give_back, batch) for take, give_back in self._sources if (batch := take()) is not None]
        if not taken_from:
            self._board.count(taken)
            return
        try:
            batches = [batch for _, batch in taken_from]
            if self._outbox is not None:
                self._outbox.write(batches, patience)
            else:
                self._store.call(_write, batches, patience=_PATIENCE)
        except Exception as error:
            for give_back, batch in taken_from:
                give_back(batch)
            if not isinstance(error, StoreError):
                raise
            if not isinstance(error, StoreBusy):
                self._trouble.goes_on(error)
        else:
            self._trouble.is_over()
            self._board.count(taken)
