"""A worker's counters in memory: plain attributes for the request path, handed to the database in batches."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any

from proxyd.base.counters import COUNTERS
from proxyd.base.histogram import bucket_of
from proxyd.base.hosts import WorkerKey
from proxyd.base.reasons import is_of_backend
from proxyd.base.text import rfc3339
from proxyd.store.sql.traffic import Traffic, TrafficBatch

_SUMS = tuple(counter.name for counter in COUNTERS)
_read = attrgetter(*_SUMS)


class RouteCounters:
    """The counts of one route since the last batch, one attribute for each of COUNTERS. `in_flight`, `websocket_active` and
    `queued`: what is open or waits now."""

    __slots__ = (*_SUMS, "codes", "in_flight", "latency", "queued", "shown", "websocket_active")

    if TYPE_CHECKING:
        # mypy can't see the attributes, because they come from the table. An unknown name raises AttributeError.
        def __getattr__(self, name: str) -> int: ...
        def __setattr__(self, name: str, value: Any) -> None: ...

    def __init__(self) -> None:
        self.in_flight = 0
        self.websocket_active = 0
        self.queued = 0
        self.shown: tuple[int, int, int] = (0, 0, 0)
        self._zero()

    def _zero(self) -> None:
        for name in _SUMS:
            setattr(self, name, 0)
        self.codes: dict[int, int] = {}
        self.latency: dict[int, int] = {}

    def record(self, status: int, seconds: float, sent: int, received: int, failure: str = "") -> None:
        """Count one finished request. `failure`: its reason code. Maintenance is planned, so it is no error."""
        self.requests += 1
        self.bytes_sent += sent
        self.bytes_received += received
        codes = self.codes
        codes[status] = codes.get(status, 0) + 1
        if status >= 500 and failure != "maintenance":
            self.errors += 1
            # 502 and 504 are answered for a backend, whatever was wrong with it.
            if status not in (502, 504) and not is_of_backend(failure):
                self.proxy_errors += 1
        if status != 101:
            # The life of a WebSocket is not a latency.
            self.latency_ms_sum += seconds * 1000
            bucket = bucket_of(seconds)
            latency = self.latency
            latency[bucket] = latency.get(bucket, 0) + 1

    def take(self) -> Traffic | None:
        """The counts, or None if there are none. They begin again at 0."""
        sums = _read(self)
        if not any(sums):
            return None
        taken = Traffic(dict(zip(_SUMS, sums, strict=True)), self.codes, self.latency)
        self._zero()
        return taken

    def is_idle(self) -> bool:
        """Whether nothing waits to be written and nothing is open."""
        return not (self.in_flight or self.websocket_active or self.queued or any(_read(self)))

    def give_back(self, traffic: Traffic) -> None:
        """Add counts that could not be written."""
        for name, value in traffic.sums.items():
            setattr(self, name, getattr(self, name) + value)
        for mine, theirs in ((self.codes, traffic.codes), (self.latency, traffic.latency)):
            for key, count in theirs.items():
                mine[key] = mine.get(key, 0) + count


class Stats:
    """All counters of this worker, by route id; `-` is for requests that matched no route."""

    def __init__(self, worker: WorkerKey = ("", "", 0)) -> None:
        self._worker = worker
        self._routes: dict[str, RouteCounters] = {}
        #: Routes that are gone, and whose counters go as soon as all is written.
        self._gone: set[str] = set()

    def of(self, route_id: str) -> RouteCounters:
        """The counters of a route."""
        found = self._routes.get(route_id)
        if found is None:
            found = self._routes[route_id] = RouteCounters()
        return found

    def take(self, now: float) -> TrafficBatch | None:
        """A batch of what was counted up to `now` (Unix seconds), or None."""
        batch = TrafficBatch(self._worker, rfc3339(now), {})
        for route_id, counters in list(self._routes.items()):
            traffic = counters.take()
            if traffic is not None:
                batch.routes[route_id] = traffic
            open_now = (counters.in_flight, counters.websocket_active, counters.queued)
            if open_now != counters.shown:
                batch.in_flight[route_id] = counters.shown = open_now
            elif traffic is None and route_id in self._gone and counters.is_idle():
                # Nothing was to be written: the batch before has been, or would have been given back.
                del self._routes[route_id]
                self._gone.discard(route_id)
        return batch if batch.routes or batch.in_flight else None

    def give_back(self, batch: TrafficBatch) -> None:
        """Add a batch that could not be written."""
        for route_id, traffic in batch.routes.items():
            self.of(route_id).give_back(traffic)
        for route_id in batch.in_flight:
            self.of(route_id).shown = (-1, -1, -1)

    def show_again(self) -> None:
        """Write with the next batch what is open for each route: the rows that said so were dropped."""
        for counters in self._routes.values():
            if any(counters.shown):
                counters.shown = (-1, -1, -1)

    def forget(self, gone: set[str]) -> None:
        """Drop the counters of routes that are gone, each as soon as it is written and nothing is open."""
        self._gone.update(gone & self._routes.keys())
