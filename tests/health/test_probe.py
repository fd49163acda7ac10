"""One check against backends that misbehave in every way that backends do."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gevent
import pytest
from gevent.select import select

from proxyd import __version__
from proxyd.config.options import BackendTls, parse_option
from proxyd.config.sections import HealthSettings
from proxyd.health.probe import Probe, Result, Target
from proxyd.health.targets import target_of
from proxyd.registry.configuration import check_options
from tests.proxy.build import record
from tests.support.backends import Backend, RawBackend
from tests.support.waiting import free_port, patience

NewRaw = Callable[[Callable[[socket.socket], None]], RawBackend]
#: Of most checks, which are over at once; and of those that are to be given up.
TIMEOUT, SHORT = 5.0, 0.4


def target(port: int, path: str = "/healthz", **changes: Any) -> Target:
    made = Target("http", "127.0.0.1", port, f"127.0.0.1:{port}", path, 10.0, TIMEOUT, frozenset(range(200, 400)), "", 2, 3, BackendTls())
    return replace(made, **changes)


def answering(new: NewRaw, answer: bytes, hold: bool = False) -> RawBackend:
    """A backend that sends these bytes and closes, or keeps the connection open."""
    backend: RawBackend

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(answer)
        if hold:
            sock.recv(1)

    backend = new(serve)
    return backend


def silent(sock: socket.socket) -> None:
    """Take the request and say nothing for a while."""
    sock.recv(65536)
    time.sleep(1)


def check(port: int, max_body: int = 65536, path: str = "/healthz", **changes: Any) -> Result:
    return Probe(target(port, path, **changes), max_body).check()


def test_method_and_fields_are_those_of_the_target(raw_backend: NewRaw) -> None:
    backend = answering(raw_backend, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", hold=True)
    assert check(backend.port, method="HEAD", authority="shop.test", fields=(("X-A", "1"),)).ok
    assert backend.received == [b"HEAD /healthz HTTP/1.1\r\nHost: shop.test\r\nX-A: 1\r\nConnection: close\r\n\r\n"]
    other = answering(raw_backend, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", hold=True)
    assert check(other.port, method="POST", fields=()).ok
    assert b"Content-Length: 0\r\n" in other.received[0]


def asked(options: dict[str, str], **fields: Any) -> Target:
    found = target_of(record(1, {"health_check_path": "/healthz", **options}, **fields), HealthSettings())
    assert found is not None
    return found[0]


def test_checks_speak_as_the_routes_traffic_does() -> None:
    declared = (("Authorization", "Basic eDp5"), ("X-Client", "{client_ip}"), ("X-Json", '{"a": 1}'), ("Accept", "-"))
    target = asked({"upstream_host": "shop.test"}, request_headers=declared)
    assert dict(target.fields) == {"User-Agent": f"proxyd-health/{__version__}", "Authorization": "Basic eDp5", "X-Json": '{"a": 1}'}
    assert (target.method, target.authority, target.url) == ("GET", "shop.test", "http://127.0.0.1:3001/healthz")


def test_each_part_of_a_check_can_be_set() -> None:
    said = "host: a.test:81; Accept: text/html; q=1; X-Forwarded-Proto: https;user-agent:me ; Authorization: -"
    target = asked({"health_method": "head", "health_headers": said}, request_headers=(("Authorization", "x"),))
    assert dict(target.fields) == {"User-Agent": "me", "Accept": "text/html; q=1", "X-Forwarded-Proto": "https"}
    assert (target.method, target.authority) == ("HEAD", "a.test:81")
    elsewhere = asked({"health_check_path": "grpc://10.0.0.9:99"}, request_headers=(("Authorization", "x"),))
    assert "Authorization" not in dict(elsewhere.fields)


@pytest.mark.parametrize(("key", "value"), [
    ("health_method", "PUT"), ("health_headers", "X-A"), ("health_headers", "X-A: "), ("health_headers", "Content-Length: 1"),
    ("health_headers", "Host: a b"), ("health_headers", "X-A: 1; x-a: 2"), ("health_headers", "X-Forwarded Proto: a"),
    ("health_headers", "X-A: \u20ac"), ("health_headers", "; ".join(f"X-{number}: 1" for number in range(17)))])
def test_what_no_check_can_have_is_refused(key: str, value: str) -> None:
    with pytest.raises(ValueError, match=key):
        parse_option(key, value)


@pytest.mark.parametrize("options", [
    {"health_check_path": "tcp://", "health_headers": "X-A: 1"}, {"health_check_path": "grpc://", "health_method": "HEAD"},
    {"health_method": "HEAD", "health_expected_body": "ok"}])
def test_what_has_no_effect_is_refused(options: dict[str, str]) -> None:
    assert "health_" in (check_options(options) or "")


def test_a_good_answer_is_ok_and_timed(backend: Backend) -> None:
    result = check(backend.port)
    assert (result.ok, result.status_code, result.error) == (True, 200, "")
    assert 0 < result.seconds < TIMEOUT


def test_the_request_names_us_and_asks_for_no_second_one(raw_backend: NewRaw) -> None:
    backend = answering(raw_backend, b"HTTP/1.1 204 No Content\r\n\r\n", hold=True)
    assert check(backend.port, path="/a?b=c").ok
    assert backend.received == [(
        f"GET /a?b=c HTTP/1.1\r\nHost: 127.0.0.1:{backend.port}\r\nUser-Agent: proxyd-health/{__version__}\r\n"
        "Accept: */*\r\nConnection: close\r\n\r\n").encode()]


def test_a_refused_connection_says_so() -> None:
    result = check(free_port())
    assert (result.ok, result.status_code) == (False, None)
    assert "refused" in result.error.lower()


def test_a_backend_that_never_accepts_is_given_up_in_time() -> None:
    with socket.socket() as listener, contextlib.ExitStack() as held:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        # They fill the backlog; the next one's SYN is dropped.
        for _ in range(3):
            filling = held.enter_context(socket.socket())
            filling.setblocking(False)
            filling.connect_ex(("127.0.0.1", port))
        result = check(port, timeout=SHORT)
    assert (result.ok, result.error) == (False, "no connection within 0.4 s")
    assert SHORT <= result.seconds < SHORT + patience(2.0)


def test_a_backend_that_accepts_and_says_nothing_is_given_up_in_time(raw_backend: NewRaw) -> None:
    backend = raw_backend(silent)
    result = check(backend.port, timeout=SHORT)
    assert (result.ok, result.error) == (False, "no complete answer within 0.4 s")
    assert result.seconds < SHORT + patience(2.0)


@pytest.mark.parametrize(("head", "status"), [(b"HTTP/1.1 200 OK\r\nX-Slow: ", None),
                                              (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n", 200)],
                         ids=["header", "body"])
def test_the_time_limit_holds_for_a_trickle(raw_backend: NewRaw, head: bytes, status: int | None) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(head)
        for _ in range(100):
            sock.sendall(b"x")
            time.sleep(0.02)

    result = check(raw_backend(serve).port, timeout=SHORT)
    assert (result.ok, result.status_code, result.error) == (False, status, "no complete answer within 0.4 s")
    assert SHORT <= result.seconds < SHORT + patience(2.0)


def test_a_redirect_is_an_answer_and_not_followed(raw_backend: NewRaw, backend: Backend) -> None:
    answer = f"HTTP/1.1 302 Found\r\nLocation: {backend.url}/elsewhere\r\nContent-Length: 0\r\n\r\n".encode()
    redirecting = answering(raw_backend, answer)
    assert check(redirecting.port).status_code == 302
    assert check(redirecting.port).ok
    refused = check(redirecting.port, expected=frozenset({200}))
    assert (refused.ok, refused.error) == (False, "status 302 is not among the expected")
    assert backend.requests == []


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n",
                                  b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3b9aca00\r\n"], ids=["length", "close", "chunked"])
def test_of_a_huge_body_no_more_is_taken_than_the_limit(raw_backend: NewRaw, head: bytes) -> None:
    sent = []

    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        sock.sendall(head)
        while True:
            sent.append(sock.send(b"x" * 65536))

    result = check(raw_backend(serve).port, max_body=10000)
    assert (result.ok, result.status_code) == (True, 200)
    gevent.sleep(0.05)
    # What the kernels' buffers hold was sent, too; the point is that it ends.
    assert sum(sent) < 16_000_000


@pytest.mark.parametrize("status", [404, 500, 503])
def test_another_status_than_those_expected_fails_with_the_status(backend: Backend, status: int) -> None:
    backend.health = status
    result = check(backend.port)
    assert (result.ok, result.status_code, result.error) == (False, status, f"status {status} is not among the expected")
    assert check(backend.port, expected=frozenset({status})).ok


@pytest.mark.parametrize("answer", [
    b"HTTP/1.1 200 OK\r\nContent-Length: 11\r\n\r\n{\"up\":true}", b"HTTP/1.0 200 OK\r\n\r\nall: {\"up\":true}\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"up\"\r\n6\r\n:true}\r\n0\r\n\r\n"], ids=["length", "close", "chunked"])
def test_the_body_must_hold_the_text(raw_backend: NewRaw, answer: bytes) -> None:
    backend = answering(raw_backend, answer)
    assert check(backend.port, body='"up":true').ok
    missing = check(backend.port, body='"up":false')
    assert not missing.ok
    assert missing.error.startswith('""up":false" is not in the first ')


def test_a_text_behind_the_body_limit_is_not_found(raw_backend: NewRaw) -> None:
    backend = answering(raw_backend, b"HTTP/1.1 200 OK\r\nContent-Length: 2004\r\n\r\n" + b"x" * 2000 + b"good")
    assert check(backend.port, body="good").ok
    assert check(backend.port, body="good", max_body=2000).error == '"good" is not in the first 2000 bytes of the body'


def test_an_answer_without_a_body_lacks_the_text(raw_backend: NewRaw) -> None:
    backend = answering(raw_backend, b"HTTP/1.1 204 No Content\r\n\r\n", hold=True)
    assert check(backend.port, body="good").error == '"good" is not in the first 0 bytes of the body'


def test_a_connection_closed_without_an_answer_fails(raw_backend: NewRaw) -> None:
    assert check(answering(raw_backend, b"").port).error == "the connection was closed without an answer"
    assert check(answering(raw_backend, b"HTTP/1.1 200").port).error == "the connection was closed without an answer"


def test_a_body_cut_short_fails_with_the_status_it_had(raw_backend: NewRaw) -> None:
    result = check(answering(raw_backend, b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc").port)
    assert (result.ok, result.status_code, result.error) == (False, 200, "the connection was closed in the middle of the body")


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"HTTP/1.1 OK 200\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n",
                                    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx"])
def test_what_is_no_http_answer_fails(raw_backend: NewRaw, answer: bytes) -> None:
    result = check(answering(raw_backend, answer).port)
    assert not result.ok
    assert result.error.startswith("not a valid HTTP answer: ")
    assert "OpenSSH" not in result.error and "200" not in result.error, "what another server said is told to nobody"


def test_a_header_without_end_is_not_read_for_ever(raw_backend: NewRaw) -> None:
    def serve(sock: socket.socket) -> None:
        sock.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            sock.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")

    result = check(raw_backend(serve).port, timeout=2.0)
    assert not result.ok
    assert result.error == "not a valid HTTP answer: the head is longer than 65536 bytes"


def test_a_kept_connection_that_the_backend_has_closed_says_nothing_about_the_target(raw_backend: NewRaw) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    backend = raw_backend(serve)
    probe = Probe(target(backend.port, keepalive=True), 65536)
    assert probe.check().ok
    for _ in range(2):
        kept = probe.sock
        assert kept is not None
        # The backend's end is here, or the check would find a connection that still answers.
        assert select([kept], [], [], 5)[0]
        result = probe.check()
        assert (result.ok, result.status_code, result.error) == (True, 200, "")
        assert probe.sock is not kept
    probe.close()
    assert backend.connections == 3


def test_a_new_connection_that_is_closed_without_an_answer_is_a_failure_also_for_a_probe_that_keeps_it(raw_backend: NewRaw) -> None:
    result = check(answering(raw_backend, b"").port, keepalive=True)
    assert (result.ok, result.error) == (False, "the connection was closed without an answer")


def test_informational_answers_are_skipped(raw_backend: NewRaw) -> None:
    backend = answering(raw_backend, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert check(backend.port).status_code == 200


def test_a_header_with_line_feeds_alone_is_read_where_traffic_reads_it(raw_backend: NewRaw) -> None:
    backend = answering(raw_backend, b"HTTP/1.0 200 OK\nServer: old\n\nok")
    assert check(backend.port, bare_lf=True).ok
    assert not check(backend.port).ok


def test_a_tcp_check_only_connects(raw_backend: NewRaw) -> None:
    said = []
    backend = raw_backend(lambda sock: said.append(sock.recv(100)))
    result = check(backend.port, path="", scheme="tcp")
    assert (result.ok, result.status_code) == (True, None)
    gevent.sleep(0.05)
    assert said == [b""]
    assert not check(free_port(), path="", scheme="tcp").ok


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    folder: Path = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
                    "-keyout", f"{folder}/key", "-out", f"{folder}/crt", "-subj", "/CN=localhost"], check=True, capture_output=True)
    return f"{folder}/crt", f"{folder}/key"


def test_a_certificate_is_verified_unless_the_route_says_otherwise(raw_backend: NewRaw, certificate: tuple[str, str]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secure:
            secure.recv(65536)
            secure.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    port = raw_backend(serve).port
    verified = check(port, scheme="https", timeout=2.0)
    assert not verified.ok
    assert "certificate" in verified.error.lower()
    assert check(port, scheme="https", timeout=2.0, tls=BackendTls(False)).ok


def test_a_tls_handshake_that_stalls_is_given_up_in_time(raw_backend: NewRaw) -> None:
    result = check(raw_backend(silent).port, scheme="https", timeout=SHORT)
    assert (result.ok, result.error) == (False, "no complete answer within 0.4 s")
    assert result.seconds < SHORT + patience(2.0)


def test_a_name_that_does_not_resolve_is_a_failed_check_like_any_other() -> None:
    result = check(80, host="no-such-host.invalid", timeout=5.0)
    assert not result.ok
    assert result.error
