"""Certificates of clients: who is asked, who passes, and what backends are told, over HTTP/1, HTTP/2 and in WebSockets."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.http2 import Http2Client
from tests.support.system import Answer, System
from tests.support.waiting import free_port, wait_for

_FORGED = {"X-Forwarded-Client-Subject": "CN=root", "x-forwarded-client-fingerprint": "00"}


class Guarded:
    """A system with routes of each kind: open.test asks nobody, may.test may be told, must.test lets nobody else in."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.clients = Authority(directory, "clients")
        self.strangers = Authority(directory, "strangers")
        self.alice = self.clients.issue("alice.pem", "alice", subject="Jörg, \n Alice")
        self.stranger = self.strangers.issue("stranger.pem", "alice", subject="Jörg, \n Alice")
        self.lists = directory / "lists.pem"
        self.lists.write_bytes(self.clients.revoking() + self.strangers.revoking())
        self.port = free_port()
        names = ("open.test", "may.test", "must.test", "mixed.test")
        self.system = System(
            directory / "system", workers=1, tls__bind=f"127.0.0.1:{self.port}", tls__client_ca=self.clients.file,
            tls__client_crl=self.lists,
            tls__certificates=",".join(str(self.authority.issue(f"{name}.pem", name)) for name in names))
        self.backend = Backend()
        client = self.system.client("guarded")
        for name, option in zip(names, ("off", "optional", "required", "off"), strict=True):
            route_id = client.route(name, self.backend.url, apply=False)
            client.options(route_id, client_certificate=option, websocket="true")
        route_id = client.route("mixed.test", self.backend.url, path="/private", apply=False)
        client.ok(f"REQUEST_HEADERS_SET|SID|{route_id}|X-Who|{{tls.client.subject}}")
        client.options(route_id, client_certificate="required")
        self.client = client

    def stop(self) -> None:
        self.system.stop()
        self.backend.stop()

    def context(self, certificate: Path | None = None, version: ssl.TLSVersion | None = None) -> ssl.SSLContext:
        context = self.authority.trusting()
        if certificate is not None:
            context.load_cert_chain(certificate)
        if version is not None:
            context.maximum_version = version
        return context

    def get(self, name: str, context: ssl.SSLContext, path: str = "/echo", host: str = "", headers: dict[str, str] | None = None) -> Answer:
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as raw, context.wrap_socket(raw, server_hostname=name) as sock:
            connection.sock = sock
            connection.request("GET", path, headers={"Host": host or name, **(headers or {})})
            return Answer(connection.getresponse())


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    running = Guarded(tmp_path_factory.mktemp("guarded"))
    yield running
    running.stop()


def told(body: bytes) -> dict[str, list[str]]:
    """The fields about the client that a backend has got."""
    found: dict[str, list[str]] = {}
    for name, value in json.loads(body)["headers"]:
        if "client" in name.lower() or name.lower() == "x-who":
            found.setdefault(name.lower(), []).append(value)
    return found


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_route_that_requires_a_certificate_lets_in_those_of_its_ca_alone(guarded: Guarded, version: ssl.TLSVersion) -> None:
    answer = guarded.get("must.test", guarded.context(guarded.alice, version), headers=_FORGED)
    fingerprint = hashlib.sha256(ssl.PEM_cert_to_DER_cert(guarded.alice.read_text().partition("-----BEGIN PRIVATE")[0])).hexdigest()
    assert told(answer.body) == {"x-forwarded-client-subject": ["CN=J\\C3\\B6rg\\, \\0A Alice"],
                                 "x-forwarded-client-fingerprint": [fingerprint]}
    refused = guarded.get("must.test", guarded.context(version=version))
    assert (refused.status, refused.headers["X-Proxyd-Reason"]) == (403, "client_certificate")
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        guarded.get("must.test", guarded.context(guarded.stranger, version))


def test_an_optional_one_is_told_and_nobody_forges_one(guarded: Guarded) -> None:
    assert "x-forwarded-client-subject" in told(guarded.get("may.test", guarded.context(guarded.alice)).body)
    assert told(guarded.get("may.test", guarded.context(), headers=_FORGED).body) == {}
    assert told(guarded.get("open.test", guarded.context(guarded.alice), headers=_FORGED).body) == {}, "it is not asked"
    assert guarded.get("open.test", guarded.context(guarded.stranger)).status == 200
    plain = guarded.system.get("/echo", "may.test", X_Forwarded_Client_Subject="CN=root")
    assert told(plain.body) == {}
    assert guarded.system.get("/", "must.test").status == 403, "in the clear nobody shows anything"


def test_the_route_decides_and_a_connection_for_another_name_is_misdirected(guarded: Guarded) -> None:
    assert guarded.get("mixed.test", guarded.context()).status == 200
    assert guarded.get("mixed.test", guarded.context(), "/private").status == 403
    answer = guarded.get("mixed.test", guarded.context(guarded.alice), "/private/echo")
    assert answer.status == 200
    assert guarded.backend.requests[-1][2]["X-Who"] == "CN=J\\C3\\B6rg\\, \\0A Alice"
    other = guarded.get("open.test", guarded.context(guarded.alice), host="must.test")
    assert (other.status, other.headers["X-Proxyd-Reason"]) == (421, "misdirected")


def test_http2_and_websockets_tell_it_too(guarded: Guarded) -> None:
    client = Http2Client(guarded.port, guarded.context(guarded.alice), "must.test")
    answer = client.ask("GET", "/echo", headers=[(name.lower(), value) for name, value in _FORGED.items()])
    assert len(told(answer.body)["x-forwarded-client-subject"]) == 1
    assert told(answer.body)["x-forwarded-client-fingerprint"] != ["00"]
    client.close()
    answer = Http2Client(guarded.port, guarded.context(), "must.test").ask("GET", "/echo")
    assert (answer.status, answer.header("x-proxyd-reason")) == (403, "client_certificate")
    guarded.get("must.test", guarded.context(guarded.alice), "/ws", headers={
        "Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Version": "13",
        **_FORGED})
    _, path, fields, _ = guarded.backend.requests[-1]
    assert path == "/ws"
    assert fields["X-Forwarded-Client-Subject"] == "CN=J\\C3\\B6rg\\, \\0A Alice"


def test_a_ca_that_is_replaced_counts_from_then_on(guarded: Guarded) -> None:
    before = guarded.clients.file.read_bytes()
    try:
        guarded.clients.file.write_text("half a file")
        wait_for(lambda: "those read before stay in use" in guarded.system.log(), 15, "the message about the broken file")
        assert guarded.get("must.test", guarded.context(guarded.alice)).status == 200
        guarded.clients.file.write_bytes(guarded.strangers.file.read_bytes())
        wait_for(lambda: "the CAs of clients are read again" in guarded.system.log(), 15, "the new CA")
        assert guarded.get("must.test", guarded.context(guarded.stranger)).status == 200
    finally:
        guarded.clients.file.write_bytes(before)


def test_a_revoked_certificate_is_refused_and_so_is_everybody_by_a_list_that_is_out_of_date(guarded: Guarded) -> None:
    bob = guarded.clients.issue("bob.pem", "bob")
    context, before = guarded.context(guarded.alice), guarded.lists.read_bytes()

    def passes(certificate: Path) -> bool:
        try:
            return guarded.get("must.test", guarded.context(certificate)).status == 200
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            return False

    wait_for(lambda: passes(guarded.alice), 15, "what an earlier test has put back")
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw, context.wrap_socket(
            raw, server_hostname="must.test") as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: must.test\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200")
        session = sock.session
    try:
        guarded.lists.write_bytes(guarded.clients.revoking(guarded.alice))
        wait_for(lambda: not passes(guarded.alice), 15, "alice to be out")
        assert passes(bob)
        # Nor does she go on with the session that she had.
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw, contextlib.suppress(OSError), context.wrap_socket(
                raw, server_hostname="must.test", session=session) as sock:
            assert not sock.session_reused
            sock.sendall(b"GET / HTTP/1.1\r\nHost: must.test\r\n\r\n")
            assert not sock.recv(65536)
        guarded.lists.write_bytes(guarded.clients.revoking(days=-1))
        wait_for(lambda: not passes(bob), 15, "the old list to count")
        wait_for(lambda: "is out of date" in guarded.system.log(), 15, "the message about it")
    finally:
        guarded.lists.write_bytes(before)


def test_without_a_ca_nobody_may_ask_for_certificates(tmp_path: Path, system: System) -> None:
    client = system.client()
    route_id = client.route("none.test", "http://127.0.0.1:9", apply=False)
    assert "set [tls] client_ca" in client.command(f"OPTIONS_SET|SID|{route_id}|client_certificate|required")
