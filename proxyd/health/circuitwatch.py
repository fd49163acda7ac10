"""Turns the circuits' transitions, which workers and checker leave in shared memory, into events and rows."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any

from peewee import chunked, fn

from proxyd.base import clock
from proxyd.base.jobs import Glance, Job
from proxyd.base.text import rfc3339, route_number
from proxyd.events.bus import EventBus
from proxyd.store.memory.circuits import CircuitBoard, CircuitSlot, LoggedTransition
from proxyd.store.memory.transitions import CLOSED, OPEN, STATE_NAMES
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.models import Route, StoredCounter
from proxyd.store.sql.observed import Circuit, CircuitTransition
from proxyd.store.sql.query import dicts
from proxyd.store.sql.upsert import upsert

log = logging.getLogger("proxyd.health")

_TICK = 0.02
_REFRESH = 0.5
#: Seconds between two searches through all slots. A search takes a few milliseconds.
_SEARCH = 0.9
#: Seconds after which the rows of circuits that are not closed are written again: the leader drops those of a host that it takes for dead.
_AGAIN = 5.0
_COUNTER = "circuit_sequence"


class CircuitWatch:
    """Reads the ring's sequence number fifty times a second, which is one memory access.

    `claims`: whether this process gives slots to routes; else the database says which are taken.
    """

    def __init__(self, store: Store, bus: EventBus, circuits: CircuitBoard, claims: bool = True) -> None:
        self._store = store
        self._bus = bus
        self._circuits = circuits
        self._host = circuits.host
        self._claims = claims
        # On an SQLite database there is no other host.
        self._told: dict[str, Any] = {"host": circuits.host} if store.path is None else {}
        self._seen = 0
        self._waiting: list[LoggedTransition] = []
        self._live: dict[int, _Row] = {}
        # Two jobs, so that an event never waits for the database. A transition is written at once, the counts of circuits now and
        # then.
        self._glance = Glance(_TICK, self._look)
        self._events = Job("circuit-events", None, self._follow, log, trouble="circuit transitions")
        self._rows = Job("circuit-rows", _REFRESH, self._write, log, wakes=True, gap=_TICK, retry=_REFRESH, expected=StoreError,
                         trouble="circuit rows wait", level=logging.DEBUG)
        self.jobs = (self._events, self._rows)
        self._searched = self._renewed = 0.0
        # On an SQLite database all rows are this host's, which may have been called something else before.
        self._renamed = store.path is not None

    def start(self) -> None:
        """Continue after the last transition that the database has."""
        found = self._store.read(_last_sequence, self._counter())
        # A host that comes to a database which others use already has no history there.
        self._seen = found if found is not None else self._circuits.sequence if self._told else 0
        if self._seen > self._circuits.sequence:
            # The shared memory is new, and counts from the beginning.
            self._seen = 0
        # Watch the circuits of rows that the last master left, too. After a reboot those rows would stay wrong otherwise.
        for row in self._store.read(_left_behind, self._host):
            self._live[route_number(row["route_id"])] = _Row(row["slot"], row["reason"])
        self._glance.start()
        for job in self.jobs:
            job.start()

    def stop(self) -> None:
        """Watch no more."""
        self._glance.stop()
        for job in self.jobs:
            job.stop()

    def _counter(self) -> str:
        return f"{_COUNTER}/{self._host}" if self._told else _COUNTER

    def _look(self) -> None:
        """Called by the event loop."""
        if self._circuits.sequence > self._seen:
            self._events.wake()

    def _follow(self) -> None:
        if self._circuits.sequence > self._seen:
            self._tell()

    def _tell(self) -> None:
        for transition in self._circuits.transitions(self._seen):
            before, after = STATE_NAMES[transition.before], STATE_NAMES[transition.after]
            route_id = f"r{transition.number}"
            log.log(logging.WARNING if transition.after == OPEN else logging.INFO, "circuit of %s is %s (was %s): %s", route_id, after,
                    before, transition.reason)
            data = {"state": after, "from": before, "to": after, "reason": transition.reason, **self._told}
            self._bus.publish("circuit_state_changed", data, route_id, at=clock.shown(transition.at))
            self._waiting.append(transition)
            self._live[transition.number] = _Row(transition.slot, transition.reason)
            self._seen = transition.sequence
        self._rows.wake()

    def _write(self) -> None:
        """Write rows of the transitions, and the current rows of all circuits that were ever open or had failures counted."""
        if self._renamed:
            # Not at the start, which a database that is locked must not keep.
            self._store.call(drop_others, {self._host})
            self._renamed = False
        if time.monotonic() - self._searched >= _SEARCH:
            self._searched = time.monotonic()
            self._circuits.keep_time()
            taken = self._circuits.claimed if self._claims else self._store.read(_slots)
            for slot, number in self._circuits.busy(taken):
                if number not in self._live:
                    self._live[number] = _Row(slot, "")
            if self._told and time.monotonic() - self._renewed >= _AGAIN:
                self._renewed = time.monotonic()
                for known in self._live.values():
                    known.facts = known.facts if known.facts[:1] == (CLOSED,) else ()
        rows = {}
        for number, known in self._live.items():
            slot_now = self._circuits.read(known.slot, number)
            facts = (slot_now.state, slot_now.failures, slot_now.successes, slot_now.opened_at, slot_now.next_attempt, slot_now.changed_at)
            if known.facts != facts:
                known.facts = facts
                rows[number] = {"host": self._host, **_row(number, slot_now, known.reason)}
        if not rows and not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        try:
            slots = self._store.call(_write_rows, self._host, list(rows.values()), waiting, (self._counter(), self._seen), patience=0.25)
        except StoreError:
            self._waiting = waiting + self._waiting
            for known in self._live.values():
                known.facts = ()
            raise
        for number in rows:
            self._settle(number, slots.get(f"r{number}"))

    def _settle(self, number: int, slot: int | None) -> None:
        """After a row was written: forget a circuit whose route is gone, or whose route now has another slot."""
        known = self._live[number]
        if slot == known.slot:
            return
        self._circuits.retire(known.slot, number)
        if slot is None:
            del self._live[number]
        else:
            self._live[number] = _Row(slot, known.reason)


@dataclass(slots=True)
class _Row:
    """A circuit that has a row: its slot, the reason of its last change, and the facts that were written."""

    slot: int
    reason: str
    facts: tuple[Any, ...] = ()


def _row(number: int, slot: CircuitSlot, reason: str) -> dict[str, Any]:
    return {
        "route_id": f"r{number}", "state": STATE_NAMES[slot.state], "reason": reason, "failures": slot.failures,
        "successes": slot.successes, "opened_at": rfc3339(clock.shown(slot.opened_at)) if slot.state and slot.opened_at else None,
        "last_failure": rfc3339(clock.shown(slot.last_failure)) if slot.last_failure else None,
        "next_attempt": rfc3339(clock.shown(slot.next_attempt)) if slot.state == OPEN and slot.next_attempt else None,
        "changed_at": rfc3339(clock.shown(slot.changed_at or clock.now()))}


def _left_behind(host: str) -> list[dict[str, Any]]:
    return dicts(Circuit.select(Circuit.route_id, Circuit.reason, Route.slot).join(Route, on=Circuit.route_id == Route.route_id)
                 .where(Circuit.host == host, (Circuit.state != STATE_NAMES[CLOSED]) | (Circuit.failures > 0)))


def drop_others(hosts: set[str]) -> None:
    """Drop the circuits of all hosts but these: nobody goes by them. In a transaction of the store's."""
    Circuit.delete().where(Circuit.host.not_in(list(hosts))).execute()


def _last_sequence(counter: str) -> int | None:
    row = StoredCounter.get_or_none(StoredCounter.name == counter)
    return row.value if row else None


def _slots() -> int:
    return (Route.select(fn.MAX(Route.slot)).scalar() or 0) + 1


def _write_rows(host: str, rows: list[dict[str, Any]], transitions: list[LoggedTransition], seen: tuple[str, int]) -> dict[str, int]:
    """Write, and up to which transition all were `seen` (a counter's name and value). Returns the slots of the routes that rows are about,
    without those that are gone."""
    slots: dict[str, int] = {}
    for ids in chunked([row["route_id"] for row in rows], 400):
        found = dicts(Route.select(Route.route_id, Route.slot).where(Route.route_id.in_(ids)))
        slots.update((row["route_id"], row["slot"]) for row in found)
    upsert(Circuit, [row for row in rows if row["route_id"] in slots])
    upsert(CircuitTransition, [
        {"route_id": f"r{item.number}", "at": rfc3339(item.at), "from_state": STATE_NAMES[item.before],
         "to_state": STATE_NAMES[item.after], "reason": item.reason, "host": host} for item in transitions])
    upsert(StoredCounter, [dict(zip(("name", "value"), seen, strict=True))])
    return slots
