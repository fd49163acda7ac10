"""Alerts, received by a real HTTP server."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxyd.base.text import rfc3339
from proxyd.chores import alerts
from proxyd.chores.alerts import Alerts
from proxyd.config.sections import AlertSettings
from proxyd.events.bus import EventBus
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql.database import Store
from proxyd.store.sql.traffic import SLOW_KEPT, RowBatch, Traffic, TrafficBatch
from proxyd.store.sql.wellness import Wellness
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import free_port, patience

Start = Callable[..., EventBus]


def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        gevent.sleep(0.01)


def texts(backend: Backend) -> list[str]:
    return [json.loads(body)["text"] for _, _, _, body in list(backend.requests)]


@pytest.fixture
def start(store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start alerts to the backend; returns their bus."""
    monkeypatch.setattr(alerts, "_POLL", 0.02)
    running: list[Alerts] = []

    def begin(webhook: str | None = None, interval: float = 60.0) -> EventBus:
        bus = EventBus(store)
        settings = AlertSettings(webhook=f"{backend.url}/hook" if webhook is None else webhook, interval=interval)
        running.append(Alerts(settings, store, bus, backoff=0.02))
        running[-1].start()
        return bus

    yield begin
    for part in running:
        part.stop()


def test_what_is_unwell_and_lasts_is_told_once(store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(alerts, "_POLL", 0.02)
    monkeypatch.setattr(alerts, "_LASTS", 0.1)
    board, circuits, wrong = Board(str(tmp_path)), CircuitBoard(str(tmp_path)), ["the file x is gone"]
    wellness = Wellness(store, board, circuits, 0.0, lambda: wrong, list, None)
    part = Alerts(AlertSettings(webhook=f"{backend.url}/hook", interval=0.01), store, EventBus(store), wellness, backoff=0.02)
    part.start()
    try:
        until(lambda: len(texts(backend)) >= 2)
        gevent.sleep(0.3)
    finally:
        part.stop()
        board.close()
        circuits.close()
    told = sorted(text.partition(": ")[2].partition(".")[0] for text in texts(backend))
    assert told == ["no worker is running: nobody answers requests", "the file x is gone"]


def down(bus: EventBus, route: str = "r1", status: str = "down") -> None:
    bus.publish("backend_health_changed", {"status": status, "previous": "up", "reason": "connection refused",
                                           "url": "http://10.0.0.1:80/health"}, route, keep=False)


def circuit(bus: EventBus, to: str, route: str = "r1") -> None:
    bus.publish("circuit_state_changed", {"state": to, "from": "closed", "to": to, "reason": "error_rate"}, route, keep=False)


def slow(store: Store, level: str, route: str = "r1", total: float = 12500.0, times: int = 1) -> None:
    """What a worker writes of slow requests."""
    at = rfc3339(time.time())
    rows = [{"route_id": route, "at": at, "level": level, "method": "GET", "url": "a.test/report", "status_code": 200, "total_ms": total,
             "queue_ms": 0, "connect_ms": 0, "first_byte_ms": 0, "body_ms": 0, "request_id": "abc", "upstream": "10.0.0.1:80"}] * times
    sums: dict[str, float] = {"slow_criticals": times} if level == "critical" else {"slow_warnings": times}
    for batch in (TrafficBatch(("web1", "b1", 1), at, {route: Traffic(sums, {}, {})}), RowBatch([], rows)):
        store.call(batch.write)


def test_a_backend_that_goes_down_is_told_in_the_form_of_slack_and_of_discord(start: Start, backend: Backend) -> None:
    bus = start()
    down(bus, status="unstable")
    down(bus)
    until(lambda: backend.requests)
    method, path, headers, body = backend.requests[0]
    message = json.loads(body)
    assert (method, path, headers["Content-Type"]) == ("POST", "/hook", "application/json")
    assert message["text"] == message["content"]
    assert "http://10.0.0.1:80/health of route r1 is down: connection refused" in message["text"]


def test_a_circuit_that_opens_is_told_and_one_that_closes_is_not(start: Start, backend: Backend) -> None:
    bus = start()
    circuit(bus, "closed")
    circuit(bus, "half-open")
    circuit(bus, "open")
    circuit(bus, "open", "r2")
    until(lambda: len(backend.requests) == 2)
    assert [text.partition(": ")[2] for text in texts(backend)] == [
        f"circuit of route {route} is open (was closed): error_rate" for route in ("r1", "r2")]


def test_a_certificate_that_expires_soon_is_told_and_one_that_has_expired(start: Start, backend: Backend) -> None:
    bus = start(interval=0.001)
    for days in (6.9, -0.1):
        bus.publish("certificate_expiring", {"path": "/etc/a.pem", "names": ["a.test", "b.test"], "expires": "2026-01-31T00:00:00.000Z",
                                             "days": days}, keep=False)
        gevent.sleep(0.01)
    until(lambda: len(backend.requests) == 2)
    assert [text.partition(": ")[2].partition(" (")[0] for text in texts(backend)] == [
        "the certificate /etc/a.pem for a.test, b.test expires in 6.9 days, on 2026-01-31T00:00:00.000Z",
        "the certificate /etc/a.pem for a.test, b.test expired on 2026-01-31T00:00:00.000Z"]


def test_new_critical_slow_requests_are_told_old_ones_and_warnings_are_not(start: Start, store: Store, backend: Backend) -> None:
    slow(store, "critical", "old")
    bus = start()
    gevent.sleep(0.1)
    slow(store, "warning", "r1")
    slow(store, "critical", "r2")
    until(lambda: backend.requests)
    down(bus, "last")
    until(lambda: len(backend.requests) == 2)
    told = "slow request on route r2: GET a.test/report took 12.5 s (status 200, upstream 10.0.0.1:80, id abc)"
    assert told in texts(backend)[0]


def test_a_critical_request_is_told_though_the_hour_has_had_worse_ones(
        start: Start, store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_RECENT", 0.2)
    slow(store, "critical", "r2", 60_000, times=SLOW_KEPT)
    start(interval=0.1)
    gevent.sleep(0.25)
    slow(store, "critical", "r2", 5_000)
    until(lambda: backend.requests)
    gevent.sleep(0.15)
    slow(store, "critical", "r2", 70_000, times=3)
    until(lambda: len(backend.requests) == 2)
    first, second = (text.partition(": ")[2] for text in texts(backend))
    assert first == "slow request on route r2: it took longer than slow_critical"
    assert second == ("slow request on route r2: GET a.test/report took 70.0 s (status 200, upstream 10.0.0.1:80, id abc) "
                      "(2 more since the last alert)")


def test_a_critical_request_without_a_row_of_its_own_is_told_all_the_same(start: Start, store: Store, backend: Backend) -> None:
    start()
    gevent.sleep(0.1)
    store.call(TrafficBatch(("web1", "b1", 1), rfc3339(time.time()), {"r2": Traffic({"slow_criticals": 1}, {}, {})}).write)
    until(lambda: backend.requests)
    assert texts(backend)[0].endswith("slow request on route r2: it took longer than slow_critical")


def test_one_subject_is_told_once_an_interval_and_then_how_often_it_happened(start: Start, backend: Backend) -> None:
    bus = start(interval=0.3)
    for _ in range(4):
        down(bus)
    down(bus, "r2")
    until(lambda: len(backend.requests) == 2)
    gevent.sleep(0.35)
    down(bus)
    until(lambda: len(backend.requests) == 3)
    assert ["r1" in text for text in texts(backend)] == [True, False, True]
    assert texts(backend)[2].endswith("(3 more since the last alert)")


def test_an_alert_is_sent_again_until_the_webhook_takes_it(start: Start, backend: Backend) -> None:
    bus = start()
    backend.failing = 503
    down(bus)
    until(lambda: len(backend.requests) == 2)
    backend.failing = 0
    down(bus, "r2")
    until(lambda: any("r2" in text for text in texts(backend)))
    assert sum("r1" in text for text in texts(backend)) in (3, 4)


@pytest.mark.parametrize(("status", "attempts"), [(500, 4), (404, 1)])
def test_an_alert_that_can_not_be_delivered_is_logged_without_the_secret_in_the_url(
        start: Start, backend: Backend, caplog: pytest.LogCaptureFixture, status: int, attempts: int) -> None:
    logging.getLogger("proxyd").propagate = True
    backend.failing = status
    bus = start(f"{backend.url}/services/SECRET")
    down(bus)
    until(lambda: "was not delivered" in caplog.text)
    assert len(backend.requests) == attempts
    assert f"answered {status}" in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("proxyd")]
    assert not any("SECRET" in message for message in ours)


def test_an_unreachable_webhook_does_not_hold_up_the_bus_nor_tell_its_secret(start: Start, backend: Backend,
                                                                           caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("proxyd").propagate = True
    backend.stop()
    bus = start(f"{backend.url}/services/SECRET")
    began = time.monotonic()
    for number in range(1500):
        down(bus, f"r{number}")
    assert time.monotonic() - began < patience(1.0)
    until(lambda: "can't be reached (ConnectionError)" in caplog.text)
    assert "dropped this one" in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("proxyd")]
    assert not any("SECRET" in message for message in ours)


def test_without_a_webhook_nothing_is_sent(start: Start, backend: Backend) -> None:
    down(start(""))
    down(start(), "r2")
    until(lambda: backend.requests)
    assert ["r2" in text for text in texts(backend)] == [True]


@pytest.mark.slow
def test_a_whole_proxyd_tells_a_dead_backend_an_open_circuit_and_a_slow_request(
        new_system: Callable[..., System], new_backend: Callable[..., Backend]) -> None:
    hook, backend = new_backend("hook"), new_backend("backend")
    system = new_system(alerts__webhook=f"{hook.url}/hook")
    client = system.client("told")
    slow_route = client.route("slow.test", backend.url)
    dead_route = client.route("dead.test", f"http://127.0.0.1:{free_port()}")
    assert client.command(f"OPTIONS_SET|SID|{slow_route}|slow_critical|100ms") == "OPTIONS_OK"
    assert client.command(f"HEALTH_SET|SID|{dead_route}|/healthz|1s|500ms") == "HEALTH_OK"
    client.apply()
    assert system.get("/?s=0.2", "slow.test").status == 200
    expected = (f"slow request on route {slow_route}: GET slow.test/", f"of route {dead_route} is down: ",
                f"circuit of route {dead_route} is open (was closed): health_down")
    until(lambda: all(any(part in text for text in texts(hook)) for part in expected), 15)
