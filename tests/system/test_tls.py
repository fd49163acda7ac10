"""HTTPS, as clients and an operator meet it: names, versions, renewal, redirects, HTTP/2, and TLS towards backends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.http2 import Http2Client
from tests.support.registry import RegistryClient
from tests.support.system import ROOT, Answer, System
from tests.support.waiting import free_port, patience, wait_for


class Secure:
    """A system with an HTTPS listener, its authority, and a backend behind `secure.test`."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        exact = self.authority.issue("exact.pem", "exact.test", "127.0.0.1")
        wildcard = self.authority.issue("wildcard.pem", "*.wild.test", "wild.test")
        over = self.authority.issue("over.pem", "over.test", days=-1)
        self.backend = Backend()
        self.port = free_port()
        self.system = System(directory / "system", tls__bind=f"127.0.0.1:{self.port}", tls__certificates=f"{exact},{wildcard},{over}",
                             alerts__webhook=f"{self.backend.url}/alert",
                             proxy__hsts="1h", proxy__header_timeout="2500ms", proxy__graceful_timeout="2s")
        self.client: RegistryClient = self.system.client("secure")
        self.client.route("exact.test,*.wild.test,wild.test", self.backend.url)

    def stop(self) -> None:
        self.system.stop()
        self.backend.stop()

    def connect(self, name: str, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A TLS connection that asks for a name."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return (context or self.authority.trusting()).wrap_socket(raw, server_hostname=name)

    def shown(self, name: str) -> tuple[str, str]:
        """The first name and the serial number of the certificate shown to who asks for a name, verified but for the name."""
        context = self.authority.trusting()
        context.check_hostname = False
        with self.connect(name, context) as sock:
            certificate = sock.getpeercert()
            assert certificate is not None
            return str(certificate["subjectAltName"][0][1]), str(certificate["serialNumber"])

    def wait_for_all_to_say(self, what: str, since: int) -> None:
        """Until every worker has said `what` in the log, from position `since` on."""

        def all_have() -> bool:
            lines = [line for line in self.system.log()[since:].splitlines() if what in line]
            return all(any(f"[{pid}]" in line for line in lines) for pid in self.system.worker_pids())

        wait_for(all_have, 15, f"'{what}' of every worker")

    def get(self, path: str, name: str = "exact.test", method: str = "GET", body: bytes | None = None, **headers: str) -> Answer:
        """A request over HTTPS to one of the names."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=self.authority.trusting())
        connection.sock = self.connect(name)
        try:
            connection.request(method, path, body, {"Host": name, **{key.replace("_", "-"): value for key, value in headers.items()}})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def http2(self, name: str = "exact.test", validate: bool = True) -> Http2Client:
        """An HTTP/2 connection."""
        return Http2Client(self.port, self.authority.trusting(), name, validate)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    running = Secure(tmp_path_factory.mktemp("tls"))
    yield running
    running.stop()


def test_each_name_is_shown_its_own_certificate_and_others_the_first(secure: Secure) -> None:
    assert secure.shown("exact.test")[0] == "exact.test"
    assert secure.shown("EXACT.test")[0] == "exact.test"
    assert secure.shown("wild.test")[0] == "*.wild.test"
    assert secure.shown("a.wild.test")[0] == "*.wild.test"
    assert secure.shown("a.b.wild.test")[0] == "exact.test", "a wildcard stands for one label (RFC 6125 6.4.3)"
    assert secure.shown("unknown.test")[0] == "exact.test"


def test_a_session_is_resumed_at_every_worker(secure: Secure) -> None:
    context = secure.authority.trusting()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    def resumed(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession]:
        raw = socket.create_connection(("127.0.0.1", secure.port), timeout=10)
        with context.wrap_socket(raw, server_hostname="a.wild.test", session=session) as sock:
            assert sock.session is not None
            return bool(sock.session_reused), sock.session

    def always() -> bool:
        session = resumed(None)[1]
        return all(resumed(session)[0] for _ in range(10))

    wait_for(always, 15, "sessions that all workers know")


def test_a_certificate_that_has_expired_is_an_alert_at_the_start(secure: Secure) -> None:
    wait_for(lambda: any(b"over.pem for over.test expired on" in body for *_, body in secure.backend.seen("/alert")), 15, "the alert")


def test_a_request_over_tls_reaches_the_backend_and_is_told_as_https(secure: Secure) -> None:
    for name in ("exact.test", "a.wild.test"):
        seen = {key.lower(): value for key, value in secure.get("/echo", name).json()["headers"]}
        assert seen["x-forwarded-proto"] == "https"
        assert "proto=https" in seen["forwarded"]


def test_bodies_go_both_ways_over_tls(secure: Secure) -> None:
    body = bytes(range(256)) * 2000
    assert secure.get("/echo", method="POST", body=body).json()["body"].encode("latin-1") == body
    assert len(secure.get("/bytes/1000000").body) == 1_000_000


def test_versions_below_1_2_are_refused(secure: Secure) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)):
        secure.connect("exact.test", context)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        modern = secure.authority.trusting()
        modern.minimum_version = modern.maximum_version = version
        with secure.connect("exact.test", modern) as sock:
            assert sock.version() == {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]


def test_https_answers_carry_hsts_and_plain_ones_do_not(secure: Secure) -> None:
    assert secure.get("/").headers["Strict-Transport-Security"] == "max-age=3600"
    assert secure.get("/no", "unknown.wild.test").headers["Strict-Transport-Security"] == "max-age=3600"
    assert secure.system.get("/", "exact.test").headers["Strict-Transport-Security"] is None
    with_own = secure.get("/", "wild.test")
    assert with_own.headers.get_all("Strict-Transport-Security") == ["max-age=3600"]


def test_a_client_that_stalls_in_the_handshake_is_cut_and_holds_up_nobody(secure: Secure) -> None:
    stalled = [socket.create_connection(("127.0.0.1", secure.port), timeout=10) for _ in range(4)]
    started = time.monotonic()
    for sock in stalled:
        sock.sendall(b"\x16\x03\x01")
    assert secure.get("/").status == 200
    for sock in stalled:
        with sock:
            assert sock.recv(1) == b""
    assert time.monotonic() - started < patience(5.5)


def test_plain_http_on_the_tls_port_ends_the_connection(secure: Secure) -> None:
    with socket.create_connection(("127.0.0.1", secure.port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: exact.test\r\n\r\n")
        received = b""
        with contextlib.suppress(ConnectionResetError):
            received = sock.recv(4096)
        assert not received.startswith(b"HTTP/")
    assert secure.get("/").status == 200


def test_a_renewed_certificate_is_served_without_a_restart_and_told(secure: Secure) -> None:
    workers = secure.system.worker_pids()
    listener = secure.system.client("listener", "l1")
    listener.ok("SUBSCRIBE|SID|cert_renewed")
    before = secure.shown("a.wild.test")[1]
    with secure.connect("a.wild.test") as open_connection:
        # One that has not asked for anything yet would be closed after header_timeout.
        open_connection.sendall(b"GET /first HTTP/1.1\r\nHost: a.wild.test\r\n\r\n")
        first = b""
        while not first.endswith(b"backend /first\n"):
            first += open_connection.recv(65536)
        since = len(secure.system.log())
        path = secure.authority.issue("wildcard.pem", "*.wild.test", "wild.test", days=200)
        name, _, rest = listener.line().removeprefix("EVENT|").partition("|")
        assert name == "cert_renewed"
        told = json.loads(rest)
        assert told["path"] == str(path)
        assert told["names"] == ["*.wild.test", "wild.test"]
        secure.wait_for_all_to_say("certificates reloaded", since)
        assert all(secure.shown("a.wild.test")[1] != before for _ in range(6))
        open_connection.sendall(b"GET /kept HTTP/1.1\r\nHost: a.wild.test\r\nConnection: close\r\n\r\n")
        assert open_connection.recv(65536).startswith(b"HTTP/1.1 200")
    assert secure.system.worker_pids() == workers
    metrics = secure.system.admin("/metrics").text
    line = next(line for line in metrics.splitlines() if line.startswith("proxyd_certificate_expiry_seconds{") and "wild.test" in line)
    assert float(line.rpartition(" ")[2]) == pytest.approx(time.time() + 200 * 86400, abs=600)


def test_a_broken_certificate_leaves_the_last_good_one_in_use(secure: Secure) -> None:
    since = len(secure.system.log())
    path = secure.authority.issue("exact.pem", "exact.test", "127.0.0.1")
    secure.wait_for_all_to_say("certificates reloaded", since)
    good = path.read_bytes()
    serial = secure.shown("exact.test")
    path.write_text("half a file")
    wait_for(lambda: "loaded before stays in use" in secure.system.log(), 15, "the message about the broken certificate")
    assert secure.shown("exact.test") == serial
    assert secure.get("/").status == 200
    path.write_bytes(good)


def test_a_worker_that_starts_beside_a_broken_certificate_serves_all_the_rest(secure: Secure) -> None:
    path = secure.authority.issue("wildcard.pem", "*.wild.test", "wild.test")
    good = path.read_bytes()
    path.write_text("half a file")
    since = len(secure.system.log())
    old = secure.system.worker_pids()
    for pid in old:
        os.kill(pid, signal.SIGKILL)
    wait_for(lambda: secure.system.ready() and not set(old) & set(secure.system.worker_pids()), 20, "new workers")
    assert secure.get("/").status == 200
    assert secure.shown("a.wild.test")[0] == "exact.test", "the default in its place"
    secure.wait_for_all_to_say("it is not used", since)
    since = len(secure.system.log())
    path.write_bytes(good)
    secure.wait_for_all_to_say("certificates reloaded", since)
    assert all(secure.shown("a.wild.test")[0] == "*.wild.test" for _ in range(6))


def test_a_start_with_a_certificate_that_can_not_be_used_says_so_and_ends(tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("nothing")
    system = System(tmp_path, start=False, tls__bind=f"127.0.0.1:{free_port()}", tls__certificates=tmp_path / "text.pem")
    ended = subprocess.run([sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "proxyd.wsgi:app"], cwd=ROOT,
                           env=system.environment, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 1
    assert ended.stderr == (f"environment PROXYD_TLS_CERTIFICATES: [tls] certificates: {tmp_path}/text.pem holds no PEM certificate "
                            "(chain first, key in the same file)\n")


def test_an_address_written_as_a_name_is_served_over_tls_and_never_in_the_clear(tmp_path: Path, backend: Backend) -> None:
    authority = Authority(tmp_path)
    port = free_port()
    system = System(tmp_path / "system", workers=1, tls__bind=f"localhost:{port}",
                    tls__certificates=authority.issue("one.pem", "localhost"))
    try:
        system.client().route("localhost", backend.url)
        connection = http.client.HTTPSConnection("localhost", port, timeout=10, context=authority.trusting())
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        with socket.create_connection(("localhost", port), timeout=10) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert not plain.recv(100).startswith(b"HTTP/")
    finally:
        system.stop()


# -- HTTP/2


def test_http2_requests_reach_the_backend_with_their_bodies(secure: Secure) -> None:
    client = secure.http2()
    got = client.ask("GET", "/echo?x=1")
    assert got.status == 200
    told = json.loads(got.body)
    headers = {name.lower(): value for name, value in told["headers"]}
    assert (told["method"], told["path"]) == ("GET", "/echo?x=1")
    assert (headers["host"], headers["x-forwarded-proto"]) == ("exact.test", "https")
    assert "proto=https" in headers["forwarded"]
    assert got.header("strict-transport-security") == "max-age=3600"
    body = b"0123456789" * 30_000
    for fields in ([("content-length", str(len(body)))], []):
        posted = client.ask("POST", "/echo", body, fields)
        assert (posted.status, len(json.loads(posted.body)["body"])) == (200, len(body))
    assert len(client.ask("GET", "/bytes/500000").body) == 500_000
    assert client.ask("GET", "/status/204").status == 204
    assert client.ask("HEAD", "/bytes/10").status == 200
    client.close()


def test_split_http2_cookies_are_joined_as_one(secure: Secure) -> None:
    client = secure.http2()
    told = json.loads(client.ask("GET", "/echo", headers=[("cookie", "a=1"), ("cookie", "b=2")]).body)
    assert [value for name, value in told["headers"] if name.lower() == "cookie"] == ["a=1; b=2"]
    client.close()


def test_answers_of_our_own_come_over_http2_too(secure: Secure) -> None:
    client = Http2Client(secure.port, secure.authority.trusting(), "none.wild.test")
    secure.client.route("dead.wild.test", f"http://127.0.0.1:{free_port()}")
    assert client.ask("GET", "/").status == 200
    client.close()
    dead = secure.http2("dead.wild.test")
    answer = dead.ask("GET", "/")
    assert (answer.status, answer.header("x-proxyd-reason")) == (502, "upstream_refused")
    assert dead.ask("CONNECT", "/").status in (0, 400, 405)
    dead.close()


@pytest.mark.parametrize("path", ["/a b", "/x HTTP/1.1\r\nHost: evil.test\r\n\r\nGET /stolen", "*", "no-slash", "/\x01", "http://other.test/"])
def test_http2_targets_that_http1_could_not_say_reach_no_backend(secure: Secure, path: str) -> None:
    def asked() -> int:
        # Alerts come to the same backend, about what other tests did.
        return sum(target != "/alert" for _, target, *_ in list(secure.backend.requests))

    before = asked()
    client = secure.http2(validate=False)
    answer = client.ask("GET", path)
    assert answer.reset or answer.status == 400, answer
    assert asked() == before
    client.close()


def test_an_upstream_that_breaks_off_resets_the_http2_stream(secure: Secure, raw_backend: Callable[..., object]) -> None:
    def cut(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")

    broken = raw_backend(cut)
    secure.client.route("cut.wild.test", broken.url)  # type: ignore[attr-defined]
    client = secure.http2("cut.wild.test")
    answer = client.ask("GET", "/")
    assert answer.reset, "a cut response must not look complete"
    client.close()


# -- redirect


def test_plain_http_is_sent_to_https_with_method_and_query_kept(tmp_path: Path, backend: Backend) -> None:
    authority = Authority(tmp_path)
    port = free_port()
    system = System(tmp_path / "system", workers=1, tls__bind=f"127.0.0.1:{port}", proxy__redirect_https="yes",
                    tls__certificates=str(authority.issue("one.pem", "app.test")), tls__min_version="1.3")
    try:
        system.client().route("app.test", backend.url)
        answer = system.get("/a/b?c=d", "app.test", "POST", b"x")
        assert (answer.status, answer.headers["Location"]) == (308, "https://app.test/a/b?c=d")
        assert backend.requests == []
        client = Http2Client(port, authority.trusting(), "app.test")
        assert client.ask("GET", "/").status == 200, "HTTP/2 over TLS is HTTPS"
        old = authority.trusting()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)), socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
            old.wrap_socket(raw, server_hostname="app.test")
        with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as raw:
            raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
            reply = raw.recv(65536)
            assert b"Location: https:///" not in reply
            assert reply.startswith(b"HTTP/1.1 400")
        started = time.monotonic()
        system.stop()
        assert time.monotonic() - started < patience(10), "an idle HTTP/2 connection does not hold up the stop"
        client.close()
    finally:
        system.stop()


# -- TLS towards backends


def test_an_upstreams_certificate_is_verified_unless_told_otherwise(secure: Secure, raw_backend: Callable[..., object]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(secure.authority.issue("upstream.pem", "127.0.0.1"))

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            while secured.recv(65536):
                secured.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    url = raw_backend(serve).url.replace("http:", "https:")  # type: ignore[attr-defined]
    route_id = secure.client.route("up.wild.test", url)
    answer = secure.get("/", "up.wild.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (502, "upstream_tls")
    secure.client.options(route_id, tls_verify="false")
    assert secure.get("/", "up.wild.test").text == "secret"
    assert secure.get("/again", "up.wild.test").text == "secret"
