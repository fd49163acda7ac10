"""Who may use a route, over real sockets, in HTTP/1, HTTP/2 and WebSockets."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import RouteMaker, Secure, make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.websockets import SWITCH, TEXT, frame, open_websocket, read_frame

WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def ask(system: System, host: str, *fields: str, path: str = "/", method: str = "GET") -> tuple[int, str | None]:
    """Status and reason of an answer."""
    with Wire(system.proxy_port) as wire:
        answer = wire.send(get(host, path, *fields, method=method)).response(method)
        return answer.status, answer.get("x-proxyd-reason")


@pytest.mark.parametrize(("allow", "deny", "passes"), [
    ("127.0.0.0/8", "", True), ("10.0.0.0/8", "", False), ("", "127.0.0.1", False), ("", "10.0.0.0/8", True),
    ("127.0.0.0/8", "127.0.0.1", False), ("::ffff:127.0.0.0/104", "", True)])
def test_networks_let_a_client_in_or_keep_it_out(edge: System, route: RouteMaker, recorder: Recorder, allow: str, deny: str,
                                                 passes: bool) -> None:
    host = route(recorder.url, allow=allow, deny=deny)
    assert ask(edge, host) == ((200, None) if passes else (403, "address_denied"))


def test_a_websocket_and_an_upload_are_refused_before_the_backend_sees_them(edge: System, route: RouteMaker, recorder: Recorder) -> None:
    host = route(recorder.url, deny="127.0.0.1", websocket="true")
    recorder.forget()
    assert ask(edge, host, *WEBSOCKET) == (403, "address_denied")
    assert ask(edge, host, "Content-Length: 5000000", "Expect: 100-continue", method="POST") == (403, "address_denied")
    assert recorder.requests() == []


def test_the_same_over_http_2(secure: Secure, recorder: Recorder) -> None:
    for deny, status in (("127.0.0.1", 403), ("10.0.0.1", 200)):
        host = secure.route(recorder.url, deny=deny)
        client = secure.client(host)
        assert client.ask("GET", "/").status == status
        client.close()


def test_a_list_that_is_not_there_is_refused_when_it_is_staged(edge: System) -> None:
    client = edge.client("nolist", "nolist")
    route_id = client.route("nolist.test", "http://127.0.0.1:9", apply=False)
    assert client.command(f"OPTIONS_SET|SID|{route_id}|allow|lan") == (
        'ERROR|allow: "lan" is not in [lists] of the settings (there is none)')
    assert client.command(f"OPTIONS_SET|SID|{route_id}|deny|10.0.0.0/40").startswith('ERROR|deny: "10.0.0.0/40" is neither')


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("lists") / "office.txt"


@pytest.fixture(scope="module")
def listed(tmp_path_factory: pytest.TempPathFactory, office: Path) -> Iterator[System]:
    """A proxyd with lists, which believes in X-Forwarded-For."""
    office.write_text("192.0.2.0/24\n")
    running = System(tmp_path_factory.mktemp("listed"), workers=1, proxy__trusted_proxies="127.0.0.1",
                     lists__lan="127.0.0.0/8, 10.0.0.0/8", lists__office=f"198.51.100.7, file:{office}",
                     lists__lost=f"file:{office}.none")
    yield running
    running.stop()


def test_lists_hold_for_the_client_that_a_trusted_front_names(listed: System, recorder: Recorder) -> None:
    host = make_route(listed, recorder.url, allow="lan, Office, 203.0.113.9")
    for client, status in (("10.1.2.3", 200), ("192.0.2.8", 200), ("198.51.100.7", 200), ("203.0.113.9", 200), ("203.0.113.8", 403)):
        assert ask(listed, host, f"X-Forwarded-For: {client}")[0] == status, client


def test_a_lists_file_is_read_again_when_it_changes_and_a_broken_one_changes_nothing(listed: System, recorder: Recorder,
                                                                                     office: Path) -> None:
    host = make_route(listed, recorder.url, deny="office")

    def status(client: str) -> int:
        return ask(listed, host, f"X-Forwarded-For: {client}")[0]

    def write(text: str) -> None:
        # At once: a file that is only half written could be read as a list that is empty.
        (office.parent / "new").write_text(text)
        os.replace(office.parent / "new", office)

    assert (status("192.0.2.8"), status("192.0.3.8")) == (403, 200)
    write("192.0.3.0/24\n")
    wait_for(lambda: (status("192.0.2.8"), status("192.0.3.8")) == (200, 403), 5, "the new list")
    write("192.0.2.0/24\nnot a network\n")
    wait_for(lambda: 'line 2: "not"' in listed.log(), 5, "the mistake in the log")
    assert (status("192.0.2.8"), status("192.0.3.8")) == (200, 403)
    office.unlink()
    wait_for(lambda: "No such file or directory; what was read of it before stays in use" in listed.log(), 5, "the loss in the log")
    assert (status("192.0.2.8"), status("192.0.3.8")) == (200, 403)
    write("192.0.2.0/24\n")
    wait_for(lambda: (status("192.0.2.8"), status("192.0.3.8")) == (403, 200), 5, "the first list again")


def test_a_list_that_nobody_could_read_is_closed(listed: System, recorder: Recorder) -> None:
    allowed, denied = make_route(listed, recorder.url, allow="lost"), make_route(listed, recorder.url, deny="lost")
    both = make_route(listed, recorder.url, allow="lost, lan")
    assert [ask(listed, host)[0] for host in (allowed, denied, both)] == [403, 403, 200]


def test_why_says_what_the_address_does(listed: System, recorder: Recorder) -> None:
    host = make_route(listed, recorder.url, allow="office")
    said = {client: listed.admin(f"/api/v1/why?url=http://{host}/&client={client}").json()["code"] for client in ("192.0.2.1", "127.0.0.1")}
    assert said == {"192.0.2.1": None, "127.0.0.1": "address_denied"}


# -- CORS

PREFLIGHT = ("Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-a, content-type")


def test_a_preflight_is_answered_here_and_an_answer_carries_the_policy_instead_of_the_backends(edge: System, route: RouteMaker) -> None:
    backend = Recorder(b"HTTP/1.1 200 OK\r\nAccess-Control-Allow-Origin: *\r\nVary: Accept\r\nContent-Length: 2\r\n\r\nok")
    host = route(backend.url, cors_origins="https://app.test https://*.pre.test", cors_methods="GET,PUT", cors_headers="X-A,Content-Type",
                 cors_expose="X-Total", cors_credentials="true", cors_max_age="1m")
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/", "Origin: https://app.test", *PREFLIGHT, method="OPTIONS"))
        asked = wire.response("OPTIONS")
        assert backend.requests() == []
        plain = wire.send(get(host, "/", "Origin: https://one.pre.test")).response()
        strange = wire.send(get(host, "/", "Origin: https://evil.test")).response()
        nobody = wire.send(get(host, "/")).response()
        deeper = wire.send(get(host, "/", "Origin: https://a.b.pre.test")).response()
    backend.stop()
    assert {name: asked.get(f"access-control-{name}") for name in ("allow-origin", "allow-methods", "allow-headers", "allow-credentials",
                                                                   "max-age")} == {
        "allow-origin": "https://app.test", "allow-methods": "GET, PUT", "allow-headers": "X-A, Content-Type",
        "allow-credentials": "true", "max-age": "60"}
    assert asked.status == 200 and "Origin" in asked.all("vary")
    assert (plain.get("access-control-allow-origin"), plain.get("access-control-expose-headers")) == ("https://one.pre.test", "X-Total")
    assert plain.all("vary") == ["Accept", "Origin"]
    for answer in (strange, nobody, deeper):
        assert answer.get("access-control-allow-origin") is None and answer.all("vary") == ["Accept", "Origin"]


def test_a_preflight_of_another_origin_is_refused_and_one_without_a_policy_is_the_backends(edge: System, route: RouteMaker,
                                                                                           recorder: Recorder) -> None:
    closed, open_ = route(recorder.url, cors_origins="https://app.test"), route(recorder.url)
    assert ask(edge, closed, "Origin: https://evil.test", *PREFLIGHT, method="OPTIONS") == (403, "cors_denied")
    recorder.forget()
    assert ask(edge, open_, "Origin: https://evil.test", *PREFLIGHT, method="OPTIONS") == (200, None)
    assert ask(edge, closed, method="OPTIONS") == (200, None)
    assert len(recorder.requests()) == 2


def test_refusals_carry_the_policy_too_and_a_denied_address_gets_no_preflight(edge: System, route: RouteMaker, recorder: Recorder) -> None:
    host = route(recorder.url, cors_origins="*", cors_headers="*", deny="127.0.0.1")
    with Wire(edge.proxy_port) as wire:
        for method, more in (("GET", ()), ("OPTIONS", PREFLIGHT)):
            answer = wire.send(get(host, "/", "Origin: https://a.test", *more, method=method)).response(method)
            assert (answer.status, answer.get("access-control-allow-origin"), answer.get("vary")) == (403, "*", None)


def test_cors_is_the_same_over_http_2_and_repeats_what_is_asked_for(secure: Secure, recorder: Recorder) -> None:
    host = secure.route(recorder.url, cors_origins="*", cors_headers="*")
    client = secure.client(host)
    answer = client.ask("OPTIONS", "/", headers=[("origin", "https://a.test"), ("access-control-request-method", "PUT"),
                                                 ("access-control-request-headers", "x-a,x-b")])
    client.close()
    found = [answer.header(f"access-control-allow-{name}") for name in ("origin", "headers")]
    assert (answer.status, found) == (200, ["*", "x-a,x-b"])


def test_a_policy_that_can_not_be_meant_is_refused(edge: System) -> None:
    client = edge.client("badcors", "badcors")
    client.route("badcors.test", "http://127.0.0.1:9", apply=False)
    assert client.command("OPTIONS_SET|SID|ALL|cors_origins|https://a.test/p").startswith('ERROR|cors_origins: "https://a.test/p" is not')
    assert client.command("OPTIONS_SET|SID|ALL|cors_origins|*, https://a.test").startswith("ERROR|cors_origins: * is any origin")
    client.ok("OPTIONS_SET|SID|ALL|cors_origins|*")
    client.ok("OPTIONS_SET|SID|ALL|cors_credentials|true")
    assert "cors_credentials needs origins by name" in client.command("CONFIG_VALIDATE|SID")


# -- the recipes of docs/access.md; those of forward_auth are in test_forward_auth.py


class HomeAssistant:
    """As it documents its behaviour behind a proxy: 400 for a request that is forwarded by one it does not trust, which is told by the
    client's address, and a WebSocket at /api/websocket that speaks first. `heads`: of all requests."""

    def __init__(self) -> None:
        self.heads: list[str] = []
        self.raw = RawBackend(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        head = self.raw.receive_head(sock).decode()
        self.heads.append(head)
        if head.startswith("GET /api/websocket "):
            said = b'{"type": "auth_required"}'
            sock.sendall(f"{SWITCH}\r\n".encode() + frame(TEXT, said, masked=False))
            while sock.recv(65536):
                pass
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


@pytest.fixture(scope="module")
def home() -> Iterator[HomeAssistant]:
    running = HomeAssistant()
    yield running
    running.raw.stop()


@pytest.fixture(scope="module")
def recipes(listed: System, home: HomeAssistant) -> Iterator[tuple[Recorder, Recorder]]:
    """The recipes as site files; the backends of ports 3001 and 3002."""
    part = (Path(__file__).resolve().parents[2] / "docs/access.md").read_text(encoding="utf-8").partition("\n## Recipes\n")[2]
    backends = Recorder(), Recorder()
    sites = Path(str(listed.settings["sites__directory"]))
    sites.mkdir(exist_ok=True)
    for number, recipe in enumerate(re.findall(r"```ini\n(.*?)```", part, re.DOTALL)):
        for port, backend in zip(("3001", "3002"), backends, strict=True):
            recipe = recipe.replace(f"http://127.0.0.1:{port}", backend.url)
        (sites / f"recipe{number}.ini").write_text(recipe.replace("http://127.0.0.1:8123", home.raw.url))
    wait_for(lambda: ask(listed, "printer.example.com")[0] == 200 and ask(listed, "app.example.com")[0] == 200, 10, "the site files")
    yield backends
    for backend in backends:
        backend.stop()


def test_the_recipe_of_a_page_for_the_lan(listed: System, recipes: tuple[Recorder, Recorder]) -> None:
    assert ask(listed, "printer.example.com", "X-Forwarded-For: 203.0.113.1") == (403, "address_denied")
    assert ask(listed, "printer.example.com", "X-Forwarded-For: 10.1.2.3") == (200, None)


def test_the_recipe_of_home_assistant(listed: System, recipes: tuple[Recorder, Recorder], home: HomeAssistant) -> None:
    wait_for(lambda: ask(listed, "home.example.com")[0] == 200, 10, "the site file")
    with open_websocket(listed.proxy_port, "home.example.com", "X-Forwarded-For: 203.0.113.4", path="/api/websocket") as wire:
        assert read_frame(wire) == (TEXT, b'{"type": "auth_required"}')
    (opened,) = (head for head in home.heads if "/api/websocket" in head)
    assert "X-Forwarded-For: 203.0.113.4, 127.0.0.1\r\n" in opened and "Host: home.example.com\r\n" in opened
    check = "GET /manifest.json HTTP/1.1\r\nHost: home.example.com\r\n"
    wait_for(lambda: any(head.startswith(check) for head in home.heads), 15, "a check")


def test_the_recipe_of_an_app_and_its_api(listed: System, recipes: tuple[Recorder, Recorder]) -> None:
    def api(*fields: str, method: str = "GET") -> tuple[int, str | None]:
        with Wire(listed.proxy_port) as wire:
            found = wire.send(get("api.example.com", "/v1/x", *fields, method=method)).response(method)
            return found.status, found.get("access-control-allow-origin")

    app = "Origin: https://app.example.com"
    assert api(app, "Access-Control-Request-Method: DELETE", method="OPTIONS") == (200, "https://app.example.com")
    assert api("Origin: https://evil.example", "Access-Control-Request-Method: DELETE", method="OPTIONS") == (403, None)
    found = [api(app, "X-Api-Key: one", f"X-Forwarded-For: 203.0.113.{n}") for n in range(3)]
    assert found == [(200, "https://app.example.com")] * 2 + [(429, "https://app.example.com")]
    assert api(app, "X-Api-Key: two") == (200, "https://app.example.com")
    assert api("X-Api-Key: three") == (200, None)
