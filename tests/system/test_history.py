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


def deploys(system: System, service: str) -> list[dict[str, Any]]:
    """The deploys of a service, the oldest first."""
    names = ("version_before", "version_after", "places_added", "places_changed", "places_removed", "config_version", "actor", "change")
    rows = system.sql(f"SELECT {', '.join(names)} FROM v_deploys WHERE service_name = ? ORDER BY deploy_id", service)
    return [{**dict(zip(names, row, strict=True)), "change": json.loads(row[-1])} for row in rows]


def test_a_deploy_tells_what_it_changed_and_a_redeploy_that_changes_nothing_changes_nothing(system: System, backend: Backend) -> None:
    first = system.client("told", metadata='{"version": "1.4\\u0000"}')
    one = first.route("told.test", backend.url)
    first.route("told.test", backend.url, path="/old")
    again = system.client("told", metadata='{"version": 2}')
    two = again.route("told.test", backend.url, apply=False)
    again.route("told.test", backend.url, path="/old", apply=False)
    again.apply()
    again.ok(f"OPTIONS_SET|SID|{two}|timeout|3s")
    again.ok(f"REQUEST_HEADERS_SET|SID|{two}|X-Key|a secret")
    again.ok(f"ROUTE_UPDATE|SID|{two}|backend_url|{backend.url}/v2")
    again.apply()
    again.ok(f"ROUTE_REMOVE|SID|{two}")
    again.apply()
    again.apply()
    told = deploys(system, "told")
    assert [(row["version_before"], row["version_after"]) for row in told] == [
        (None, "1.4"), ("1.4", "1.4"), ("1.4", "2"), ("2", "2"), ("2", "2")]
    assert [(row["places_added"], row["places_changed"], row["places_removed"]) for row in told] == [
        (1, 0, 0), (1, 0, 0), (0, 0, 0), (0, 1, 0), (0, 0, 1)]
    added = {"route_id": one, "domains": ["told.test"], "path": "/", "backend_url": backend.url}
    assert told[0]["change"] == {"added": [added]} and told[2]["change"] == {}
    assert told[3]["change"] == {"changed": [{
        "route_id": two, "domain": "told.test", "path": "/", "backend_url": [backend.url, f"{backend.url}/v2"],
        "options": {"timeout": [None, "3s"]}, "request_headers": ["X-Key"]}]}
    assert told[4]["change"] == {"removed": [{**added, "route_id": two, "backend_url": f"{backend.url}/v2"}]}
    versions = [row["config_version"] for row in told]
    assert versions == sorted(set(versions)) and all(row["actor"].startswith("told/i1@127.0.0.1:") for row in told)


def test_a_deploy_of_many_routes_tells_as_many_as_there_is_room_for(system: System, backend: Backend) -> None:
    client = system.client("many")
    for first in (0, 150):
        client.ok("ROUTE_ADD_BULK|SID|" + json.dumps([{"domains": f"many-{number}.test", "backend_url": backend.url}
                                                      for number in range(first, first + 150)]))
    client.apply()
    told, = deploys(system, "many")
    assert told["places_added"] == 300 == len(told["change"]["added"]) + told["change"]["left_off"]
    assert len(json.dumps(told["change"])) < 17_000


def windows(system: System, service: str) -> list[tuple[Any, ...]]:
    """The maintenance of a service, the oldest first."""
    return system.sql("SELECT path, state, ended_how, reason, planned_end IS NOT NULL, ended_at >= started_at FROM v_maintenance "
                      "WHERE service_name = ? ORDER BY window_id", service)


def test_maintenance_is_kept_with_who_when_and_why_until_it_is_over_or_its_route_is_gone(system: System, backend: Backend) -> None:
    client = system.client("mended")
    route_id = client.route("mended.test", backend.url)
    other = client.route("mended.test", backend.url, path="/other")
    for line in (f"MAINT_ENTER|SID|{route_id}|||a new disk", f"MAINT_ENTER|SID|{route_id}||1h", f"MAINT_EXIT|SID|{route_id}",
                 f"MAINT_EXIT|SID|{route_id}", "MAINT_ENTER|SID|ALL||50ms"):
        assert client.command(line) == "ACK" and client.line().startswith("MAINT_OK|")
    first = ("/", "ended", "exited", "a new disk", 1, 1)
    over = wait_for(lambda: len(found := windows(system, "mended")) == 3 and {one[1] for one in found} == {"ended"} and found)
    assert over == [first, ("/", "ended", "over", "", 1, 1), ("/other", "ended", "over", "", 1, 1)]
    assert client.command(f"MAINT_ENTER|SID|{other}|") == "ACK" and client.line() == f"MAINT_OK|{other}"
    assert windows(system, "mended")[3] == ("/other", "running", None, "", 0, None)
    assert client.command(f"MAINT_ENTER|SID|{other}|||{'x' * 201}") == "ERROR|reason: a reason has 200 printable characters at most"
    client.ok(f"ROUTE_REMOVE|SID|{other}")
    client.apply()
    assert windows(system, "mended")[3] == ("/other", "ended", "removed", "", 0, 1)
    who = system.sql("SELECT DISTINCT entered_by, w.endpoint_id = p.endpoint_id FROM v_maintenance w JOIN endpoints p "
                     "ON p.service_name = w.service_name AND p.path = w.path WHERE w.service_name = 'mended'")
    assert len(who) == 1 and who[0][0].startswith("mended/i1@127.0.0.1:") and who[0][1] == 1
