"""The state machine of a circuit as a table: its states, and every change from one to another by its name.

The names are what events, rows and the log call `reason`. docs/health.md draws this table, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOSED, OPEN, HALF_OPEN = 0, 1, 2
STATE_NAMES = ("closed", "open", "half_open")


@dataclass(frozen=True, slots=True)
class Transition:
    """A change of state: from which states it is made, to which, and what makes it. `held`: a health check keeps the
    circuit in the new state until a health check (or a reset) lets it go on."""

    before: tuple[int, ...]
    after: int
    cause: str
    held: bool = False


TRANSITIONS: dict[str, Transition] = {
    "failures": Transition((CLOSED,), OPEN, "`circuit_threshold` requests in a row failed, whichever workers saw them"),
    "error_rate": Transition(
        (CLOSED,), OPEN, "`circuit_error_rate` percent of `circuit_min_requests` requests or more failed within `circuit_window`"),
    "timeout": Transition((OPEN,), HALF_OPEN, "a request came after `circuit_timeout`: it is the first trial"),
    "trial_succeeded": Transition((HALF_OPEN,), CLOSED, "`circuit_success_threshold` trials succeeded"),
    "trial_failed": Transition((HALF_OPEN,), OPEN, "a trial failed: `circuit_timeout` begins anew"),
    "health_down": Transition((CLOSED, OPEN, HALF_OPEN), OPEN, "the health check found the upstream down", held=True),
    "health_recovered": Transition((OPEN,), HALF_OPEN, "the health check that was down is healthy again"),
    "health_check_passed": Transition(
        (OPEN,), HALF_OPEN, "`circuit_timeout` is over and a health check passed, though no request came"),
    "health_checks_passed": Transition(
        (HALF_OPEN,), CLOSED, "twice `health_rise` checks passed since, and no trial was under way"),
    "check_removed": Transition((OPEN,), CLOSED, "the health check that held the circuit open is gone, or may not any more"),
    "backend_changed": Transition((OPEN, HALF_OPEN), CLOSED, "the route got another backend address, hence another circuit"),
    "reset": Transition((CLOSED, OPEN, HALF_OPEN), CLOSED, "`CIRCUIT_BREAKER_RESET`, or an operator"),
}

#: What a change is called that the breaker made of a request's outcome.
BY_REQUEST: dict[tuple[int, int], str] = {
    (CLOSED, OPEN): "failures", (OPEN, HALF_OPEN): "timeout", (HALF_OPEN, CLOSED): "trial_succeeded", (HALF_OPEN, OPEN): "trial_failed"}
