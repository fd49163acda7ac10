"""Keeps the lead over a PostgreSQL database, or ends the master that has lost it."""

from __future__ import annotations

import logging
from collections.abc import Callable

from proxyd.base.jobs import Job, JobOver, Working
from proxyd.store.sql.database import StoreError
from proxyd.store.sql.leadership import Leadership, LeadLost

log = logging.getLogger("proxyd.master")

_PERIOD = 0.5


class LeadWatch(Working):
    """A job that asks twice a second. `stop`: called when another master leads."""

    def __init__(self, leadership: Leadership | None, stop: Callable[[], None]) -> None:
        self._leadership = leadership
        self._end = stop
        job = Job("leadership", _PERIOD, self._look, log, retry=_PERIOD, expected=StoreError,
                  trouble="nobody knows whether this master still leads; it changes nothing meanwhile")
        #: None where a lock file decides who is the master.
        self.jobs = (job,) if leadership is not None else ()

    def _look(self) -> None:
        assert self._leadership is not None
        try:
            self._leadership.keep()
        except LeadLost as error:
            log.critical("another master leads (%s): this one ends, and waits until the lead is free", error)
            self._end()
            raise JobOver from None
