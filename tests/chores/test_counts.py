"""What workers count is written at once where that is quick, and less often where it is much."""

from __future__ import annotations

import os
import time
from pathlib import Path

from proxyd.chores.counts import Counts
from proxyd.store.memory.board import Board
from proxyd.store.sql.database import Store
from proxyd.store.sql.outbox import Outbox
from proxyd.store.sql.traffic import Traffic, TrafficBatch, route_stats


def test_counts_of_many_routes_leave_the_processor_to_others_meanwhile(store: Store, tmp_path: Path) -> None:
    counts = Counts(store, Board(str(tmp_path)), str(tmp_path), "web1")
    assert counts._take() is None
    rests: dict[int, list[float]] = {1: [], 3000: []}
    # The least of some: where this process has no turn for a moment, one that is little looks like much.
    for routes in (1, 1, 1, 1, 1, 3000):
        busy = {f"r{number}": Traffic({"requests": 1}, {200: 1}, {7: 1}) for number in range(routes)}
        Outbox(str(tmp_path)).write([TrafficBatch(("web1", "b1", os.getpid()), "2026-01-31T12:00:00.000Z", busy)], 0.0)
        began = time.monotonic()
        rest = counts._take()
        took = time.monotonic() - began
        assert rest is not None and 0.05 <= rest <= max(0.05, min(2.0, 20 * took))
        rests[routes].append(rest)
    assert rests[3000][0] > min(rests[1])
    assert store.read(route_stats, ["r0"])["r0"]["requests"] == 6
