"""Checks of gRPC's own health service (grpcio-health-checking), in the clear and over TLS, and what they do to traffic."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from proxyd.base.urls import ALWAYS, IF_OFFERED
from proxyd.config.options import BackendTls
from proxyd.health.probe import Probe, Target
from tests.support.certificates import Authority

STATES = health_pb2.HealthCheckResponse


class Server:
    """A gRPC server with its health service; `set` says what it says."""

    def __init__(self, certificate: Path | None) -> None:
        self._health = health.HealthServicer()
        self._server = grpc.server(concurrent.futures.ThreadPoolExecutor(4), options=(("grpc.so_reuseport", 0),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if certificate is None:
            self.port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            pem = certificate.read_bytes()
            self.port = self._server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(((pem, pem),)))
        self._server.start()

    def set(self, service: str, state: Any) -> None:
        self._health.set(service, state)

    def stop(self) -> None:
        self._server.stop(None)


@pytest.fixture(params=["clear", "tls"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, str]]:
    secure = request.param == "tls"
    running = Server(Authority(tmp_path).issue("one.pem", "localhost") if secure else None)
    yield running, "https" if secure else "http"
    running.stop()


def probe(port: int, scheme: str, service: str, keepalive: bool = False) -> Probe:
    """A check of a service."""
    http2 = ALWAYS if scheme == "http" else IF_OFFERED
    target = Target(scheme, "127.0.0.1", port, f"127.0.0.1:{port}", "/", 10.0, 5.0, frozenset((200,)), "", 2, 3,
                    BackendTls(verify=False), keepalive, False, http2, service)
    return Probe(target, 65536)


def test_the_states_of_a_real_server_are_understood(server: tuple[Server, str]) -> None:
    running, scheme = server
    running.set("", STATES.SERVING)
    running.set("shop.Orders", STATES.NOT_SERVING)
    whole, orders, missing = (probe(running.port, scheme, service, True) for service in ("", "shop.Orders", "no.Such"))
    assert [whole.check().ok, whole.check().ok] == [True, True]
    assert orders.check().error == "the service is NOT_SERVING"
    running.set("shop.Orders", STATES.SERVING)
    assert orders.check().error == ""
    running.set("", STATES.UNKNOWN)
    assert whole.check().error == "the service is UNKNOWN"
    assert missing.check().error.startswith("grpc-status 5")
    running.stop()
    assert not whole.check().ok and not orders.check().ok
    for one in (whole, orders, missing):
        one.close()
