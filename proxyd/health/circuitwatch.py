"""The circuits' transitions, which workers and checker leave in shared memory, become events and rows."""

from __future__ import annotations

import logging
import time
from typing import Any

import gevent

from proxyd.store.bus import EventBus
from proxyd.store.circuits import CLOSED, OPEN, STATE_NAMES, CircuitBoard, Transition
from proxyd.store.database import Store, StoreError
from proxyd.store.models import Circuit, CircuitTransition, Counter, Route
from proxyd.store.query import column, dicts
from proxyd.store.upsert import upsert
from proxyd.text import rfc3339

log = logging.getLogger("proxyd.health")

_TICK = 0.02
_REFRESH = 0.5
_COUNTER = "circuit_sequence"


class CircuitWatch:
    """Looks at the ring's sequence number fifty times a second: a memory access."""

    def __init__(self, store: Store, bus: EventBus, circuits: CircuitBoard) -> None:
        self._store = store
        self._bus = bus
        self._circuits = circuits
        self._seen = 0
        self._waiting: list[Transition] = []
        self._live: dict[int, Transition] = {}
        self._shown: dict[int, tuple[Any, ...]] = {}
        self._greenlets: list[gevent.Greenlet] = []

    def start(self) -> None:
        """Go on behind the last transition that the database has."""
        self._seen = self._store.read(_last_sequence)
        if self._seen > self._circuits.sequence:
            # The shared memory is new: it counts from the beginning.
            self._seen = 0
        # Rows that the last master left must not outlive what they told of, as they would after a reboot.
        self._live = {int(row["route_id"][1:]): Transition(0, row["slot"], int(row["route_id"][1:]), 0.0, 0, 0, row["reason"])
                      for row in self._store.read(_not_closed)}
        # Two, so that an event never waits for the database.
        self._greenlets = [gevent.spawn(self._follow), gevent.spawn(self._keep)]

    def stop(self) -> None:
        """Watch no more."""
        for greenlet in self._greenlets:
            greenlet.kill()

    def _follow(self) -> None:
        while True:
            gevent.sleep(_TICK)
            try:
                if self._circuits.sequence > self._seen:
                    self._tell()
            except Exception:
                log.exception("circuit transitions")
                gevent.sleep(1.0)

    def _keep(self) -> None:
        while True:
            gevent.sleep(_REFRESH)
            try:
                self._write()
            except StoreError as error:
                log.debug("circuit rows wait: %s", error)
            except Exception:
                log.exception("circuit transitions")
                gevent.sleep(1.0)

    def _tell(self) -> None:
        for transition in self._circuits.transitions(self._seen):
            before, after = STATE_NAMES[transition.before], STATE_NAMES[transition.after]
            route_id = f"r{transition.number}"
            log.log(logging.WARNING if transition.after == OPEN else logging.INFO, "circuit of %s is %s (was %s): %s", route_id, after,
                    before, transition.reason)
            self._bus.publish("circuit_state_changed", {"state": after, "from": before, "to": after, "reason": transition.reason},
                              route_id, at=transition.at)
            self._waiting.append(transition)
            self._live[transition.number] = transition
            self._seen = transition.sequence

    def _write(self) -> None:
        """Rows of the transitions, and of the circuits that ever changed, as they are now."""
        rows = []
        for number, transition in self._live.items():
            slot = self._circuits.read(transition.slot, number)
            facts = (slot.state, slot.failures, slot.successes, slot.opened_at, slot.next_attempt, slot.changed_at)
            if self._shown.get(number) != facts:
                self._shown[number] = facts
                rows.append({
                    "route_id": f"r{number}", "state": STATE_NAMES[slot.state], "reason": transition.reason,
                    "failures": slot.failures, "successes": slot.successes,
                    "opened_at": rfc3339(slot.opened_at) if slot.state and slot.opened_at else None,
                    "last_failure": rfc3339(slot.last_failure) if slot.last_failure else None,
                    "next_attempt": rfc3339(slot.next_attempt) if slot.state == OPEN and slot.next_attempt else None,
                    "changed_at": rfc3339(slot.changed_at or time.time())})
        if not rows and not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        try:
            gone = self._store.call(_write_rows, rows, waiting, self._seen, patience=0.25)
        except StoreError:
            self._waiting = waiting + self._waiting
            self._shown.clear()
            raise
        for route_id in gone:
            self._live.pop(int(route_id[1:]), None)
            self._shown.pop(int(route_id[1:]), None)


def _not_closed() -> list[dict[str, Any]]:
    return dicts(Circuit.select(Circuit.route_id, Circuit.reason, Route.slot).join(Route, on=Circuit.route_id == Route.route_id)
                 .where(Circuit.state != STATE_NAMES[CLOSED]))


def _last_sequence() -> int:
    row = Counter.get_or_none(Counter.name == _COUNTER)
    return row.value if row else 0


def _write_rows(rows: list[dict[str, Any]], transitions: list[Transition], sequence: int) -> list[str]:
    """Write; returns the ids of routes that are gone."""
    ids = [row["route_id"] for row in rows]
    alive = set(column(Route.select(Route.route_id).where(Route.route_id.in_(ids))))
    upsert(Circuit, [row for row in rows if row["route_id"] in alive])
    upsert(CircuitTransition, [
        {"route_id": f"r{item.number}", "at": rfc3339(item.at), "from_state": STATE_NAMES[item.before],
         "to_state": STATE_NAMES[item.after], "reason": item.reason} for item in transitions])
    upsert(Counter, [{"name": _COUNTER, "value": sequence}])
    return [route_id for route_id in ids if route_id not in alive]
