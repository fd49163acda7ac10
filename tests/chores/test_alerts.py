"""Alerts, received by a real HTTP server."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import pytest

from proxyd.base.text import rfc3339
from proxyd.base.webhooks import parse_webhook
from proxyd.chores import alerts
from proxyd.chores.alerts import Alerts
from proxyd.config.sections import AlertSettings
from proxyd.events.bus import EventBus
from proxyd.store.memory.board import Board
from proxyd.store.memory.circuits import CircuitBoard
from proxyd.store.sql.database import Store
from proxyd.store.sql.identity import came
from proxyd.store.sql.traffic import SLOW_KEPT, RowBatch, Traffic, TrafficBatch
from proxyd.store.sql.wellness import Wellness
from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import free_port, patience, wait_for

Start = Callable[..., EventBus]


def until(condition: Callable[[], Any], seconds: float = 5.0) -> None:
    wait_for(condition, seconds, pause=0.01, sleep=gevent.sleep)


def texts(backend: Backend) -> list[str]:
    return [json.loads(body)["text"] for _, _, _, body in list(backend.requests)]


@pytest.fixture
def start(store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start alerts to the backend; returns their bus."""
    monkeypatch.setattr(alerts, "_POLL", 0.02)
    running: list[Alerts] = []

    def begin(webhook: str | None = None, interval: float = 60.0, **lines: str) -> EventBus:
        bus = EventBus(store)
        settings = AlertSettings(webhook=f"{backend.url}/hook" if webhook is None else webhook, interval=interval, error_rate=10.0)
        webhooks = {name: parse_webhook(line) for name, line in lines.items()}
        running.append(Alerts(settings, store, bus, backoff=0.02, webhooks=webhooks))
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
    gevent.sleep(0.5)
    slow(store, "warning", "r1")
    slow(store, "critical", "r2")
    until(lambda: backend.requests)
    down(bus, "last")
    until(lambda: len(backend.requests) == 2)
    told = "slow request on route r2: GET a.test/report took 12.5 s (status 200, upstream 10.0.0.1:80, id abc)"
    assert told in texts(backend)[0]


def test_a_critical_request_is_told_though_the_hour_has_had_worse_ones(
        start: Start, store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_RECENT", 2.0)
    slow(store, "critical", "r2", 60_000, times=SLOW_KEPT)
    start(interval=0.1)
    gevent.sleep(2.1)
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
    gevent.sleep(0.5)
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
    assert time.monotonic() - began < patience(2.5)
    until(lambda: "can't be reached (ConnectionError)" in caplog.text)
    assert "dropped this one" in caplog.text
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("proxyd")]
    assert not any("SECRET" in message for message in ours)


def test_without_a_webhook_nothing_is_sent(start: Start, backend: Backend) -> None:
    down(start(""))
    down(start(), "r2")
    until(lambda: backend.requests)
    assert ["r2" in text for text in texts(backend)] == [True]


def paths(backend: Backend) -> list[str]:
    return sorted(path for _, path, _, _ in list(backend.requests))


def noted(store: Store, route_id: str, service: str) -> None:
    """A route of a service, as the master notes it."""
    store.call(came, [{"route_id": route_id, "session": "s1", "service_name": service, "instance_name": "a", "domains": '["a.test"]',
                       "path": "/", "backend_url": "http://127.0.0.1:1", "created_at": rfc3339(time.time())}], "test")


def test_each_webhook_gets_its_types_and_services_in_its_own_form(start: Start, store: Store, backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "template.json").write_text('{"title": "{service}", "body": [{"m": "{text}"}], "level": 3}')
    noted(store, "r1", "shop")
    url = backend.url
    bus = start("", slack=f"slack {url}/slack services=sho*", ntfy=f"ntfy {url}/ntfy types=circuit", discord=f"discord {url}/discord",
                pager=f"{url}/pager template={tmp_path}/template.json", other=f"json {url}/other services=other")
    down(bus)
    circuit(bus, "open", "r2")
    until(lambda: len(backend.requests) == 6)
    gevent.sleep(0.1)
    assert paths(backend) == ["/discord", "/discord", "/ntfy", "/pager", "/pager", "/slack"]
    found = {path: (headers, body) for _, path, headers, body in backend.requests if b"r1" in body or path == "/ntfy"}
    assert json.loads(found["/slack"][1]).keys() == {"text"}
    assert json.loads(found["/discord"][1])["allowed_mentions"] == {"parse": []}
    pager = json.loads(found["/pager"][1])
    assert (pager["title"], pager["level"]) == ("shop", 3) and "is down" in pager["body"][0]["m"]
    headers, body = found["/ntfy"]
    assert (headers["Priority"], headers["Tags"]) == ("4", "warning") and b"circuit of route r2 is open" in body


def test_what_is_over_is_told_when_it_has_lasted_and_only_if_it_was_told(
        start: Start, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_SETTLES", 0.2)
    bus = start(quiet=f"json {backend.url}/quiet resolved=no")
    down(bus, "r9", "healthy")
    down(bus)
    until(lambda: len(backend.requests) == 2)
    # It flaps: nothing of that is told.
    for _ in range(3):
        down(bus, status="healthy")
        down(bus)
    gevent.sleep(0.4)
    assert len(backend.requests) == 2
    down(bus, status="healthy")
    until(lambda: len(backend.requests) == 3)
    assert texts(backend)[2].endswith("resolved: http://10.0.0.1:80/health of route r1 is healthy again")
    assert [json.loads(body)["state"] for _, path, _, body in backend.requests if path == "/hook"] == ["firing", "resolved"]
    # Down again within the interval: whoever read that it is over must know.
    down(bus)
    until(lambda: len(backend.requests) == 5)
    assert texts(backend)[3].endswith("is down: connection refused (3 more since the last alert)")


def test_a_service_of_whose_requests_too_many_fail_is_told(
        start: Start, store: Store, backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alerts, "_ERRORS_PERIOD", 0.1)
    noted(store, "r1", "shop")
    noted(store, "r2", "fine")

    def count(route: str, requests: int, errors: int) -> None:
        store.call(TrafficBatch(("web1", "b1", 1), rfc3339(time.time()), {
            route: Traffic({"requests": requests, "errors": errors}, {}, {})}).write)

    count("r1", 1000, 900)
    start()
    gevent.sleep(0.3)
    count("r2", 100, 9)
    count("r1", 10, 10)
    gevent.sleep(0.3)
    assert not backend.requests, "what was before, too few requests, too few errors"
    count("r1", 100, 25)
    until(lambda: backend.requests)
    assert texts(backend)[0].partition(": ")[2] == "25.0 % of the requests of shop (a.test) failed within a minute: 25 of 100"


@pytest.mark.parametrize(("line", "said"), [
    ("", "names no url"), ("slack", "names no url"), ("ftp://x/SECRET", "not an http:// or https:// url"),
    ("slack https://x/SECRET types=nosuch", '"nosuch" is no type of alerts'), ("slack https://x/SECRET services", "is not one of types="),
    ("ntfy https://x/SECRET template=/x", "a template is for the format json"), ("https://x/SECRET resolved=perhaps", "perhaps")])
def test_a_line_that_can_not_be_used_is_refused_without_its_secret(line: str, said: str) -> None:
    with pytest.raises(ValueError) as error:
        parse_webhook(line)
    assert said in str(error.value) and "SECRET" not in str(error.value)


def test_the_format_is_known_by_the_host() -> None:
    found = [parse_webhook(f"https://{host}/x").format for host in ("hooks.slack.com", "discord.com", "ntfy.sh", "example.com")]
    assert found == ["slack", "discord", "ntfy", "json"]


@pytest.mark.slow
def test_a_whole_proxyd_tells_a_dead_backend_an_open_circuit_and_a_slow_request(
        new_system: Callable[..., System], new_backend: Callable[..., Backend], tmp_path: Path) -> None:
    hook, backend = new_backend("hook"), new_backend("backend")
    token = hook_token(tmp_path)
    system = new_system(alerts__webhook=f"{hook.url}/hook", admin__token_file=token, webhooks__gone=f"ntfy http://127.0.0.1:{free_port()}/x")
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
    process = subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "alerts", "--test", "--json"], capture_output=True, text=True,
                             env=system.environment, timeout=60)
    results = {one["name"]: one["error"] for one in json.loads(process.stdout)}
    assert process.returncode == 1 and results[""] == "" and "can't be reached" in results["gone"]
    assert any("this is a test of the alerts" in text for text in texts(hook))
    listed = system.admin("/api/v1/alerts").json()["webhooks"]
    assert [(one["name"], one["host"], one["format"]) for one in listed] == [("", "127.0.0.1", "json"), ("gone", "127.0.0.1", "ntfy")]


def hook_token(directory: Path) -> Path:
    path = directory / "token"
    path.write_text("a-token-for-alerts\n")
    path.chmod(0o600)
    return path
