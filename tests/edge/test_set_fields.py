"""Fields that a route sets in requests to its backend and in answers, and the variables in them, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxyd.base.variables import MAX_FILLED, VARIABLES
from tests.edge.conftest import Secure
from tests.edge.wire import Recorder, Wire, get
from tests.support.registry import RegistryClient
from tests.support.system import System

OK = "HTTP/1.1 200 OK\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nX-Old: a\r\n\r\n"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


def declare(system: System, url: str, name: str, *lines: str, domain: str = "") -> tuple[RegistryClient, str]:
    client = system.client(name, name)
    route_id = client.route(domain or f"{name}.test", url, apply=False)
    for line in lines:
        command, _, rest = line.partition(" ")
        assert client.command(f"{command}|SID|ALL|{rest}") in ("HEADERS_OK", "OPTIONS_OK"), line
    client.apply()
    return client, route_id


def test_a_request_field_takes_the_place_of_what_the_client_sent(edge: System, recorder: Recorder) -> None:
    declare(edge, recorder.url, "setreq", "REQUEST_HEADERS_SET X-Tenant|blue", "REQUEST_HEADERS_SET Authorization|Basic eDp5",
            "REQUEST_HEADERS_SET X-Debug|-", "REQUEST_HEADERS_SET X-Empty|")
    with Wire(edge.proxy_port) as wire:
        wire.send(get("setreq.test", "/", "x-tenant: red", "X-TENANT: green", "X-Tenant_: kept-out", "authorization: Bearer mine",
                      "X-Debug: 1", "x-empty: 1", "X-Kept: 1", "Connection: X-Tenant"))
        assert wire.response().status == 200
    (got,) = recorder.requests()
    assert (got.all("x-tenant"), got.all("authorization")) == (["blue"], ["Basic eDp5"])
    assert (got.get("x-debug"), got.get("x-empty"), got.get("x-kept")) == (None, None, "1")


def test_a_routes_own_request_field_beats_that_for_all_and_both_can_go(edge: System, recorder: Recorder) -> None:
    client, route_id = declare(edge, recorder.url, "ownreq", "REQUEST_HEADERS_SET X-A|all")
    client.ok(f"REQUEST_HEADERS_SET|SID|{route_id}|x-a|own")
    client.apply()
    seen = []
    with Wire(edge.proxy_port) as wire:
        for target in (route_id, "ALL", ""):
            wire.send(get("ownreq.test")).response()
            seen.append(recorder.requests()[-1].get("x-a"))
            if target:
                client.ok(f"REQUEST_HEADERS_REMOVE|SID|{target}|X-A")
                client.apply()
    assert seen == ["own", "all", None]


def test_every_variable_has_its_value_on_both_sides(edge: System, recorder: Recorder) -> None:
    lines = [f"{command} X-{name.replace('_', '-')}|<{{{name}}}>" for command in ("REQUEST_HEADERS_SET", "HEADERS_SET")
             for name in VARIABLES if not (name == "request_id" and command == "REQUEST_HEADERS_SET")]
    _, route_id = declare(edge, recorder.url, "everyvar", *lines, "REQUEST_HEADERS_SET X-Rid|<{request_id}>")
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get("EveryVar.test:80", "/a%2Fb?c={host}&d", "X-Request-ID: abc.1", method="PUT")).response("PUT")
    (got,) = recorder.requests()
    expected = {"client-ip": "127.0.0.1", "host": "everyvar.test", "method": "PUT", "path": "/a%2Fb", "query": "c={host}&d",
                "route": route_id, "scheme": "http", "uri": "/a%2Fb?c={host}&d", "user": "",
                "tls.client.subject": "", "tls.client.fingerprint": ""}
    for name, value in expected.items():
        assert (got.get(f"x-{name}"), response.get(f"x-{name}")) == (f"<{value}>", f"<{value}>"), name
    assert (got.get("x-rid"), response.get("x-request-id")) == ("<abc.1>", "<abc.1>")
    assert {name.replace("-", "_") for name in expected} | {"request_id"} == set(VARIABLES)


def test_a_field_that_comes_out_empty_or_too_long_is_never_sent(edge: System) -> None:
    recorder = Recorder(f"{OK}X-Query: old\r\nX-Bare: old\r\nContent-Length: 2\r\n\r\nok".encode())
    declare(edge, recorder.url, "emptyvar", "REQUEST_HEADERS_SET X-Query|{query}", "HEADERS_SET X-Query|{query}", "HEADERS_SET X-Bare|",
            "REQUEST_HEADERS_SET X-Long|{path}{path}{path}")
    with Wire(edge.proxy_port) as wire:
        first = wire.send(get("emptyvar.test", "/", "X-Query: forged")).response()
        second = wire.send(get("emptyvar.test", "/?q")).response()
        wire.send(get("emptyvar.test", "/" + "a" * (MAX_FILLED // 3), "X-Long: forged")).response()
    sent = recorder.requests()
    recorder.stop()
    assert [message.get("x-query") for message in (sent[0], sent[1], first, second)] == [None, "q", None, "q"]
    assert [message.get("x-long") for message in sent] == ["///", "///", None]
    assert first.get("x-bare") is None


def test_braces_that_are_no_variables_are_sent_as_they_are(edge: System, recorder: Recorder) -> None:
    json_value = '{"group":"a","max_age":1,"endpoints":[{"url":"https://a.test"}]}'
    declare(edge, recorder.url, "braces", f"HEADERS_SET Report-To|{json_value}", "REQUEST_HEADERS_SET X-Text|{{host}} {host}")
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get("braces.test")).response().get("report-to") == json_value
    assert recorder.requests()[-1].get("x-text") == "{host} braces.test"


def test_the_handshake_of_a_websocket_has_them_too(edge: System) -> None:
    recorder = Recorder(SWITCHING)
    declare(edge, recorder.url, "wsset", "OPTIONS_SET websocket|true", "REQUEST_HEADERS_SET X-User|{client_ip}",
            "HEADERS_SET X-Old|{scheme}")
    with Wire(edge.proxy_port) as wire:
        wire.send(get("wsset.test", "/", "X-User: forged", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="))
        response = wire.response()
    assert (response.status, response.get("x-old")) == (101, "http")
    assert recorder.requests()[0].all("x-user") == ["127.0.0.1"]
    recorder.stop()


def test_they_are_the_same_over_http_2(secure: Secure, recorder: Recorder) -> None:
    name = "setfields.two.test"
    declare(secure.system, recorder.url, "setfields", "REQUEST_HEADERS_SET X-Who|{scheme}://{host}{path}", "HEADERS_SET X-Back|{method}",
            domain=name)
    client = secure.client(name)
    answer = client.ask("GET", "/a?b", headers=[("x-who", "forged")])
    client.close()
    assert (answer.status, answer.header("x-back")) == (200, "GET")
    assert recorder.requests()[0].all("x-who") == [f"https://{name}/a"]
