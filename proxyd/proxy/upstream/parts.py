"""The parts of a worker that this room needs, and what is given back to them when an upstream has done its part."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxyd.http1 import HeadLimits
    from proxyd.http2.connection import Bounds
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.spool import Storage
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.record.slow import Rows
    from proxyd.proxy.record.stats import Stats
    from proxyd.proxy.upstream.circuit import Circuits
    from proxyd.proxy.upstream.places import Places
    from proxyd.store.memory.counts import HostCounts


class Parts(Protocol):
    """The parts of a worker's Runtime that the modules of this room use."""

    circuits: Circuits
    websockets: HostCounts
    places: Places
    storage: Storage
    response_limits: HeadLimits
    http2_bounds: Bounds
    stats: Stats
    rows: Rows


def leave(parts: Parts, ex: Exchange, upstream: Upstream) -> None:
    """The upstream has nothing more to do for an exchange: another request may have its place."""
    ex.at_upstream = False
    upstream.state.in_flight -= 1
    if upstream.options.max_in_flight:
        parts.places.give_back(upstream)
