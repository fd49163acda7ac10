"""Below a stripped prefix, and without the client's Host: what the backend is told of its public address, and what of its own is put back
in answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.system import System


@pytest.fixture(scope="module")
def answering() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


def asked(system: System, recorder: Recorder, host: str, path: str, field: str, value: str, *fields: str, shown: str = "") -> list[str]:
    """The values of one field of the answer as the client gets them."""
    recorder.forget()
    recorder.answer = f"HTTP/1.1 200 OK\r\n{field}: {value}\r\nContent-Length: 2\r\n\r\nok".encode()
    with Wire(system.proxy_port) as wire:
        response = wire.send(get(shown or host, path, *fields)).response()
    assert response.status == 200
    return [text for name, text in response.fields if name.lower() == field.lower()]


@pytest.mark.parametrize(("base", "field", "said", "got"), [
    ("", "Location", "/login?next=/x#y", "/app/login?next=/x#y"),
    ("", "Location", "/", "/app/"),
    ("", "Location", "/app/login", "/app/login"),
    ("", "Location", "/application", "/app/application"),
    ("", "Location", "login", "login"),
    ("", "Location", "?page=2", "?page=2"),
    ("", "Location", "http://HOST/login", "http://HOST/app/login"),
    ("", "location", "https://HOST?x", "https://HOST/app/?x"),
    ("", "Location", "//HOST:80/login", "//HOST:80/app/login"),
    ("", "Location", "http://HOST:8443/login", "http://HOST:8443/login"),
    ("", "Location", "https://other.test/login", "https://other.test/login"),
    ("", "Location", "//other.test/login", "//other.test/login"),
    ("", "Content-Location", "/a.json", "/app/a.json"),
    ("", "Refresh", "5; url=/next", "5; url=/app/next"),
    ("", "Refresh", "0;URL='http://HOST/next'", "0;URL='http://HOST/app/next'"),
    ("", "Refresh", "5", "5"),
    ("", "Set-Cookie", "a=1; Path=/; HttpOnly", "a=1; Path=/app; HttpOnly"),
    ("", "Set-Cookie", "a=/x; path=/x/y;Secure", "a=/x; path=/app/x/y;Secure"),
    ("", "Set-Cookie", "a=1; Path=/app/x", "a=1; Path=/app/x"),
    ("", "Set-Cookie", "a=1", "a=1"),
    ("", "Set-Cookie", "__Host-a=1; Secure; Path=/", "__Host-a=1; Secure; Path=/"),
    ("/v1", "Location", "/v1/login", "/app/login"),
    ("/v1", "Location", "/v1?x", "/app/?x"),
    ("/v1", "Location", "/elsewhere", "/elsewhere"),
    ("/v1", "Set-Cookie", "a=1; Path=/v1", "a=1; Path=/app"),
    ("/v1", "Set-Cookie", "a=1; Path=/", "a=1; Path=/"),
])
def test_what_a_backend_below_a_prefix_says_of_itself(base: str, field: str, said: str, got: str, edge: System,
                                                      answering: Recorder) -> None:
    host = make_route(edge, answering.url + base, path="/app", strip_prefix="true")
    assert asked(edge, answering, host, "/app/x", field, said.replace("HOST", host)) == [got.replace("HOST", host)]
    request = answering.requests()[-1]
    assert (request.line, request.all("x-forwarded-prefix")) == (f"GET {base}/x HTTP/1.1", ["/app"])


def test_only_a_prefix_that_was_stripped_is_put_back_and_told(edge: System, answering: Recorder) -> None:
    host = make_route(edge, answering.url, strip_prefix="/app")
    assert asked(edge, answering, host, "/other", "Location", "/login", "X-Forwarded-Prefix: /evil") == ["/login"]
    assert answering.requests()[-1].all("x-forwarded-prefix") == []
    assert asked(edge, answering, host, "/app", "Location", "/login", "X-Forwarded-Prefix: /evil") == ["/app/login"]
    assert answering.requests()[-1].all("x-forwarded-prefix") == ["/app"]
    plain = make_route(edge, answering.url)
    assert asked(edge, answering, plain, "/app", "Location", f"{answering.url}/login") == [f"{answering.url}/login"]


def test_the_backends_own_address_becomes_the_public_one_where_it_is_told_no_other(edge: System, answering: Recorder) -> None:
    own, port = answering.url, answering.url.rpartition(":")[2]
    host = make_route(edge, own, path="/app", preserve_host="false", strip_prefix="true")
    for said, got in ((f"{own}/login", f"http://{host}/app/login"), (own, f"http://{host}/app/"),
                      (f"//127.0.0.1:{port}/x", f"//{host}/app/x"),
                      (f"https://127.0.0.1:{port}/x", f"https://127.0.0.1:{port}/x"), ("http://127.0.0.1/x", "http://127.0.0.1/x"),
                      ("/login", "/app/login"), (f"http://{host}/login", f"http://{host}/app/login")):
        assert asked(edge, answering, host, "/app/x", "Location", said) == [got], said
    host = make_route(edge, own, preserve_host="false")
    assert asked(edge, answering, host, "/", "Location", f"{own}/login", shown=f"{host}:8080") == [f"http://{host}:8080/login"]
    assert asked(edge, answering, host, "/", "Location", "/login") == ["/login"]
    host = make_route(edge, own, path="/app", strip_prefix="true")
    assert asked(edge, answering, host, "/app/x", "Location", f"{own}/login") == [f"{own}/login"], "it was told the public one"


def test_over_https_and_http2_the_public_address_is_https(secure: Secure, answering: Recorder) -> None:
    name = secure.route(answering.url, preserve_host="false")
    answering.answer = f"HTTP/1.1 302 Found\r\nLocation: {answering.url}/login\r\nContent-Length: 0\r\n\r\n".encode()
    client = secure.client(name)
    assert client.ask("GET", "/").header("location") == f"https://{name}/login"
    client.close()


def test_a_trusted_front_keeps_its_prefix_before_ours(tmp_path: Path, answering: Recorder) -> None:
    system = System(tmp_path, workers=1, proxy__trusted_proxies="127.0.0.1")
    try:
        host = make_route(system, answering.url, path="/app", strip_prefix="true")
        fields = ("X-Forwarded-Prefix: /outer", "X-Forwarded-Host: www.test", "X-Forwarded-Proto: https")
        for said, got in (("/login", "/app/login"), ("/outer/app/login", "/outer/app/login"),
                          ("https://www.test/login", "https://www.test/app/login")):
            assert asked(system, answering, host, "/app/x", "Location", said, *fields) == [got]
            assert answering.requests()[-1].all("x-forwarded-prefix") == ["/outer/app"]
        plain = make_route(system, answering.url)
        assert asked(system, answering, plain, "/app/x", "Location", "/login", *fields) == ["/login"]
        assert answering.requests()[-1].all("x-forwarded-prefix") == ["/outer"]
    finally:
        system.stop()
