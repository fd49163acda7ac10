"""The circuits of a host in shared memory: one slot a route, read by every worker on every request, and a ring of the
transitions, which the master turns into events and rows.

A read is a byte; a change takes the slot's lock for microseconds. Slots belong to routes through the route's
`slot` column; a slot that another route left behind starts afresh as closed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from proxyd.store.shared import SharedFile, put

CLOSED, OPEN, HALF_OPEN = 0, 1, 2
STATE_NAMES = ("closed", "open", "half_open")
#: A trial whose worker died is forgotten after this long beyond the time its request can take.
_TRIAL_LEASE = 5.0

SLOTS = 131072
_SLOT_SIZE = 128
_HEADER = 4096
_RING = 8192
_ENTRY = struct.Struct("<QQdBBHI32s")
_ENTRY_SIZE = 64
_SLOT = struct.Struct("<BBHIIIQdddddd")
_SEQUENCE = struct.Struct("<Q")
_SEQUENCE_AT = 64
_RING_AT = _HEADER + SLOTS * _SLOT_SIZE
_SIZE = _RING_AT + _RING * _ENTRY_SIZE
_RING_LOCK = SLOTS + 1
_HEALTH = 1


@dataclass(slots=True)
class CircuitSlot:
    """One circuit. Instants are Unix seconds, 0.0 for none; `by_health`: a health check opened it, so that only a
    health check (or a reset) lets it go on; `trials`: trial requests under way; `recovered_at`: when a health check
    last found the upstream well again after it was down."""

    state: int = CLOSED
    by_health: bool = False
    failures: int = 0
    successes: int = 0
    trials: int = 0
    number: int = 0
    opened_at: float = 0.0
    last_failure: float = 0.0
    next_attempt: float = 0.0
    changed_at: float = 0.0
    trial_at: float = 0.0
    recovered_at: float = 0.0

    def stale_trials(self, longest: float, now: float) -> bool:
        """Whether the trials under way are those of a worker that died: a request takes `longest` seconds at most."""
        return self.trials > 0 and now - self.trial_at > longest + _TRIAL_LEASE


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of state. `number` is that of the route id; `at` Unix seconds."""

    sequence: int
    slot: int
    number: int
    at: float
    before: int
    after: int
    reason: str


class CircuitBoard:
    """The circuits in `directory`; every process of the host maps the same file. Open it after fork."""

    def __init__(self, directory: str) -> None:
        self._file = SharedFile(os.path.join(directory, "proxyd.circuits"), _SIZE, b"circuit1")
        self._data = self._file.data

    @property
    def file(self) -> SharedFile:
        """The mapped file."""
        return self._file

    def state(self, slot: int, number: int) -> int:
        """The state alone, as cheaply as it can be had."""
        at = _HEADER + slot * _SLOT_SIZE
        state = self._data[at]
        if state and self._number(at) != number:
            return CLOSED
        return state

    def clean(self, slot: int) -> bool:
        """Whether the circuit is closed without any failure counted: then a success has nothing to change."""
        at = _HEADER + slot * _SLOT_SIZE
        return self._data[at:at + 8] == b"\0\0\0\0\0\0\0\0"

    def _number(self, at: int) -> int:
        number: int = _SEQUENCE.unpack_from(self._data, at + 16)[0]
        return number

    def read(self, slot: int, number: int) -> CircuitSlot:
        """The circuit as it is now, without waiting for anybody."""
        at = _HEADER + slot * _SLOT_SIZE
        state, by_health, _, *rest = _SLOT.unpack_from(self._data, at)
        found = CircuitSlot(state, bool(by_health & _HEALTH), *rest)
        return found if found.number == number else CircuitSlot(number=number)

    @contextmanager
    def changing(self, slot: int, number: int) -> Iterator[CircuitSlot]:
        """The circuit, to be changed inside `with` and written at its end; no switch of greenlets in between."""
        with self._file.lock(slot):
            found = self.read(slot, number)
            yield found
            put(self._data, _HEADER + slot * _SLOT_SIZE, _SLOT.pack(
                found.state, _HEALTH if found.by_health else 0, 0, found.failures, found.successes, found.trials, number,
                found.opened_at, found.last_failure, found.next_attempt, found.changed_at, found.trial_at, found.recovered_at))

    def note(self, slot: int, number: int, before: int, after: int, reason: str, now: float) -> None:
        """Put a transition into the ring."""
        with self._file.lock(_RING_LOCK):
            sequence = self.sequence + 1
            at = _RING_AT + (sequence % _RING) * _ENTRY_SIZE
            put(self._data, at, _ENTRY.pack(sequence, number, now, before, after, 0, slot, reason.encode()[:32]))
            put(self._data, _SEQUENCE_AT, _SEQUENCE.pack(sequence))

    @property
    def sequence(self) -> int:
        """The number of the last transition."""
        value: int = _SEQUENCE.unpack_from(self._data, _SEQUENCE_AT)[0]
        return value

    def transitions(self, after: int) -> list[Transition]:
        """The transitions behind sequence number `after`, oldest first; the ring keeps the last 8192."""
        last = self.sequence
        found = []
        for sequence in range(max(after, last - _RING) + 1, last + 1):
            at = _RING_AT + (sequence % _RING) * _ENTRY_SIZE
            written, number, when, before, state, _, slot, reason = _ENTRY.unpack_from(self._data, at)
            if written == sequence:
                text = reason.rstrip(b"\0").decode("ascii", "replace")
                found.append(Transition(sequence, slot, number, when, before, state, text))
        return found

    def move(self, slot: int, number: int, after: int, reason: str, now: float, by_health: bool = False,
             only_from: tuple[int, ...] = (CLOSED, OPEN, HALF_OPEN)) -> bool:
        """Put the circuit into state `after` from outside the request path (health, reset); whether it changed."""
        with self.changing(slot, number) as circuit:
            before = circuit.state
            if before not in only_from:
                return False
            circuit.by_health = by_health
            circuit.trials = 0
            circuit.successes = 0
            if after == OPEN:
                circuit.opened_at = now
                circuit.last_failure = now
                circuit.next_attempt = 0.0
            elif after == CLOSED:
                circuit.failures = 0
                circuit.opened_at = circuit.next_attempt = 0.0
            else:
                circuit.failures = 0
                circuit.next_attempt = 0.0
            circuit.state = after
            if before != after:
                circuit.changed_at = now
                if before == OPEN:
                    circuit.recovered_at = now
        if before != after:
            self.note(slot, number, before, after, reason, now)
        return before != after

    def forget(self, slot: int) -> None:
        """Make the slot as new, for the next route that gets it."""
        at = _HEADER + slot * _SLOT_SIZE
        with self._file.lock(slot):
            self._data[at:at + _SLOT_SIZE] = bytes(_SLOT_SIZE)

    def close(self) -> None:
        """Unmap."""
        self._data = memoryview(b"")  # type: ignore[assignment]
        self._file.close()
