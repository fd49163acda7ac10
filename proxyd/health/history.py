"""Writes incidents and the sums of endpoints, in batches, as `HealthRecords` writes single checks."""

from __future__ import annotations

import logging

from proxyd.base import clock
from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.health.outages import Outages, ServiceSums, Sums
from proxyd.store.sql import incidents
from proxyd.store.sql.database import Store, StoreError

log = logging.getLogger("proxyd.health")

#: Seconds between two looks for incidents, and between two batches of sums: the shortest that suffices for so many endpoints.
_PERIOD = 1.0
_STEPS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0)
_A_SECOND = 170
#: Endpoints, or services, whose sums are written in one transaction.
_PIECE = 2000
_PATIENCE = 0.25
#: Seconds between two additions to the sums of services, which nobody looks at by the minute.
_SERVICES = 10.0
#: Sums that wait while the database can't be written; the oldest go first.
_MOST_WAITING = 100_000


class HealthHistory:
    """The outages, and the job that writes them."""

    def __init__(self, store: Store) -> None:
        self.outages = Outages()
        self._store = store
        self._waiting: list[tuple[str, list[Sums], list[ServiceSums]]] = []
        self._services_at = self._sums_at = self._last_sums = 0.0
        self.job = Job("health-history", _PERIOD, self.write, log, expected=StoreError, trouble="incidents wait for the database")

    def load(self) -> None:
        """Go on with the incidents that the last master left. Raises StoreError."""
        left = self._store.read(incidents.left)
        self.outages.resume(left.next_id, left.rows)

    def stop(self) -> None:
        """Write what is left."""
        self.job.stop()
        self._services_at = self._sums_at = 0.0
        try:
            self.write(last=True)
        except StoreError as error:
            log.warning("the last incidents are not written: %s", error)

    def write(self, last: bool = False) -> float:
        """Write what changed; nothing is left behind the `last` time. Returns the seconds until the next look. Raises StoreError; what was
        not written waits."""
        now = clock.now()
        if now >= self._sums_at:
            self._take_sums(now, last)
        while self._waiting or self.outages.changed:
            at, sums, services = self._waiting[0] if self._waiting else (rfc3339(clock.shown(now)), [], [])
            changed, self.outages.changed = self.outages.changed, {}
            if changed or sums or services:
                try:
                    self._store.call(incidents.write, [dict(row) for row in changed.values()], sums, at, services, patience=_PATIENCE,
                                     history=True)
                except StoreError:
                    self.outages.give_back(changed)
                    raise
            del self._waiting[:1]
        return _until_next(_PERIOD, clock.now())

    def _take_sums(self, now: float, last: bool) -> None:
        """Put the sums since the last time with what waits. They count for the instant in the middle, and are taken at ends of minutes if
        they are taken once a minute: so those of a minute count for that one."""
        at = rfc3339(clock.shown((now + (self._last_sums or now)) / 2))
        services: list[ServiceSums] = []
        if now - self._services_at >= _SERVICES:
            services, self._services_at = self.outages.service_sums(now, last), now
        sums = self.outages.sums(now, last)
        for first in range(0, max(len(sums), len(services)), _PIECE):
            self._waiting.append((at, sums[first:first + _PIECE], services[first:first + _PIECE]))
        while sum(len(sums) + len(services) for _, sums, services in self._waiting[1:]) > _MOST_WAITING:
            del self._waiting[0]
        self._last_sums = now
        self._sums_at = now + _until_next(next((step for step in _STEPS if step * _A_SECOND >= len(sums)), _STEPS[-1]), now)


def _until_next(step: float, now: float) -> float:
    """Seconds until the next multiple of a step, by the time of day."""
    return step - clock.shown(now) % step
