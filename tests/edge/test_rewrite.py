"""The option rewrite, over real sockets: what the backend is asked for, and what is put back in its answers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.system import System


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


def asked(system: System, host: str, path: str) -> Message:
    with Wire(system.proxy_port) as wire:
        return wire.send(get(host, path)).response()


@pytest.mark.parametrize(("rule", "base", "path", "target"), [
    ("/old -> /new", "", "/old/a?b=/old", "/new/a?b=/old"),
    ("/old -> /new", "", "/old", "/new"),
    ("/old -> /new", "", "/old/", "/new/"),
    ("/old -> /new", "", "/older", "/older"),
    ("/old -> /new", "", "/a/old/b", "/a/old/b"),
    ("/old -> /new", "", "/x/../old//a/./b", "/new/a/b"),
    ("/old -> /new", "/base", "/old/a", "/base/new/a"),
    ("/old -> /new", "/base", "/other", "/base/other"),
    ("/old -> /", "", "/old/a", "/a"),
    (r"~ /users/([0-9]+)/(.*) -> /u/\2/\1", "", "/users/7/a%20b?q", "/u/a%20b/7?q"),
    (r"~ /(.*)\.php -> /run?file=\1", "", "/a/b.php", "/run?file=a/b"),
    (r"~ /(.*)\.php -> /run?file=\1", "/base", "/a.php?x=1", "/base/run?file=a&x=1"),
    (r"~ /(.*)\.php -> /run?file=\1", "", "/a.html?x", "/a.html?x"),
    (r"~ /(.*)\.php -> /\1", "", "/x/../a.php?", "/a?"),
])
def test_the_backend_is_asked_for_the_rewritten_path(
        edge: System, recorder: Recorder, rule: str, base: str, path: str, target: str) -> None:
    host = make_route(edge, recorder.url + base, rewrite=rule)
    assert asked(edge, host, path).status == 200
    assert recorder.requests()[-1].line.split()[1] == target


def test_what_the_backend_says_of_itself_is_put_back_for_a_prefix(edge: System, recorder: Recorder) -> None:
    recorder.answer = (b"HTTP/1.1 302 Found\r\nLocation: /v2/login?x\r\nContent-Location: /elsewhere\r\nSet-Cookie: a=1; Path=/v2\r\n"
                       b"Content-Length: 0\r\n\r\n")
    host = make_route(edge, recorder.url, path="/api", rewrite="/api -> /v2")
    answer = asked(edge, host, "/api/x")
    assert (answer.get("location"), answer.get("content-location"), answer.get("set-cookie")) == (
        "/api/login?x", "/elsewhere", "a=1; Path=/api")
    assert recorder.requests()[-1].get("x-forwarded-prefix") is None


def test_a_prefix_that_begins_the_new_one_is_put_back_once(edge: System, recorder: Recorder) -> None:
    recorder.answer = b"HTTP/1.1 302 Found\r\nLocation: /api/v2/login\r\nContent-Length: 0\r\n\r\n"
    host = make_route(edge, recorder.url, path="/api", rewrite="/api -> /api/v2")
    assert asked(edge, host, "/api/x").get("location") == "/api/login"
    assert recorder.requests()[-1].line.split()[1] == "/api/v2/x"


def test_an_expression_never_makes_a_path_that_leads_out(edge: System, recorder: Recorder) -> None:
    host = make_route(edge, recorder.url, rewrite=r"~ /a(.*) -> /inner/\1")
    for path in ("/a..", "/a../x", "/a%2e%2e/x", "/a/x"):
        answer = asked(edge, host, path)
        assert (answer.status, answer.get("x-proxyd-reason")) == (400, "ambiguous_path"), path
    assert not recorder.requests()
    assert asked(edge, host, "/ab").status == 200


def test_requests_by_http2_are_rewritten_too(secure: Secure, recorder: Recorder) -> None:
    host = secure.route(recorder.url, rewrite="/old -> /new")
    client = secure.client(host)
    assert client.ask("GET", "/old/a").status == 200
    assert recorder.requests()[-1].line.split()[1] == "/new/a"
    client.close()


def test_what_contradicts_or_could_be_slow_is_refused(edge: System) -> None:
    client = edge.client("rewriting", "rewriting")
    client.ok("ROUTE_ADD|SID|rewriting.test|/|http://127.0.0.1:9|0")
    assert "too long" in client.command("OPTIONS_SET|SID|ALL|rewrite|~ /(.*)a(.*)|b -> /")
    client.ok("OPTIONS_SET|SID|ALL|rewrite|/a -> /b")
    client.ok("OPTIONS_SET|SID|ALL|strip_prefix|/a")
    assert "contradict" in client.command("CONFIG_APPLY|SID")
