"""Routes that the proxy answers itself: redirects and texts, in HTTP/1 and HTTP/2, and the recipes of docs/backends.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxyd.base.urls import parse_backend
from tests.edge.conftest import RouteMaker, Secure
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.system import System
from tests.support.waiting import wait_for

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/backends.md").read_text(encoding="utf-8")


def ask(system: System, host: str, path: str = "/", *fields: str, method: str = "GET") -> Message:
    with Wire(system.proxy_port) as wire:
        return wire.send(get(host, path, *fields, method=method)).response(method)


@pytest.mark.parametrize(("backend", "path", "status", "location"), [
    ("redirect:https://example.test{uri}", "/a%2Fb?c=d&e", 302, "https://example.test/a%2Fb?c=d&e"),
    ("redirect:308:https://example.test:8443/new{path}?from={host}&{query}", "/x?y", 308, "https://example.test:8443/new/x?from=HOST&y"),
    ("redirect:301:/elsewhere", "/x?y", 301, "/elsewhere"),
    ("redirect:307:https://{host}:8443{uri}", "/", 307, "https://HOST:8443/"),
    ("redirect:https://example.test{uri}", "//evil.test/", 302, "https://example.test//evil.test/")])
def test_a_redirect_leads_to_its_place(edge: System, route: RouteMaker, backend: str, path: str, status: int, location: str) -> None:
    host = route(backend)
    answer = ask(edge, host, path)
    assert (answer.status, answer.get("location")) == (status, location.replace("HOST", host))
    assert answer.get("x-proxyd-reason") is None and answer.get("x-request-id")


@pytest.mark.parametrize("backend", [
    "redirect:", "redirect:303:https://a.test/", "redirect:ftp://a.test/", "redirect://evil.test/", "redirect:/{path}", "redirect:{uri}",
    "redirect:https://{query}/", "redirect:https://a.test{query}", "redirect:https://a.test{host}/", "redirect:https://{host}.evil.test/",
    "redirect:https://user@a.test/", "redirect:https://a.test/{client_ip}", "redirect:https://a.test/{nothing}", "redirect:/\\evil.test",
    "redirect:https://a.test\\@b.test/", "redirect:https://a.test/ b", "respond:99", "respond:101", "respond:200:text", "respond:"])
def test_what_could_send_clients_anywhere_or_means_nothing_is_refused(backend: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f'"{backend[:20]}') if "nothing" not in backend else "is no variable"):
        parse_backend(backend)


def test_a_text_is_answered_with_the_routes_fields_and_needs_no_backend(edge: System) -> None:
    client = edge.client("holding", "holding")
    route_id = client.route("holding.test", "respond:503", apply=False)
    client.ok(f"OPTIONS_SET|SID|{route_id}|respond_text|Back at ten # or so; ü")
    client.ok(f"OPTIONS_SET|SID|{route_id}|health_check_path|/healthz")
    client.ok(f"HEADERS_SET|SID|{route_id}|Retry-After|60")
    client.apply()
    with Wire(edge.proxy_port) as wire:
        answer = wire.send(get("holding.test", "/any")).response()
        head = wire.send(get("holding.test", method="HEAD")).response("HEAD")
    assert (answer.status, answer.body.decode(), answer.get("retry-after")) == (503, "Back at ten # or so; ü", "60")
    assert (answer.get("content-type"), head.status, head.get("content-length")) == ("text/plain; charset=utf-8", 503, "23")
    assert client.command("BACKEND_TEST|SID|respond:503").startswith("BACKEND_FAIL|")
    status = client.command(f"ROUTE_STATUS|SID|{route_id}")
    assert '"in_flight":0' in status.replace(" ", "") and "down" not in status
    client.ok(f"OPTIONS_SET|SID|{route_id}|respond_text|<h1>Soon</h1>")
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|respond:204")
    client.apply()
    empty = ask(edge, "holding.test")
    assert (empty.status, empty.body, empty.get("content-type")) == (204, b"", None)
    client.ok(f"ROUTE_UPDATE|SID|{route_id}|backend_url|respond:200")
    client.apply()
    assert ask(edge, "holding.test").get("content-type") == "text/html; charset=utf-8"


def test_an_upload_and_a_websocket_are_answered_too(edge: System, route: RouteMaker) -> None:
    host = route("redirect:307:https://example.test{uri}", websocket="true")
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/u", "Content-Length: 5000000", method="POST") + b"x" * 1000)
        assert wire.response("POST").get("location") == "https://example.test/u"
    answer = ask(edge, host, "/ws", "Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    assert answer.status == 307


def test_maintenance_and_limits_come_first_and_a_backend_at_the_same_place_serves(edge: System, recorder: Recorder) -> None:
    client = edge.client("mixed", "mixed")
    client.route("mixed.test", "respond:200", apply=False)
    client.ok("RATELIMIT_SET|SID|ALL|2|1h")
    client.apply()
    assert [ask(edge, "mixed.test").status for _ in range(3)] == [200, 200, 429]
    client.ok("OPTIONS_SET|SID|ALL|deny|127.0.0.1")
    client.apply()
    assert ask(edge, "mixed.test").status == 403
    other = edge.client("both", "both")
    other.route("both.test", "respond:418", apply=False)
    other.route("both.test", recorder.url)
    assert [ask(edge, "both.test").status for _ in range(4)] == [200] * 4


def test_the_same_over_http_2(secure: Secure) -> None:
    host = secure.route("redirect:308:https://example.test{uri}")
    client = secure.client(host)
    answer = client.ask("GET", "/a?b")
    client.close()
    assert (answer.status, answer.header("location")) == (308, "https://example.test/a?b")


def test_the_recipe_of_the_document(edge: System) -> None:
    (recipe,) = [block for block in re.findall(r"```ini\n(.*?)```", DOCUMENT, re.DOTALL) if "redirect:" in block]
    sites = Path(str(edge.settings["sites__directory"]))
    sites.mkdir(exist_ok=True)
    (sites / "moved.ini").write_text(recipe)
    wait_for(lambda: ask(edge, "www.example.com").status == 308, 10, "the site file")
    assert ask(edge, "www.example.com", "/a?b").get("location") == "https://example.com/a?b"
    assert ask(edge, "old.example.com", "/a?b").get("location") == "https://example.com/archive/a"
    soon = ask(edge, "soon.example.com")
    assert (soon.status, soon.get("retry-after"), b"We open on Monday" in soon.body) == (503, "86400", True)
    (sites / "moved.ini").unlink()
