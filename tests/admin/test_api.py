from __future__ import annotations

import logging
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from proxyd.admin.endpoints import ENDPOINTS
from proxyd.base.text import rfc3339
from proxyd.events.bus import Event
from proxyd.net.listen import ListenError
from proxyd.store.sql import identity, maintenance
from proxyd.store.sql.models import Route
from proxyd.store.sql.query import dicts
from proxyd.store.sql.traffic import route_stats
from tests.admin.harness import SESSION, Master, add_event, add_route, add_session, open_circuit, running
from tests.support.schema import fits


@pytest.mark.parametrize("name", [
    "status", "hosts", "routes", "routes/r1", "sessions", "health", "circuits", "events", "stats", "traffic"])
def test_every_answer_has_the_shape_that_the_openapi_document_gives(master: Master, name: str) -> None:
    master.write(lambda: add_event("backend_health_changed", "r1"))
    master.add_worker(0)
    document = master.get("/api/v1/openapi.json").json()
    path = f"/api/v1/{name}".replace("/r1", "/{route_id}")
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    answer = master.get(f"/api/v1/{name}").json()
    fits(answer, schema)
    # SQLite belongs to one host, which the database does not name.
    assert answer.get(name, answer) or name == "hosts"


def test_the_openapi_document_names_every_public_endpoint_once(master: Master) -> None:
    document = master.get("/api/v1/openapi.json").json()
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    assert document["openapi"].startswith("3.1")
    assert len(operations) == sum(not endpoint.hidden for endpoint in ENDPOINTS)
    assert len({operation["operationId"] for operation in operations}) == len(operations)


def test_a_route_comes_with_health_circuit_maintenance_drain_and_the_sums_of_stats_get(master: Master) -> None:
    started = time.time() - 15
    master.write(lambda: Route.update(drain_started_at=rfc3339(started), drain_seconds=60.0).execute())
    master.run(lambda: open_circuit(master, 1))
    def maintained() -> None:
        Route.update(maintenance_since=rfc3339(started)).execute()
        identity.came(dicts(Route.select()), "shop-1")
        for reason in ("the last one", "new disk"):
            maintenance.write(maintenance.Turn(maintenance.END, ["r1"], rfc3339(started), "alice", how=maintenance.EXITED))
            maintenance.write(maintenance.Turn(maintenance.BEGIN, ["r1"], rfc3339(started), "alice", reason=reason))

    master.write(maintained)
    route = master.get("/api/v1/routes/r1").json()
    expected = master.run(lambda: master.store.read(route_stats, ["r1"]))["r1"]
    assert [route["maintenance"][name] for name in ("active", "reason", "entered_by")] == [True, "new disk", "alice"]
    assert route["health"]["status"] == "healthy" and route["circuit"]["state"] == "open"
    assert route["drain"]["active"] and 74 < route["drain"]["traffic_percent"] <= 75.1
    assert route["stats"] == {name: expected[name] for name in route["stats"]}
    assert route["stats"]["requests"] == 10 and route["stats"]["in_flight"] == 2


def test_stats_are_those_of_stats_get(master: Master) -> None:
    expected = master.run(lambda: master.store.read(route_stats, ["r1"]))["r1"]
    assert master.get("/api/v1/stats").json()["stats"] == [expected]


def test_routes_can_be_searched_and_paged(master: Master) -> None:
    def more() -> None:
        for number in range(2, 12):
            add_route(number, service="blog" if number > 9 else "shop")

    master.write(more)
    found = master.get("/api/v1/routes?limit=3&offset=2")
    assert [route["route_id"] for route in found.json()["routes"]] == ["r1", "r2", "r3"]
    assert found.headers["X-Total-Count"] == "11"
    assert {route["route_id"] for route in master.get("/api/v1/routes?q=blog").json()["routes"]} == {"r10", "r11"}
    assert master.get("/api/v1/routes?q=%25").json()["routes"] == []


def test_a_session_has_the_same_public_number_for_every_reader(master: Master) -> None:
    open_reading = master.get("/api/v1/sessions").json()["sessions"][0]["session_id"]
    assert open_reading == master.act("GET", "/api/v1/sessions").json()["sessions"][0]["session_id"] == SESSION
    assert master.get("/api/v1/routes").json()["routes"][0]["session_id"] == SESSION


def test_ended_sessions_are_listed_only_when_asked_for(master: Master) -> None:
    master.write(lambda: add_session("old", state="ended"))
    assert len(master.get("/api/v1/sessions").json()["sessions"]) == 1
    assert len(master.get("/api/v1/sessions?state=ended").json()["sessions"]) == 1
    assert master.get("/api/v1/sessions?state=x").status_code == 400


def test_traffic_is_a_series_of_minutes_that_ends_now(master: Master) -> None:
    traffic = master.get("/api/v1/traffic?minutes=5").json()
    series = traffic["routes"]["r1"]
    assert sum(series["requests"]) == 10 and sum(series["errors"]) == 2
    assert len(series["requests"]) == 5 and sum(series["requests"][-2:]) == 10


def test_events_are_listed_newest_first_and_by_type(master: Master) -> None:
    def happen() -> None:
        add_event("circuit_reset", "r1")
        add_event("drain_started", detail='{"x":1}')
        add_event("circuit_reset")

    master.write(happen)
    assert [item["type"] for item in master.get("/api/v1/events").json()["events"]] == [
        "circuit_reset", "drain_started", "circuit_reset"]
    assert master.get("/api/v1/events?type=drain_started").json()["events"][0]["data"] == {"x": 1}
    assert len(master.get("/api/v1/events?limit=1").json()["events"]) == 1


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=99999999999999999999", "limit=-1", "offset=²"])
def test_a_bad_number_is_refused_with_a_sentence(master: Master, query: str) -> None:
    answer = master.get(f"/api/v1/routes?{query}")
    assert answer.status_code == 400 and "whole number" in answer.json()["detail"]
    assert answer.headers["Content-Type"] == "application/problem+json"


def lines_of(answer: requests.Response) -> Iterator[str]:
    return answer.iter_lines(chunk_size=1, decode_unicode=True)


def publish(master: Master, type_: str, data: dict[str, Any]) -> None:
    master.run(lambda: master.bus.publish(type_, data, route_id="r1", session_id=SESSION, keep=False))


@pytest.mark.parametrize("how", [{"params": {"follow": "1"}}, {"headers": {"Accept": "text/event-stream"}}])
def test_followers_see_events_as_they_happen(master: Master, how: dict[str, Any]) -> None:
    with master.get("/api/v1/events", stream=True, **how) as answer:
        lines = lines_of(answer)
        assert next(lines).startswith("retry:")
        publish(master, "circuit_state_changed", {"to": "open"})
        event = next(line for line in lines if line.startswith("event:"))
        data = next(lines)
        assert event == "event: circuit_state_changed"
        assert data.startswith("data: {") and '"to": "open"' in data
        assert answer.headers["Content-Type"].startswith("text/event-stream")


def test_a_follower_of_one_type_sees_no_other(master: Master) -> None:
    with master.get("/api/v1/events?follow=1&type=circuit_reset", stream=True) as answer:
        lines = lines_of(answer)
        next(lines)
        publish(master, "drain_started", {})
        publish(master, "circuit_reset", {})
        assert next(line for line in lines if line.startswith("event:")) == "event: circuit_reset"


def test_a_silent_stream_gets_heartbeats_and_a_slow_reader_is_told_what_it_missed(master: Master) -> None:
    def act() -> list[bytes]:
        follower = master.server._context.followers.follow("", heartbeat=0.01)
        blocks = iter(follower)
        got = [next(blocks), next(blocks)]
        for _ in range(1005):
            follower._take(Event("x", "now", None))
        got.append(next(blocks))
        follower.close()
        return got

    _, heartbeat, missed = master.run(act)
    assert heartbeat.startswith(b": heartbeat") and b'"missed": 5' in missed
    assert master.server._context.followers.count == 0


def test_head_has_no_body_unknown_paths_are_404_and_wrong_methods_405(master: Master) -> None:
    head = requests.head(master.url + "/api/v1/routes", timeout=5)
    assert head.status_code == 200 and head.content == b"" and int(head.headers["Content-Length"]) > 10
    assert master.get("/nowhere").status_code == 404
    wrong = requests.post(master.url + "/api/v1/sessions", timeout=5)
    assert wrong.status_code == 405 and wrong.headers["Allow"] == "GET, HEAD"
    assert master.get("/api/v1/routes/r99").json()["code"] == "no_such_route"


def test_livez_is_up_and_readyz_says_why_not(master: Master) -> None:
    assert master.get("/livez").text == "ok\n"
    answer = master.get("/readyz")
    assert answer.status_code == 503 and answer.json()["reasons"] == ["no worker is running"]
    master.run(lambda: master.board.post(7))
    master.add_worker(7)
    assert master.get("/readyz").json() == {"ready": True, "reasons": []}
    master.health_alive = False
    assert master.get("/readyz").json()["reasons"] == ["the health checker is not running"]


def test_readyz_names_a_worker_that_stays_behind(master: Master) -> None:
    master.run(lambda: master.board.post(8))
    master.add_worker(7)
    reasons = master.get("/readyz").json()["reasons"]
    assert len(reasons) == 1 and "routes by config version 7, current is 8" in reasons[0]


def test_readyz_names_a_database_that_fails(master: Master) -> None:
    master.write(lambda: Route._meta.database.execute_sql("DROP TABLE counters"))
    assert any("database" in reason for reason in master.get("/readyz").json()["reasons"])


def test_a_busy_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ListenError, match="is in use by another program"), running(tmp_path, f"127.0.0.1:{taken.getsockname()[1]}"):
            pass


@pytest.mark.parametrize(("sent", "answer"), [
    (b"", b""), (b"GET", b"400"), (b"GET / HTTP/1.1\r\nHost: a", b""), (b"GET / HTTP/9.9\r\n\r\n", b"400"),
    (b"\x16\x03\x01\x02\x00", b"400"),
    (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", b""), (b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{", b"400"),
    (b"POST /login HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"400"),
    (b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n", b"400"),
    (b"GET /api/v1/routes?" + b"a=1&" * 101 + b" HTTP/1.0\r\nHost: localhost\r\n\r\n", b"400"),
    (b"GET /api/v1/events?limit=1&" + b"a=1&" * 101 + b" HTTP/1.0\r\nHost: localhost\r\n\r\n", b"400"),
])
@pytest.mark.parametrize("rude", [False, True])
def test_a_broken_connection_is_no_error_of_ours(
        master: Master, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], sent: bytes, answer: bytes,
        rude: bool) -> None:
    client = socket.create_connection(("127.0.0.1", master.server.port), timeout=5)
    client.sendall(sent)
    if rude:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    else:
        client.shutdown(socket.SHUT_WR)
        assert answer in client.makefile("rb").readline()
    client.close()
    assert master.get("/livez").text == "ok\n"
    assert [record for record in caplog.records if record.levelno > logging.DEBUG and "tests." not in record.name] == []
    assert "Traceback" not in "".join(capfd.readouterr())


def test_it_listens_on_a_unix_socket_in_place_of_a_stale_one(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with running(tmp_path, f"unix:{path}"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b"GET /livez HTTP/1.0\r\n\r\n")
        assert client.makefile("rb").read().endswith(b"ok\n")
        assert path.stat().st_mode & 0o777 == 0o660
    assert not path.exists()
