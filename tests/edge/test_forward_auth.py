"""Another service decides who may pass (forward_auth): what it is asked, what its answers do, and what happens without it. The recipes of
docs/access.md run against services that answer as Authelia and oauth2-proxy document it."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import RouteMaker, Secure
from tests.edge.wire import Message, NotStrict, Recorder, Wire, get, read_message
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import free_port, wait_for

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs/access.md").read_text(encoding="utf-8")
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")


def answer(status: str, *fields: str, body: str = "") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", body]).encode()


class Service:
    """A service that is asked, and answers by a function of the request. `asked`: all requests."""

    def __init__(self, decide: Callable[[Message], bytes]) -> None:
        self.decide = decide
        self.asked: list[Message] = []
        self.connections = 0
        self.raw = RawBackend(self._serve)
        self.url = self.raw.url

    def _serve(self, sock: socket.socket) -> None:
        self.connections += 1
        data = b""
        while piece := sock.recv(65536):
            data += piece
            while data:
                try:
                    request, rest = read_message(data)
                except NotStrict:
                    return
                if not request.complete:
                    break
                data = rest
                self.asked.append(request)
                sock.sendall(self.decide(request))


def authelia(request: Message) -> bytes:
    """As its ForwardAuth endpoint answers: 200 with the user, or 302 to the portal (401 for what is no GET of a person)."""
    if "authelia_session=good" in (request.get("cookie") or ""):
        return answer("200 OK", "Remote-User: ann", "Remote-Groups: admins,dev", "Remote-Name: Ann", "Remote-Email: ann@example.com",
                      "X-Internal: 1", "Set-Cookie: authelia_session=good; Secure", body="200 OK")
    return answer("302 Found", f"Location: https://auth.example.com/?rd=https%3A%2F%2F{request.get('x-forwarded-host')}&rm="
                               f"{request.get('x-forwarded-method')}", "Set-Cookie: authelia_session=new", body="<a>Found</a>")


@pytest.fixture
def service() -> Iterator[Service]:
    running = Service(authelia)
    yield running
    running.raw.stop()


@pytest.fixture
def backend() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


GOOD = "Cookie: a=b; authelia_session=good"


def ask(system: System, host: str, path: str = "/", *fields: str, method: str = "GET") -> Message:
    with Wire(system.proxy_port) as wire:
        return wire.send(get(host, path, *fields, method=method)).response(method)


def test_a_2xx_lets_the_request_pass_with_the_services_fields_and_not_the_clients(edge: System, route: RouteMaker, service: Service,
                                                                                 backend: Recorder) -> None:
    host = route(backend.url, forward_auth=f"{service.url}/authz?x=1")
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/a/../%62?c=d", GOOD, "remote-user: root", "REMOTE-EMAIL: r@x", "X-Forwarded-Uri: /free", "If-None-Match: x",
                      "Content-Length: 4", method="PUT") + b"body")
        passed = wire.response("PUT")
        wire.send(get(host, "/", GOOD, "X-Forwarded-User: kept-out")).response()
    assert (passed.status, passed.all("set-cookie"), passed.get("remote-user")) == (200, ["authelia_session=good; Secure"], None)
    first, second = service.asked
    assert first.line == "GET /authz?x=1 HTTP/1.1" and first.body == b"" and first.get("if-none-match") is None
    told = {name: first.get(f"x-forwarded-{name}") for name in ("method", "proto", "host", "uri", "for")}
    assert told == {"method": "PUT", "proto": "http", "host": host, "uri": "/b?c=d", "for": "127.0.0.1"}
    got = backend.requests()[0]
    assert (got.all("remote-user"), got.all("remote-email"), got.all("remote-groups")) == (["ann"], ["ann@example.com"], ["admins,dev"])
    assert (got.body, got.get("x-internal"), got.get("if-none-match")) == (b"body", None, "x")
    assert second.get("x-forwarded-method") == "GET" and service.connections == 1


def test_any_other_answer_is_the_clients_and_the_backend_sees_nothing(edge: System, route: RouteMaker, service: Service,
                                                                     backend: Recorder) -> None:
    host = route(backend.url, forward_auth=service.url, websocket="true", cors_origins="*")
    refused = ask(edge, host, "/x", "Origin: https://a.test")
    assert (refused.status, refused.body, refused.all("set-cookie")) == (302, b"<a>Found</a>", ["authelia_session=new"])
    assert refused.get("location") == f"https://auth.example.com/?rd=https%3A%2F%2F{host}&rm=GET"
    assert (refused.get("x-proxyd-reason"), refused.get("access-control-allow-origin")) == ("auth_refused", "*")
    assert ask(edge, host, "/ws", *WEBSOCKET).status == 302
    upload = ask(edge, host, "/", "Content-Length: 5000000", "Expect: 100-continue", method="POST")
    head = ask(edge, host, method="HEAD")
    assert (upload.status, head.status, head.get("content-length"), backend.requests()) == (302, 302, "12", [])


def test_a_websocket_opens_with_the_user(edge: System, route: RouteMaker, service: Service) -> None:
    backend = Recorder(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
    host = route(backend.url, forward_auth=service.url, websocket="true")
    assert ask(edge, host, "/", GOOD, "Remote-User: root", *WEBSOCKET).status == 101
    assert backend.requests()[0].all("remote-user") == ["ann"]
    backend.stop()


def test_the_same_over_http_2(secure: Secure, service: Service, backend: Recorder) -> None:
    host = secure.route(backend.url, forward_auth=service.url)
    client = secure.client(host)
    refused = client.ask("GET", "/")
    passed = client.ask("POST", "/", headers=[("cookie", "authelia_session=good"), ("remote-user", "root")], body=b"x" * 100_000)
    client.close()
    assert (refused.status, passed.status) == (302, 200)
    assert service.asked[-1].get("x-forwarded-proto") == "https"
    assert (backend.requests()[0].all("remote-user"), len(backend.requests()[0].body)) == (["ann"], 100_000)


@pytest.mark.parametrize("broken", [b"", b"HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n", b"nonsense\r\n\r\n"])
def test_a_broken_service_lets_nobody_pass(edge: System, route: RouteMaker, backend: Recorder, broken: bytes) -> None:
    service = Service(lambda request: broken)
    host = route(backend.url, forward_auth=service.url, forward_auth_timeout="300ms")
    found = [ask(edge, host, "/", GOOD) for _ in range(4)]
    wait_for(lambda: len(service.asked) >= 3)
    service.raw.stop()
    assert {(one.status, one.get("x-proxyd-reason")) for one in found} == {(503, "auth_unavailable")}
    assert found[0].get("retry-after") and backend.requests() == []
    # The circuit is open: the fourth was not asked.
    assert len(service.asked) == 3


def test_a_service_that_is_not_there_lets_nobody_pass_and_one_that_comes_back_does(edge: System, route: RouteMaker, service: Service,
                                                                                  backend: Recorder) -> None:
    gone = route(backend.url, forward_auth=f"http://127.0.0.1:{free_port()}/")
    assert ask(edge, gone).get("x-proxyd-reason") == "auth_unavailable"
    there = route(backend.url, forward_auth=service.url)
    assert [ask(edge, there, "/", GOOD).status for _ in range(2)] == [200, 200]


def test_what_a_trusted_field_may_not_be_and_a_url_that_is_none_are_refused(edge: System) -> None:
    client = edge.client("badauth", "badauth")
    client.route("badauth.test", "http://127.0.0.1:9", apply=False)
    for key, value in (("forward_auth", "unix:/run/x.sock"), ("forward_auth", "ftp://a/"), ("forward_auth_headers", "Host"),
                       ("forward_auth", f"http://127.0.0.1:{edge.admin_port}/"), ("forward_auth_headers", "X-Forwarded-For")):
        assert client.command(f"OPTIONS_SET|SID|ALL|{key}|{value}").startswith("ERROR|"), value


def oauth2_proxy(request: Message) -> bytes:
    """As it documents it with --reverse-proxy, --set-xauthrequest and a static upstream: 202, or the sign-in page. /oauth2/ is its own."""
    if request.line.startswith("GET /oauth2/"):
        return answer("200 OK", body="callback")
    if "_oauth2_proxy=good" in (request.get("cookie") or ""):
        return answer("202 Accepted", "X-Auth-Request-User: ann", "X-Auth-Request-Email: ann@example.com")
    return answer("403 Forbidden", "Content-Type: text/html", "Set-Cookie: _oauth2_proxy_csrf=1", body="<form action=/oauth2/start>")


def test_the_recipes_of_the_document(edge: System, backend: Recorder) -> None:
    services = [Service(authelia), Service(oauth2_proxy)]
    recipes = [block for block in re.findall(r"```ini\n(.*?)```", DOCUMENT, re.DOTALL) if "forward_auth" in block]
    sites = Path(str(edge.settings["sites__directory"]))
    sites.mkdir(exist_ok=True)
    for number, (recipe, service, port) in enumerate(zip(recipes, services, ("9091", "4180"), strict=True)):
        own = recipe.replace(f"http://127.0.0.1:{port}", service.url).replace("http://127.0.0.1:3001", backend.url)
        (sites / f"auth{number}.ini").write_text(own)
    wait_for(lambda: ask(edge, "wiki.example.com").status == 302 and ask(edge, "app.example.com").status == 403, 10, "the site files")
    assert ask(edge, "wiki.example.com", "/", GOOD).status == 200
    assert backend.requests()[-1].get("remote-user") == "ann"
    assert ask(edge, "auth.example.com").status == 302
    page = ask(edge, "app.example.com")
    assert (b"/oauth2/start" in page.body, page.all("set-cookie")) == (True, ["_oauth2_proxy_csrf=1"])
    assert ask(edge, "app.example.com", "/oauth2/callback?code=1").body == b"callback"
    assert ask(edge, "app.example.com", "/", "Cookie: _oauth2_proxy=good", "X-Auth-Request-User: root").status == 200
    assert backend.requests()[-1].all("x-auth-request-user") == ["ann"]
    for number, service in enumerate(services):
        (sites / f"auth{number}.ini").unlink()
        service.raw.stop()
