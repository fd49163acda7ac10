"""Slow requests: what counts as one, where its time went, and what is told of it in the log, in SQL and in the stats."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxyd.store.sql.traffic import SLOW_KEPT
from tests.edge.wire import Wire, get
from tests.support.backends import Backend, RawBackend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.websockets import Switching, echo, handshake

Make = Callable[..., RawBackend]
PARTS = ("total", "queue", "connect", "first_byte", "body")


def route(system: System, name: str, url: str, **options: object) -> tuple[RegistryClient, str]:
    """A route of `name`.test with options."""
    client = system.client(name, name)
    route_id = client.route(f"{name}.test", url, apply=False)
    client.options(route_id, **options)
    return client, route_id


def kept(system: System, route_id: str, count: int = 1) -> list[tuple[Any, ...]]:
    """Level, status, and total and parts in seconds, of the rows of a route, once there are `count`."""
    return wait_for(lambda: (rows := system.sql(
        "SELECT level, status_code, total_ms / 1e3, queue_ms / 1e3, connect_ms / 1e3, first_byte_ms / 1e3, body_ms / 1e3 "
        "FROM slow_requests WHERE route_id = ? ORDER BY id", route_id)) and len(rows) >= count and rows)


def answering(make: Make, before: float, within: float, half: threading.Event) -> RawBackend:
    """A backend that waits before its answer, and in the middle of its body, from when `half` of it has arrived."""

    def serve(sock: socket.socket) -> None:
        while backend.receive_head(sock):
            time.sleep(before)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nab")
            half.wait(30)
            time.sleep(within)
            sock.sendall(b"cd")

    backend = make(serve)
    return backend


def test_where_the_time_went_is_in_the_log_and_in_sql(system: System, raw_backend: Make) -> None:
    half = threading.Event()
    client, route_id = route(system, "split", answering(raw_backend, 0.2, 0.3, half).url, slow_warning="100ms")
    with Wire(system.proxy_port) as wire:
        wire.send(get("split.test", "/a/b?secret=1", "Content-Length: 4", "X-Request-ID: slow-1", method="POST"))
        # Longer than is asserted: the proxy counts from when it has read the head, and may have to wait for a processor before that.
        time.sleep(0.8)
        wire.send(b"body").until(b"\r\n\r\nab")
        half.set()
        assert wire.response().status == 200
    ((level, status, total, queue, connect, first_byte, body),) = kept(system, route_id)
    assert (level, status) == ("warning", 200)
    assert total == pytest.approx(queue + connect + first_byte + body, abs=0.002)
    assert queue >= 0.09 and first_byte >= 0.19 and body >= 0.29 and connect > 0
    (line,) = wait_for(lambda: [line for line in system.log().splitlines() if "id=slow-1 " in line])
    assert "slow request (warning) id=slow-1 POST split.test/a/b route=" in line
    assert "secret" not in line
    told = {name: float(re.search(rf" {name}=([0-9.]+)s", line)[1]) for name in PARTS}  # type: ignore[index]
    assert told == pytest.approx(dict(zip(PARTS, (total, queue, connect, first_byte, body), strict=True)), abs=0.002)
    assert system.sql("SELECT method, url, request_id FROM slow_requests WHERE route_id = ?", route_id) == [
        ("POST", "split.test/a/b", "slow-1")]


LEVELS: list[tuple[dict[str, str], str | None]] = [
    ({"slow_warning": "100ms", "slow_critical": "10s"}, "warning"), ({"slow_warning": "50ms", "slow_critical": "100ms"}, "critical"),
    ({"slow_critical": "100ms"}, "critical"), ({"slow_critical": "10s"}, None), ({"slow_warning": "10s"}, None), ({}, None)]


def test_which_requests_are_slow_and_how_they_are_counted(system: System, backend: Backend) -> None:
    routes = [route(system, f"level{number}", backend.url, **options) for number, (options, _) in enumerate(LEVELS)]
    for number in range(len(LEVELS)):
        assert system.get("/?s=0.15", f"level{number}.test").status == 200
    for (client, route_id), (options, level) in zip(routes, LEVELS, strict=True):
        wait_for(lambda client=client, route_id=route_id: client.json(f"STATS_GET|SID|{route_id}")["requests"] == 1)  # type: ignore[misc]
        counts = int(level == "warning"), int(level == "critical")
        wait_for(lambda route_id=route_id, counts=counts: system.sql(  # type: ignore[misc]
            "SELECT slow_warnings, slow_criticals FROM route_stats WHERE route_id = ?", route_id) == [counts], what=f"{options}")
        rows = kept(system, route_id) if level else system.sql("SELECT level FROM slow_requests WHERE route_id = ?", route_id)
        assert [row[0] for row in rows] == ([level] if level else []), options


def test_an_answer_that_never_came_was_waited_for(system: System, raw_backend: Make) -> None:
    gone = threading.Event()
    client, route_id = route(system, "never", raw_backend(lambda sock: gone.wait(5) and None).url, slow_critical="100ms", timeout="300ms")
    assert system.get("/", "never.test").status == 504
    gone.set()
    ((level, status, total, _, connect, first_byte, body),) = kept(system, route_id)
    assert (level, status) == ("critical", 504)
    assert total >= first_byte >= 0.25
    assert body == 0


def test_after_a_retry_the_parts_are_those_of_the_last_attempt(system: System, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        time.sleep(0.15)
        if len(backend.received) > 1:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    backend = raw_backend(serve)
    client, route_id = route(system, "again", backend.url, slow_warning="100ms", retry="true", retry_backoff="none")
    assert system.get("/", "again.test").status == 200
    ((_, _, total, queue, connect, first_byte, body),) = kept(system, route_id)
    assert total == pytest.approx(queue + connect + first_byte + body, abs=0.002)
    assert queue >= 0.14 and first_byte >= 0.14


def test_a_websocket_that_was_open_for_long_was_not_slow(system: System, raw_backend: Make) -> None:
    client, route_id = route(system, "wsslow", Switching(raw_backend, echo).url, slow_warning="50ms", websocket="true")
    with Wire(system.proxy_port) as wire:
        wire.send(handshake("wsslow.test")).until(b"\r\n\r\n")
        time.sleep(0.1)
    wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["status_codes"] == {"101": 1})
    assert system.sql("SELECT * FROM slow_requests WHERE route_id = ?", route_id) == []


def test_the_worst_of_an_hour_are_kept(system: System, backend: Backend) -> None:
    client, route_id = route(system, "worst", backend.url, slow_warning="1us")
    for number in range(5):
        system.get(f"/quick{number}", "worst.test")
    # So slow that a quick one which gets no processor for a while is none of the worst.
    threads = [threading.Thread(target=system.get, args=(f"/slow{number}?s=2", "worst.test")) for number in range(SLOW_KEPT)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(5, 10):
        system.get(f"/quick{number}", "worst.test")
    wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["requests"] == SLOW_KEPT + 10)
    found = system.sql("SELECT at, url FROM slow_requests WHERE route_id = ?", route_id)
    if len({at[:13] for at, _ in found}) == 1:
        assert {url for _, url in found} == {f"worst.test/slow{number}" for number in range(SLOW_KEPT)}
    assert system.sql("SELECT slow_warnings FROM route_stats WHERE route_id = ?", route_id) == [(SLOW_KEPT + 10,)]
