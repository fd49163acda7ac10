"""The drain's formula: the share of new requests that a draining upstream still gets follows from start and duration alone, so
that workers, master and readers of the database come to the same without their talking."""

from __future__ import annotations

from proxyd.base import clock
from proxyd.base.text import parse_rfc3339


def drain_share(started: float, seconds: float, now: float) -> float:
    """The share (1.0 to 0.0, in a straight line) at `now` of a drain that began at `started` and takes `seconds`. Instants are
    those of one clock (`base.clock`)."""
    elapsed = now - started
    if elapsed <= 0:
        return 1.0
    return 0.0 if elapsed >= seconds else 1.0 - elapsed / seconds


def began(started_at: str | None, marked: str | None) -> float:
    """When a drain began, as `clock.now` has it, from its columns in the database: time of day and mark. 0.0 without a drain."""
    return clock.remembered(marked, parse_rfc3339(started_at)) if started_at else 0.0
