"""The circuits of a host in shared memory: one slot a route, read by every worker on every request, and a ring of the
transitions, which the master turns into events and rows.

Instants are those of `base.clock`. The file has them on a time line of its own, which begins with the file at the time of day, runs
evenly, and goes on over a restart of the machine: what is left of a wait then is known by the time of day.

A read is a byte; a change takes the slot's lock for microseconds. Slots belong to routes through the route's
`slot` column and the number in the slot: what a request of a route that is gone reports late must not change the circuit
of the route that has its slot now.
"""

from __future__ import annotations

import os
import re
import struct
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from proxyd.base import clock
from proxyd.base.processes import runs
from proxyd.store.memory.shared import CIRCUITS, SharedFile, put
from proxyd.store.memory.transitions import CLOSED, OPEN, TRANSITIONS

#: A trial that nobody reported is forgotten after this long beyond the time its request can take.
_TRIAL_LEASE = 5.0
#: The workers that carry trials are known by pid, of this many trials; the lease holds for all.
_MAX_HOLDERS = 8

SLOTS = 131072
_SLOT_SIZE = 128
_HEADER = 4096
_RING = 8192
_ENTRY = struct.Struct("<QQdBBHI32s")
_ENTRY_SIZE = 64
_SLOT = struct.Struct(f"<BBHIIIQdddddddIIII{_MAX_HOLDERS}I")
_NUMBER = struct.Struct("<Q")
_NUMBER_IN_SLOT = 16
_RECOVERED = struct.Struct("<d")
_RECOVERED_IN_SLOT = 64
_SEQUENCE = struct.Struct("<Q")
_SEQUENCE_AT = 64
_RING_AT = _HEADER + SLOTS * _SLOT_SIZE
_SIZE = _RING_AT + _RING * _ENTRY_SIZE
_RING_LOCK = SLOTS + 1
#: The boot that the time line was set for, Unix seconds at its begin, and by how much the time of day has been set since.
_TIME_LINE = struct.Struct("<16sdd")
_TIME_LINE_AT = 128
_TIME_LINE_LOCK = SLOTS + 2
_EJECTING_LOCK = SLOTS + 3
_HEALTH = 1
#: In place of a route's number: the slot is nobody's.
_RETIRED = (1 << 64) - 1
_NOT_ZERO = re.compile(rb"[^\0]")


@dataclass(slots=True)
class CircuitSlot:
    """One circuit. Instants are those of `base.clock`, 0.0 for none; `by_health`: a health check opened it, so that only a
    health check (or a reset) lets it go on; `trials`: trial requests under way, `holders`: pids of workers that carry them;
    `recovered_at`: when the upstream last came back after its circuit was open. `reason` is that of a change being made;
    `foreign`: the slot is another route's by now, and what is changed is forgotten.

    `requests` and `failed` count since `counting_since`, `requests_before` and `failed_before` in the time of the same length before."""

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
    counting_since: float = 0.0
    requests: int = 0
    failed: int = 0
    requests_before: int = 0
    failed_before: int = 0
    holders: list[int] = field(default_factory=list)
    reason: str = ""
    foreign: bool = False

    def turn(self, after: int, reason: str, now: float) -> None:
        """Go over to state `after`."""
        self.state, self.reason, self.changed_at = after, reason, now
        self.by_health = False
        self.trials, self.holders = 0, []
        self.next_attempt = 0.0
        self.requests = self.failed = self.requests_before = self.failed_before = 0
        if after == CLOSED:
            self.opened_at = 0.0

    def count(self, ok: bool, window: float, now: float) -> None:
        """Count a request for the error rate over the last `window` seconds. It is kept in halves, so it covers half of it at least."""
        half = window / 2
        age = now - self.counting_since
        if not 0.0 <= age < half:
            # The half before is the present one, unless there was nothing for longer.
            follows = half <= age < window
            self.requests_before, self.failed_before = (self.requests, self.failed) if follows else (0, 0)
            self.requests = self.failed = 0
            self.counting_since = self.counting_since + half if follows else now
        self.requests += 1
        self.failed += not ok

    def failing(self, percent: int, least: int) -> bool:
        """Whether `percent` of the counted requests failed, of `least` at least."""
        requests = self.requests + self.requests_before
        return requests >= least and (self.failed + self.failed_before) * 100 >= percent * requests

    def begin_trial(self, pid: int, now: float) -> None:
        """A worker lets a trial request through."""
        self.trials += 1
        self.trial_at = now
        if len(self.holders) < _MAX_HOLDERS:
            self.holders.append(pid)

    def end_trial(self, pid: int) -> None:
        """A worker's trial request is over."""
        self.trials = max(0, self.trials - 1)
        if pid in self.holders:
            self.holders.remove(pid)

    def forget_lost_trials(self, longest: float, now: float) -> None:
        """Forget the trials that nobody will report: those of workers that died, and all where the last one began longer
        ago than a request takes, which is `longest` seconds at most."""
        if not self.trials:
            return
        if now - self.trial_at > longest + _TRIAL_LEASE:
            self.trials, self.holders = 0, []
            return
        dead = {pid for pid in set(self.holders) if not runs(pid)}
        if dead:
            alive = [pid for pid in self.holders if pid not in dead]
            self.trials = max(0, self.trials - (len(self.holders) - len(alive)))
            self.holders = alive


@dataclass(frozen=True, slots=True)
class LoggedTransition:
    """One change of state. `number` is that of the route id; `at`: an instant of `base.clock`."""

    sequence: int
    slot: int
    number: int
    at: float
    before: int
    after: int
    reason: str


class CircuitBoard:
    """The circuits in `directory`; every process of the host maps the same file. Open it after fork. `host`: its name, for rows."""

    def __init__(self, directory: str, host: str = "") -> None:
        self.host = host
        self._file = SharedFile(os.path.join(directory, CIRCUITS), _SIZE, b"circuit3", carried=slice(_SEQUENCE_AT, _SIZE))
        self._file.mapped_anew = self._set_clock
        self._data = self._file.data
        self._skew = 0.0
        #: The slots up to the last that this process has given to a route. Low ones are given first.
        self.claimed = 0
        self._set_clock()

    def _set_clock(self) -> None:
        self._skew = self._time_line()

    def _time_line(self) -> float:
        """Seconds from the file's time line to this process's clock. The first to open the file after a boot sets the line."""
        boot = clock.BOOT_MARK
        begin: float
        with self._file.lock(_TIME_LINE_LOCK):
            known, begin, set_by = _TIME_LINE.unpack_from(self._data, _TIME_LINE_AT)
            if known != boot:
                begin = time.time() - set_by - clock.boot_seconds()
                put(self._data, _TIME_LINE_AT, _TIME_LINE.pack(boot, begin, set_by))
        # A power of two, so that an instant that is written and read is exactly the same.
        return float(round((clock.from_boot(0.0) - begin) * 1024)) / 1024

    def keep_time(self) -> None:
        """Note by how much the time of day has been set, so that the time line can go on over a restart of the machine."""
        begin: float
        known, begin, _ = _TIME_LINE.unpack_from(self._data, _TIME_LINE_AT)
        put(self._data, _TIME_LINE_AT, _TIME_LINE.pack(known, begin, time.time() - clock.boot_seconds() - begin))

    def _here(self, instant: float) -> float:
        return instant + self._skew if instant else instant

    def _there(self, instant: float) -> float:
        return instant - self._skew if instant else instant

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

    def recovered_at(self, slot: int, number: int) -> float:
        """When the upstream last came back after its circuit was open, 0.0 where it was never away."""
        at = _HEADER + slot * _SLOT_SIZE
        moment: float = _RECOVERED.unpack_from(self._data, at + _RECOVERED_IN_SLOT)[0]
        return self._here(moment) if moment and self._number(at) == number else 0.0

    def _number(self, at: int) -> int:
        number: int = _NUMBER.unpack_from(self._data, at + _NUMBER_IN_SLOT)[0]
        return number

    def read(self, slot: int, number: int) -> CircuitSlot:
        """The circuit as it is now, without waiting for anybody."""
        at, here = _HEADER + slot * _SLOT_SIZE, self._here
        owner = self._number(at)
        if owner != number:
            return CircuitSlot(number=number, foreign=owner != 0)
        (state, flags, _, failures, successes, trials, _, opened_at, last_failure, next_attempt, changed_at, trial_at, recovered_at,
         counting_since, requests, failed, requests_before, failed_before, *holders) = _SLOT.unpack_from(self._data, at)
        return CircuitSlot(
            state, bool(flags & _HEALTH), failures, successes, trials, number, here(opened_at), here(last_failure), here(next_attempt),
            here(changed_at), here(trial_at), here(recovered_at), here(counting_since), requests, failed, requests_before, failed_before,
            [pid for pid in holders if pid])

    @contextmanager
    def changing(self, slot: int, number: int) -> Iterator[CircuitSlot]:
        """The circuit, to be changed inside `with` and written at its end; no switch of greenlets in between.

        A change of state is noted under the same lock: transitions come in the order in which they were made.
        """
        with self._file.lock(slot):
            found = self.read(slot, number)
            before = found.state
            yield found
            if found.foreign:
                return
            pids = found.holders + [0] * (_MAX_HOLDERS - len(found.holders))
            put(self._data, _HEADER + slot * _SLOT_SIZE, _SLOT.pack(
                found.state, _HEALTH if found.by_health else 0, 0, found.failures, found.successes, found.trials, number,
                *map(self._there, (found.opened_at, found.last_failure, found.next_attempt, found.changed_at, found.trial_at,
                                   found.recovered_at, found.counting_since)),
                found.requests, found.failed, found.requests_before, found.failed_before, *pids))
            if found.state != before:
                self._note(slot, number, before, found.state, found.reason, found.changed_at)

    def ejecting(self) -> AbstractContextManager[object]:
        """Held by who opens a circuit only if few enough of its pool are open: two must not find room for one."""
        return self._file.lock(_EJECTING_LOCK)

    def _note(self, slot: int, number: int, before: int, after: int, reason: str, now: float) -> None:
        """Put a transition into the ring."""
        with self._file.lock(_RING_LOCK):
            sequence = self.sequence + 1
            at = _RING_AT + (sequence % _RING) * _ENTRY_SIZE
            put(self._data, at, _ENTRY.pack(sequence, number, self._there(now), before, after, 0, slot, reason.encode()[:32]))
            put(self._data, _SEQUENCE_AT, _SEQUENCE.pack(sequence))

    @property
    def sequence(self) -> int:
        """The number of the last transition."""
        value: int = _SEQUENCE.unpack_from(self._data, _SEQUENCE_AT)[0]
        return value

    def transitions(self, after: int) -> list[LoggedTransition]:
        """The transitions behind sequence number `after`, oldest first; the ring keeps the last 8192."""
        last = self.sequence
        found = []
        for sequence in range(max(after, last - _RING) + 1, last + 1):
            at = _RING_AT + (sequence % _RING) * _ENTRY_SIZE
            written, number, when, before, state, _, slot, reason = _ENTRY.unpack_from(self._data, at)
            if written == sequence:
                text = reason.rstrip(b"\0").decode("ascii", "replace")
                found.append(LoggedTransition(sequence, slot, number, self._here(when), before, state, text))
        return found

    def busy(self, slots: int = SLOTS) -> list[tuple[int, int]]:
        """Slot and route number of the circuits that are not closed or have failures counted, among the first `slots`."""
        places: set[int] = set()
        # The state, and the failures' bytes: copied with a stride, all slots take some milliseconds.
        for byte in (0, 4, 5, 6):
            column = self._data[_HEADER + byte:_HEADER + slots * _SLOT_SIZE:_SLOT_SIZE]
            places.update(match.start() for match in _NOT_ZERO.finditer(column))
        found = ((slot, self._number(_HEADER + slot * _SLOT_SIZE)) for slot in sorted(places))
        return [(slot, number) for slot, number in found if number != _RETIRED]

    def not_closed(self) -> list[int]:
        """The numbers of the routes whose circuits are open or half-open."""
        return [number for slot, number in self.busy() if self.state(slot, number) != CLOSED]

    def move(self, slot: int, number: int, reason: str, now: float) -> bool:
        """Make the change `reason` (see TRANSITIONS) from outside the request path; whether the state changed."""
        rule = TRANSITIONS[reason]
        with self.changing(slot, number) as circuit:
            before, changed_at = circuit.state, circuit.changed_at
            if before not in rule.before or circuit.foreign:
                return False
            circuit.turn(rule.after, reason, now)
            circuit.by_health = rule.held
            circuit.successes = 0
            if rule.after == OPEN:
                circuit.opened_at = circuit.last_failure = now
            else:
                circuit.failures = 0
            if before == rule.after:
                circuit.changed_at = changed_at
            elif before == OPEN:
                circuit.recovered_at = now
        return before != rule.after

    # -- whose slot it is

    def claim(self, slot: int, number: int) -> None:
        """The slot is this route's: as new, unless it was before."""
        self.claimed = max(self.claimed, slot + 1)
        if self._number(_HEADER + slot * _SLOT_SIZE) != number:
            self.renew(slot, number)

    def renew(self, slot: int, number: int) -> None:
        """The slot is this route's from now on, and as new."""
        self.claimed = max(self.claimed, slot + 1)
        at = _HEADER + slot * _SLOT_SIZE
        with self._file.lock(slot):
            fresh = bytearray(_SLOT_SIZE)
            _NUMBER.pack_into(fresh, _NUMBER_IN_SLOT, number)
            put(self._data, at, bytes(fresh))

    def retire(self, slot: int, number: int) -> None:
        """The slot is this route's no more, nor anybody's."""
        if self._number(_HEADER + slot * _SLOT_SIZE) == number:
            self.renew(slot, _RETIRED)

    def replace(self, old: int, new: int, number: int, now: float) -> None:
        """The route's circuit is in slot `new` from now on; one that was open in `old` is closed for whoever watches."""
        before = self.state(old, number)
        self.retire(old, number)
        if before != CLOSED:
            self._note(new, number, before, CLOSED, "backend_changed", now)

    def close(self) -> None:
        """Unmap."""
        self._data = memoryview(b"")  # type: ignore[assignment]
        self._file.close()
