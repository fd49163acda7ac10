"""The state machine of a circuit as a table: its states, and every change from one to another by its name.

The names are what events, rows and the log call `reason`. docs/health.md draws this table, and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

CLOSED, OPEN, HALF_OPEN = 0, 1, 2
STATE_NAMES = ("closed", "open", "half_open")


@dataclass(frozen=True, slots=True)
class Rule:
    """A change of state: from which states it is made, to which, and what makes it. `held`: a health check keeps the
    circuit in the new state until a health check (or a reset) lets it go on."""

    before: tuple[int, ...]
    after: int
    cause: str
    held: bool = False


TRANSITIONS: dict[str, Rule] = {
    "failures": Rule((CLOSED,), OPEN, "`circuit_threshold` requests in a row failed, whichever workers saw them"),
    "timeout": Rule((OPEN,), HALF_OPEN, "a request came after `circuit_timeout`: it is the first trial"),
    "trial_succeeded": Rule((HALF_OPEN,), CLOSED, "`circuit_success_threshold` trials succeeded"),
    "trial_failed": Rule((HALF_OPEN,), OPEN, "a trial failed: `circuit_timeout` begins anew"),
    "health_down": Rule((CLOSED, OPEN, HALF_OPEN), OPEN, "the health check found the upstream down", held=True),
    "health_recovered": Rule((OPEN,), HALF_OPEN, "the health check that was down is healthy again"),
    "health_check_passed": Rule(
        (OPEN,), HALF_OPEN, "`circuit_timeout` is over and a health check passed, though no request came"),
    "health_checks_passed": Rule(
        (HALF_OPEN,), CLOSED, "twice `health_rise` checks passed since, and no trial was under way"),
    "check_removed": Rule((OPEN,), CLOSED, "the health check that held the circuit open is gone, or may not any more"),
    "backend_changed": Rule((OPEN, HALF_OPEN), CLOSED, "the route got another backend address, hence another circuit"),
    "reset": Rule((CLOSED, OPEN, HALF_OPEN), CLOSED, "`CIRCUIT_BREAKER_RESET`, or an operator"),
}

#: What a change is called that the breaker made of a request's outcome.
BY_REQUEST: dict[tuple[int, int], str] = {
    (CLOSED, OPEN): "failures", (OPEN, HALF_OPEN): "timeout", (HALF_OPEN, CLOSED): "trial_succeeded", (HALF_OPEN, OPEN): "trial_failed"}
