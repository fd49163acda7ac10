"""What counts as slow, and what the row of a slow request says."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxyd.config.settings import Settings
from proxyd.http1 import RequestHead
from proxyd.net.stream import plain_stream
from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.record.slow import Rows
from proxyd.proxy.record.stats import RouteCounters
from proxyd.proxy.runtime import Runtime
from tests.proxy.build import upstream

BOTH = {"slow_warning": "2s", "slow_critical": "5s"}


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    settings = Settings()
    runtime = Runtime(replace(settings, database=replace(settings.database, url=f"sqlite:///{tmp_path}/proxyd.db")))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        made = Exchange(ClientConnection(plain_stream(ours), "192.0.2.1", runtime), RequestHead("GET", "/", 11, [], []), 100.0)
        made.host, made.path = "h", "/p"
        yield made


def told(exchange: Exchange, options: dict[str, str], total: float) -> tuple[list[dict[str, Any]], RouteCounters]:
    rows, counters = Rows(), RouteCounters()
    rows.slow(exchange, upstream(1, options), counters, total)
    batch = rows.take()
    return (batch.slow if batch is not None else []), counters


@pytest.mark.parametrize(("options", "total", "level"), [
    (BOTH, 1.999, None), (BOTH, 2.0, "warning"), (BOTH, 4.999, "warning"), (BOTH, 5.0, "critical"), ({}, 1000.0, None),
    ({"slow_critical": "1s"}, 0.999, None), ({"slow_critical": "1s"}, 1.0, "critical")])
def test_a_request_that_takes_as_long_as_the_bound_is_slow(
        exchange: Exchange, options: dict[str, str], total: float, level: str | None) -> None:
    found, counters = told(exchange, options, total)
    assert [row["level"] for row in found] == ([level] if level else [])
    assert (counters.slow_warnings, counters.slow_criticals) == (int(level == "warning"), int(level == "critical"))


def test_the_parts_of_the_time_make_the_whole(exchange: Exchange) -> None:
    exchange.upstream_started = 100.5
    exchange.connect_seconds, exchange.first_byte_seconds = 0.25, 1.25
    (row,), _ = told(exchange, BOTH, 3.0)
    assert (row["queue_ms"], row["connect_ms"], row["first_byte_ms"], row["body_ms"]) == (500.0, 250.0, 1000.0, 1250.0)
    assert row["total_ms"] == 3000.0


def test_one_that_never_reached_an_upstream_waited_all_the_time(exchange: Exchange) -> None:
    (row,), _ = told(exchange, BOTH, 3.0)
    assert (row["queue_ms"], row["connect_ms"], row["first_byte_ms"], row["body_ms"]) == (3000.0, 0.0, 0.0, 0.0)


def test_a_long_url_is_kept_to_500_characters(exchange: Exchange) -> None:
    exchange.path = "/" + "x" * 600
    (row,), _ = told(exchange, BOTH, 3.0)
    assert row["url"] == "h/" + "x" * 498
