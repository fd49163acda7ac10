"""How health drives circuits: a target that is down opens the circuits of its routes, before users fail; one that is back
half-opens them, and real requests prove it; where none come, lasting health closes them."""

from __future__ import annotations

from dataclasses import dataclass

from proxyd.base.text import route_number
from proxyd.config.options import RouteOptions
from proxyd.health.thresholds import DOWN, UNKNOWN, Standing
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.memory.transitions import CLOSED, OPEN
from proxyd.store.sql.snapshot import RouteRecord


@dataclass(frozen=True, slots=True)
class CheckedRoute:
    """A route whose target is checked. `live`: requests go to its backend, since it is neither in maintenance nor without its
    session."""

    route_id: str
    slot: int
    options: RouteOptions
    live: bool

    @property
    def number(self) -> int:
        """The number in the route id, by which the shared memory knows it."""
        return route_number(self.route_id)


def watch(record: RouteRecord, options: RouteOptions) -> CheckedRoute:
    """What is watched of a route's record."""
    return CheckedRoute(record.route_id, record.slot, options, record.enabled and not record.maintenance_since)


def drive(circuits: CircuitBoard, watched: CheckedRoute, standing: Standing, ok: bool, now: float) -> None:
    """What a result, and where the target stands with it, mean for the circuit of a route at `now` (Unix seconds)."""
    slot, number = watched.slot, watched.number
    state = circuits.state(slot, number)
    if standing.status == DOWN:
        # A service that restarts in its maintenance, or before it reconnects, is expected to be down.
        if watched.live and (state != OPEN or not circuits.read(slot, number).by_health):
            circuits.move(slot, number, "health_down", now)
        return
    if not ok or state == CLOSED:
        return
    circuit = circuits.read(slot, number)
    if state == OPEN:
        if circuit.by_health:
            circuits.move(slot, number, "health_recovered", now)
        elif now >= circuit.next_attempt:
            circuits.move(slot, number, "health_check_passed", now)
        return
    options = watched.options
    rise = options.health_rise
    if standing.successes < 2 * rise or now - circuit.changed_at < 2 * rise * options.health_check_interval:
        return
    circuit.forget_lost_trials(options.connect_timeout + options.timeout, now)
    if not circuit.trials:
        circuits.move(slot, number, "health_checks_passed", now)


def join(circuits: CircuitBoard, watched: CheckedRoute, standing: Standing, now: float) -> None:
    """What it means for the circuit of a route that its target is checked from now on, and where that stands already."""
    if standing.status == DOWN:
        drive(circuits, watched, standing, False, now)
    elif standing.status != UNKNOWN and circuits.read(watched.slot, watched.number).by_health:
        circuits.move(watched.slot, watched.number, "health_recovered", now)


def release(circuits: CircuitBoard, record: RouteRecord, now: float) -> None:
    """No check drives the route's circuit any more: what a check held open must not stay so."""
    number = route_number(record.route_id)
    if circuits.read(record.slot, number).by_health:
        circuits.move(record.slot, number, "check_removed", now)
