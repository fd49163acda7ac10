"""Circuit breakers: one for each route's upstream. All workers of the host share its state through shared memory.

pybreaker provides the state machine. A request is admitted first, then sent without any lock, and then its outcome is
reported. To report, a breaker is made over the shared slot, under the slot's lock, and called with a function that only
returns or raises. A worker can't keep one breaker instead: at each change by another worker it would announce that change again
and reset the shared counters. Trial requests of the half-open state are counted in the slot, over all workers.

Requests open a circuit in one place: `Circuits.report`, with a failure. `is_failure` says which answers are failures, and
`forward` reports everything else that failed. Health checks open circuits through health.drive.
"""

from __future__ import annotations

import contextlib
import os
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from proxyd.base import clock
from proxyd.base.lean import without

with without("redis"):
    import pybreaker

from proxyd.base.text import route_number
from proxyd.store.memory.circuits import CircuitBoard, CircuitSlot
from proxyd.store.memory.shared import SharedFile
from proxyd.store.memory.transitions import BY_REQUEST, CLOSED, HALF_OPEN, OPEN

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, Upstream
    from proxyd.store.sql.snapshot import RouteRecord

_NAMES = {CLOSED: pybreaker.STATE_CLOSED, OPEN: pybreaker.STATE_OPEN, HALF_OPEN: pybreaker.STATE_HALF_OPEN}
#: Seconds over which the error rate is taken where circuit_window is 0.
_RATE_WINDOW = 10.0
#: Failures are counted up to this where the circuit may not open.
_MANY = 1_000_000
_STATES = {name: state for state, name in _NAMES.items()}


class _Failure(Exception):
    """What a breaker sees of a failed request."""


class SlotStorage(pybreaker.CircuitBreakerStorage):
    """pybreaker's view of a slot whose lock is held."""

    def __init__(self, slot: CircuitSlot, timeout: float, now: float) -> None:
        super().__init__("shared slot")
        self._slot = slot
        self._timeout = timeout
        self._now = now

    @property
    def state(self) -> str:
        return _NAMES[self._slot.state]

    @state.setter
    def state(self, name: str) -> None:
        slot = self._slot
        after = _STATES[name]
        if after == slot.state:
            return
        slot.turn(after, BY_REQUEST[slot.state, after], self._now)
        if after == OPEN:
            slot.next_attempt = self._now + self._timeout
        elif after == CLOSED:
            slot.recovered_at = self._now

    def increment_counter(self) -> None:
        self._slot.failures += 1
        self._slot.last_failure = self._now

    def reset_counter(self) -> None:
        self._slot.failures = 0

    def increment_success_counter(self) -> None:
        self._slot.successes += 1

    def reset_success_counter(self) -> None:
        self._slot.successes = 0

    @property
    def counter(self) -> int:
        return self._slot.failures

    @property
    def success_counter(self) -> int:
        return self._slot.successes

    @property
    def opened_at(self) -> datetime | None:
        return datetime.fromtimestamp(self._slot.opened_at, UTC) if self._slot.opened_at else None

    @opened_at.setter
    def opened_at(self, moment: datetime) -> None:
        self._slot.opened_at = self._now


def _outcome(ok: bool) -> None:
    if not ok:
        raise _Failure


def is_failure(ex: Exchange, upstream: Upstream, status: int) -> bool:
    """Whether an answer that has just begun, with this status, counts against the upstream."""
    options = upstream.options
    return status in options.circuit_failure_status or (options.circuit_slow > 0.0 and _waited(ex) > options.circuit_slow)


def _waited(ex: Exchange) -> float:
    """Seconds that the upstream took to begin its answer. The time that the client took for its body is not the upstream's."""
    upload = ex.upload
    if upload is None:
        return time.monotonic() - ex.upstream_started
    return time.monotonic() - upload.done_at if upload.done else 0.0


class Circuits:
    """The breakers as the request path uses them. `now` is an instant of `base.clock` throughout."""

    def __init__(self, board: CircuitBoard) -> None:
        self._board = board

    @property
    def file(self) -> SharedFile:
        """The mapped file."""
        return self._board.file

    def opened(self, upstream: Upstream) -> bool:
        """Whether the circuit is anything but closed."""
        return self._board.state(upstream.slot, upstream.number) != CLOSED

    def trying(self, upstream: Upstream) -> bool:
        """Whether the circuit is half-open."""
        return self._board.state(upstream.slot, upstream.number) == HALF_OPEN

    def usable(self, upstream: Upstream, now: float) -> bool:
        """Whether a request might be admitted. `admit` decides."""
        state = self._board.state(upstream.slot, upstream.number)
        if state == CLOSED:
            return True
        circuit = self._board.read(upstream.slot, upstream.number)
        if state == OPEN:
            return not circuit.by_health and now >= circuit.next_attempt
        return _has_room(circuit, upstream, now)

    def admit(self, upstream: Upstream, now: float) -> int:
        """0: the request may go. Above 0: it may go as a trial, to be reported with this number. Below 0: it may not go."""
        state = self._board.state(upstream.slot, upstream.number)
        if state == CLOSED:
            return 0
        with self._board.changing(upstream.slot, upstream.number) as circuit:
            if circuit.state == CLOSED:
                return 0
            if circuit.state == OPEN:
                if circuit.by_health or now < circuit.next_attempt:
                    return -1
                self._breaker(circuit, upstream, now).half_open()
            elif not _has_room(circuit, upstream, now):
                return -1
            circuit.begin_trial(os.getpid(), now)
            return _generation(circuit)

    def report(self, upstream: Upstream, admission: int, ok: bool, now: float, pool: Pool | None = None) -> None:
        """Report the outcome of an admitted request. This takes microseconds, and far less for a success of a healthy upstream.

        `pool`: the pool that the request was for. max_ejected_percent is a share of it."""
        options = upstream.options
        if admission == 0 and (not options.circuit_breaker or (ok and self._unchanged_by_success(upstream))):
            return
        if ok or options.max_ejected_percent == 100 or pool is None:
            self._count(upstream, admission, ok, now, True)
            return
        with self._board.ejecting():
            self._count(upstream, admission, ok, now, self._has_room_for_another(upstream, pool))

    def succeeded(self, upstream: Upstream) -> None:
        """Report the success of a request that was no trial: mostly there is nothing to change, and no need to know the time."""
        if upstream.options.circuit_breaker and not self._unchanged_by_success(upstream):
            self._count(upstream, 0, True, clock.now(), True)

    def _unchanged_by_success(self, upstream: Upstream) -> bool:
        """Whether a success changes nothing: none of the last requests has failed, and nobody counts those that did not."""
        return not upstream.options.circuit_error_rate and self._board.clean(upstream.slot)

    def _has_room_for_another(self, upstream: Upstream, pool: Pool) -> bool:
        """Whether the circuit of another member may open."""
        serving = [member for member in pool.members if member.enabled]
        share = upstream.options.max_ejected_percent
        most = max(1, len(serving) * share // 100) if share else 0
        return sum(member is not upstream and self.opened(member) for member in serving) < most

    def _count(self, upstream: Upstream, admission: int, ok: bool, now: float, may_open: bool) -> None:
        options = upstream.options
        with self._board.changing(upstream.slot, upstream.number) as circuit:
            before = circuit.state
            if before == OPEN or (before == HALF_OPEN and admission != _generation(circuit)):
                # The request was admitted before the circuit changed, so its outcome says nothing about the present.
                return
            if before == HALF_OPEN:
                circuit.end_trial(os.getpid())
            else:
                if options.circuit_error_rate:
                    circuit.count(ok, options.circuit_window or _RATE_WINDOW, now)
                if not ok and options.circuit_window and now - circuit.last_failure > options.circuit_window:
                    circuit.failures = 0
                if not may_open:
                    circuit.failures, circuit.last_failure = min(circuit.failures + 1, _MANY), now
                    return
            with contextlib.suppress(_Failure, pybreaker.CircuitBreakerError):
                self._breaker(circuit, upstream, now).call(_outcome, ok)
            if not ok and circuit.state == CLOSED and options.circuit_error_rate and circuit.failing(
                    options.circuit_error_rate, options.circuit_min_requests):
                circuit.turn(OPEN, "error_rate", now)
                circuit.opened_at, circuit.next_attempt = now, now + options.circuit_timeout

    def cancel(self, upstream: Upstream, admission: int) -> None:
        """An admitted request ended without saying anything about the upstream (the client went away)."""
        if admission > 0:
            with self._board.changing(upstream.slot, upstream.number) as circuit:
                if circuit.state == HALF_OPEN and admission == _generation(circuit):
                    circuit.end_trial(os.getpid())

    def try_now(self, upstream: Upstream, now: float) -> None:
        """Let an open circuit have its trials now: its upstream takes connections again. One that a health check opened stays open."""
        with self._board.changing(upstream.slot, upstream.number) as circuit:
            if circuit.state == OPEN and not circuit.by_health:
                circuit.next_attempt = min(circuit.next_attempt, now)

    def retry_after(self, upstream: Upstream, now: float) -> float:
        """Seconds until a request has a chance."""
        circuit = self._board.read(upstream.slot, upstream.number)
        return max(1.0, circuit.next_attempt - now) if circuit.state == OPEN and not circuit.by_health else 1.0

    def health_down(self, upstream: Upstream) -> bool:
        """Whether a health check holds the circuit open."""
        circuit = self._board.read(upstream.slot, upstream.number)
        return circuit.state == OPEN and circuit.by_health

    def recovered_at(self, upstream: Upstream) -> float:
        """When the upstream last recovered. 0.0 if it never failed."""
        return self._board.recovered_at(upstream.slot, upstream.number)

    def claim(self, record: RouteRecord) -> None:
        """Claim a route's slot for it on this host."""
        number = route_number(record.route_id)
        if number:
            self._board.claim(record.slot, number)

    def close(self) -> None:
        """Unmap the board."""
        self._board.close()

    @staticmethod
    def _breaker(circuit: CircuitSlot, upstream: Upstream, now: float) -> pybreaker.CircuitBreaker:
        options = upstream.options
        return pybreaker.CircuitBreaker(
            fail_max=options.circuit_threshold, reset_timeout=options.circuit_timeout,
            success_threshold=options.circuit_success_threshold, state_storage=SlotStorage(circuit, options.circuit_timeout, now))


def _generation(circuit: CircuitSlot) -> int:
    """A number that identifies the current stay in the half-open state."""
    return int(circuit.changed_at * 1000) or 1


def _has_room(circuit: CircuitSlot, upstream: Upstream, now: float) -> bool:
    """Whether another trial may go. Trials of workers that have died are forgotten."""
    options = upstream.options
    if circuit.trials >= options.circuit_half_open_requests:
        circuit.forget_lost_trials(options.connect_timeout + options.timeout, now)
    return circuit.trials < options.circuit_half_open_requests
