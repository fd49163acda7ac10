"""Drain: the share falls smoothly, replicas take over, nothing in flight is cut, and everybody is told."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from proxyd.base.text import parse_rfc3339
from tests.support.backends import Backend
from tests.support.system import Answer, MakeSystem, System
from tests.support.waiting import patience, wait_for


class Load(threading.Thread):
    """Requests one after another until `stop`, each with the time at which it was sent."""

    def __init__(self, system: System, host: str, path: str = "/", **headers: Any) -> None:
        super().__init__(daemon=True)
        self.answers: list[tuple[float, Answer]] = []
        self._system, self._host, self._path, self._headers = system, host, path, headers
        self._ending = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ending.is_set():
            begun = time.time()
            self.answers.append((begun, self._system.get(self._path, self._host, **self._headers)))

    def stop(self) -> list[tuple[float, Answer]]:
        self._ending.set()
        self.join(10)
        return self.answers


def events_of(lines: list[str]) -> list[tuple[str, dict[str, object]]]:
    """Type and content of each EVENT line."""
    return [(line.split("|", 2)[1], json.loads(line.split("|", 2)[2])) for line in lines if line.startswith("EVENT|")]


@pytest.mark.slow
def test_replicas_take_over_evenly_and_no_client_sees_anything(system: System, new_backend: Callable[..., Backend]) -> None:
    clients = [system.client("moving", str(number)) for number in range(2)]
    for client, name in zip(clients, ("leaving", "staying"), strict=True):
        client.route("moving.test", new_backend(name).url)
    # Requests that take a while, so that both have some in flight: least_conn looks at that.
    loads = [Load(system, "moving.test", "/?s=0.02") for _ in range(6)]
    clients[0].ok("DRAIN_START|SID|3s")
    begun = parse_rfc3339(clients[0].json("DRAIN_STATUS|SID")["started_at"])
    wait_for(lambda: clients[0].json("DRAIN_STATUS|SID")["remaining_seconds"] == 0, what="the end of the drain")
    time.sleep(0.3)
    answers = [item for load in loads for item in load.stop()]
    assert {answer.status for _, answer in answers} == {200}
    for third in range(3):
        seen = [answer.headers["X-Backend"] for at, answer in answers if third <= at - begun < third + 1]
        # Half of all at first, nothing in the end.
        expected = 0.5 * (1 - (third + 0.5) / 3)
        # The fewer are asked on a busy machine, the further chance may lead: three standard deviations.
        assert abs(seen.count("leaving") / len(seen) - expected) < max(0.12, 1.5 / len(seen) ** 0.5), (
            third, seen.count("leaving"), len(seen))
    assert "leaving" not in [answer.headers["X-Backend"] for at, answer in answers if at - begun > 3.05]


@pytest.mark.slow
def test_without_a_replica_the_rest_is_refused_in_a_growing_share_if_it_is_to(system: System, backend: Backend) -> None:
    client = system.client("alone")
    route_id = client.route("alone.test", backend.url, apply=False)
    client.ok("OPTIONS_SET|SID|ALL|drain_alone|refuse")
    client.apply()
    load = [Load(system, "alone.test") for _ in range(3)]
    client.ok("DRAIN_START|SID|3s")
    begun = parse_rfc3339(client.json("DRAIN_STATUS|SID")["started_at"])
    wait_for(lambda: client.json("DRAIN_STATUS|SID")["remaining_seconds"] == 0)
    time.sleep(0.2)
    answers = [item for thread in load for item in thread.stop()]

    def refused(start: float, end: float) -> float:
        seen = [answer.status for at, answer in answers if start <= at - begun < end]
        assert set(seen) <= {200, 503}
        return seen.count(503) / len(seen)

    first, middle, last = refused(0, 1), refused(1, 2), refused(2, 3)
    assert first < middle < last
    assert first < 0.4 and last > 0.6
    answer = system.get("/", "alone.test")
    assert (answer.status, answer.headers["X-Drain-Mode"], answer.headers["X-Proxyd-Reason"]) == (503, "true", "draining")
    assert int(answer.headers["Retry-After"]) >= 1
    rejected = sum(answer.status == 503 for _, answer in answers) + 1
    wait_for(lambda: client.json("DRAIN_STATUS|SID")["rejected"] == rejected, what="the refused requests in DRAIN_STATUS")
    drain = client.json(f"ROUTE_STATUS|SID|{route_id}")["drain"]
    assert (drain["active"], drain["traffic_percent"], drain["rejected"]) == (True, 0.0, rejected)


def test_without_a_replica_all_are_served_until_the_end(system: System, backend: Backend) -> None:
    client = system.client("served")
    client.route("served.test", backend.url)
    begun = time.time()
    client.ok("DRAIN_START|SID|800ms")
    answers = [(system.get("/", "served.test").status, time.time() - begun)]
    # Not until a moment: what was asked before the end may be answered long after it.
    while answers[-1][0] != 503:
        assert answers[-1][1] < patience(10), "the drain never ends"
        answers.append((system.get("/", "served.test").status, time.time() - begun))
    assert {status for status, ended in answers if ended < 0.8} == {200}


def test_cancel_restores_all_traffic_at_once(system: System, backend: Backend) -> None:
    client = system.client("cancelled")
    client.route("cancelled.test", backend.url)
    assert client.command("DRAIN_STATUS|SID") == "ERROR|no drain in progress"
    client.ok("DRAIN_START|SID|50ms")
    wait_for(lambda: system.get("/", "cancelled.test").status == 503)
    assert client.command("DRAIN_CANCEL|SID") == "DRAIN_OK"
    assert {system.get("/", "cancelled.test").status for _ in range(20)} == {200}
    assert client.command("DRAIN_STATUS|SID") == "ERROR|no drain in progress"
    assert client.command("DRAIN_CANCEL|SID") == "ERROR|no drain in progress"


@pytest.mark.slow
def test_what_is_in_flight_is_never_cut_and_the_events_count_it(system: System, backend: Backend) -> None:
    client = system.client("flight")
    client.route("flight.test", backend.url)
    assert client.command("SUBSCRIBE|SID|drain_progress") == "SUBSCRIBE_OK"
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(system.get("/until-freed", "flight.test")))
    thread.start()
    wait_for(lambda: backend.in_flight == 1)
    # Long enough for each tenth to be told, also where the master gets no turn for a moment.
    client.send("DRAIN_START|SID|2500ms")
    lines = [client.line()]
    while sum("drain_completed" in line for line in lines) < 2:
        lines.append(client.line())
        assert lines[-1], "the connection ended"
        if "drain_completed" in lines[-1]:
            backend.freed.set()
    thread.join(30)
    assert [answer.status for answer in answers] == [200]
    events = events_of(lines)
    progress = [float(str(event["traffic_percent"])) for kind, event in events if kind == "drain_progress"]
    assert len(progress) >= 7 and progress == sorted(progress, reverse=True)
    assert [event["in_flight"] for kind, event in events if kind == "drain_completed"] == [1, 0]


@pytest.mark.slow
def test_a_request_taken_just_before_the_end_is_counted_however_busy_the_database_is(system: System, backend: Backend) -> None:
    client = system.client("justbefore")
    client.route("justbefore.test", backend.url)
    client.ok("SUBSCRIBE|SID|drain_progress")
    with contextlib.closing(sqlite3.connect(system.database, timeout=5, isolation_level=None)) as other:
        client.send("DRAIN_START|SID|2s")
        lines = [client.line()]
        # Nobody can write from now on until the drain is long over.
        other.execute("BEGIN IMMEDIATE")
        answers: list[Answer] = []

        def ask() -> None:
            while not answers or answers[-1].status != 200:
                answers.append(system.get("/until-freed", "justbefore.test"))

        thread = threading.Thread(target=ask)
        thread.start()
        wait_for(lambda: backend.in_flight == 1)
        time.sleep(2.3)
        other.execute("ROLLBACK")
    while sum("drain_completed" in line for line in lines) < 2:
        lines.append(client.line())
        assert lines[-1], "the connection ended"
        if "drain_completed" in lines[-1]:
            backend.freed.set()
    thread.join(30)
    assert [event["in_flight"] for kind, event in events_of(lines) if kind == "drain_completed"] == [1, 0]


def test_no_request_that_a_slow_client_began_before_comes_after_the_end(system: System, backend: Backend) -> None:
    client = system.client("latecomer")
    client.route("latecomer.test", backend.url)
    with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: latecomer.test\r\nContent-Length: 10\r\n\r\nfirst")
        client.ok("DRAIN_START|SID|300ms")
        wait_for(lambda: client.json("DRAIN_STATUS|SID")["remaining_seconds"] == 0, what="the end of the drain")
        sock.sendall(b" half")
        assert sock.recv(65536).startswith(b"HTTP/1.1 503 ")
    assert not backend.requests


def test_the_end_of_a_drain_without_anything_in_flight_is_told_once(system: System, backend: Backend) -> None:
    client = system.client("calm")
    client.route("calm.test", backend.url)
    before = system.sql("SELECT coalesce(max(id), 0) FROM events")[0][0]
    client.ok("SUBSCRIBE|SID|all")
    client.send("DRAIN_START|SID|100ms")
    lines: list[str] = []
    while not any("drain_completed" in line for line in lines):
        lines.append(client.line())
    assert [event["in_flight"] for kind, event in events_of(lines) if kind == "drain_completed"] == [0]
    wait_for(lambda: {"drain_started", "drain_completed"} <= {
        row[0] for row in system.sql("SELECT type FROM events WHERE id > ?", before)})


def test_sticky_clients_move_last(system: System, new_backend: Callable[..., Backend]) -> None:
    names = ("0", "1")
    clients = [system.client("clinging", name) for name in names]
    for client, name in zip(clients, names, strict=True):
        client.route("clinging.test", new_backend(name).url, apply=False)
        client.options("ALL", sticky_cookie="node")
    first = system.get("/", "clinging.test")
    home = int(first.headers["X-Backend"])
    cookie = first.headers["Set-Cookie"].split(";")[0]
    load = Load(system, "clinging.test", Cookie=cookie)
    before = time.time()
    clients[home].ok("DRAIN_START|SID|1200ms")
    after = time.time()
    wait_for(lambda: clients[home].json("DRAIN_STATUS|SID")["remaining_seconds"] == 0)
    moved = [(at, answer.headers["X-Backend"]) for at, answer in load.stop()]
    stayed = [at for at, name in moved if name == names[home]]
    # Before three quarters of the drain, 0.9 s, no sticky client moves; then it moves once and for good. A request takes a while, and
    # is over when the next one is sent.
    assert all(name == names[home] for (_, name), (over, _) in itertools.pairwise(moved) if over < before + 0.9)
    first_move = min((at for at, name in moved if name != names[home]), default=after + 1.2)
    assert max(stayed) > before
    assert not [at for at in stayed if at > first_move]
    assert system.get("/", "clinging.test", Cookie=cookie).headers["X-Backend"] != names[home]


@pytest.mark.slow
def test_a_drain_goes_on_over_the_end_of_the_master(new_system: MakeSystem, backend: Backend) -> None:
    system: System = new_system(workers=1)
    client = system.client("resumed")
    client.route("resumed.test", backend.url)
    # Longer than another master takes to be there on a busy machine: who subscribes after the end is told nothing.
    client.ok("DRAIN_START|SID|4s")
    old = system.master_pid()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: system.master_pid() not in (0, old) and system.ready())
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    back.session_id = client.session_id
    back.ok("SUBSCRIBE|SID|all")
    lines: list[str] = []
    while not any("drain_completed" in line for line in lines):
        lines.append(back.line())
    assert system.get("/", "resumed.test").headers["X-Proxyd-Reason"] == "draining"
    assert back.command("DRAIN_CANCEL|SID") == "DRAIN_OK"
    assert system.get("/", "resumed.test").status == 200


@pytest.mark.parametrize("duration", ["0", "-5", "soon", "0s"])
def test_a_duration_that_is_none_is_refused_with_its_name_and_value(system: System, backend: Backend, duration: str) -> None:
    client = system.client("bad", duration)
    client.route("bad.test", backend.url)
    answer = client.command(f"DRAIN_START|SID|{duration}")
    assert answer.startswith("ERROR|duration") and duration in answer
    assert client.command("DRAIN_STATUS|SID") == "ERROR|no drain in progress"
