"""Tells who watches a place (`proxyctl tail`) of each request to it that has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxyd.base.text import rfc3339
from proxyd.proxy.record.accesslog import short
from proxyd.store.memory.tail import Teller

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

_LONGEST_PATH = 2000


class Watched(Teller):
    """`shortened`: addresses are, as in the access log."""

    def __init__(self, directory: str, shortened: bool) -> None:
        super().__init__(directory)
        self._address = short if shortened else str

    def record(self, ex: Exchange, member: Upstream, ended: float) -> None:
        """Tell of a request, if somebody watches its place. `member`: who got it, or would have. `ended`: time.monotonic() seconds.

        The query is left out: it may hold what only the service is to know.
        """
        place = member.domains[0], member.path
        if place not in self.places:
            return
        upstream = ex.upstream
        self.tell({
            "place": place, "at": rfc3339(time.time()), "client": self._address(ex.client_ip), "method": ex.method, "host": ex.host,
            "path": ex.path[:_LONGEST_PATH], "status": ex.status, "bytes": ex.bytes_sent, "seconds": round(ended - ex.started, 6),
            "route_id": member.route_id, "service": member.service, "instance": member.instance,
            "upstream": upstream.authority if upstream is not None else "",
            "upstream_seconds": round(ended - ex.upstream_started, 6) if ex.upstream_started else 0.0,
            "request_id": ex.request_id, "reason": ex.failure})
