"""Automatic HTTPS on PostgreSQL, and workers that start while the server is away."""

from __future__ import annotations

import os
import signal
import socket
import ssl
from pathlib import Path

from tests.support.backends import Backend
from tests.support.pebble import Pebble
from tests.support.postgres import Postgres
from tests.support.system import System
from tests.support.waiting import free_port, wait_for


def test_a_certificate_is_ordered_and_a_worker_that_starts_without_the_database_shows_it(
        tmp_path: Path, postgres: Postgres, backend: Backend) -> None:
    tls_port, url = free_port(), postgres.new_database()
    (tmp_path / "pebble").mkdir()
    system = System(tmp_path, workers=1, start=False, database__url=url, database__shared_memory=tmp_path, database__busy_timeout="1s",
                    tls__bind=f"127.0.0.1:{tls_port}", acme__enabled="yes", acme__terms_agreed="yes", acme__challenges="tls-alpn-01")
    ca = Pebble(tmp_path / "pebble", system.proxy_port, tls_port)
    system.settings |= {"acme__directory": ca.url, "acme__ca_file": ca.ca_file}

    def shown() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", tls_port), timeout=10) as raw, ca.trusting().wrap_socket(
                    raw, server_hostname="app.example.com") as sock:
                return bool(sock.getpeercert())
        except (ssl.SSLError, ConnectionError):
            return False

    stopped = False
    try:
        system.start()
        system.client("shop").route("app.example.com", backend.url)
        wait_for(shown, 30, "a certificate")
        key = postgres.sql("SELECT private_key FROM certificates WHERE domain = 'app.example.com'", url.rpartition("/")[2])
        assert key and "PRIVATE KEY" not in key
        kept = tmp_path / "proxyd.certificates"
        wait_for(lambda: kept.exists() and b"app.example.com" in kept.read_bytes(), 15, "the kept certificates")
        postgres.stop()
        stopped = True
        (before,) = system.worker_pids()
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: [pid for pid in system.worker_pids() if pid != before], 20, "another worker")
        wait_for(shown, 30, "the certificate at the new worker")
    finally:
        if stopped:
            postgres.start()
        system.stop()
        ca.stop()
