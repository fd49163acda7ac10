"""Keeps the certificates in a file, with which workers start where the database can't be read (`store/sql/keptcerts.py`)."""

from __future__ import annotations

import logging
import os

from gevent import get_hub

from proxyd.base.jobs import Job
from proxyd.base.threads import in_thread
from proxyd.store.memory.board import Board
from proxyd.store.sql import certificates, keptcerts
from proxyd.store.sql.database import Store, StoreError

log = logging.getLogger("proxyd.master")

_PERIOD = 1.0


class CertificateKeeper:
    """A job that writes the file in `directory` after a change, and where somebody has removed it. Challenges change the version, too,
    so it is written only where certificates are others than before."""

    def __init__(self, enabled: bool, store: Store, board: Board, directory: str) -> None:
        self._enabled = enabled
        self._store = store
        self._board = board
        self._path = os.path.join(directory, keptcerts.NAME)
        self._seen = -1
        self._written: frozenset[tuple[str, str, str]] | None = None
        self._job = Job("kept-certificates", _PERIOD, self._look, log, retry=_PERIOD, expected=(OSError, StoreError),
                        trouble="the certificates can't be kept in a file, and workers can't start with them without the database")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin, if there can be certificates."""
        if self._enabled:
            self._job.start()

    def stop(self) -> None:
        """End."""
        self._job.stop()

    def _look(self) -> None:
        there = os.path.exists(self._path)
        if self._board.certificates == self._seen and there:
            return
        seen = self._board.certificates
        serials = self._store.read(certificates.serials)
        if serials != self._written or not there:
            if len(serials) > keptcerts.MOST:
                log.warning("only the first %d certificates are kept in %s", keptcerts.MOST, self._path)
            in_thread(get_hub().threadpool, keptcerts.write, self._path, self._store.read(certificates.news, 0))
            self._written = serials
        self._seen = seen
