"""Drain: the share of new requests that a draining upstream still gets, computed from start and duration alone, so that
every worker comes to the same without their talking."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxyd.proxy.core.upstreams import Upstream

#: Sticky clients leave in the last quarter: their share of the drain is steeper and later.
_STICKY_STEEPNESS = 4.0


def drain_share(upstream: Upstream, now: float) -> float:
    """Share of its usual traffic (1.0 to 0.0) that the upstream gets at `now` (Unix seconds)."""
    started = upstream.drain_started_at
    if not started:
        return 1.0
    elapsed = now - started
    if elapsed <= 0:
        return 1.0
    if elapsed >= upstream.drain_seconds:
        return 0.0
    return 1.0 - elapsed / upstream.drain_seconds


def keeps_sticky(upstream: Upstream, now: float, place: float) -> bool:
    """Whether a client stuck to the upstream stays for now; `place` (0 to 1) is the client's fixed place in the queue."""
    return drain_share(upstream, now) * _STICKY_STEEPNESS > place
