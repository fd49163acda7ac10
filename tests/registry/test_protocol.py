"""The registry protocol over the wire, sentence by sentence: framing, sessions, staging, applying.

One whole system with two workers for all of them; every test has services and domains of its own.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import re
import signal
import socket
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from proxyd.client import Client, ClientError
from tests.support.backends import Backend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for

NOWHERE = "http://127.0.0.1:9"


def answers(client: RegistryClient, count: int) -> list[str]:
    return [client.line() for _ in range(count)]


def listed(client: RegistryClient) -> list[dict[str, object]]:
    found: list[dict[str, object]] = client.json("ROUTE_LIST|SID")
    return found


# -- framing


def test_a_carriage_return_before_the_line_end_is_dropped(system: System) -> None:
    assert system.client("cr").command("PING|SID\r") == "PONG"


def test_empty_lines_get_no_answer(system: System) -> None:
    client = system.client("empty")
    client.send("\n\r\n\nPING|SID")
    assert client.line() == "PONG"


def test_a_command_line_of_16_kib_is_taken(system: System) -> None:
    client = system.client("long")
    head = f"HEADERS_SET|{client.session_id}|ALL|X-Long|"
    answer = client.command(head + "x" * (16384 - len(head)))
    assert answer == f"ERROR|value: a value of {16384 - len(head)} characters is longer than 4096"
    assert client.command("PING|SID") == "PONG"


@pytest.mark.parametrize("size", [16385, 1 << 20])
def test_a_longer_line_is_an_error_and_the_connection_closes(system: System, size: int) -> None:
    client = system.client("longer", f"i{size}")
    with contextlib.suppress(OSError):  # it may be closed before all of it is sent; what it said is there all the same
        client.send("x" * size)
    assert client.line() == "ERROR|line too long (max 16384 bytes)"
    assert client.line() == ""


def test_a_line_that_never_ends_is_not_collected_forever(system: System) -> None:
    client = system.client("endless")
    client.socket.sendall(b"x" * 16400)
    assert client.line() == "ERROR|line too long (max 16384 bytes)"


@pytest.mark.parametrize("line", [b"HEADERS_SET|SID|ALL|X-A|a\x00b", b"HEADERS_SET|SID|ALL|X-A|a\x1bb", b"HEADERS_SET|SID|ALL|X-A|a\rb",
                                  b"HEADERS_SET|SID|ALL|X-A|\x7f", b"HEADERS_SET|SID|ALL|X-A|\xff", b"HEADERS_SET|SID|ALL|X-A|\xc3"])
def test_control_characters_and_invalid_utf8_are_errors_and_nothing_is_staged(system: System, line: bytes) -> None:
    client = system.client("control", f"i{line.hex()[-8:]}")
    client.socket.sendall(line.replace(b"SID", client.session_id.encode()) + b"\n")
    assert re.match(r"ERROR\|(control character 0x|invalid UTF-8 at byte)", client.line())
    assert client.json("CONFIG_DIFF|SID")["headers"] == {"added": 0, "removed": 0, "modified": 0}


def test_a_line_that_comes_in_pieces_is_one_line(system: System) -> None:
    client = system.client("pieces")
    for byte in f"PING|{client.session_id}\n".encode():
        client.socket.sendall(bytes([byte]))
    assert client.line() == "PONG"


def test_the_last_field_takes_the_rest_of_the_line(system: System, backend: Backend) -> None:
    client = system.client("rest", "i1", '{"a":"x|y"}')
    assert client.json("SESSION_INFO|SID")["metadata"] == {"a": "x|y"}
    client.ok("HEADERS_SET|SID|ALL|X-Rest|a|b|c")
    client.route("rest.test", backend.url)
    assert system.get("/", "rest.test").headers["X-Rest"] == "a|b|c"


def test_json_from_the_server_holds_no_bar(system: System) -> None:
    client = system.client("nobar", "i1", '{"a":"x|y"}')
    answer = client.command("SESSION_INFO|SID")
    assert answer.count("|") == 1
    assert "x\\u007cy" in answer


def test_pipelined_commands_are_answered_in_order_one_answer_each(system: System) -> None:
    client = system.client("pipeline")
    sent, expected = [], []
    for number in range(200):
        sent += [f"PING|SID|txn-{number}", f"NONSENSE{number}", f"CONFIG_ROLLBACK|SID|txn-{number}", "\x01", ""]
        expected += [f"PONG|txn-{number}", f"ERROR|unknown command: NONSENSE{number}", f"OK|txn-{number}",
                     "ERROR|control character 0x01 at character 0"]
    client.send("\n".join(sent))
    assert answers(client, len(expected)) == expected


def test_a_too_large_answer_is_an_error_and_compressed_carries_it(system: System) -> None:
    client = system.client("large")
    for _ in range(5):
        client.ok("ROUTE_ADD_BULK|SID|" + json.dumps(
            [{"domains": [f"{letter * 60}.large.test"], "backend_url": NOWHERE} for letter in "abcdefghijklmnopqrstuvwxyz" * 4]))
    answer = client.command("ROUTE_LIST|SID|txn-1")
    assert re.fullmatch(r"ERROR\|txn-1\|response too large \(\d+ bytes\), ask for compressed", answer)
    assert client.command("PING|SID") == "PONG"
    packed = client.ok("ROUTE_LIST|SID|compressed")
    routes = json.loads(gzip.decompress(base64.b64decode(packed)))
    assert len(routes) == 520
    assert routes[0]["status"] == "staged"
    client.command("CONFIG_ROLLBACK|SID")


def test_stats_come_compressed_when_asked(system: System) -> None:
    client = system.client("packed")
    route_id = client.route("packed.test", NOWHERE)
    for line in ("STATS_GET|SID|ALL|compressed", "STATS_GET|SID||compressed"):
        assert [item["route_id"] for item in json.loads(gzip.decompress(base64.b64decode(client.ok(line))))] == [route_id]
    assert client.command("STATS_GET|SID|ALL|zipped") == 'ERROR|compressed: "zipped" is neither the word compressed nor empty'


def test_nobody_who_did_not_subscribe_receives_an_event_line(system: System) -> None:
    client = system.client("unsolicited")
    route_id = client.route("unsolicited.test", NOWHERE)
    client.ok("DRAIN_START|SID|300ms")
    assert client.command(f"MAINT_ENTER|SID|{route_id}|") == "ACK"
    assert client.line() == f"MAINT_OK|{route_id}"
    wait_for(lambda: client.command("DRAIN_STATUS|SID").find('"traffic_percent":0.0') > 0, what="the drain's end")
    assert [client.command("PING|SID") for _ in range(3)] == ["PONG"] * 3


# -- transaction ids


@pytest.mark.parametrize("command", ["MAINT_ENTER", "MAINT_EXIT", "TRAFFIC_HOLD", "TRAFFIC_RELEASE"])
def test_a_target_that_is_no_path_is_refused_with_what_it_should_be(system: System, command: str) -> None:
    client = system.client("target")
    rest = "|1s" if command == "TRAFFIC_HOLD" else ""
    assert client.command(f"{command}|SID|/a b{rest}").startswith('ERROR|target: "/a b" is not a path (')


def test_a_transaction_id_comes_back_behind_the_first_field(system: System) -> None:
    client = system.client("txn")
    assert client.command("PING|SID|txn-7") == "PONG|txn-7"
    assert client.command("SESSION_INFO|SID|txn-8").startswith('SESSION_OK|txn-8|{"session_id"')
    assert re.fullmatch(r"ROUTE_OK\|txn-9\|r\d+", client.command(f"ROUTE_ADD|SID|txn-9|txn.test|/|{NOWHERE}|0"))
    assert client.command("PING|SID") == "PONG"


@pytest.mark.parametrize(("line", "answer"), [
    ("ROUTE_ADD|SID|txn-1|a.test|/", "ERROR|txn-1|ROUTE_ADD needs 5 fields: session_id|domains|path|backend_url|priority (got 3)"),
    ("ROUTE_ADD|SID|txn-1|a.test|/|http://a|ten", 'ERROR|txn-1|priority: "ten" is not a whole number'),
    ("ROUTE_REMOVE|SID|txn-1|r999999999", 'ERROR|txn-1|route_id: "r999999999" is not a route of this session'),
    ("PING|wrong|txn-1", "ERROR|txn-1|invalid session"),
    ("FOO|SID|txn-1", "ERROR|txn-1|unknown command: FOO"),
    ("PING|SID|txn-1|more", "ERROR|txn-1|PING takes 1 field: session_id (got 2)"),
    ("DRAIN_STATUS|SID|txn-1", "ERROR|txn-1|no drain in progress"),
])
def test_errors_carry_the_transaction_id_too(system: System, line: str, answer: str) -> None:
    assert system.client("txnerr").command(line) == answer


def test_both_lines_of_maintenance_carry_the_transaction_id(system: System) -> None:
    client = system.client("txnmaint")
    client.route("txnmaint.test", NOWHERE)
    client.send("MAINT_ENTER|SID|txn-5|ALL|")
    assert answers(client, 2) == ["ACK|txn-5", "MAINT_OK|txn-5|ALL"]


# -- durations


@pytest.mark.parametrize(("text", "seconds"), [("120", 120), ("1h30m", 5400), ("1.5s", 1.5), ("500ms", 0.5), ("2m", 120), (" 5s ", 5),
                                              ("+3s", 3), ("1ns", 1e-9)])
def test_durations_are_gos_or_whole_seconds(system: System, text: str, seconds: float) -> None:
    client = system.client("duration", f"i{seconds}")
    client.route("duration.test", NOWHERE)
    end = datetime.fromisoformat(client.ok(f"DRAIN_START|SID|{text}"))
    assert abs((end - datetime.now(UTC)).total_seconds() - seconds) < 1
    assert client.json("DRAIN_STATUS|SID")["duration_seconds"] == seconds


@pytest.mark.parametrize("text", ["0", "0s", "-5", "-1s", "soon", "", "5 parsecs", "1e3", "inf", "nan", "99999999999999999999"])
def test_zero_negative_and_unreadable_durations_name_field_and_value(system: System, text: str) -> None:
    client = system.client("badduration")
    assert client.command(f"DRAIN_START|SID|{text}").startswith(f'ERROR|duration: "{text}" is ')
    assert client.command(f"RATELIMIT_SET|SID|ALL|5|{text}").startswith(f'ERROR|window: "{text}" is ')
    assert client.command(f"HEALTH_SET|SID|ALL|/h|1s|{text}").startswith(f'ERROR|timeout: "{text}" is ')


# -- sessions


@pytest.mark.parametrize("rest", ["", "|", "|0", "|8080", "|0|", "|0|{}", "|0|null", "| 0 | null ", '|0|{"version":"1|2"}'])
def test_register_takes_metadata_that_is_absent_empty_null_or_an_object(system: System, rest: str) -> None:
    client = system.connect()
    assert re.fullmatch(r"ACK\|[0-9a-f]{32}", client.command(f"REGISTER|meta|i1{rest}"))


@pytest.mark.parametrize(("line", "error"), [
    ("REGISTER|app|i1|0|[1]", 'metadata: "[1]" is not a JSON object'), ("REGISTER|app|i1|0|5", 'metadata: "5" is not a JSON object'),
    ('REGISTER|app|i1|0|{"a":NaN}', 'metadata: "{"a":NaN}" is not JSON: NaN is no JSON number'),
    ('REGISTER|app|i1|0|{"a":"\\ud800"}', 'metadata: "{"a":"\\ud800"}" is not JSON: it holds half of a character'),
    ('REGISTER|app|i1|0|{"a":-Infinity}', 'metadata: "{"a":-Infinity}" is not JSON: -Infinity is no JSON number'),
    ('REGISTER|app|i1|0|{"a":1e999}', 'metadata: "{"a":1e999}" is not JSON: 1e999 is too large a number'),
    ('REGISTER|app|i1|0|"x"', "metadata:"), ("REGISTER|app|i1|0|{", 'metadata: "{" is not JSON'), ("REGISTER|app|i1|0|true", "metadata:"),
    ("REGISTER|app|i1|65536|{}", 'maintenance_port: "65536" is not a whole number from 0 to 65535'),
    ("REGISTER|app|i1|x|{}", 'maintenance_port: "x" is not a whole number'), ("REGISTER||i1", 'service: "" is not a name'),
    ("REGISTER|app|", 'instance: "" is not a name'), ("REGISTER|a b|i1", 'service: "a b" is not a name'),
    ("REGISTER|a/b|i1", "service:"), ("REGISTER|app", "REGISTER needs 2 fields: service|instance[|maintenance_port][|metadata] (got 1)"),
    ("REGISTER|app|i1|0|" + "[" * 5000, "metadata:")])
def test_register_names_what_is_wrong_and_begins_no_session(system: System, line: str, error: str) -> None:
    client = system.connect()
    assert client.command(line).startswith(f"ERROR|{error}")
    assert client.command("PING|x") == "ERROR|no session"


def test_session_ids_are_unguessable(system: System) -> None:
    ids = [system.client("guess", f"i{number}").session_id for number in range(5)]
    assert len({text[:8] for text in ids}) == 5
    assert all(re.fullmatch("[0-9a-f]{32}", text) for text in ids)


def test_a_second_register_on_a_connection_is_an_error(system: System) -> None:
    client = system.client("twice")
    assert client.command("REGISTER|twice|other").startswith("ERROR|this connection has a session already")
    assert client.command(f"RECONNECT|{'0' * 32}").startswith("ERROR|this connection has a session already")
    assert client.command(f"RECONNECT|{client.session_id}|txn-1") == "OK|txn-1"
    assert client.command("PING|SID") == "PONG"


def test_a_new_register_replaces_the_older_session_of_the_same_instance(system: System, backend: Backend) -> None:
    old = system.client("replaced", "i1")
    old.route("replaced.test", backend.url)
    other = system.client("replaced", "i2")
    other.route("replaced.test", backend.url, "/other")
    new = system.client("replaced", "i1")
    assert new.session_id != old.session_id
    assert {system.get("/", "replaced.test").status for _ in range(6)} == {200}, "until the new one applies"
    new.apply()
    assert [system.get("/", "replaced.test").status for _ in range(6)] == [404] * 6
    assert system.get("/other", "replaced.test").status == 200
    assert listed(new) == []


def test_a_replaced_session_is_obeyed_no_more(system: System) -> None:
    old = system.client("obeyed", "i1")
    system.client("obeyed", "i1")
    for line in ("PING|SID", f"ROUTE_ADD|SID|obeyed.test|/|{NOWHERE}|0", "CONFIG_APPLY|SID", "CLIENT_SHUTDOWN|SID"):
        assert old.command(line) == "ERROR|invalid session"
    assert system.connect().command(f"RECONNECT|{old.session_id}") == "REREGISTER"
    old.register("obeyed", "i3")
    assert old.command("PING|SID") == "PONG"


def test_the_end_of_a_replaced_sessions_connection_leaves_the_new_one_alone(system: System, backend: Backend) -> None:
    old = system.client("leaves", "i1")
    new = system.client("leaves", "i1")
    new.route("leaves.test", backend.url)
    old.close()
    for _ in range(20):
        assert system.get("/", "leaves.test").status == 200


def test_another_session_id_is_invalid_and_none_is_no_session(system: System) -> None:
    client, other = system.client("ids", "i1"), system.client("ids", "i2")
    assert client.command(f"PING|{other.session_id}") == "ERROR|invalid session"
    assert client.command("PING|") == "ERROR|invalid session"
    assert system.connect().command(f"PING|{client.session_id}") == "ERROR|no session"
    assert system.connect().command("ROUTE_LIST|x") == "ERROR|no session"


@pytest.mark.parametrize("reset", [False, True])
def test_a_lost_connection_stops_traffic_and_reconnect_brings_it_back_with_what_was_staged(
        system: System, backend: Backend, reset: bool) -> None:
    name = f"lost{reset}".lower()
    client = system.client(name)
    client.route(f"{name}.test", backend.url)
    staged = client.route(f"staged.{name}.test", backend.url, apply=False)
    if reset:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    client.close()
    wait_for(lambda: system.get("/", f"{name}.test").status == 503, 2, "the lost session's routes to stop")
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}|txn-1") == "OK|txn-1"
    assert [system.get("/", f"{name}.test").status for _ in range(6)] == [200] * 6
    back.session_id = client.session_id
    assert [(route["route_id"] == staged, route["status"]) for route in listed(back)] == [(False, "active"), (True, "staged")]
    back.apply()
    assert system.get("/", f"staged.{name}.test").status == 200


def test_reconnect_takes_a_session_from_a_connection_that_hangs(system: System, backend: Backend) -> None:
    hanging = system.client("hanging")
    hanging.route("hanging.test", backend.url)
    back = system.connect()
    assert back.command(f"RECONNECT|{hanging.session_id}") == "OK"
    assert hanging.command("PING|SID") == "ERROR|invalid session"
    hanging.close()
    assert back.command(f"PING|{hanging.session_id}") == "PONG"
    assert [system.get("/", "hanging.test").status for _ in range(10)] == [200] * 10


def test_a_close_that_races_its_own_reconnect_never_leaves_the_session_down(system: System, backend: Backend) -> None:
    client = system.client("racing")
    client.route("racing.test", backend.url)
    session_id = client.session_id
    for _ in range(15):
        back = system.connect()
        back.send(f"RECONNECT|{session_id}")
        client.close()
        assert back.line() == "OK"
        assert back.command(f"PING|{session_id}") == "PONG"
        assert system.get("/", "racing.test").status == 200
        client = back


@pytest.mark.parametrize("session_id", ["", "unknown", "0" * 32, "site:x", "x" * 5000])
def test_reconnect_for_an_unknown_id_is_reregister_and_the_connection_may_register(system: System, session_id: str) -> None:
    client = system.connect()
    assert client.command(f"RECONNECT|{session_id}") == "REREGISTER"
    client.register("reregistered", f"i{len(session_id)}")
    assert client.command("PING|SID") == "PONG"


def test_session_info_tells_what_is_known(system: System) -> None:
    client = system.client("info", "i7", '{"version":"1.2"}')
    client.route("info.test", NOWHERE)
    client.route("info2.test", NOWHERE, apply=False)
    info = client.json("SESSION_INFO|SID")
    assert list(info) == ["session_id", "service_name", "instance_name", "connected_at", "uptime_seconds", "last_activity", "last_apply",
                          "routes_active", "routes_staged", "metadata", "took_from"]
    assert (info["session_id"], info["service_name"], info["instance_name"]) == (client.session_id, "info", "i7")
    assert (info["routes_active"], info["routes_staged"], info["metadata"]) == (1, 1, {"version": "1.2"})
    for name in ("connected_at", "last_activity", "last_apply"):
        assert info[name].endswith("Z")
        assert abs((datetime.fromisoformat(info[name]) - datetime.now(UTC)).total_seconds()) < 5
    assert 0 <= info["uptime_seconds"] < 5


def test_client_shutdown_takes_the_routes_before_it_answers_and_closes(system: System, backend: Backend) -> None:
    client = system.client("bye")
    client.route("bye.test", backend.url)
    client.send("CLIENT_SHUTDOWN|SID\nPING|SID")
    assert client.line() == "SHUTDOWN_OK"
    assert [system.get("/", "bye.test").status for _ in range(6)] == [404] * 6
    assert client.line() == ""
    assert system.connect().command(f"RECONNECT|{client.session_id}") == "REREGISTER"


# -- staging


GOOD = [
    ("ROUTE_UPDATE|SID|RID|backend_url|https://other:444/base", "ROUTE_OK"), ("ROUTE_UPDATE|SID|RID|priority|-5", "ROUTE_OK"),
    ("ROUTE_UPDATE|SID|RID|domains|x.test,*.y.test,*", "ROUTE_OK"), ("ROUTE_UPDATE|SID|RID|path|/deep/er/", "ROUTE_OK"),
    ("ROUTE_REMOVE|SID|RID", "ROUTE_OK"),
    ("HEADERS_SET|SID|ALL|X-A|", "HEADERS_OK"), ("HEADERS_SET|SID|RID|x-a|v|w", "HEADERS_OK"), ("HEADERS_REMOVE|SID|ALL|X-A", "HEADERS_OK"),
    ("REQUEST_HEADERS_SET|SID|ALL|X-A|a {client_ip} {{b}} {}", "HEADERS_OK"), ("REQUEST_HEADERS_SET|SID|RID|authorization|-", "HEADERS_OK"),
    ("REQUEST_HEADERS_REMOVE|SID|RID|X-A", "HEADERS_OK"),
    ("OPTIONS_SET|SID|ALL|compression|true", "OPTIONS_OK"), ("OPTIONS_SET|SID|RID|timeout|5s", "OPTIONS_OK"),
    ("OPTIONS_REMOVE|SID|RID|timeout", "OPTIONS_OK"), ("HEALTH_SET|SID|RID|/healthz|10s|500ms", "HEALTH_OK"),
    ("HEALTH_SET|SID|RID|/h|1h|250ns", "HEALTH_OK"), ("HEALTH_SET|SID|ALL|tcp://|5|1", "HEALTH_OK"),
    ("RATELIMIT_SET|SID|ALL|100|1m", "RATELIMIT_OK"),
    ("RATELIMIT_SET|SID|RID|1|60", "RATELIMIT_OK"), ("CIRCUIT_BREAKER_SET|SID|RID|5|30s|2", "CIRCUIT_OK"),
    ("CIRCUIT_BREAKER_SET|SID|ALL|1|250ms|1", "CIRCUIT_OK")]


def applied(system: System, route_id: str) -> list[list[tuple[Any, ...]]]:
    """What is active of a route's session. Not the version of all, which moves on when a session of another test ends."""
    (session,), = system.sql(f"SELECT session_id FROM routes WHERE route_id = '{route_id}'")
    return [sorted(system.sql(f"SELECT * FROM {table} WHERE session_id = '{session}'")) for table in ("routes", "session_settings")]


@pytest.mark.parametrize(("line", "answer"), GOOD)
def test_a_staging_command_answers_and_changes_the_staged_copy_alone(system: System, backend: Backend, line: str, answer: str) -> None:
    client = system.client("good")
    route_id = client.route("good.test", backend.url)
    active = applied(system, route_id)
    before = dict(system.get("/", "good.test").headers)
    assert client.command(line.replace("RID", route_id)) == answer
    assert client.command("CONFIG_VALIDATE|SID") == "OK"
    after = system.get("/", "good.test")
    assert after.status == 200
    assert dict(after.headers).keys() == before.keys()
    assert applied(system, route_id) == active


BAD = [
    ("ROUTE_ADD|SID||/|http://a|0", 'domains: "" names no domain'),
    ("ROUTE_ADD|SID|a..b|/|http://a|0", "domains:"),
    ("ROUTE_ADD|SID|a.test|/|ftp://a|0", "backend_url:"),
    ("ROUTE_ADD|SID|a.test|/|http://|0", "backend_url:"),
    ("ROUTE_ADD|SID|a.test|/|a:80|0", "backend_url:"),
    ("ROUTE_ADD|SID|a.test|/|http://a:99999|0", "backend_url:"),
    ("ROUTE_ADD|SID|a.test|/|http://a|ten", 'priority: "ten" is not a whole number'),
    ("ROUTE_ADD|SID|a.test|/|http://a|1.5", 'priority: "1.5" is not a whole number'),
    ("ROUTE_ADD|SID|a.test|/|http://a|", "priority:"),
    ("ROUTE_ADD|SID|a.test|a?b|http://a|0", "path:"),
    ("ROUTE_ADD|SID|a.test|x y|http://a|0", "path:"),
    ("ROUTE_ADD_BULK|SID|", "routes: not JSON"),
    ("ROUTE_ADD_BULK|SID|[]", "routes: not a JSON array with at least one route"),
    ("ROUTE_ADD_BULK|SID|{}", "routes: not a JSON array"),
    ("ROUTE_ADD_BULK|SID|[5]", "routes: entry 0: not a JSON object"),
    ('ROUTE_ADD_BULK|SID|[{"domains":["a.test"],"backend_url":"http://a"},{"domains":["a.test"]}]', "routes: entry 1: backend_url:"),
    ('ROUTE_ADD_BULK|SID|[{"domains":["a.test"],"backend_url":"http://a","prio":1}]', 'routes: entry 0: unknown key "prio"'),
    ('ROUTE_ADD_BULK|SID|[{"domains":["a.test"],"backend_url":"http://a","priority":"x"}]', "routes: entry 0: priority:"),
    ('ROUTE_ADD_BULK|SID|[{"domains":[],"backend_url":"http://a"}]', "routes: entry 0: domains:"),
    ('ROUTE_ADD_BULK|SID|[{"domains":["a.test"]}]', "routes: entry 0: backend_url: missing"),
    ('ROUTE_ADD_BULK|SID|[{"domains":["a.test"],"backend_url":"http://a","priority":1.5}]',
     "routes: entry 0: priority: 1.5 is not a whole number"),
    ("ROUTE_UPDATE|SID|RID|colour|red", 'field: "colour" is not one of backend_url, priority, domains, path'),
    ("ROUTE_UPDATE|SID|RID|priority|high", 'priority: "high" is not a whole number'),
    ("ROUTE_UPDATE|SID|RID|backend_url|x", "backend_url:"),
    ("ROUTE_UPDATE|SID|r999999999|priority|1", 'route_id: "r999999999" is not a route of this session'),
    ("ROUTE_REMOVE|SID|ALL", 'route_id: "ALL" is not a route id (like r1)'),
    ("ROUTE_REMOVE|SID|r999999999", 'route_id: "r999999999" is not a route of this session'),
    ("HEADERS_SET|SID|all|X-A|v", 'target: "all" is neither ALL nor a route id'),
    ("HEADERS_SET|SID|ALL|X A|v", 'name: "X A" is not a header name'),
    ("HEADERS_SET|SID|ALL||v", 'name: "" is not a header name'),
    ("HEADERS_SET|SID|ALL|Content-Length|5", 'name: "Content-Length" is the proxy'),
    ("HEADERS_SET|SID|ALL|X-A|\u20ac", "value:"),
    ("HEADERS_SET|SID|ALL|X-Proxyd-Reason|x", 'name: "X-Proxyd-Reason" is the proxy'),
    ("HEADERS_SET|SID|ALL|Content-Encoding|-", 'name: "Content-Encoding" is the proxy'),
    ("HEADERS_SET|SID|ALL|X-A|{clientip}", 'value: "{clientip}" is no variable (did you mean client_ip?)'),
    ("REQUEST_HEADERS_SET|SID|all|X-A|v", 'target: "all" is neither ALL nor a route id'),
    ("REQUEST_HEADERS_SET|SID|ALL|X-A|{nosuch}", 'value: "{nosuch}" is no variable'),
    ("REQUEST_HEADERS_SET|SID|ALL|X-A|" + "{path}" * 9, "value: 9 variables are more than 8"),
    *((f"REQUEST_HEADERS_SET|SID|ALL|{name}|v", f'name: "{name}" is the proxy') for name in (
        "Host", "content-length", "Transfer-Encoding", "Connection", "TE", "Upgrade", "Expect", "Via", "Forwarded", "X-Forwarded-For",
        "X-Forwarded-User", "X-Real-IP", "X-Request-ID", "Proxy-Authorization", "Sec-WebSocket-Key", "X-Proxyd-Any", "Max-Forwards")),
    ("REQUEST_HEADERS_SET|SID|ALL|X_User|v", 'name: "X_User" has a "_"'),
    ("REQUEST_HEADERS_REMOVE|SID|ALL|Host", 'name: "Host" is the proxy'),
    ("ROUTE_ADD|SID|a.test|/|http://[::1]evil.test/|0", "backend_url: "),
    ("ROUTE_ADD|SID|a.test|/|http://0x7f.1|0", 'backend_url: "http://0x7f.1" names a host that is none'),
    ("ROUTE_ADD|SID|::1%x y|/|http://a|0", 'domains: "::1%x y" is not a domain'),
    ("HEALTH_SET|SID|ALL|tcp://[::1%lo]:80|1s|1s", "path: "),
    ("HEADERS_SET|SID|r999999999|X-A|v", 'target: "r999999999" is not a route of this session'),
    ("HEADERS_REMOVE|SID|r999999999|X-A", "target:"),
    ("OPTIONS_SET|SID|ALL|compresion|true", 'key: unknown option "compresion"'),
    ("OPTIONS_SET|SID|ALL|compression|maybe", "compression:"),
    ("OPTIONS_SET|SID|r999999999|compression|true", "target:"),
    ("OPTIONS_REMOVE|SID|ALL|nothing", "key:"),
    ("HEALTH_SET|SID|RID|healthz|1s|1s", 'path: "healthz" is not a path'),
    ("HEALTH_SET|SID|RID|/h|often|1s", 'interval: "often" is not a duration'),
    ("HEALTH_SET|SID|r999999999|/h|1s|1s", 'route_id: "r999999999" is not a route of this session'),
    ("RATELIMIT_SET|SID|ALL|0|1m", 'requests: "0" is not a whole number from 1'),
    ("RATELIMIT_SET|SID|ALL|many|1m", "requests:"),
    ("CIRCUIT_BREAKER_SET|SID|ALL|0|30s|1", "threshold:"),
    ("CIRCUIT_BREAKER_SET|SID|ALL|5|x|1", "timeout:"),
    ("CIRCUIT_BREAKER_SET|SID|ALL|5|30s|0", "half_open_requests:"),
    ("CONFIG_APPLY_PARTIAL|SID|routes,colours", 'scopes: "colours" is not one of'),
    ("CONFIG_APPLY_PARTIAL|SID|", "scopes: no scope given"),
    ("SUBSCRIBE|SID|weather", 'type: "weather" is not one of'),
    ("CIRCUIT_BREAKER_STATUS|SID|r999999999", "route_id:"),
    ("ROUTE_STATUS|SID|x", "route_id:"),
    ("STATS_GET|SID|x", "target:"), ("STATS_GET|SID|r999999999", 'target: "r999999999" is not a route of this session'),
    ("MAINT_ENTER|SID|nowhere.test|", 'target: "nowhere.test" is not an active route of this session'),
    ("MAINT_ENTER|SID|ALL|ftp://x", "page_url:"),
    ("MAINT_EXIT|SID|/nowhere", "target:"),
    ("DRAIN_CANCEL|SID", "no drain in progress"),
]


@pytest.fixture(scope="module")
def bad_client(system: System) -> tuple[RegistryClient, str]:
    client = system.client("bad")
    return client, client.route("bad.test", NOWHERE)


@pytest.mark.parametrize(("line", "error"), BAD)
def test_a_bad_command_names_field_and_value_and_changes_nothing(
        system: System, bad_client: tuple[RegistryClient, str], line: str, error: str) -> None:
    client, route_id = bad_client
    before = client.command("CONFIG_DIFF|SID")
    answer = client.command(line.replace("RID", route_id))
    assert answer.startswith(f"ERROR|{error}")
    assert "internal error" not in answer
    assert client.command("CONFIG_DIFF|SID") == before


def test_a_message_says_what_was_expected(system: System) -> None:
    client = system.client("says")
    assert client.command("ROUTE_ADD|SID|a.test|/|http://a|ten") == 'ERROR|priority: "ten" is not a whole number'
    assert client.command("ROUTE_ADD|SID|a.test") == (
        "ERROR|ROUTE_ADD needs 5 fields: session_id|domains|path|backend_url|priority (got 2)")
    assert client.command("X") == "ERROR|unknown command: X"
    assert client.command("OPTIONS_SET|SID|ALL|compresion|true").startswith('ERROR|key: unknown option "compresion"')


@pytest.mark.parametrize("url", ["http://h", "https://h:1", "ws://h/x", "wss://h", "http://[::1]:5", "http://10.0.0.1/base/"])
def test_backends_are_http_https_ws_and_wss_with_a_host(system: System, url: str) -> None:
    client = system.client("schemes")
    client.ok(f"ROUTE_ADD|SID|schemes.test|/|{url}|0")
    assert listed(client)[0]["backend"] == url


def test_a_backends_path_is_put_before_the_requests(system: System, backend: Backend) -> None:
    client = system.client("based")
    client.route("based.test", f"{backend.url}/base")
    assert system.get("/x", "based.test").text == "backend /base/x\n"


def test_all_covers_routes_added_later_and_a_routes_own_setting_beats_it(system: System, backend: Backend) -> None:
    client = system.client("covers")
    client.ok("HEADERS_SET|SID|ALL|X-Who|all")
    first = client.route("one.covers.test", backend.url)
    client.ok(f"HEADERS_SET|SID|{first}|x-who|own")
    client.apply()
    client.route("two.covers.test", backend.url)
    assert system.get("/", "one.covers.test").headers.get_all("X-Who") == ["own"]
    assert system.get("/", "two.covers.test").headers.get_all("X-Who") == ["all"]
    client.ok(f"HEADERS_REMOVE|SID|{first}|X-WHO")
    client.apply()
    assert system.get("/", "one.covers.test").headers.get_all("X-Who") == ["all"]
    client.ok("HEADERS_REMOVE|SID|ALL|X-Who")
    client.apply()
    assert system.get("/", "two.covers.test").headers.get_all("X-Who") is None


def test_bulk_is_all_or_none(system: System) -> None:
    client = system.client("bulk")
    good = {"domains": ["a.bulk.test", "b.bulk.test"], "path": "/x", "backend_url": NOWHERE, "priority": 3}
    result = client.json("ROUTE_ADD_BULK|SID|" + json.dumps([good, {"domains": "c.bulk.test", "backend_url": NOWHERE}]))
    assert [item["status"] for item in result] == ["ok", "ok"]
    assert client.command("ROUTE_ADD_BULK|SID|" + json.dumps([good, {"domains": ["a.test"], "backend_url": "nonsense"}])).startswith(
        "ERROR|routes: entry 1: backend_url:")
    assert [(route["route_id"], route["domains"], route["path"], route["priority"]) for route in listed(client)] == [
        (result[0]["route_id"], ["a.bulk.test", "b.bulk.test"], "/x", 3), (result[1]["route_id"], ["c.bulk.test"], "/", 0)]


def test_the_client_library_stages_more_routes_than_a_line_holds(system: System) -> None:
    routes = [{"domains": [f"d{number}.many.test"], "backend_url": NOWHERE} for number in range(300)]
    with Client(f"127.0.0.1:{system.registry_port}", service="many", instance="i1") as client:
        ids = client.route_add_bulk(routes)
        assert len(set(ids)) == 300 and len(client.route_list()) == 300
        client.rollback()
        with pytest.raises(ClientError, match="nonsense"):
            client.route_add_bulk([*routes, {"domains": ["x.many.test"], "backend_url": "nonsense"}])
        assert client.route_list() == [], "what was staged of them is taken back"


def test_an_apply_that_is_refused_is_an_event_once(system: System) -> None:
    holder, late = system.client("holds-it"), system.client("wants-it")
    holder.route("kept.held.test", NOWHERE)
    late.route("kept.held.test", NOWHERE, apply=False)
    said = [late.command("CONFIG_APPLY|SID") for _ in range(5)]
    assert all(answer.startswith("ERROR|") for answer in said)

    def told() -> list[tuple[object, ...]]:
        return system.sql("SELECT detail FROM events WHERE type = 'apply_refused' AND detail LIKE '%wants-it%'")

    wait_for(told, what="the event")
    assert [json.loads(str(detail))["reason"] for detail, in told()] == [said[0].removeprefix("ERROR|")]


def test_route_ids_are_never_given_twice(system: System) -> None:
    client = system.client("once")
    first = client.route("once.test", NOWHERE, apply=False)
    client.ok(f"ROUTE_REMOVE|SID|{first}")
    second = client.route("once.test", NOWHERE, apply=False)
    client.command("CONFIG_ROLLBACK|SID")
    third = client.route("once.test", NOWHERE)
    assert int(first[1:]) < int(second[1:]) < int(third[1:])


# -- looking and applying


def test_route_list_shows_active_staged_and_pending_removal(system: System) -> None:
    client = system.client("list")
    kept, gone, changed = (client.route(f"{name}.list.test", NOWHERE) for name in "abc")
    client.ok(f"ROUTE_REMOVE|SID|{gone}")
    client.ok(f"ROUTE_UPDATE|SID|{changed}|priority|9")
    new = client.route("d.list.test", NOWHERE, apply=False)
    found = listed(client)
    assert [(route["route_id"], route["status"], route["priority"]) for route in found] == [
        (kept, "active", 0), (gone, "pending_removal", 0), (changed, "staged", 9), (new, "staged", 0)]
    assert all(list(route) == ["route_id", "id", "domains", "path", "backend", "priority", "status"] for route in found)
    assert all(route["id"] == route["route_id"] for route in found)


def test_diff_counts_what_applying_would_change(system: System) -> None:
    client = system.client("diff")
    one, two = client.route("a.diff.test", NOWHERE), client.route("b.diff.test", NOWHERE)
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    client.ok("HEADERS_SET|SID|ALL|X-B|1")
    client.apply()
    nothing = {"added": 0, "removed": 0, "modified": 0}
    assert client.json("CONFIG_DIFF|SID") == {"routes": {"added": [], "removed": [], "modified": []}, **dict.fromkeys(
        ("headers", "request_headers", "options", "health", "ratelimit", "circuit_breaker"), nothing)}
    client.ok(f"ROUTE_REMOVE|SID|{one}")
    client.ok(f"ROUTE_UPDATE|SID|{two}|path|/b")
    three = client.route("c.diff.test", NOWHERE, apply=False)
    client.ok("HEADERS_SET|SID|ALL|X-A|2")
    client.ok("HEADERS_REMOVE|SID|ALL|X-B")
    client.ok("HEADERS_SET|SID|ALL|X-C|1")
    client.ok("REQUEST_HEADERS_SET|SID|ALL|X-A|1")
    client.ok("OPTIONS_SET|SID|ALL|timeout|5s")
    client.ok(f"HEALTH_SET|SID|{two}|/h|1s|1s")
    client.ok("RATELIMIT_SET|SID|ALL|5|1s")
    client.ok("CIRCUIT_BREAKER_SET|SID|ALL|5|1s|1")
    one_added = {"added": 1, "removed": 0, "modified": 0}
    assert client.json("CONFIG_DIFF|SID") == {
        "routes": {"added": [three], "removed": [one], "modified": [two]}, "headers": {"added": 1, "removed": 1, "modified": 1},
        "request_headers": one_added, "options": one_added, "health": one_added, "ratelimit": one_added, "circuit_breaker": one_added}
    client.apply()
    assert client.json("CONFIG_DIFF|SID")["routes"] == {"added": [], "removed": [], "modified": []}


def test_request_headers_are_a_scope_of_their_own_in_partial_applies(system: System) -> None:
    client = system.client("requestscope")
    client.route("requestscope.test", NOWHERE)
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    client.ok("REQUEST_HEADERS_SET|SID|ALL|X-A|2")
    client.ok("CONFIG_APPLY_PARTIAL|SID|request_headers")
    told = client.json("CONFIG_DIFF|SID")
    assert (told["headers"]["added"], told["request_headers"]["added"]) == (1, 0)
    client.ok("REQUEST_HEADERS_REMOVE|SID|ALL|x-a")
    assert client.json("CONFIG_DIFF|SID")["request_headers"] == {"added": 0, "removed": 1, "modified": 0}


def test_taking_a_change_back_leaves_no_difference(system: System) -> None:
    client = system.client("back")
    route_id = client.route("back.test", NOWHERE)
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|priority|5")
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|priority|0")
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    client.ok("HEADERS_REMOVE|SID|ALL|X-A")
    assert listed(client)[0]["status"] == "active"
    assert client.json("CONFIG_DIFF|SID")["headers"]["added"] == 0


def test_applying_nothing_is_ok(system: System) -> None:
    client = system.client("nothing")
    assert client.command("CONFIG_VALIDATE|SID") == "OK"
    assert client.command("CONFIG_APPLY|SID") == "OK"
    assert client.command("CONFIG_APPLY_PARTIAL|SID|routes,headers,request_headers,options,health,ratelimit,circuit_breaker") == "OK"
    assert client.command("CONFIG_ROLLBACK|SID") == "OK"


def test_validate_and_apply_check_everything_together_and_apply_nothing_of_a_bad_whole(system: System, backend: Backend) -> None:
    client = system.client("whole")
    kept = client.route("whole.test", backend.url)
    new = client.route("new.whole.test", backend.url, apply=False)
    client.ok(f"OPTIONS_SET|SID|{kept}|slow_warning|2s")
    client.ok(f"OPTIONS_SET|SID|{kept}|slow_critical|1s")
    wrong = f"ERROR|route {kept}: slow_critical (1s) is below slow_warning (2s)"
    assert client.command("CONFIG_VALIDATE|SID") == wrong
    assert client.command("CONFIG_APPLY|SID") == wrong
    assert system.get("/", "new.whole.test").status == 404
    assert [route["status"] for route in listed(client)] == ["active", "staged"]
    assert client.command("CONFIG_APPLY_PARTIAL|SID|routes") == "OK"
    assert system.get("/", "new.whole.test").status == 200
    client.ok(f"OPTIONS_REMOVE|SID|{kept}|slow_critical")
    assert client.command("CONFIG_VALIDATE|SID") == "OK"
    client.apply()
    assert new in [route["route_id"] for route in listed(client)]


def test_partial_applies_those_scopes_and_the_rest_stays_staged(system: System, backend: Backend) -> None:
    client = system.client("partial")
    old = client.route("old.partial.test", backend.url)
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    client.ok(f"HEADERS_SET|SID|{old}|X-B|2")
    new = client.route("new.partial.test", backend.url, apply=False)
    client.ok(f"HEADERS_SET|SID|{new}|X-C|3")
    client.ok("OPTIONS_SET|SID|ALL|timeout|5s")
    assert client.command("CONFIG_APPLY_PARTIAL|SID|headers") == "OK"
    answer = system.get("/", "old.partial.test")
    assert (answer.headers["X-A"], answer.headers["X-B"]) == ("1", "2")
    assert system.get("/", "new.partial.test").status == 404
    left = client.json("CONFIG_DIFF|SID")
    assert (left["routes"]["added"], left["headers"]["added"], left["options"]["added"]) == ([new], 1, 1)
    assert client.command("CONFIG_APPLY_PARTIAL|SID|routes, headers") == "OK"
    assert system.get("/", "new.partial.test").headers["X-C"] == "3"
    assert client.json("CONFIG_DIFF|SID")["options"]["added"] == 1
    client.apply()


def test_rollback_empties_the_staged_copy_and_live_traffic_sees_nothing(system: System, backend: Backend) -> None:
    client = system.client("rollback")
    route_id = client.route("rollback.test", backend.url)
    client.ok(f"ROUTE_REMOVE|SID|{route_id}")
    client.ok("HEADERS_SET|SID|ALL|X-A|1")
    client.route("other.rollback.test", backend.url, apply=False)
    assert client.command("CONFIG_ROLLBACK|SID") == "OK"
    assert [route["status"] for route in listed(client)] == ["active"]
    client.apply()
    assert system.get("/", "rollback.test").headers["X-A"] is None
    assert system.get("/", "other.rollback.test").status == 404


def test_a_place_held_by_another_service_is_refused_and_its_holder_named(system: System, backend: Backend) -> None:
    holder = system.client("holder", "h1")
    held = holder.route("held.test", backend.url, "/x", 5)
    client = system.client("claimer")
    claimed = client.route("held.test", NOWHERE, "/x", 5, apply=False)
    problem = (f"ERROR|route {claimed}: held.test/x at priority 5 is held by service holder (instance h1, route {held}); "
               "choose another path or priority")
    assert client.command("CONFIG_VALIDATE|SID") == problem
    assert client.command("CONFIG_APPLY|SID") == problem
    assert system.get("/x", "held.test").status == 200
    client.ok(f"ROUTE_UPDATE|SID|{claimed}|priority|4")
    client.apply()
    assert client.command(f"ROUTE_UPDATE|SID|{claimed}|priority|5") == "ROUTE_OK"
    assert client.command("CONFIG_APPLY|SID") == problem
    assert holder.command("CLIENT_SHUTDOWN|SID") == "SHUTDOWN_OK"
    client.apply()


def test_replicas_of_one_service_share_a_place(system: System, backend: Backend) -> None:
    for number in range(3):
        system.client("replica", f"i{number}").route("replica.test", backend.url)
    assert system.get("/", "replica.test").status == 200


def test_a_change_applied_by_one_session_leaves_the_staged_copies_of_others_alone(system: System) -> None:
    one, two = system.client("apart", "i1"), system.client("apart", "i2")
    one.route("one.apart.test", NOWHERE, apply=False)
    two.route("two.apart.test", NOWHERE)
    assert [route["status"] for route in listed(one)] == ["staged"]
    assert [route["domains"] for route in listed(two)] == [["two.apart.test"]]


# -- events


def test_a_subscriber_gets_events_of_its_own_routes_with_time_and_route(system: System) -> None:
    client, other = system.client("events", "i1"), system.client("events", "i2")
    mine, theirs = client.route("mine.events.test", NOWHERE), other.route("theirs.events.test", NOWHERE)
    assert client.command("SUBSCRIBE|SID|maintenance_changed") == "SUBSCRIBE_OK"
    assert [other.command(f"MAINT_ENTER|SID|{theirs}|"), other.line()] == ["ACK", f"MAINT_OK|{theirs}"]
    client.send(f"MAINT_ENTER|SID|{mine}|")
    got = answers(client, 3)
    event = next(line for line in got if line.startswith("EVENT|"))
    assert [line for line in got if line != event] == ["ACK", f"MAINT_OK|{mine}"]
    _, kind, text = event.split("|")
    data = json.loads(text)
    assert (kind, data["route_id"], data["active"]) == ("maintenance_changed", mine, True)
    assert data["at"].endswith("Z")
    assert client.command("UNSUBSCRIBE|SID|maintenance_changed") == "UNSUBSCRIBE_OK"
    client.send(f"MAINT_EXIT|SID|{mine}\nPING|SID")
    assert client.line() == "ACK"


def test_a_drain_tells_every_tenth_and_its_end_once(system: System) -> None:
    client = system.client("tenths")
    client.route("tenths.test", NOWHERE)
    client.ok("DRAIN_START|SID|30s")
    client.ok("DRAIN_CANCEL|SID")
    client.ok("SUBSCRIBE|SID|drain_progress")
    client.ok("DRAIN_START|SID|3s")
    shares = []
    while (line := client.line()).startswith("EVENT|drain_progress|"):
        shares.append(json.loads(line.split("|")[2])["traffic_percent"])
    assert line.startswith("EVENT|drain_completed|")
    assert len(shares) >= 5
    assert shares == sorted(set(shares), reverse=True)
    assert client.command("PING|SID") == "PONG"


# -- errors inside, and what is too much


def many_routes(client: RegistryClient, count: int) -> None:
    for first in range(0, count, 100):
        client.ok("ROUTE_ADD_BULK|SID|" + json.dumps(
            [{"domains": [f"{'m' * 30}{number}.test"], "backend_url": NOWHERE} for number in range(first, first + 100)]))


def slowest_ping(client: RegistryClient, times: int) -> float:
    slowest = 0.0
    for _ in range(times):
        began = time.monotonic()
        assert client.command("PING|SID") == "PONG"
        slowest = max(slowest, time.monotonic() - began)
    return slowest


def test_a_client_that_never_reads_is_cut_and_holds_up_nobody(system: System) -> None:
    greedy, other = system.client("greedy"), system.client("patient")
    many_routes(greedy, 400)
    assert len(greedy.ok("ROUTE_LIST|SID")) > 50_000
    greedy.socket.settimeout(0.1)
    flood = f"ROUTE_LIST|{greedy.session_id}\n".encode() * 50
    slowest, cut, deadline = 0.0, False, time.monotonic() + 15
    while not cut and time.monotonic() < deadline:
        try:
            greedy.socket.sendall(flood)
        except TimeoutError:
            pass
        except OSError:
            cut = True
        slowest = max(slowest, slowest_ping(other, 3))
    assert cut
    assert slowest < 3, "on a busy machine; held up, it would be as long as the flood"
    assert "does not read its answers: disconnected with" in system.log()


def test_a_flood_of_costly_commands_lets_others_in_between(system: System) -> None:
    busy, other = system.client("busy"), system.client("inbetween")
    many_routes(busy, 800)

    def share() -> float:
        """The longest wait of the other one, as a part of the whole flood."""
        began = time.monotonic()
        busy.send("\n".join(["ROUTE_LIST|SID"] * 200))
        slowest = slowest_ping(other, 5)
        assert all(line.startswith("ERROR|response too large") for line in answers(busy, 200))
        return slowest / (time.monotonic() - began)

    # One flood may meet a moment in which this process has no turn; a wait for the whole of it comes each time.
    assert any(share() < 1 / 3 for _ in range(3))


def test_a_client_that_reads_late_gets_every_answer(system: System) -> None:
    client = system.client("late")
    client.send("\n".join(f"PING|SID|txn-{number}" for number in range(5000)))
    assert answers(client, 5000) == [f"PONG|txn-{number}" for number in range(5000)]


# -- keep this one last: it restarts the master


def test_a_stopping_master_says_shutdown_and_loses_no_route(system: System, backend: Backend) -> None:
    client = system.client("stopping")
    client.route("stopping.test", backend.url)
    client.route("staged.stopping.test", backend.url, apply=False)
    idle = system.connect()
    assert idle.command("PING|x") == "ERROR|no session"
    pid = system.master_pid()
    os.kill(pid, signal.SIGTERM)
    assert [client.line(), client.line()] == ["SHUTDOWN", ""]
    assert [idle.line(), idle.line()] == ["SHUTDOWN", ""]
    statuses = set()
    while system.master_pid() in (0, pid):
        statuses.add(system.get("/", "stopping.test").status)
    wait_for(system.ready, what="the new master")
    statuses.add(system.get("/", "stopping.test").status)
    assert statuses == {200}
    back = system.connect()
    assert back.command(f"RECONNECT|{client.session_id}") == "OK"
    back.session_id = client.session_id
    assert [route["status"] for route in listed(back)] == ["active", "staged"]
