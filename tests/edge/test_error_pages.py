"""Error pages: files with variables and paths of the backend, by status and by Accept, of a route and of the settings."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Message, Wire, get
from tests.support.backends import Backend, MakeRaw
from tests.support.http2backend import Http2Backend, Request
from tests.support.system import System
from tests.support.waiting import free_port, wait_for

HTML = "Accept: text/html,*/*;q=0.8"
JSON = "Accept: application/json"


class Place:
    """A system with some files of pages, and a page for unknown hosts."""

    def __init__(self, directory: Path) -> None:
        self.files = directory / "pages"
        self.files.mkdir()
        (self.files / "down.html").write_text(
            "<p style='{color:red}'>{status} {phrase} {code} at {host}{path}: {detail} ({request_id})</p>")
        (self.files / "down.json").write_text('{"error": "{code}", "path": "{path}", "who": "{nobody}"}')
        (self.files / "global.html").write_text("global {status}")
        self.system = System(directory / "system", workers=1, proxy__error_page_files=self.files,
                             proxy__error_pages="404, 502 -> global")

    def ask(self, host: str, path: str = "/", accept: str = HTML, method: str = "GET") -> Message:
        with Wire(self.system.proxy_port) as wire:
            return wire.send(get(host, path, accept, method=method)).response(method)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    running = Place(tmp_path_factory.mktemp("place"))
    yield running
    running.system.stop()


def dead() -> str:
    return f"http://127.0.0.1:{free_port()}"


def test_a_file_is_shown_by_status_with_its_variables_escaped(place: Place) -> None:
    host = make_route(place.system, dead(), error_pages="5xx -> down")
    answer = place.ask(host, "/%3Cb%3E'&x?q=1")
    assert (answer.status, answer.get("content-type"), answer.get("x-proxyd-reason")) == (
        502, "text/html; charset=utf-8", "upstream_refused")
    text = answer.body.decode()
    assert text.startswith(f"<p style='{{color:red}}'>502 Bad Gateway upstream_refused at {host}/%3Cb%3E&#x27;&amp;x: can&#x27;t connect")
    assert f"({answer.get('x-request-id')})" in text
    assert place.ask(host, method="HEAD").get("content-length") is not None


def test_programs_get_json(place: Place) -> None:
    host = make_route(place.system, dead(), error_pages="5xx -> down")
    answer = place.ask(host, "/a'b", JSON)
    assert (answer.status, answer.get("content-type")) == (502, "application/json")
    assert json.loads(answer.body) == {"error": "upstream_refused", "path": "/a'b", "who": "{nobody}"}


def test_the_settings_hold_for_what_a_route_says_nothing_of(place: Place) -> None:
    assert place.ask("unknown.test").body == b"global 404"
    assert place.ask(make_route(place.system, dead())).body == b"global 502"
    assert place.ask(make_route(place.system, dead(), error_pages="503 -> down")).body == b"global 502"
    # There is no file for JSON: the proxy's own page.
    assert json.loads(place.ask("unknown.test", accept=JSON).body)["code"] == "unknown_host"


def test_the_first_rule_that_has_the_status_counts(place: Place) -> None:
    host = make_route(place.system, dead(), error_pages="500-502 -> global; 5xx -> down")
    assert place.ask(host).body == b"global 502"


def test_another_member_shows_its_own_page(place: Place, backend: Backend, raw_backend: MakeRaw) -> None:
    def cut(sock: socket.socket) -> None:
        sock.recv(65536)

    cutting = raw_backend(cut)
    for name, url in (("pagesa", cutting.url), ("pagesb", f"{backend.url}/base")):
        client = place.system.client("pages", name)
        client.route("pages.test", url, apply=False)
        client.options("ALL", error_pages="502 -> /errors/{status}.html", balance="round_robin")
    bodies = {place.ask("pages.test").body for _ in range(4)}
    assert b"backend /base/errors/502.html\n" in bodies
    told = [json.loads(answer.body) for answer in (place.ask("pages.test", accept=JSON) for _ in range(4)) if answer.status == 502]
    assert told and {page["status"] for page in told} == {502}


def test_a_page_that_can_not_be_had_leaves_the_proxys_own(place: Place) -> None:
    host = make_route(place.system, dead(), error_pages="502 -> /errors/502.html")
    answer = place.ask(host)
    assert answer.status == 502 and b"upstream_refused" in answer.body


def test_a_backend_that_speaks_http_2_alone_shows_its_page(place: Place) -> None:
    def serve(request: Request) -> None:
        shown = request.path == "/base/errors/404.html"
        request.answer(b"<p>not here" if shown else b"no", "200" if shown else "404", [("content-type", "text/html")])

    backend = Http2Backend(serve)
    host = make_route(place.system, f"{backend.url}/base", error_pages="404 -> /errors/{status}.html", error_pages_replace="true")
    answer = place.ask(host)
    assert (answer.status, answer.body, answer.get("content-type")) == (404, b"<p>not here", "text/html")
    assert place.ask(host, accept=JSON).body != b"<p>not here"
    backend.stop()


def test_the_backends_own_errors_pass_unless_they_are_to_be_replaced(place: Place, backend: Backend) -> None:
    passing = make_route(place.system, backend.url, error_pages="4xx 5xx -> down")
    assert place.ask(passing, "/status/404").body == b"backend /status/404\n"
    replacing = make_route(place.system, backend.url, error_pages="4xx 5xx -> down", error_pages_replace="true")
    answer = place.ask(replacing, "/status/404")
    assert (answer.status, answer.get("x-proxyd-reason")) == (404, "upstream_404")
    assert answer.body.startswith(b"<p style='{color:red}'>404 Not Found upstream_404")
    assert place.ask(replacing, "/status/500").status == 500
    assert place.ask(replacing, "/status/401").body == b"backend /status/401\n"
    assert place.ask(replacing, "/fine").body == b"backend /fine\n"
    paths = make_route(place.system, backend.url, error_pages="404 -> /missing", error_pages_replace="true")
    assert place.ask(paths, "/status/404").body == b"backend /missing\n"


def test_a_changed_file_is_shown_and_a_broken_one_is_not(place: Place) -> None:
    file = place.files / "changing.html"
    file.write_text("first")
    host = make_route(place.system, dead(), error_pages="502 -> changing")
    assert place.ask(host).body == b"first"
    file.write_text("second {status}")
    wait_for(lambda: place.ask(host).body == b"second 502", what="the changed page")
    file.write_bytes(b"\xff\xfe third")
    wait_for(lambda: "what was read before stays in use" in place.system.log(), what="the word about the broken file")
    assert place.ask(host).body == b"second 502"


@pytest.mark.parametrize(("value", "part"), [
    ("5xx -> none", "there is neither"), ("5xx -> ../down", "neither the name"), ("5xx -> down.html", "neither the name"),
    ("200 -> down", "no error"), ("600 -> down", ""), ("5xx down", "is not STATUSES -> PAGE"), ("-> down", ""),
    ("5xx -> /a b", "neither the name"), ("5xx -> huge", "larger than"), (";".join(["500 -> down"] * 21), "more than 20"),
])
def test_rules_that_can_not_be_followed_are_refused(place: Place, value: str, part: str) -> None:
    (place.files / "huge.html").write_text("x" * 300_000)
    client = place.system.client("refusedpages")
    answer = client.command(f"OPTIONS_SET|SID|ALL|error_pages|{value}")
    assert answer.startswith("ERROR|") and part in answer
