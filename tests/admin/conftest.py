from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proxyd.store.sql.changes import new_route_numbers
from tests.admin.harness import Master, add_health, add_route, add_session, add_traffic, running


@pytest.fixture
def master(tmp_path: Path) -> Iterator[Master]:
    """An admin server with one session and its route r1."""
    with running(tmp_path) as master:
        def fill() -> None:
            add_session()
            add_route(1)
            new_route_numbers(1000)  # those that tests write have no other
            add_health("r1")
            add_traffic("r1", {200: 8, 502: 2}, dict.fromkeys(range(200, 210), 1), latency_ms_sum=100.0, bytes_sent=5000,
                        retries=3, rate_limited=4)

        master.write(fill)
        master.load()
        yield master
