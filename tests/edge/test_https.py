"""What TLS changes at the edge: ends that are told, clients that go, and upstreams that are not who they say they are."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Recorder, get
from tests.support.backends import RawBackend, SilentBackend
from tests.support.certificates import Authority
from tests.support.system import System
from tests.support.waiting import patience


def read_to_the_end(sock: socket.socket) -> bytes:
    """All that comes; SSLEOFError where the end was not told."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


@pytest.mark.parametrize(("request_", "status"), [
    (lambda host: get(host, "/", "Connection: close"), 200),
    (lambda host: get(host, "/", version="1.0"), 200),
    (lambda host: b"GET / HTTP/1.1\r\n\r\n", 400),
    (lambda host: get(host, "/", "Content-Length: 300000", method="POST") + b"x" * 300_000, 413),
], ids=["asked to close", "HTTP/1.0", "refused", "refused while sending"])
def test_the_end_of_the_last_answer_is_told_in_tls(request_: Callable[[str], bytes], status: int, secure: Secure) -> None:
    recorder = Recorder()
    host = secure.route(recorder.url)
    with secure.connect(host, suppress_ragged_eofs=False) as sock:
        sock.sendall(request_(host))
        assert read_to_the_end(sock).startswith(f"HTTP/1.1 {status} ".encode())
    recorder.stop()


@pytest.mark.parametrize("how", ["told", "untold"])
def test_a_client_that_goes_closes_the_upstream_at_once(how: str, secure: Secure, silent: SilentBackend) -> None:
    host = secure.route(silent.url)
    sock = secure.connect(host)
    sock.sendall(get(host))
    assert silent.asked.wait(patience(5))
    if how == "told":
        # A close_notify, as browsers and curl send it; the proxy's own never comes.
        sock.settimeout(0.05)
        with contextlib.suppress(OSError):
            sock.unwrap()
    sock.close()
    assert silent.closed.wait(patience(2))


def test_pipelined_requests_over_tls_are_all_answered(secure: Secure) -> None:
    recorder = Recorder()
    host = secure.route(recorder.url)
    with secure.connect(host) as sock:
        sock.sendall(get(host, "/1") + get(host, "/2", "Content-Length: 3", method="POST") + b"abc" + get(host, "/3", "Connection: close"))
        assert read_to_the_end(sock).count(b"HTTP/1.1 200 OK") == 3
    assert [(request.line.split()[1], request.body) for request in recorder.requests()] == [("/1", b""), ("/2", b"abc"), ("/3", b"")]
    recorder.stop()


def test_an_upstream_is_verified_by_authority_name_and_date(
        tmp_path: Path, new_system: Callable[..., System], raw_backend: Callable[..., RawBackend], monkeypatch: pytest.MonkeyPatch) -> None:
    authority, other = Authority(tmp_path), Authority(tmp_path, "another authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    system = new_system(workers=1)

    def backend(certificate: Path) -> str:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)

        def serve(sock: socket.socket) -> None:
            with context.wrap_socket(sock, server_side=True) as secured:
                while secured.recv(65536):
                    secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        return raw_backend(serve).url.replace("http:", "https:")

    verified = backend(authority.issue("good.pem", "127.0.0.1"))
    unsound = {"name": authority.issue("name.pem", "elsewhere.test"), "date": authority.issue("old.pem", "127.0.0.1", days=-1),
               "authority": other.issue("other.pem", "127.0.0.1")}
    assert system.get("/", make_route(system, verified)).status == 200
    words = {"name": "certificate is not valid for", "date": "has expired", "authority": "unable to get local issuer"}
    for fault, certificate in unsound.items():
        url = backend(certificate)
        answer = system.get("/", make_route(system, url))
        assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (502, "upstream_tls")
        assert words[fault] in answer.json()["detail"]
        assert system.get("/", make_route(system, url, tls_verify="false")).text == "ok"
    plain = Recorder()
    answer = system.get("/", make_route(system, plain.url.replace("http:", "https:")))
    assert (answer.headers["X-Proxyd-Reason"], "does not speak TLS" in answer.json()["detail"]) == ("upstream_tls", True)
    plain.stop()


def test_an_early_answer_reaches_a_client_that_sends_all_before_it_reads(secure: Secure) -> None:
    host = secure.route("http://127.0.0.1:9")
    with secure.connect(host) as client:
        client.sendall(get(host, "/", "Content-Length: 10000000", method="POST"))
        client.sendall(b"x" * 10_000_000)
        assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
