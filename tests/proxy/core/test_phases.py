"""Phases of waiting lead to reasons, and one deadline passes as whatever the exchange waits for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from proxyd.base.reasons import REASONS
from proxyd.config.settings import Settings
from proxyd.http1 import RequestHead
from proxyd.net.stream import plain_stream
from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.core import phases
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.core.phases import CONNECT, REQUEST_BODY, RESPONSE_HEAD, TOTAL, Phase
from proxyd.proxy.runtime import Runtime

PHASES = [value for value in vars(phases).values() if isinstance(value, Phase) and value is not phases.START]


@pytest.fixture
def exchange(tmp_path: Path) -> Iterator[Exchange]:
    settings = Settings()
    runtime = Runtime(replace(settings, database=replace(settings.database, url=f"sqlite:///{tmp_path}/proxyd.db")))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Exchange(ClientConnection(plain_stream(ours), "192.0.2.1", runtime), RequestHead("GET", "/", 11, [], []), 0.0)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.name)
def test_a_phase_leads_to_a_declared_reason(phase: Phase) -> None:
    assert len(PHASES) == 13
    assert phase.reason in REASONS
    assert (REASONS[phase.reason].status in (408, 499)) == phase.of_client


@pytest.mark.parametrize(("phase", "total", "expired"), [
    (RESPONSE_HEAD, inf, RESPONSE_HEAD), (REQUEST_BODY, 30.0, REQUEST_BODY), (RESPONSE_HEAD, 5.0, TOTAL)])
def test_what_expires_is_the_phase_or_the_whole(exchange: Exchange, phase: Phase, total: float, expired: Phase) -> None:
    exchange.total_deadline = total
    exchange.wait_for(phase, 10.0)
    assert exchange.deadline == min(10.0, total)
    exchange.expire(10.0)
    assert exchange.expired is expired and exchange.deadline == inf


def test_a_connection_is_opened_by_a_clock_of_its_own(exchange: Exchange) -> None:
    exchange.total_deadline = 5.0
    exchange.wait_for(RESPONSE_HEAD, 3.0)
    exchange.wait_unwatched(CONNECT)
    assert (exchange.phase, exchange.deadline) == (CONNECT, inf)


def test_an_attempt_that_is_made_again_begins_with_a_clean_slate(exchange: Exchange) -> None:
    exchange.hold_back(503)
    exchange.wait_for(RESPONSE_HEAD, 1.0)
    exchange.expire(2.0)
    exchange.begin_again()
    assert (exchange.status, exchange.expired, exchange.response_started) == (0, None, False)
