"""The PROXY protocol: who a front says that the client is, and what backends are told."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest

from proxyd.net.proxyprotocol import header
from tests.edge.conftest import make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.backends import MakeRaw, RawBackend
from tests.support.certificates import Authority
from tests.support.system import System
from tests.support.waiting import free_port, wait_for

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def second(command: int, family: int, rest: bytes, length: int | None = None) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(rest) if length is None else length) + rest


def addresses(source: str, target: str, more: bytes = b"") -> bytes:
    return ip_address(source).packed + ip_address(target).packed + struct.pack("!HH", 4711, 80) + more


class Place:
    """A system that takes the protocol from 127.0.0.1, with HTTPS, and a plain listener that sees other addresses, too."""

    def __init__(self, directory: Path, recorder: Recorder) -> None:
        self.authority = Authority(directory)
        self.tls_port = free_port()
        self.recorder = recorder
        self.system = System(directory / "system", workers=1, proxy__proxy_protocol_from="127.0.0.1",
                             proxy__header_timeout="2500ms", tls__bind=f"127.0.0.1:{self.tls_port}",
                             tls__certificates=self.authority.issue("c.pem", "told.test"))
        make_route(self.system, recorder.url, domain="told.test")

    def told(self, first: bytes) -> str | None:
        """Whom the backend is told for a connection that begins with these bytes."""
        self.recorder.forget()
        with Wire(self.system.proxy_port) as wire:
            assert wire.send(first + get("told.test")).response().status == 200
        return self.recorder.requests()[-1].get("x-forwarded-for")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, recorder: Recorder) -> Iterator[Place]:
    running = Place(tmp_path_factory.mktemp("proxied"), recorder)
    yield running
    running.system.stop()


@pytest.mark.parametrize(("first", "client"), [
    (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n", "203.0.113.7"),
    (b"PROXY TCP6 2001:DB8::7 2001:db8::1 4711 443\r\n", "2001:db8::7"),
    (b"PROXY TCP6 ::ffff:203.0.113.7 ::1 4711 443\r\n", "203.0.113.7"),
    (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
    (b"PROXY UNKNOWN 203.0.113.7 whatever\r\n", "127.0.0.1"),
    (second(0x21, 0x11, addresses("203.0.113.8", "10.0.0.1")), "203.0.113.8"),
    (second(0x21, 0x21, addresses("2001:db8::8", "2001:db8::1", b"\x03\0\x04abcd")), "2001:db8::8"),
    (second(0x20, 0, b""), "127.0.0.1"),
    (second(0x20, 0x11, addresses("203.0.113.8", "10.0.0.1")), "127.0.0.1"),
    (second(0x21, 0x31, b"/" * 216), "127.0.0.1"),
    (second(0x21, 0, b"\x04\0\0"), "127.0.0.1"),
])
def test_a_front_says_whose_connection_it_is(place: Place, first: bytes, client: str) -> None:
    assert place.told(first) == client


def test_a_header_may_come_in_pieces(place: Place) -> None:
    for first in (b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n", second(0x21, 0x11, addresses("203.0.113.7", "10.0.0.1"))):
        place.recorder.forget()
        with Wire(place.system.proxy_port) as wire:
            for at in range(0, len(first), 5):
                wire.send(first[at:at + 5])
            assert wire.send(get("told.test")).response().status == 200
        assert place.recorder.requests()[-1].get("x-forwarded-for") == "203.0.113.7"


def test_the_header_comes_before_the_tls_handshake(place: Place) -> None:
    place.recorder.forget()
    with socket.create_connection(("127.0.0.1", place.tls_port), timeout=10) as raw:
        raw.sendall(b"PROXY TCP4 203.0.113.9 10.0.0.1 4711 443\r\n")
        with place.authority.trusting().wrap_socket(raw, server_hostname="told.test") as sock:
            sock.sendall(get("told.test"))
            assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert place.recorder.requests()[-1].get("x-forwarded-for") == "203.0.113.9"
    with socket.create_connection(("127.0.0.1", place.tls_port), timeout=10) as raw, pytest.raises((ssl.SSLError, OSError)):
        place.authority.trusting().wrap_socket(raw, server_hostname="told.test")


@pytest.mark.parametrize("first", [
    b"", b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 99999\r\n", b"PROXY TCP4 2001:db8::7 ::1 4711 80\r\n", b"PROXY TCP4 x y 1 2\r\n",
    b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\n", b"PROXY " + b"x" * 200 + b"\r\n", b"PROXY  \r\n", second(0x22, 0x11, b"0" * 12),
    second(0x21, 0x11, b"short"), second(0x21, 0x11, b"", 65535),
])
def test_a_front_without_a_sound_header_is_refused(place: Place, first: bytes) -> None:
    with Wire(place.system.proxy_port) as wire:
        response = wire.send(first + get("told.test")).response()
        assert (response.status, response.get("x-proxyd-reason")) == (400, "proxy_protocol")
        assert wire.ended()


def test_a_front_that_says_nothing_is_not_waited_for_for_ever(place: Place) -> None:
    with Wire(place.system.proxy_port) as wire:
        assert wire.send(b"PROXY TC").response().status == 400


def test_nobody_else_is_believed(edge: System) -> None:
    with Wire(edge.proxy_port) as wire:
        assert wire.send(b"PROXY TCP4 203.0.113.7 10.0.0.1 4711 80\r\n" + get("x.test")).response().status == 400


# -- to backends


def keeping(make: MakeRaw) -> tuple[RawBackend, list[bytes]]:
    """A backend that keeps what each connection began with."""
    began: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        data = backend.receive_head(sock)
        while b"HTTP/1.1" not in data:
            data += sock.recv(65536)
        began.append(data)
        sock.sendall(OK)
        sock.recv(65536)

    backend = make(serve)
    return backend, began


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_backend_is_told_the_client_and_no_connection_is_used_twice(edge: System, raw_backend: MakeRaw, version: str) -> None:
    backend, began = keeping(raw_backend)
    host = make_route(edge, backend.url, send_proxy=version)
    with Wire(edge.proxy_port) as wire:
        for path in ("/1", "/2"):
            assert wire.send(get(host, path)).response().status == 200
    first = (f"PROXY TCP4 127.0.0.1 127.0.0.1 0 {backend.port}\r\n".encode() if version == "v1" else
             SIGNATURE + b"\x21\x11\x00\x0c" + bytes((127, 0, 0, 1)) * 2 + struct.pack("!HH", 0, backend.port))
    assert [data.startswith(first + f"GET /{number} HTTP/1.1".encode()) for number, data in enumerate(began, 1)] == [True, True]


def test_checks_and_the_end_of_maintenance_say_that_they_are_the_proxys_own(edge: System, raw_backend: MakeRaw) -> None:
    backend, began = keeping(raw_backend)
    client = edge.client("sendproxy", "sendproxy")
    route = client.route("sendproxy.test", backend.url, apply=False)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|100ms|1s")
    client.options(route, send_proxy="v1")
    wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route}")["health"]["status"] == "healthy", what="a good check")
    assert client.command("MAINT_ENTER|SID|ALL|") == "ACK" and client.line() == "MAINT_OK|ALL"
    assert client.command("MAINT_EXIT|SID|ALL") == "ACK" and client.line() == "MAINT_OK|ALL"
    assert began and all(data.startswith(b"PROXY UNKNOWN\r\nGET ") for data in began)


@pytest.mark.parametrize(("version", "client", "target", "expected"), [
    ("v1", "10.0.0.1", ("::1", 80), b"PROXY TCP6 ::ffff:10.0.0.1 ::1 0 80\r\n"),
    ("v1", "2001:db8::1", ("10.0.0.1", 80), b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 0 80\r\n"),
    ("v1", "10.0.0.1", None, b"PROXY TCP4 10.0.0.1 10.0.0.1 0 0\r\n"),
    ("v1", "unix", ("10.0.0.1", 80), b"PROXY UNKNOWN\r\n"),
    ("v2", "unix", ("10.0.0.1", 80), SIGNATURE + b"\x20\0\0\0"),
    ("v2", "2001:db8::1", ("::1", 80), second(0x21, 0x21, ip_address("2001:db8::1").packed + ip_address("::1").packed + b"\0\0\0\x50")),
])
def test_the_header_for_every_kind_of_address(version: str, client: str, target: tuple[str, int] | None, expected: bytes) -> None:
    assert header(version, client, target) == expected
