"""Writes into the database what only the master knows, so that SQL can ask for it: what is unwell, and the objectives of services."""

from __future__ import annotations

import logging

from proxyd.base.jobs import Job, Working
from proxyd.store.memory.board import Board
from proxyd.store.sql import ledger
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.wellness import Wellness

log = logging.getLogger("proxyd.master")

_PERIOD, _FIRST = 2.0, 1.0
_PATIENCE = 0.25


class Ledger(Working):
    """A job that looks every two seconds, and writes only what changed."""

    def __init__(self, store: Store, board: Board, wellness: Wellness) -> None:
        self._store, self._board, self._wellness = store, board, wellness
        #: What was written last.
        self._unwell: list[ledger.Row] | None = None
        self._version = -1
        self.jobs = (Job("ledger", _PERIOD, self.look, log, first=_FIRST, retry=_PERIOD, expected=StoreError,
                         trouble="what is unwell can't be written into the database", level=logging.DEBUG),)

    def look(self) -> None:
        """Look once. Raises StoreError."""
        rows = ledger.rows_of(self._wellness.findings())
        if rows != self._unwell:
            self._store.call(ledger.write_unwell, rows, patience=_PATIENCE, history=True)
            self._unwell = rows
        version = self._board.version
        if version != self._version:
            self._store.call(ledger.write_objectives, patience=_PATIENCE)
            self._version = version
