"""A worker's errors by route, status and reason: what is kept of them, and that floods take no more memory than a few."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from proxyd.proxy.record.errors import _MOST_GROUPS, _MOST_HOSTS, OTHERS, Errors
from tests.proxy.build import upstream


def request(status: int, failure: str = "", host: str = "app.test", number: int = 0) -> Any:
    return SimpleNamespace(failure=failure, status=status, host=host, path="/p" * 500, method="GET", upstream=None,
                           request_id=f"id-{number}")


def test_a_group_counts_and_has_its_last_request() -> None:
    errors = Errors()
    for number in range(3):
        errors.record(request(503, "queue_full", number=number), upstream(1, {}))
    errors.record(request(503, "maintenance"), upstream(1, {}))
    batch = errors.take()
    assert batch is not None
    ((route_id, status, reason, requests, _, method, url, member, request_id),) = batch.groups
    assert (route_id, status, reason, requests, method, member, request_id) == ("r1", 503, "queue_full", 3, "GET", "", "id-2")
    assert url.startswith("app.test/p") and len(url) == 200
    assert errors.take() is None
    errors.record(request(503, "queue_full", number=9), upstream(1, {}))
    errors.give_back(batch)
    again = errors.take()
    assert again is not None and [(group[3], group[-1]) for group in again.groups] == [(4, "id-9")]


def test_a_flood_of_routes_and_hosts_is_counted_in_bounded_memory() -> None:
    errors = Errors()
    for number in range(2 * _MOST_GROUPS):
        errors.record(request(500), upstream(number, {}))
    for number in range(2 * _MOST_HOSTS):
        errors.record(request(404, "unknown_host", host=f"h{number}." + "x" * 1000), None)
    batch = errors.take()
    assert batch is not None
    assert len(batch.groups) <= _MOST_GROUPS + 2 and sum(group[3] for group in batch.groups) == 2 * (_MOST_GROUPS + _MOST_HOSTS)
    assert len(batch.hosts) == _MOST_HOSTS + 1 and batch.hosts[OTHERS] == _MOST_HOSTS
    assert max(map(len, batch.hosts)) <= 253
