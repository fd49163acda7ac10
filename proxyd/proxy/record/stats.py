"""What a worker counts in memory: plain attributes on the request path, taken away in batches for the database."""

from __future__ import annotations

import os

from proxyd.base.histogram import bucket_of
from proxyd.base.text import rfc3339
from proxyd.store.sql.traffic import Traffic, TrafficBatch

_SUMS = ("requests", "errors", "latency_ms_sum", "bytes_sent", "bytes_received", "rate_limited", "retries", "circuit_rejected",
         "maintenance_hits", "drain_rejected", "slow_warnings", "slow_criticals", "websockets")


class RouteCounters:
    """The counts of one route since they were last taken; `in_flight` and `websocket_active` are what is open now."""

    __slots__ = (*_SUMS, "codes", "in_flight", "latency", "latency_sum", "shown", "websocket_active")

    def __init__(self) -> None:
        self.in_flight = 0
        self.websocket_active = 0
        self.shown = (0, 0)
        self._zero()

    def _zero(self) -> None:
        self.requests = self.errors = self.bytes_sent = self.bytes_received = self.rate_limited = self.retries = 0
        self.circuit_rejected = self.maintenance_hits = self.drain_rejected = self.slow_warnings = self.slow_criticals = 0
        self.websockets = 0
        self.latency_sum = 0.0
        self.codes: dict[int, int] = {}
        self.latency: dict[int, int] = {}

    def record(self, status: int, seconds: float, sent: int, received: int) -> None:
        """Count one request that is over."""
        self.requests += 1
        self.bytes_sent += sent
        self.bytes_received += received
        codes = self.codes
        codes[status] = codes.get(status, 0) + 1
        if status >= 500:
            self.errors += 1
        if status != 101:
            # How long a WebSocket was open is no latency.
            self.latency_sum += seconds
            bucket = bucket_of(seconds)
            latency = self.latency
            latency[bucket] = latency.get(bucket, 0) + 1

    def take(self) -> Traffic | None:
        """The counts, which begin anew; None where there are none."""
        if not (self.requests or self.retries or self.websockets):
            return None
        self.latency_ms_sum = self.latency_sum * 1000
        taken = Traffic({name: getattr(self, name) for name in _SUMS}, self.codes, self.latency)
        self._zero()
        return taken

    def give_back(self, traffic: Traffic) -> None:
        """Counts that could not be written."""
        for name, value in traffic.sums.items():
            if name == "latency_ms_sum":
                self.latency_sum += value / 1000
            else:
                setattr(self, name, getattr(self, name) + value)
        for mine, theirs in ((self.codes, traffic.codes), (self.latency, traffic.latency)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count


class Stats:
    """All counters of this worker, by route id; `-` is for requests that matched no route."""

    def __init__(self) -> None:
        self._routes: dict[str, RouteCounters] = {}

    def of(self, route_id: str) -> RouteCounters:
        """The counters of a route."""
        found = self._routes.get(route_id)
        if found is None:
            found = self._routes[route_id] = RouteCounters()
        return found

    def take(self, now: float) -> TrafficBatch | None:
        """What there is to write at `now` (Unix seconds), or None."""
        batch = TrafficBatch(os.getpid(), rfc3339(now), {})
        for route_id, counters in list(self._routes.items()):
            traffic = counters.take()
            if traffic is not None:
                batch.routes[route_id] = traffic
            open_now = (counters.in_flight, counters.websocket_active)
            if open_now != counters.shown:
                batch.in_flight[route_id] = counters.shown = open_now
        return batch if batch.routes or batch.in_flight else None

    def give_back(self, batch: TrafficBatch) -> None:
        """A batch that could not be written."""
        for route_id, traffic in batch.routes.items():
            self.of(route_id).give_back(traffic)
        for route_id in batch.in_flight:
            self.of(route_id).shown = (-1, -1)

    def forget(self, gone: set[str]) -> None:
        """Drop the counters of routes that are gone, once they are written and nothing is open."""
        for route_id in gone:
            counters = self._routes.get(route_id)
            if counters is not None and not (counters.requests or counters.in_flight or counters.websocket_active):
                del self._routes[route_id]
