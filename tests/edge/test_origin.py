"""Who the client is behind a trusted front, in each form a front may tell it: for the backend, the log, limits, cookies and redirects."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.wire import Message, Recorder, Wire, get, read_message
from tests.support.system import System
from tests.support.waiting import wait_for


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd that believes what 127.0.0.1 and 10.0.0.0/8 say about clients."""
    running = System(tmp_path_factory.mktemp("origin"), workers=1, proxy__trusted_proxies="127.0.0.0/8 10.0.0.0/8", proxy__hsts="1h")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def host(front: System, recorder: Recorder) -> str:
    """A pool of two, so that its cookie is set."""
    for instance in ("one", "two"):
        client = front.client("origin", instance)
        client.route("origin.test", f"{recorder.url}/{instance}", apply=False)
        client.ok("OPTIONS_SET|SID|ALL|sticky_cookie|stuck")
        client.apply()
    return "origin.test"


def ask(system: System, recorder: Recorder, host: str, *fields: str) -> tuple[Message, Message]:
    """The request as the backend got it, and the answer."""
    recorder.forget()
    with Wire(system.proxy_port) as wire:
        response = wire.send(get(host, "/", *fields)).response()
    assert response.status == 200
    [request] = recorder.requests()
    return request, response


@pytest.mark.parametrize(("fields", "secure"), [(["X-Forwarded-Proto: https"], True), (["Forwarded: for=1.2.3.4;proto=https"], True),
                                                ([], False)])
def test_the_sticky_cookie_is_secure_behind_a_trusted_front_that_speaks_https(
        front: System, recorder: Recorder, host: str, fields: list[str], secure: bool) -> None:
    _, response = ask(front, recorder, host, *fields)
    assert ("; Secure" in (response.get("set-cookie") or "")) is secure


@pytest.mark.parametrize(("fields", "address", "scheme"), [
    (["X-Forwarded-For: 203.0.113.7"], "203.0.113.7", "http"),
    (["X-Forwarded-For: 203.0.113.7:4711"], "203.0.113.7", "http"),
    (["X-Forwarded-For: [2001:DB8::7]:4711"], "2001:db8::7", "http"),
    (["X-Forwarded-For: [2001:db8::7]"], "2001:db8::7", "http"),
    (["X-Forwarded-For: 2001:db8::7"], "2001:db8::7", "http"),
    (["X-Forwarded-For: ::ffff:203.0.113.7"], "203.0.113.7", "http"),
    (['X-Forwarded-For: "203.0.113.7"'], "203.0.113.7", "http"),
    (["X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 203.0.113.7, 10.1.1.1:99"], "203.0.113.7", "http"),
    (["X-Forwarded-For: 10.2.2.2, 10.1.1.1"], "10.2.2.2", "http"),
    (["X-Forwarded-For: 203.0.113.7, unknown"], "127.0.0.1", "http"),
    (["X-Forwarded-For: 203.0.113.7, _hidden, 10.1.1.1"], "10.1.1.1", "http"),
    (["X-Forwarded-For: 203.0.113.7, fe80::1%lo"], "127.0.0.1", "http"),
    (["X-Forwarded-For: , ,"], "127.0.0.1", "http"),
    (["X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: HTTPS"], "203.0.113.7", "https"),
    (["X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: wss"], "203.0.113.7", "https"),
    (["X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: gopher"], "203.0.113.7", "http"),
    (["X-Forwarded-Proto: https"], "127.0.0.1", "https"),
    # The element of the trusted front counts, never what its client wrote before it.
    (["X-Forwarded-For: 6.6.6.6, 203.0.113.7", "X-Forwarded-Proto: https, http"], "203.0.113.7", "http"),
    (["X-Forwarded-For: 6.6.6.6, 203.0.113.7", "X-Forwarded-Proto: https", "X-Forwarded-Proto: http"], "203.0.113.7", "http"),
    (["X-Forwarded-For: 203.0.113.7, 10.1.1.1", "X-Forwarded-Proto: https, http"], "203.0.113.7", "https"),
    (["X-Forwarded-For: 203.0.113.7, 10.1.1.1", "X-Forwarded-Proto: https"], "203.0.113.7", "https"),
    # RFC 7239 alone.
    (["Forwarded: for=203.0.113.7;proto=https"], "203.0.113.7", "https"),
    (['Forwarded: for=203.0.113.7;proto="https"'], "203.0.113.7", "https"),
    (['Forwarded: FOR="203.0.113.7:4711"; Proto = "HTTPS"'], "203.0.113.7", "https"),
    (['Forwarded: for="[2001:db8::7]:4711";proto=https;by=_x'], "2001:db8::7", "https"),
    ([r'Forwarded: for="20\3.0.113.7"'], "203.0.113.7", "http"),
    (["Forwarded: for=203.0.113.7:4711"], "203.0.113.7", "http"),
    (["Forwarded: for=6.6.6.6;proto=https, for=203.0.113.7"], "203.0.113.7", "http"),
    (["Forwarded: for=6.6.6.6;proto=https", "Forwarded: for=203.0.113.7;proto=http"], "203.0.113.7", "http"),
    (["Forwarded: for=6.6.6.6;proto=http, for=203.0.113.7;proto=https, for=10.1.1.1;proto=http"], "203.0.113.7", "https"),
    (['Forwarded: for=6.6.6.6;x="a, for=6.6.6.6", for=203.0.113.7'], "203.0.113.7", "http"),
    (["Forwarded: for=203.0.113.7, for=unknown;proto=https"], "127.0.0.1", "https"),
    (["Forwarded: for=203.0.113.7, for=_hidden, for=10.1.1.1"], "10.1.1.1", "http"),
    (['Forwarded: for=6.6.6.6;proto="https, for=203.0.113.7'], "127.0.0.1", "http"),
    (["Forwarded: for=6.6.6.6;for=203.0.113.7"], "127.0.0.1", "http"),
    (["Forwarded: proto=https"], "127.0.0.1", "https"),
    # A front that speaks X-Forwarded-* passes Forwarded on as its client wrote it.
    (["X-Forwarded-For: 203.0.113.7", "Forwarded: for=6.6.6.6;proto=https"], "203.0.113.7", "http"),
    (["X-Forwarded-Proto: http", "Forwarded: for=6.6.6.6;proto=https"], "127.0.0.1", "http"),
])
def test_a_trusted_front_says_who_the_client_is(front: System, recorder: Recorder, host: str, fields: list[str], address: str,
                                                scheme: str) -> None:
    got, answered = ask(front, recorder, host, *fields)
    assert (got.get("x-real-ip"), got.get("x-forwarded-proto")) == (address, scheme)
    assert (got.get("x-forwarded-host"), got.get("x-forwarded-port")) == (host, {"http": "80", "https": "443"}[scheme])
    assert (answered.get("strict-transport-security") is not None) is (scheme == "https")
    assert ("; Secure" in (answered.get("set-cookie") or "")) is (scheme == "https")


@pytest.mark.parametrize(("fields", "chain", "elements"), [
    (["X-Forwarded-For: 203.0.113.7:4711", "X-Forwarded-Proto: https", "X-Forwarded-Host: shop.test:8443"], "203.0.113.7:4711, 127.0.0.1",
     'for="203.0.113.7:4711";host="shop.test:8443";proto=https, for=127.0.0.1;host={host};proto=http'),
    (["X-Forwarded-For: 2001:db8::7, 10.1.1.1", "X-Forwarded-Proto: https"], "2001:db8::7, 10.1.1.1, 127.0.0.1",
     'for="[2001:db8::7]";host={host};proto=https, for=10.1.1.1, for=127.0.0.1;host={host};proto=http'),
    (['Forwarded: for="[2001:db8::7]:4711";proto=https;host="shop.test:8443"'], "2001:db8::7, 127.0.0.1",
     'for="[2001:db8::7]:4711";proto=https;host="shop.test:8443", for=127.0.0.1;host={host};proto=http'),
    (["Forwarded: for=_hidden;proto=https"], "unknown, 127.0.0.1", "for=_hidden;proto=https, for=127.0.0.1;host={host};proto=http"),
    (["X-Forwarded-Proto: https"], "127.0.0.1", "for=127.0.0.1;host={host};proto=https"),
    (["X-Forwarded-For: 203.0.113.7", "Forwarded: for=6.6.6.6;host=evil.test;proto=https"], "203.0.113.7, 127.0.0.1",
     "for=203.0.113.7;host={host};proto=http, for=127.0.0.1;host={host};proto=http"),
])
def test_what_is_believed_is_told_in_both_forms(front: System, recorder: Recorder, host: str, fields: list[str], chain: str,
                                                elements: str) -> None:
    got, _ = ask(front, recorder, host, *fields)
    assert got.get("x-forwarded-for") == chain
    assert got.get("forwarded") == elements.format(host=host)
    told = "shop.test:8443" if "shop.test" in elements else host
    assert (got.get("x-forwarded-host"), got.get("x-forwarded-proto")) == (told, "https" if "https" in elements else "http")
    assert got.get("x-forwarded-port") == ("8443" if "8443" in told else "443" if "https" in elements else "80")


@pytest.mark.parametrize(("sent", "told"), [("8443", "8443"), ("99, 8443", "8443"), ("0", "443"), ("x", "443"), ("70000", "443")])
def test_a_front_names_the_port(front: System, recorder: Recorder, host: str, sent: str, told: str) -> None:
    got, _ = ask(front, recorder, host, "X-Forwarded-For: 203.0.113.7", "X-Forwarded-Proto: https", f"X-Forwarded-Port: {sent}")
    assert got.get("x-forwarded-port") == told


@pytest.mark.parametrize("bad", ["a b", "evil.test/x", "a,b", "x@evil.test"])
def test_a_host_that_is_none_is_not_told(front: System, recorder: Recorder, host: str, bad: str) -> None:
    got, _ = ask(front, recorder, host, "X-Forwarded-For: 203.0.113.7", f"X-Forwarded-Host: {bad}")
    assert got.get("x-forwarded-host") in (host, "b") and bad not in (got.get("forwarded") or "")


def test_other_fields_of_a_trusted_front_are_passed_on(front: System, recorder: Recorder, host: str) -> None:
    got, _ = ask(front, recorder, host, "Forwarded: for=203.0.113.7", "X-Forwarded-Prefix: /shop", "Via: 1.1 front")
    assert (got.get("x-forwarded-prefix"), (got.get("via") or "").startswith("1.1 front, ")) == ("/shop", True)


def test_the_log_shows_the_client(front: System, recorder: Recorder, host: str) -> None:
    ask(front, recorder, host, "Forwarded: for=\"[2001:db8::77]:1\"", "X-Request-ID: logged-origin")
    wait_for(lambda: any(line.startswith("2001:db8::77 ") and "logged-origin" in line for line in front.access_log().splitlines()), 5,
             "the line")


def test_a_unix_socket_is_a_peer_that_can_be_trusted(tmp_path: Path, recorder: Recorder) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        system = System(tmp_path / "s", workers=1, proxy__bind=f"unix:{short}/p", proxy__trusted_proxies="unix",
                        proxy__redirect_https="yes")
        try:
            client = system.client("u", "u")
            client.route("unix.test", recorder.url, "/", apply=False)
            client.ok("RATELIMIT_SET|SID|ALL|2|1d")
            client.apply()

            def ask_it(*fields: str) -> Message:
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.connect(f"{short}/p")
                    sock.sendall(get("unix.test", "/", "Connection: close", *fields))
                    data = b""
                    while piece := sock.recv(65536):
                        data += piece
                return read_message(data, "GET")[0]

            https = "X-Forwarded-Proto: https"
            redirected = ask_it("X-Forwarded-Host: shop.test:80")
            assert (redirected.status, redirected.get("location")) == (308, "https://shop.test/")
            assert ask_it(https).status == 200
            got = recorder.requests()[-1]
            assert got.get("x-forwarded-for") == got.get("x-real-ip") == "unix"
            assert got.get("forwarded") == "for=unknown;host=unix.test;proto=https"
            assert ask_it(https, "X-Forwarded-For: 203.0.113.7").status == 200
            got = recorder.requests()[-1]
            assert (got.get("x-forwarded-for"), got.get("x-real-ip")) == ("203.0.113.7", "203.0.113.7")
            assert got.get("forwarded") == "for=203.0.113.7;host=unix.test;proto=https, for=unknown;host=unix.test;proto=http"
            # Each client has a limit of its own, and so has whoever comes by the socket itself.
            assert [ask_it(https, "X-Forwarded-For: 203.0.113.7").status for _ in range(2)] == [200, 429]
            assert [ask_it(https).status for _ in range(2)] == [200, 429]
            wait_for(lambda: len(system.access_log().splitlines()) == 7, 5, "the log")
            assert [line.split()[0] for line in system.access_log().splitlines()] == [
                "unix", "unix", "203.0.113.7", "203.0.113.7", "203.0.113.7", "unix", "unix"]
        finally:
            system.stop()
