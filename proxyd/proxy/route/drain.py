"""The drain of an upstream as the request path sees it. The formula is in base, because other rooms show it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.base import drain

if TYPE_CHECKING:
    from proxyd.proxy.core.upstreams import Upstream

#: Sticky clients leave in the last quarter of the drain: their curve is later and steeper by this factor.
_STICKY_STEEPNESS = 4.0


def drain_share(upstream: Upstream, now: float) -> float:
    """The part of its usual traffic (1.0 to 0.0) that the upstream gets at `now` (an instant of `base.clock`)."""
    started = upstream.drain_started_at
    return drain.drain_share(started, upstream.drain_seconds, now) if started else 1.0


def keeps_sticky(upstream: Upstream, now: float, place: float) -> bool:
    """Whether a client that sticks to the upstream still stays. `place`: the client's fixed place in the queue, 0 to 1."""
    return drain_share(upstream, now) * _STICKY_STEEPNESS > place
