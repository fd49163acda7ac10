"""Logs and counts slow requests, and keeps rows about them and about finished WebSockets for the database."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from proxyd.base.text import rfc3339
from proxyd.store.sql.traffic import RowBatch

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Counters, Exchange
    from proxyd.proxy.core.upstreams import Upstream

log = logging.getLogger("proxyd.slow")

_MAX_PENDING = 10_000


def split(ex: Exchange, total: float) -> tuple[float, float, float, float]:
    """The total time in four parts, in seconds: until the last attempt began (a small body is read before that), until its
    connection, until the first byte of its answer, and from there to the end."""
    if not ex.upstream_started:
        return total, 0.0, 0.0, 0.0
    queued = max(0.0, ex.upstream_started - ex.started)
    connect = ex.connect_seconds
    left = max(0.0, total - queued - connect)
    first_byte = min(max(0.0, ex.first_byte_seconds - connect), left) if ex.first_byte_seconds else left
    return queued, connect, first_byte, left - first_byte


class Rows:
    """Rows that wait to be written. If the database stays locked, the oldest are dropped."""

    def __init__(self) -> None:
        self._websockets: deque[dict[str, Any]] = deque(maxlen=_MAX_PENDING)
        self._slow: deque[dict[str, Any]] = deque(maxlen=_MAX_PENDING)

    def websocket(self, **columns: Any) -> None:
        """Keep a row about a WebSocket that has ended."""
        self._websockets.append(columns)

    def slow(self, ex: Exchange, upstream: Upstream, counters: Counters, total: float) -> None:
        """Keep a request that took `total` seconds, if that exceeds its route's slow_warning or slow_critical."""
        options = upstream.options
        critical = 0 < options.slow_critical <= total
        if critical:
            counters.slow_criticals += 1
        elif 0 < options.slow_warning <= total:
            counters.slow_warnings += 1
        else:
            return
        queued, connect, first_byte, body = split(ex, total)
        level = "critical" if critical else "warning"
        log.warning("slow request (%s) id=%s %s %s%s route=%s status=%d total=%.3fs queue=%.3fs connect=%.3fs first_byte=%.3fs "
                    "body=%.3fs", level, ex.request_id, ex.method, ex.host, ex.path, upstream.route_id, ex.status, total, queued,
                    connect, first_byte, body)
        self._slow.append({
            "route_id": upstream.route_id, "at": rfc3339(time.time()), "level": level, "method": ex.method,
            "url": f"{ex.host}{ex.path}"[:500], "status_code": ex.status, "total_ms": round(total * 1000, 3),
            "queue_ms": round(queued * 1000, 3), "connect_ms": round(connect * 1000, 3),
            "first_byte_ms": round(first_byte * 1000, 3), "body_ms": round(body * 1000, 3), "request_id": ex.request_id,
            "upstream": upstream.authority})

    def take(self) -> RowBatch | None:
        """A batch of the rows to write, or None."""
        if not self._websockets and not self._slow:
            return None
        batch = RowBatch(list(self._websockets), list(self._slow))
        self._websockets.clear()
        self._slow.clear()
        return batch

    def give_back(self, batch: RowBatch) -> None:
        """Add a batch that could not be written."""
        self._websockets.extendleft(reversed(batch.websockets))
        self._slow.extendleft(reversed(batch.slow))
