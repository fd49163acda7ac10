"""The gates in their order, and the smallest of them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from proxyd.config.settings import Settings
from proxyd.http1 import parse_request_head
from proxyd.net.stream import plain_stream
from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.gates import COMMON, GATES
from proxyd.proxy.gates.addresses import addresses
from proxyd.proxy.gates.basicauth import basic_auth
from proxyd.proxy.gates.bodysize import body_size
from proxyd.proxy.gates.clientcertificate import client_certificate
from proxyd.proxy.gates.cors import cors, preflight
from proxyd.proxy.gates.forwardauth import forward_auth
from proxyd.proxy.gates.maintenance import maintenance
from proxyd.proxy.gates.ownanswer import own_answer
from proxyd.proxy.gates.plugins import plugged
from proxyd.proxy.gates.ratelimit import rate_limit, user_limit
from proxyd.proxy.runtime import Runtime
from tests.proxy.build import pool_of, record


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    settings = Settings()
    return Runtime(replace(settings, database=replace(settings.database, url=f"sqlite:///{tmp_path}/proxyd.db"),
                           proxy=replace(settings.proxy, max_body_size=1000)))


@pytest.fixture
def exchange(runtime: Runtime) -> Iterator[Exchange]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        head = parse_request_head(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 500\r\n\r\n", runtime.head_limits)
        yield Exchange(ClientConnection(plain_stream(ours), "192.0.2.1", runtime), head, 0.0)


def test_what_is_refused_before_the_rate_limit_does_not_count_against_it() -> None:
    assert (cors, addresses, preflight, client_certificate, body_size, maintenance, rate_limit, basic_auth, forward_auth, user_limit,
            plugged, own_answer) == GATES
    assert (body_size, maintenance, rate_limit) == COMMON


@pytest.mark.parametrize(("option", "refused"), [("0", False), ("499", True), ("500", False)])
def test_a_body_is_held_to_the_routes_bound_or_else_to_the_settings(runtime: Runtime, exchange: Exchange, option: str,
                                                                   refused: bool) -> None:
    refusal = body_size(runtime, exchange, pool_of(record(1, {"max_body_size": option})))
    assert (refusal is not None) == refused
    if refusal is not None:
        assert (refusal.status, refusal.code) == (413, "body_too_large")
    else:
        assert exchange.upstream_limit == (int(option) or 1000)


def test_a_route_in_maintenance_is_refused_with_a_page_and_its_own_counter(runtime: Runtime, exchange: Exchange) -> None:
    assert maintenance(runtime, exchange, pool_of(record(1))) is None
    refusal = maintenance(runtime, exchange, pool_of(record(1, maintenance_since=1.0)))
    assert refusal is not None and refusal.page is not None
    assert (refusal.status, refusal.code, refusal.counter) == (503, "maintenance", "maintenance_hits")
