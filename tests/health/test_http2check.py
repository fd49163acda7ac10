"""Checks by HTTP/2, and by gRPC's health service."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from proxyd.base.urls import ALWAYS, IF_OFFERED, parse_check
from proxyd.config.options import BackendTls
from proxyd.config.sections import HealthSettings
from proxyd.health.probe import Probe, Target
from proxyd.health.targets import target_of
from tests.proxy.build import record
from tests.support.backends import RawBackend
from tests.support.http2backend import Http2Backend, Request
from tests.support.waiting import wait_for

NewRaw = Callable[[Callable[[socket.socket], None]], RawBackend]


def serve(request: Request) -> None:
    """Answer a path, and the health service."""
    wait_for(lambda: request.ended)
    if request.path == "/grpc.health.v1.Health/Check":
        service = request.body[7:].decode()
        if service == "bad":
            request.answer(fields=[("content-type", "application/grpc"), ("grpc-status", "5"), ("grpc-message", "unknown")])
        else:
            request.answer(b"\0\0\0\0\2\x08" + (b"\1" if service in ("", "my.Service") else b"\2"), trailers=[("grpc-status", "0")],
                           fields=[("content-type", "application/grpc")])
    else:
        request.answer(b"all well", status="200" if request.path == "/ok" else "500")


@pytest.fixture
def backend() -> Iterator[Http2Backend]:
    running = Http2Backend(serve)
    yield running
    running.stop()


def target(port: int, path: str, http2: int = ALWAYS, service: str | None = None, keepalive: bool = False) -> Target:
    return Target("http", "127.0.0.1", port, f"127.0.0.1:{port}", path, 10.0, 2.0, frozenset((200,)), "", 2, 3, BackendTls(),
                  keepalive, False, http2, service)


@pytest.mark.parametrize("http2", [ALWAYS, IF_OFFERED])
def test_a_path_is_asked_by_http2(http2: int, backend: Http2Backend) -> None:
    good, bad = (Probe(target(backend.port, path, http2), 65536).check() for path in ("/ok", "/bad"))
    assert (good.ok, good.status_code, good.error) == (True, 200, "")
    assert (bad.ok, bad.status_code) == (False, 500)
    missing = Probe(replace(target(backend.port, "/ok"), body="nothing"), 65536).check()
    assert "is not in the first 8 bytes" in missing.error


def test_a_kept_connection_is_used_again_and_a_lost_one_is_no_failure(backend: Http2Backend) -> None:
    probe = Probe(target(backend.port, "/ok", keepalive=True), 65536)
    assert [probe.check().ok for _ in range(3)] == [True] * 3
    assert len(backend.connections) == 1
    backend.connections[0].leave(0)
    assert probe.check().ok
    backend.connections[-1].socket.shutdown(socket.SHUT_RDWR)
    assert probe.check().ok
    probe.close()


@pytest.mark.parametrize(("service", "error"), [
    ("", ""), ("my.Service", ""), ("down", "the service is NOT_SERVING"), ("bad", "grpc-status 5: unknown"),
])
def test_the_health_service_is_asked(service: str, error: str, backend: Http2Backend) -> None:
    result = Probe(target(backend.port, "/", service=service), 65536).check()
    assert (result.ok, result.error) == (not error, error)


def test_a_target_that_may_speak_http2_and_does_not_is_asked_by_http1(raw_backend: NewRaw) -> None:
    def plain(sock: socket.socket) -> None:
        head = made.receive_head(sock)
        sock.sendall(b"HTTP/1.1 %s X\r\nContent-Length: 0\r\n\r\n" % (b"505" if head.startswith(b"PRI") else b"200"))

    made = raw_backend(plain)
    probe = Probe(target(made.port, "/ok", IF_OFFERED), 65536)
    assert [probe.check().ok for _ in range(2)] == [True, True]
    assert sum(head.startswith(b"PRI") for head in made.received) == 1
    assert "no HTTP/2" in Probe(target(made.port, "/ok", ALWAYS), 65536).check().error


@pytest.mark.parametrize(("text", "url", "port", "service"), [
    ("grpc://", "grpc://127.0.0.1:3001/", 3001, ""), ("grpc://my.Service", "grpc://127.0.0.1:3001/my.Service", 3001, "my.Service"),
    ("grpc:///my.Service", "grpc://127.0.0.1:3001/my.Service", 3001, "my.Service"),
    ("grpc://localhost:9/my.Service", "grpc://localhost:9/my.Service", 9, "my.Service"),
    ("grpc://localhost:9", "grpc://localhost:9/", 9, ""),
])
def test_what_is_asked(text: str, url: str, port: int, service: str) -> None:
    found = target_of(record(1, {"health_check_path": parse_check(text)}), HealthSettings())
    assert found is not None
    assert (found[0].url, found[0].port, found[0].service, found[0].http2) == (url, port, service, ALWAYS)


@pytest.mark.parametrize("text", ["grpc://a b", "grpc://h:0/x", "grpc://h:1/a/b", "grpc://h:99999"])
def test_what_is_no_check(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        parse_check(text)
