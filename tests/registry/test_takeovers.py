"""What one party takes from another is told: the client that loses, the log, the events and the status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("takeovers"), workers=1)
    yield running
    running.stop()


def events(system: System, type_: str, service: str) -> list[tuple[str | None, str, dict[str, Any]]]:
    """Session or route, actor and data of the events about a service, the oldest first."""
    rows = system.sql("SELECT COALESCE(route_id, session_id), actor, detail FROM events WHERE type = ? ORDER BY id", type_)
    return [(row[0], row[1], json.loads(row[2])) for row in rows if json.loads(row[2])["service"] == service]


def address_of(client: RegistryClient) -> str:
    host, port = client.socket.getsockname()
    return f"{host}:{port}"


@pytest.mark.parametrize("how", ["REGISTER", "RECONNECT"])
def test_a_connected_client_that_loses_its_session_is_told(system: System, how: str) -> None:
    name = how.lower()
    first = system.client(name)
    number = system.sql("SELECT session_id FROM sessions WHERE service_name = ?", name)[0][0]
    first.ok("SUBSCRIBE|SID|session_replaced")
    second = system.connect()
    if how == "REGISTER":
        second.register(name)
        assert second.json("SESSION_INFO|SID")["took_from"] == address_of(first)
    else:
        assert second.command(f"RECONNECT|{first.session_id}") == "OK"
    kind, type_, data = first.line().split("|", 2)
    told = {"service": name, "instance": "i1", "how": how, "address": address_of(second), "token": "",
            "previous_address": address_of(first)}
    assert (kind, type_) == ("EVENT", "session_replaced") and {**json.loads(data), **told} == json.loads(data)
    assert first.command("PING|SID") == "ERROR|invalid session"
    (whose, actor, kept), = wait_for(lambda: events(system, "session_replaced", name))
    assert (whose, actor, kept) == (number, address_of(second), {**told, "count": 1})
    sentence = f"{name}/i1 lost its session at {address_of(first)} to {address_of(second)} ({how})"
    assert sentence in system.log()
    assert sentence in system.admin("/api/v1/status").json()["notices"]


def test_two_programs_of_the_same_names_are_a_problem_and_fill_neither_log_nor_events(system: System) -> None:
    for _ in range(12):
        client = system.connect()
        client.ok("REGISTER|twins|i1")
    status = system.admin("/api/v1/status").json()
    assert any("twins/i1 lost its session" in text and "11 times" in text for text in status["problems"]), status["problems"]
    assert system.log().count("twins/i1 lost its session") == 1
    wait_for(lambda: events(system, "session_replaced", "twins"))
    assert len(events(system, "session_replaced", "twins")) == 1


def test_every_holder_that_loses_is_told_however_often_it_happens(system: System) -> None:
    before = None
    for _ in range(4):
        client = system.connect().register("often")
        client.ok("SUBSCRIBE|SID|all")
        if before is not None:
            assert before.line().startswith("EVENT|session_replaced|")
        before = client


def test_a_client_that_comes_back_after_its_connection_was_lost_takes_nothing_from_anybody(system: System) -> None:
    first = system.client("gone")
    first.close()
    wait_for(lambda: system.sql("SELECT 1 FROM sessions WHERE service_name = 'gone' AND state = 'disconnected'"))
    back = system.connect()
    assert back.command(f"RECONNECT|{first.session_id}") == "OK"
    assert back.command(f"RECONNECT|{first.session_id}") == "OK", "it has it already"
    back.close()
    wait_for(lambda: system.sql("SELECT 1 FROM sessions WHERE service_name = 'gone' AND state = 'disconnected'"))
    assert system.client("gone").json("SESSION_INFO|SID")["took_from"] is None
    assert "gone/i1 lost its session" not in system.log() and events(system, "session_replaced", "gone") == []


def test_a_route_of_higher_priority_of_another_service_is_told(system: System) -> None:
    loser, winner = system.client("loser"), system.client("winner")
    lost = loser.route("taken.test", NOWHERE)
    loser.route("taken.test", NOWHERE, "/other")
    loser.ok("SUBSCRIBE|SID|route_overridden")
    won = winner.route("taken.test", NOWHERE, priority=5)
    assert loser.line().startswith("EVENT|route_overridden|")
    (whose, _, data), = wait_for(lambda: events(system, "route_overridden", "loser"))
    assert (whose, data["place"], data["by_route"], data["by_service"]) == (lost, "taken.test/", won, "winner")
    sentence = f"route {lost} of loser gets no traffic at taken.test/: route {won} of winner has a higher priority"
    assert sentence in system.log() and sentence in system.admin("/api/v1/status").json()["notices"]
    winner.options(won, timeout="9s")
    assert len(events(system, "route_overridden", "loser")) == 1, "nothing was taken by that"
    winner.ok(f"ROUTE_REMOVE|SID|{won}")
    winner.apply()
    assert sentence not in system.admin("/api/v1/status").json()["notices"]


def test_a_route_of_ones_own_service_may_have_a_higher_priority_without_a_word(system: System) -> None:
    own = system.client("own")
    own.route("own.test", NOWHERE)
    own.route("own.test", NOWHERE, priority=5)
    assert not [text for text in system.admin("/api/v1/status").json()["notices"] if "own.test" in text]
