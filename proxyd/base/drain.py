"""The drain's formula: the share of new requests that a draining upstream still gets follows from start and duration alone, so
that workers, master and readers of the database come to the same without their talking."""

from __future__ import annotations


def drain_share(started: float, seconds: float, now: float) -> float:
    """The share (1.0 to 0.0, in a straight line) at `now` of a drain that began at `started` (Unix seconds) and takes `seconds`."""
    elapsed = now - started
    if elapsed <= 0:
        return 1.0
    return 0.0 if elapsed >= seconds else 1.0 - elapsed / seconds
