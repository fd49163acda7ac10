"""Routes of their own for a method, a field, a parameter or a cookie: over HTTP/1, HTTP/2 and WebSockets, and in what tells of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.websockets import Switching, echo, handshake

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/rewriting.md").read_text(encoding="utf-8")
DOMAIN = "choosy.two.test"


def ask(system: System, path: str = "/", *fields: str, method: str = "GET", host: str = DOMAIN) -> Message:
    with Wire(system.proxy_port) as wire:
        return wire.send(get(host, path, *fields, method=method)).response(method)


def why(system: System, **asked: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(system.admin(f"/api/v1/why?{urlencode(asked)}").body)
    return found


@pytest.fixture(scope="module")
def choosy(secure: Secure) -> Iterator[System]:
    """One domain: `main` for all, `canary` by cookie, `v2` by a field, `writes` below /api by method, `debug` by a parameter."""
    system = secure.system
    for name, path, options in (("main", "/", {}), ("canary", "/", {"match_cookie": "canary=1 | yes"}),
                                ("v2", "/", {"match_header": "Accept: *version=2*"}),
                                ("writes", "/api", {"match_method": "POST, PUT"}), ("debug", "/", {"match_query": "debug"})):
        make_route(system, "respond:200", path=path, domain=DOMAIN, respond_text=name, **options)
    yield system


@pytest.mark.parametrize(("path", "fields", "method", "name"), [
    ("/", (), "GET", "main"), ("/x", ("Cookie: a=1; canary=yes",), "GET", "canary"), ("/x", ("Cookie: canary=2",), "GET", "main"),
    ("/", ("Accept: application/json; version=2",), "GET", "v2"), ("/api/x", (), "PUT", "writes"), ("/api/x", (), "GET", "main"),
    ("/api/x", ("Cookie: canary=1",), "GET", "canary"), ("/?a&%64ebug", (), "GET", "debug"), ("/api?debug", (), "PUT", "writes"),
])
def test_a_request_goes_to_the_route_that_asks_for_it(choosy: System, secure: Secure, path: str, fields: tuple[str, ...], method: str,
                                                      name: str) -> None:
    assert ask(choosy, path, *fields, method=method).body.decode() == name
    client = secure.client(DOMAIN)
    pairs = [(key.lower(), value.strip()) for key, _, value in (field.partition(":") for field in fields)]
    assert client.ask(method, path, headers=pairs).body.decode() == name
    client.close()


def test_a_websocket_is_a_request_like_any_other(secure: Secure) -> None:
    host = "choosyws.two.test"
    backend = Switching(RawBackend, echo)
    make_route(secure.system, "respond:200", domain=host, respond_text="main")
    make_route(secure.system, backend.url, domain=host, match_header="Upgrade: websocket", websocket="true")
    with Wire(secure.system.proxy_port) as wire:
        assert wire.send(handshake(host)).response().status == 101
    assert ask(secure.system, host=host).body == b"main"
    backend.backend.stop()


def test_what_no_route_asks_for_is_404_and_why_says_so(secure: Secure, choosy: System) -> None:
    host = make_route(choosy, "respond:200", domain="picky.two.test", match_method="GET")
    refused = ask(choosy, method="DELETE", host=host)
    assert (refused.status, refused.get("x-proxyd-reason")) == (404, "no_route")
    answer = why(choosy, url=f"http://{host}/", method="DELETE")
    assert (answer["status"], answer["code"]) == (404, "no_route") and f"{host}/ (method GET)" in answer["steps"][0]["detail"]
    found = why(choosy, url=f"http://{DOMAIN}/", fields="Cookie: canary=1")
    assert found["conditions"] == "cookie canary=1 | yes" and f"{DOMAIN}/ (cookie canary=1 | yes)" in found["steps"][0]["detail"]
    assert why(choosy, url=f"http://{DOMAIN}/?debug=1")["conditions"] == "query debug"


def test_the_recipe_of_the_document(edge: System, recorder: Recorder) -> None:
    (recipe,) = (block for block in re.findall(r"```ini\n(.*?)```", DOCUMENT, re.DOTALL) if "match_header" in block)
    canary = Recorder()
    sites = Path(str(edge.settings["sites__directory"]))
    sites.mkdir(exist_ok=True)
    (sites / "canary.ini").write_text(recipe.replace("http://127.0.0.1:3000", recorder.url).replace("http://127.0.0.1:3001", canary.url))
    host = "shop.example.net"
    wait_for(lambda: ask(edge, host=host).status == 200, 15, "the site file")
    answers = [ask(edge, "/", *fields, host=host) for fields in ((), ("X-Canary: 1",), ("Cookie: a=b; canary=1",), ("Cookie: canary=0",))]
    assert [answer.get("x-version") for answer in answers] == [None, "canary", "canary", None]
    assert (len(recorder.requests()), len(canary.requests())) == (3, 2)
    (sites / "canary.ini").unlink()
    canary.stop()


def test_conditions_part_services_and_taking_them_away_is_refused_where_another_one_serves(edge: System) -> None:
    make_route(edge, "respond:200", domain="parted.test")
    canary = edge.client("parted-canary", "one")
    route_id = canary.route("parted.test", "respond:204", apply=False)
    assert "is held by service" in canary.command("CONFIG_VALIDATE|SID")
    canary.ok(f"OPTIONS_SET|SID|{route_id}|match_header|X-Canary")
    canary.apply()
    assert [ask(edge, "/", *fields, host="parted.test").status for fields in ((), ("X-Canary: 1",))] == [200, 204]
    canary.ok(f"OPTIONS_REMOVE|SID|{route_id}|match_header")
    assert "parted.test/ at priority 0 is held by service" in canary.command("CONFIG_APPLY|SID")
    assert canary.command(f"OPTIONS_SET|SID|{route_id}|match_header|X_Canary").startswith("ERROR|")
