"""Automatic HTTPS on two hosts with one PostgreSQL, and workers that start while the server is away."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import time
from pathlib import Path

from tests.support.acmerelay import Relay
from tests.support.backends import Backend
from tests.support.pebble import Pebble
from tests.support.postgres import Postgres
from tests.support.system import System
from tests.support.waiting import free_port, wait_for


def test_all_hosts_prove_names_one_orders_and_a_worker_starts_with_certificates_without_the_database(
        tmp_path: Path, postgres: Postgres, backend: Backend) -> None:
    url, ports = postgres.new_database(), {name: free_port() for name in ("a", "b")}
    # Nobody finds anything by a poll.
    hosts = first, second = [
        System(tmp_path / name, workers=1, start=False, hosts__name=name, database__url=url, database__shared_memory=tmp_path / name,
               database__busy_timeout="1s", database__poll="60s", tls__bind=f"127.0.0.1:{port}", acme__enabled="yes",
               acme__terms_agreed="yes", acme__challenges="tls-alpn-01", acme__key_file=tmp_path / "key")
        for name, port in ports.items()]
    (tmp_path / "pebble").mkdir()
    # The host that the CA asks is not the one that orders.
    pebble = Pebble(tmp_path / "pebble", second.proxy_port, ports["b"])
    ca = Relay(pebble)
    for system in hosts:
        system.settings |= {"acme__directory": ca.url, "acme__ca_file": pebble.ca_file}

    def shown(host: str, domain: str = "app.example.com") -> str:
        """The serial number of the certificate that a host shows; empty where it does not verify."""
        try:
            with socket.create_connection(("127.0.0.1", ports[host]), timeout=10) as raw, pebble.trusting().wrap_socket(
                    raw, server_hostname=domain) as sock:
                return str((sock.getpeercert() or {})["serialNumber"])
        except (ssl.SSLError, ConnectionError):
            return ""

    named: list[str] = []

    def window(identifier: str) -> tuple[float, float]:
        """The first certificate is to be renewed at once."""
        named.append(identifier)
        moment = time.time() + (-60 if identifier == named[0] else 1e6)
        return moment, moment

    ca.window = window
    stopped = False
    try:
        first.start()
        second.start(lambda: "another master leads" in second.log())
        first.client("shop").route("app.example.com", backend.url)
        # The CA is asked about the second one when that is there.
        wait_for(lambda: len(set(named)) == 2, 30, "a certificate, and its renewal")
        wait_for(lambda: shown("a") and shown("a") == shown("b"), 30, "the same certificate at both hosts")
        assert len(ca.orders) == 2
        first.kill()
        wait_for(lambda: second.master_pid() and second.ready(), 20, "the second host's lead")
        second.client("next").route("next.example.com", backend.url)
        wait_for(lambda: shown("b", "next.example.com"), 30, "a certificate that the second host ordered")
        ordered = sorted(str(order["identifiers"][0]["value"]) for order in ca.orders)
        assert ordered == ["app.example.com", "app.example.com", "next.example.com"]
        key = postgres.sql("SELECT private_key FROM certificates WHERE domain = 'app.example.com'", url.rpartition("/")[2])
        assert key and "PRIVATE KEY" not in key
        kept = tmp_path / "b" / "proxyd.certificates"
        wait_for(lambda: kept.exists() and b"next.example.com" in kept.read_bytes(), 15, "the kept certificates")
        postgres.stop()
        stopped = True
        (before_pid,) = second.worker_pids()
        os.kill(before_pid, signal.SIGKILL)
        wait_for(lambda: [pid for pid in second.worker_pids() if pid != before_pid], 20, "another worker")
        wait_for(lambda: shown("b"), 30, "the certificate at the new worker")
    finally:
        if stopped:
            postgres.start()
        for system in hosts:
            system.stop()
        ca.stop()
        pebble.stop()
