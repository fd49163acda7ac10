"""What a worker counts: taken away once, given back whole, and forgotten when nobody needs it."""

from __future__ import annotations

import pytest

from proxyd.base.histogram import bucket_of
from proxyd.proxy.record.stats import Stats
from proxyd.store.sql.traffic import Traffic

NOW = 1_800_000_000.25


def taken(stats: Stats, route_id: str = "r1") -> Traffic:
    batch = stats.take(NOW)
    assert batch is not None
    return batch.routes[route_id]


def test_a_worker_without_traffic_has_nothing_to_write() -> None:
    stats = Stats()
    assert stats.take(NOW) is None
    stats.of("r1")
    assert stats.take(NOW) is None


def test_a_batch_says_whose_it_is_and_when_and_is_taken_once() -> None:
    worker = ("web1", "b1", 7)
    stats = Stats(worker)
    stats.of("r1").record(200, 0.5, 10, 3)
    stats.of("-").record(404, 0.001, 5, 0)
    batch = stats.take(NOW)
    assert batch is not None
    assert (batch.worker, batch.at, sorted(batch.routes)) == (worker, "2027-01-15T08:00:00.250Z", ["-", "r1"])
    assert stats.take(NOW) is None


def test_requests_are_summed_by_status_and_latency() -> None:
    stats = Stats()
    for status, seconds, sent, received in ((200, 0.5, 10, 3), (200, 0.5, 20, 4), (499, 0.25, 0, 0), (500, 0.25, 1, 1)):
        stats.of("r1").record(status, seconds, sent, received)
    traffic = taken(stats)
    shown = {name: traffic.sums[name] for name in ("requests", "errors", "bytes_sent", "bytes_received")}
    assert shown == {"requests": 4, "errors": 1, "bytes_sent": 31, "bytes_received": 8}
    assert traffic.sums["latency_ms_sum"] == pytest.approx(1500)
    assert traffic.codes == {200: 2, 499: 1, 500: 1}
    assert traffic.latency == {bucket_of(0.5): 2, bucket_of(0.25): 2}


def test_how_long_a_websocket_was_open_is_no_latency() -> None:
    stats = Stats()
    stats.of("r1").record(101, 3600.0, 10, 10)
    traffic = taken(stats)
    assert (traffic.codes, traffic.latency, traffic.sums["latency_ms_sum"]) == ({101: 1}, {}, 0.0)


def test_all_sums_begin_at_nothing_and_begin_anew_when_they_are_taken() -> None:
    stats = Stats()
    for _ in range(2):
        stats.of("r1").record(200, 0.0, 0, 0)
        traffic = taken(stats)
        assert {name for name, value in traffic.sums.items() if value} == {"requests"}
        for name in traffic.sums:
            if name != "latency_ms_sum":
                setattr(stats.of("r1"), name, 5)
        assert {name for name, value in taken(stats).sums.items() if value != 5} == {"latency_ms_sum"}


def test_retries_and_websockets_are_written_though_no_request_is_over() -> None:
    for name in ("retries", "websockets"):
        stats = Stats()
        setattr(stats.of("r1"), name, 1)
        assert taken(stats).sums[name] == 1


def test_a_batch_that_was_not_written_is_given_back_whole_to_what_came_since() -> None:
    stats, twice = Stats(), Stats()
    stats.of("r1").record(200, 0.5, 10, 3)
    stats.of("r1").retries += 1
    batch = stats.take(NOW)
    assert batch is not None
    stats.of("r1").record(503, 0.125, 1, 1)
    stats.give_back(batch)
    for status, seconds, sent, received in ((200, 0.5, 10, 3), (503, 0.125, 1, 1)):
        twice.of("r1").record(status, seconds, sent, received)
    twice.of("r1").retries += 1
    assert taken(stats) == taken(twice)


def test_what_is_open_is_said_when_it_changes_and_again_when_it_could_not_be_written() -> None:
    stats = Stats()
    stats.of("r1").in_flight = 2
    stats.of("r1").websocket_active = 1
    stats.of("r1").queued = 3
    batch = stats.take(NOW)
    assert batch is not None and batch.in_flight == {"r1": (2, 1, 3)} and batch.routes == {}
    assert stats.take(NOW) is None
    stats.give_back(batch)
    again = stats.take(NOW)
    assert again is not None and again.in_flight == {"r1": (2, 1, 3)}


@pytest.mark.parametrize("kept", ["requests", "in_flight", "websocket_active", "queued"])
def test_a_route_that_is_gone_is_forgotten_once_nothing_of_it_is_left(kept: str) -> None:
    stats = Stats()
    mine = stats.of("r1")
    setattr(mine, kept, 1)
    stats.forget({"r1", "r2"})
    written = stats.take(NOW)
    assert written is not None and stats.of("r1") is mine
    if kept != "requests":
        setattr(mine, kept, 0)
        assert stats.take(NOW) is not None and stats.of("r1") is mine
    assert stats.take(NOW) is None
    assert stats.of("r1") is not mine


def test_a_route_that_is_gone_is_kept_until_what_could_not_be_written_is() -> None:
    stats = Stats()
    stats.of("r1").record(200, 0.5, 10, 3)
    stats.forget({"r1"})
    batch = stats.take(NOW)
    assert batch is not None
    stats.give_back(batch)
    again = stats.take(NOW)
    assert again is not None and again.routes["r1"].sums["requests"] == 1
    counters = stats.of("r1")
    assert stats.take(NOW) is None and stats.of("r1") is not counters
