"""Drain of an upstream as the request path sees it; the formula stands in base, since others show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.base import drain

if TYPE_CHECKING:
    from proxyd.proxy.core.upstreams import Upstream

#: Sticky clients leave in the last quarter: their share of the drain is steeper and later.
_STICKY_STEEPNESS = 4.0


def drain_share(upstream: Upstream, now: float) -> float:
    """Share of its usual traffic (1.0 to 0.0) that the upstream gets at `now` (Unix seconds)."""
    started = upstream.drain_started_at
    return drain.drain_share(started, upstream.drain_seconds, now) if started else 1.0


def keeps_sticky(upstream: Upstream, now: float, place: float) -> bool:
    """Whether a client stuck to the upstream stays for now; `place` (0 to 1) is the client's fixed place in the queue."""
    return drain_share(upstream, now) * _STICKY_STEEPNESS > place
