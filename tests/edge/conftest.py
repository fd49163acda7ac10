"""One proxyd for all edge tests that need no settings of their own; each test takes a domain of its own."""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.edge.wire import Recorder
from tests.support.backends import SilentBackend
from tests.support.certificates import Authority
from tests.support.http2 import Http2Client
from tests.support.http2backend import Http2Backend, Request
from tests.support.system import System
from tests.support.waiting import free_port

#: Options of a route as keywords.
RouteMaker = Callable[..., str]
#: What a backend answers, and its options as keywords.
Start = Callable[..., Http2Backend]

_count = itertools.count(1)


@pytest.fixture(scope="session")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd with one worker, so that pools and counters are all in one place."""
    running = System(tmp_path_factory.mktemp("edge"), workers=1)
    yield running
    running.stop()


def make_route(system: System, url: str, path: str = "/", domain: str = "", **options: Any) -> str:
    """A new service with one route to `url`; returns its domain."""
    name = f"edge{next(_count)}"
    domain = domain or f"{name}.test"
    client = system.client(name, name)
    route_id = client.route(domain, url, path, apply=False)
    for key, value in options.items():
        client.ok(f"OPTIONS_SET|SID|{route_id}|{key}|{value}")
    client.apply()
    return domain


class Secure:
    """A proxyd with HTTPS and HTTP/2 for *.two.test, and small bounds."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.port = free_port()
        certificate = self.authority.issue("two.pem", "*.two.test")
        self.system = System(directory / "system", workers=1, tls__bind=f"127.0.0.1:{self.port}", tls__certificates=certificate,
                             proxy__body_timeout="2s", proxy__max_body_size="200k")

    def connect(self, name: str, **options: Any) -> ssl.SSLSocket:
        """A TLS connection that asks for a name; options are those of `wrap_socket`."""
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=10)
        return self.authority.trusting().wrap_socket(raw, server_hostname=name, **options)

    def client(self, name: str, validate: bool = True, receive_buffer: int = 0) -> Http2Client:
        """An HTTP/2 connection."""
        return Http2Client(self.port, self.authority.trusting(), name, validate, receive_buffer)

    def route(self, url: str, **options: Any) -> str:
        """A route of a name of its own."""
        return make_route(self.system, url, domain=f"r{next(_count)}.two.test", **options)


@pytest.fixture(scope="session")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    """One for all tests."""
    running = Secure(tmp_path_factory.mktemp("secure"))
    yield running
    running.system.stop()


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    """A backend that keeps what it was sent, one for all tests of a module."""
    running = Recorder()
    yield running
    running.stop()


@pytest.fixture
def start() -> Iterator[Start]:
    """Make backends that speak HTTP/2."""
    running: list[Http2Backend] = []

    def made(serve: Callable[[Request], None], **options: Any) -> Http2Backend:
        running.append(Http2Backend(serve, **options))
        return running[-1]

    yield made
    for backend in running:
        backend.stop()


@pytest.fixture
def silent() -> Iterator[SilentBackend]:
    """A backend that answers nothing."""
    running = SilentBackend()
    yield running
    running.stop()


@pytest.fixture
def route(edge: System) -> RouteMaker:
    """Make a route on the shared proxyd."""

    def make(url: str, **options: Any) -> str:
        return make_route(edge, url, **options)

    return make
