"""Health as another host has found it: the leader checks for all hosts (`[health] from = leader`), and each of the others moves its own
circuits by what the leader says of each target."""

from __future__ import annotations

import logging

from proxyd.base import clock
from proxyd.base.jobs import Job, Working
from proxyd.base.text import route_number
from proxyd.health.thresholds import DOWN
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, OPEN
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.models import Route
from proxyd.store.sql.observed import HealthStatus
from proxyd.store.sql.query import tuples

log = logging.getLogger("proxyd.health")

#: Seconds between two looks at what the leader says.
_PERIOD = 0.5
#: Slot and number of a route.
_Place = tuple[int, int]


class HealthOfLeader(Working):
    """A job that moves the circuits of this host."""

    def __init__(self, store: Store, circuits: CircuitBoard) -> None:
        self._store = store
        self._circuits = circuits
        #: The circuits that a health check holds open here; None before the first look.
        self._held: set[_Place] | None = None
        self.jobs = (Job("health-of-leader", _PERIOD, self._look, log, first=0.0, expected=StoreError,
                         trouble="the health that the leader has found can't be read"),)

    def _look(self) -> None:
        slots, rows = self._store.read(_down)
        down = {(slot, number) for route_id, slot in rows if (number := route_number(route_id))}
        circuits, now = self._circuits, clock.now()
        if self._held is None:
            # The leader may have changed its mind while this host's master was away.
            self._held = {place for place in circuits.busy(slots) if circuits.read(*place).by_health}
        for slot, number in down:
            if circuits.state(slot, number) != OPEN or not circuits.read(slot, number).by_health:
                circuits.move(slot, number, "health_down", now)
        for slot, number in self._held - down:
            if circuits.state(slot, number) != CLOSED and circuits.read(slot, number).by_health:
                circuits.move(slot, number, "health_recovered", now)
        self._held = down


def _down() -> tuple[int, list[tuple[str, int]]]:
    """How many slots are taken, and id and slot of the routes that are down and get requests: a service in maintenance, or that is not
    back yet, is expected to be down. Runs in the database thread."""
    query = HealthStatus.select(HealthStatus.route_id, Route.slot).join(Route, on=Route.route_id == HealthStatus.route_id).where(
        HealthStatus.status == DOWN, Route.enabled == True, Route.maintenance_since.is_null())  # noqa: E712
    last = Route.select(Route.slot).order_by(Route.slot.desc()).first()
    return (last.slot + 1 if last is not None else 0), [(route_id, slot) for route_id, slot in tuples(query)]
