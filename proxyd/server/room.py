"""Makes room when a worker is short of descriptors: the connections that have been idle for the longest time are closed."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from math import inf
from operator import itemgetter
from typing import TYPE_CHECKING

from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.client.http2 import Http2Connection
from proxyd.proxy.upstream.pool import drop

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.upstreams import Idle, Upstream
    from proxyd.proxy.runtime import Runtime


def close_idlest(runtime: Runtime, count: int) -> int:
    """Close so many idle connections of clients and to upstreams. Returns how many were found."""
    found = heapq.nsmallest(count, _idle(runtime), key=itemgetter(0))
    for _, idle in found:
        if isinstance(idle, tuple):
            drop(*idle)
        else:
            idle.make_way()
    return len(found)


def _idle(runtime: Runtime) -> Iterator[tuple[float, Idle | tuple[Upstream, Stream]]]:
    """All idle connections, with the instant since which they are idle."""
    for item in runtime.idle_watch.watched():
        if isinstance(item, ClientConnection | Http2Connection) and (since := item.idle_since()) < inf:
            yield since, item
    for upstream in runtime.table.upstreams.values():
        for link in upstream.state.links.all() if upstream.state.links is not None else ():
            if (since := link.idle_since()) < inf:
                yield since, link
        for stream in upstream.state.idle:
            yield stream.idle_until - min(upstream.options.pool_idle_timeout, stream.idle_limit), (upstream, stream)
