"""What the database tells about a service over redeploys: endpoints stay, while sessions and routes come and go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.backends import Backend
from tests.support.system import System
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    running = System(tmp_path_factory.mktemp("history"), workers=1)
    yield running
    running.stop()


def routes(system: System, service: str) -> list[dict[str, Any]]:
    """The history of a service's routes, the oldest first."""
    names = ("route_id", "endpoint_id", "instance_name", "domain", "path", "added_by", "removed_at", "removed_by", "removed_why")
    rows = system.sql(f"SELECT {', '.join(names)} FROM v_route_history WHERE service_name = ? ORDER BY added_at, route_id", service)
    return [dict(zip(names, row, strict=True)) for row in rows]


def test_sums_by_endpoint_are_complete_over_twenty_redeploys(system: System, backend: Backend) -> None:
    deploys = 20
    for number in range(deploys):
        client = system.client("shop")
        # What deploys do: some end the session before, most just register anew.
        client.route("history.test", backend.url, path="/shop", apply=False)
        client.route("history.test", backend.url, path="/cart", apply=False)
        client.apply()
        for path in ("/shop", "/shop", "/cart"):
            assert system.get(path, "history.test").status == 200
        if number % 5 == 4:
            assert client.command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    counted = "SELECT path, SUM(requests) FROM v_traffic WHERE service_name = 'shop' GROUP BY endpoint_id, path ORDER BY path"
    wait_for(lambda: system.sql(counted) == [("/cart", deploys), ("/shop", 2 * deploys)], what="sums of all redeploys")
    assert system.sql("SELECT path, SUM(requests), SUM(status_2xx) FROM v_traffic_by_hour WHERE service_name = 'shop' GROUP BY path "
                      "ORDER BY path") == [("/cart", deploys, deploys), ("/shop", 2 * deploys, 2 * deploys)]
    assert system.sql("SELECT SUM(requests) FROM traffic_days WHERE endpoint_id IN (SELECT endpoint_id FROM endpoints WHERE "
                      "service_name = 'shop')") == [(3 * deploys,)]
    rows = system.sql("SELECT requests, p50_ms, p95_ms, p99_ms FROM v_latency_by_hour WHERE service_name = 'shop'")
    assert sum(row[0] for row in rows) == 3 * deploys and all(0 < p50 <= p95 <= p99 for _, p50, p95, p99 in rows)
    assert system.sql("SELECT service_name, instance_name, domain, path FROM endpoints WHERE service_name = 'shop' ORDER BY path") == [
        ("shop", "i1", "history.test", "/cart"), ("shop", "i1", "history.test", "/shop")]
    assert system.sql("SELECT routes_ever, routes_now FROM v_endpoints WHERE service_name = 'shop'") == [(deploys, 0)] * 2
    reasons = [row["removed_why"] for row in routes(system, "shop")]
    assert (reasons.count("redeployed"), reasons.count("CLIENT_SHUTDOWN"), len(reasons)) == (32, 8, 40)
    who = "shop/i1@127.0.0.1:"
    assert all(row["added_by"].startswith(who) and row["removed_by"].startswith(who) for row in routes(system, "shop"))
    # No history is an orphan.
    for table in ("route_minutes", "route_stats", "events"):
        assert not system.sql(f"SELECT route_id FROM {table} WHERE route_id IS NOT NULL AND route_id <> '-' "
                              "AND route_id NOT IN (SELECT route_id FROM route_history)")


def test_a_route_that_moves_to_another_path_is_another_endpoint_and_a_new_backend_is_not(system: System, backend: Backend) -> None:
    client = system.client("moves")
    route_id = client.route("moves.test", backend.url)
    before, = routes(system, "moves")
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|{backend.url}/other")
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|domains|moves.test,www.moves.test")
    client.apply()
    assert routes(system, "moves") == [before]
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|path|/new")
    client.apply()
    after, = routes(system, "moves")
    assert after == {**before, "endpoint_id": after["endpoint_id"], "path": "/new"} and after["endpoint_id"] != before["endpoint_id"]
    client.ok(f"ROUTE_REMOVE|SID|{route_id}")
    client.apply()
    after, = routes(system, "moves")
    assert after["removed_why"] == "CONFIG_APPLY" and after["removed_at"]


def story(system: System, service: str) -> list[tuple[str, str, dict[str, Any]]]:
    """What the events tell of a service's sessions, the oldest first: type, session and data without the names."""
    rows = system.sql("SELECT type, session_id, detail FROM events WHERE type LIKE 'session_%' ORDER BY id")
    found = [(type_, session_id, json.loads(detail)) for type_, session_id, detail in rows]
    return [(type_, session_id, {key: value for key, value in data.items() if key not in ("service", "instance")})
            for type_, session_id, data in found if (data["service"], data["instance"]) == (service, "i1")]


def test_what_became_of_a_session_is_told_from_its_beginning_to_its_end(system: System, backend: Backend) -> None:
    client = system.client("story")
    client.route("story.test", backend.url)
    number = system.sql("SELECT session_id FROM sessions WHERE service_name = 'story'")[0][0]
    client.close()
    lost = "SELECT disconnected_at FROM sessions WHERE service_name = 'story' AND disconnected_at IS NOT NULL"
    wait_for(lambda: system.sql(lost))
    again = system.connect()
    assert again.command(f"RECONNECT|{client.session_id}") == "OK"
    # RECONNECT leaves the trace of the loss.
    assert system.sql(lost) and system.sql("SELECT state FROM sessions WHERE service_name = 'story'") == [("connected",)]
    assert again.command(f"CLIENT_SHUTDOWN|{client.session_id}") == "SHUTDOWN_OK"
    told = wait_for(lambda: len(found := story(system, "story")) == 4 and found)
    assert [type_ for type_, _, _ in told] == ["session_registered", "session_lost", "session_back", "session_ended"]
    assert {session_id for _, session_id, _ in told} == {number}
    assert told[1][2]["address"] == told[0][2]["address"] != told[2][2]["address"] and 0 <= told[2][2]["away"] < 10
    assert told[3][2] == {"reason": "CLIENT_SHUTDOWN"}


def test_a_session_that_a_redeploy_replaces_ends_when_its_successor_applies(system: System, backend: Backend) -> None:
    system.client("redeployed").route("redeployed.test", backend.url)
    system.client("redeployed").route("redeployed.test", backend.url)
    told = wait_for(lambda: len(found := story(system, "redeployed")) == 4 and found)
    assert [type_ for type_, _, _ in told] == ["session_registered", "session_replaced", "session_registered", "session_ended"]
    assert told[3][1] == told[0][1] and told[3][2]["reason"].startswith(f"redeployed: session {told[2][1]} ")
