"""TLS with backends as a route asks for it: name, authority and client certificate, for traffic and checks alike."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography import x509

from tests.edge.conftest import make_route
from tests.edge.wire import Wire, get
from tests.support.backends import MakeRaw
from tests.support.certificates import Authority
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.websockets import handshake

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Type: text/plain\r\n\r\nok"


@dataclass
class Place:
    """A system whose routes may name files of a directory, and what a backend over TLS saw."""

    system: System
    directory: Path
    authority: Authority
    asked_names: list[str | None] = field(default_factory=list)
    shown: list[str] = field(default_factory=list)

    def backend(self, make: MakeRaw, *names: str, client_ca: Path | None = None, alpn: str = "") -> str:
        """The url, by address, of a backend with a certificate for these names."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.authority.issue(f"{names[0]}.server.pem", *names))
        if alpn:
            context.set_alpn_protocols([alpn])
        context.sni_callback = lambda sock, name, context: self.asked_names.append(name)
        if client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)

        def serve(sock: socket.socket) -> None:
            with contextlib.suppress(OSError), context.wrap_socket(sock, server_side=True) as secured:
                if shown := secured.getpeercert(True):
                    self.shown.append(str(x509.load_der_x509_certificate(shown).subject.rfc4514_string()))
                while secured.recv(65536):
                    secured.sendall(OK)

        return make(serve).url.replace("http:", "https:")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[System, Path, Authority]]:
    directory = tmp_path_factory.mktemp("pem")
    authority = Authority(directory)
    os.replace(authority.file, directory / "ca.pem")
    authority.file = directory / "ca.pem"
    system = System(tmp_path_factory.mktemp("system"), workers=1, proxy__backend_tls=directory)
    yield system, directory, authority
    system.stop()


@pytest.fixture
def place(running: tuple[System, Path, Authority]) -> Place:
    return Place(*running)


def test_a_backend_by_address_is_asked_for_a_name_and_must_have_it(place: Place, raw_backend: MakeRaw) -> None:
    url = place.backend(raw_backend, "app.internal")
    good = make_route(place.system, url, tls_ca="ca.pem", tls_server_name="app.internal")
    assert place.system.get(host=good).text == "ok"
    assert place.asked_names == ["app.internal"]
    for options in ({"tls_ca": "ca.pem"}, {"tls_ca": "ca.pem", "tls_server_name": "other.internal"}, {"tls_server_name": "app.internal"}):
        answer = place.system.get(host=make_route(place.system, url, **options))
        assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (502, "upstream_tls"), options
        assert "the certificate is refused" in answer.json()["detail"]


def test_what_a_route_asks_of_tls_is_not_left_to_connections_that_were_opened_before(place: Place, raw_backend: MakeRaw) -> None:
    client = place.system.client("tlschange")
    route = client.route("tlschange.test", place.backend(raw_backend, "app.internal"), apply=False)
    client.options(route, tls_verify="false")
    assert place.system.get(host="tlschange.test").text == "ok"
    client.options(route, tls_verify="true")
    assert place.system.get(host="tlschange.test").status == 502


def test_traffic_checks_and_the_end_of_maintenance_show_the_certificate(place: Place, raw_backend: MakeRaw) -> None:
    clients = Authority(place.directory, "clients")
    clients.issue("proxyd.pem", "proxyd.internal")
    url = place.backend(raw_backend, "app.internal", client_ca=clients.file)
    client = place.system.client("mutual")
    route = client.route("mutual.test", url, apply=False)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|100ms|1s")
    client.options(route, tls_ca="ca.pem", tls_server_name="app.internal", tls_client_certificate="proxyd.pem")
    assert place.system.get(host="mutual.test").text == "ok"
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route}")["health"]["status"] == "healthy", what="a good check")
    assert client.command("MAINT_ENTER|SID|ALL|") == "ACK" and client.line() == "MAINT_OK|ALL"
    assert client.command("MAINT_EXIT|SID|ALL") == "ACK" and client.line() == "MAINT_OK|ALL"
    assert set(place.shown) == {"CN=proxyd.internal"}
    h2 = place.backend(raw_backend, "app.internal", client_ca=clients.file, alpn="h2")
    Authority(place.directory, "strangers").issue("stranger.pem", "stranger.internal")
    trusting = {"tls_ca": "ca.pem", "tls_server_name": "app.internal"}
    for options, said in (({}, "asks for a client certificate"), ({"http2": "true"}, "asks for a client certificate"),
                          ({"websocket": "true"}, "asks for a client certificate"),
                          ({"tls_client_certificate": "stranger.pem"}, "refuses the client certificate: it does not know its CA")):
        host = make_route(place.system, h2 if "http2" in options else url, **trusting, **options)
        with Wire(place.system.proxy_port) as wire:
            answer = wire.send(handshake(host) if "websocket" in options else get(host)).response()
        assert (answer.status, answer.get("x-proxyd-reason")) == (502, "upstream_tls"), (options, answer.body)
        assert f"the server {said}".encode() in answer.body
    body = place.system.get(host=make_route(place.system, url, **trusting), method="POST", body=b"x" * 300_000)
    assert body.headers["X-Proxyd-Reason"] == "upstream_tls"


def test_a_renewed_file_is_used_for_new_connections_and_a_broken_one_is_not(place: Place, raw_backend: MakeRaw) -> None:
    clients = Authority(place.directory, "renewals")
    clients.issue("renewed.pem", "first.internal")
    url = place.backend(raw_backend, "app.internal", client_ca=clients.file)
    host = make_route(place.system, url, tls_ca="ca.pem", tls_server_name="app.internal", tls_client_certificate="renewed.pem", pool_size=0)
    assert place.system.get(host=host).text == "ok"
    clients.issue("renewed.pem", "second.internal")

    def shown() -> str:
        assert place.system.get(host=host).text == "ok"
        return place.shown[-1]

    wait_for(lambda: shown() == "CN=second.internal", what="the renewed certificate")
    (place.directory / "renewed.pem").write_text("nothing")
    wait_for(lambda: "stays in use" in place.system.log(), what="the word about the broken file")
    assert shown() == "CN=second.internal"


@pytest.mark.parametrize(("key", "value", "part"), [
    ("tls_ca", "none.pem", "No such file"), ("tls_ca", "/etc/passwd", "not a file's name"), ("tls_ca", "../ca.pem", "not a file's name"),
    ("tls_ca", ".", "not a file's name"), ("tls_ca", "empty.pem", "holds no PEM certificate"),
    ("tls_client_certificate", "ca.pem", "no private key"), ("tls_client_certificate", "none.pem", "No such file"),
    ("tls_server_name", "app.internal:443", "not a host without a port"), ("tls_server_name", "a b", "not a url"),
])
def test_what_can_not_be_used_is_refused_when_it_is_staged(place: Place, key: str, value: str, part: str) -> None:
    (place.directory / "empty.pem").write_text("")
    client = place.system.client("refusedtls")
    answer = client.command(f"OPTIONS_SET|SID|ALL|{key}|{value}")
    assert answer.startswith("ERROR|"), answer
    assert part in answer
    assert client.command(f"OPTIONS_SET|SID|ALL|{key}|") == "OPTIONS_OK"


def test_an_authority_without_verification_contradicts(place: Place) -> None:
    client = place.system.client("contradicts")
    client.ok("ROUTE_ADD|SID|contradicts.test|/|https://127.0.0.1:9|0")
    client.ok("OPTIONS_SET|SID|ALL|tls_ca|ca.pem")
    client.ok("OPTIONS_SET|SID|ALL|tls_verify|false")
    assert "tls_ca has no effect while tls_verify is off" in client.command("CONFIG_APPLY|SID")


