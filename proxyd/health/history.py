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

_PERIOD, _LONGEST_PERIOD = 1.0, 60.0
#: Endpoints for whose sums one second between two batches is enough.
_A_SECOND = 500
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
        self._services_at = 0.0
        self.job = Job("health-history", _PERIOD, self._write, log, expected=StoreError, trouble="incidents wait for the database")

    def load(self) -> None:
        """Go on with the incidents that the last master left. Raises StoreError."""
        left = self._store.read(incidents.left)
        self.outages.resume(left.next_id, left.rows)

    def stop(self) -> None:
        """Write what is left."""
        self.job.stop()
        self._services_at = 0.0
        try:
            self._write()
        except StoreError as error:
            log.warning("the last incidents are not written: %s", error)

    def _write(self) -> float:
        """Write what changed. Returns the seconds until the next batch."""
        now = clock.now()
        services: list[ServiceSums] = []
        if now - self._services_at >= _SERVICES:
            services, self._services_at = self.outages.service_sums(now), now
        self._waiting.append((rfc3339(clock.shown(now)), self.outages.sums(now), services))
        while sum(len(sums) + len(services) for _, sums, services in self._waiting[1:]) > _MOST_WAITING:
            del self._waiting[0]
        size = 0
        while self._waiting:
            at, sums, services = self._waiting[0]
            changed, self.outages.changed = self.outages.changed, {}
            if changed or sums or services:
                try:
                    self._store.call(incidents.write, [dict(row) for row in changed.values()], sums, at, services, patience=_PATIENCE,
                                     history=True)
                except StoreError:
                    self.outages.give_back(changed)
                    raise
            size = max(size, len(sums))
            del self._waiting[0]
        return min(max(_PERIOD, size / _A_SECOND), _LONGEST_PERIOD)
