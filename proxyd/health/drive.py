"""How health drives circuits. A target that is down opens the circuits of its routes, before requests fail. A target that is
back half-opens them, and requests then prove it. If no requests come, lasting health closes them."""

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
    """A route whose target is checked. `live`: whether requests go to its backend, because it has its session and is not in
    maintenance."""

    route_id: str
    slot: int
    options: RouteOptions
    live: bool

    @property
    def number(self) -> int:
        """The number in the route id, by which the shared memory knows it."""
        return route_number(self.route_id)


def watch(record: RouteRecord, options: RouteOptions) -> CheckedRoute:
    """The part of a route's record that the checker watches."""
    return CheckedRoute(record.route_id, record.slot, options, record.enabled and not record.maintenance_since)


def drive(circuits: CircuitBoard, watched: CheckedRoute, standing: Standing, ok: bool, now: float) -> None:
    """Move a route's circuit as a check's result, and the target's standing after it, demand. `now`: an instant of `base.clock`."""
    slot, number = watched.slot, watched.number
    state = circuits.state(slot, number)
    if standing.status == DOWN:
        # A service that restarts during maintenance, or that has not reconnected yet, is expected to be down.
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
    """Move a route's circuit when its target begins to be checked, as the target's present standing demands."""
    if standing.status == DOWN:
        drive(circuits, watched, standing, False, now)
    elif standing.status != UNKNOWN and circuits.read(watched.slot, watched.number).by_health:
        circuits.move(watched.slot, watched.number, "health_recovered", now)


def release(circuits: CircuitBoard, record: RouteRecord, now: float) -> None:
    """Let go of the circuit of a route that is no longer checked: a circuit that health opened must not stay open."""
    number = route_number(record.route_id)
    if not circuits.clean(record.slot) and circuits.read(record.slot, number).by_health:
        circuits.move(record.slot, number, "check_removed", now)
