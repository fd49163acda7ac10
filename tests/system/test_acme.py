"""Automatic HTTPS against pebble: a service declares a domain, and its clients verify what they are shown."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.backends import Backend
from tests.support.pebble import Pebble
from tests.support.registry import RegistryClient
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, wait_for


class Automatic:
    """A system of four workers, a CA and a backend."""

    def __init__(self, directory: Path) -> None:
        self.tls_port = free_port()
        (directory / "pebble").mkdir()
        self.system = System(
            directory / "system", workers=4, start=False, tls__bind=f"127.0.0.1:{self.tls_port}", acme__enabled="yes",
            acme__terms_agreed="yes", acme__email="ops@example.com", tls__public_port=self.tls_port, acme__key_type="ecdsa256, rsa2048",
            acme__domains="*.example.com, *.example.net", database__busy_timeout="20s")
        self.ca = Pebble(directory / "pebble", self.system.proxy_port)
        self.system.settings |= {"acme__challenges": "http-01, dns-01", "acme__dns_command": self.ca.dns_command()}
        self.system.settings |= {"acme__directory": self.ca.url, "acme__ca_file": self.ca.ca_file}
        self.system.start()
        self.backend = Backend()
        self.client: RegistryClient = self.system.client("shop")

    def stop(self) -> None:
        self.system.stop()
        self.ca.stop()
        self.backend.stop()

    def certificate(self, name: str | None, context: ssl.SSLContext | None = None) -> dict[str, Any] | None:
        """What is shown to who asks for a name and trusts the CA alone; None where that does not verify."""
        with socket.create_connection(("127.0.0.1", self.tls_port), timeout=10) as raw:
            try:
                with (context or self.ca.trusting()).wrap_socket(raw, server_hostname=name) as sock:
                    return dict(sock.getpeercert() or {})
            except ssl.SSLError:
                return None

    def local(self) -> ssl.SSLContext:
        """A context that trusts the local CA alone."""
        rows = self.system.sql("SELECT chain FROM certificates WHERE domain = '(local CA)'")
        return ssl.create_default_context(cadata=str(rows[0][0]))

    def status(self, domain: str) -> dict[str, Any]:
        return dict(self.client.json(f"CERT_STATUS|SID|{domain}")[0])


@pytest.fixture(scope="module")
def automatic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Automatic]:
    running = Automatic(tmp_path_factory.mktemp("acme"))
    yield running
    running.stop()


def test_a_domain_has_a_certificate_seconds_after_it_is_declared(automatic: Automatic) -> None:
    automatic.client.route("app.example.com", automatic.backend.url)
    wait_for(lambda: automatic.certificate("app.example.com") is not None, 15, "a certificate that verifies")
    # Every worker has it.
    wait_for(lambda: all(automatic.certificate("app.example.com") for _ in range(20)), 5, "it at every worker")
    old = automatic.ca.trusting()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    wait_for(lambda: automatic.system.sql("SELECT COUNT(*) FROM certificates WHERE domain = 'app.example.com'")[0][0] == 2, 15,
             "certificates of both kinds")
    for cipher in ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"):
        old.set_ciphers(cipher)
        wait_for(lambda: automatic.certificate("app.example.com", old) is not None, 5, f"a handshake with {cipher}")
    # The certificate is there before its order is over.
    found = wait_for(lambda: told if (told := automatic.status("app.example.com"))["state"] == "valid" else None, 10, "the order to end")
    assert found["error"] == ""
    assert "Pebble" in found["issuer"]
    answer = automatic.system.get("/a?b=c", "app.example.com")
    assert (answer.status, answer.headers["Location"]) == (308, f"https://app.example.com:{automatic.tls_port}/a?b=c")
    mode = os.stat(automatic.system.directory / "certificates.key").st_mode & 0o777
    assert mode == 0o600
    keys = automatic.system.sql("SELECT private_key FROM certificates UNION SELECT private_key FROM acme_accounts")
    assert "PRIVATE KEY" not in str(keys)
    wait_for(lambda: "app.example.com" in str(automatic.system.admin("/api/v1/events?type=certificate_changed").json()["events"]), 10,
             "the event")
    wait_for(lambda: automatic.system.sql("SELECT COUNT(*) FROM acme_challenges") == [(0,)], 10, "no challenge left")


def test_names_that_nobody_allows_or_no_ca_can_know_are_not_ordered(automatic: Automatic) -> None:
    automatic.client.route("other.example.org,shop.test,127.0.0.1", automatic.backend.url)
    route_id = automatic.client.route("off.example.net", automatic.backend.url, apply=False)
    automatic.client.options(route_id, tls="off")
    automatic.client.route("asked.example.com", automatic.backend.url)
    wait_for(lambda: automatic.certificate("asked.example.com") is not None, 15, "a certificate that verifies")
    ordered = {row[0] for row in automatic.system.sql("SELECT domain FROM certificates UNION SELECT domain FROM certificate_orders")}
    assert ordered.isdisjoint({"off.example.net", "other.example.org", "shop.test", "127.0.0.1"})
    local = automatic.local()
    assert automatic.certificate("other.example.org", local), "the local CA's, never another name's"
    assert automatic.certificate("shop.test", local)
    assert automatic.certificate("127.0.0.1", local), "an address without a name in the handshake"
    assert automatic.certificate("nobody.example.org", local) is None
    assert automatic.status("shop.test")["state"] == "valid"
    assert automatic.status("other.example.org")["state"] == "none"
    assert automatic.system.get("/", "shop.test").status == 200, "plain HTTP stays where only the local CA signs"


def test_a_host_with_a_certificate_and_no_service_is_503(automatic: Automatic) -> None:
    route_id = automatic.client.route("gone.example.com", automatic.backend.url)
    wait_for(lambda: automatic.certificate("gone.example.com") is not None, 15, "a certificate that verifies")
    automatic.client.ok(f"ROUTE_REMOVE|SID|{route_id}")
    automatic.client.apply()
    # By the certificate the name is known: to each worker once it has it.
    wait_for(lambda: all(automatic.system.get("/", "gone.example.com").status == 503 for _ in range(20)), 10, "workers that know the name")
    assert automatic.system.get("/", "gone.example.com").headers["X-Proxyd-Reason"] == "no_service"
    assert automatic.system.get("/", "never.example.com").status == 404


def test_a_wildcard_has_a_certificate_by_dns(automatic: Automatic) -> None:
    automatic.client.route("*.wild.example.com", automatic.backend.url)
    wait_for(lambda: automatic.certificate("any.wild.example.com") is not None, 15, "a certificate that verifies")
    found = automatic.status("*.wild.example.com")
    assert (found["state"], found["error"]) == ("valid", "")
    # One worker has shown it; the others have it in a moment.
    wait_for(lambda: automatic.system.get("/", "any.wild.example.com").status == 308, 10, "the redirect")
    assert automatic.client.command("CERT_STATUS|SID|nothing.example.com").startswith("ERROR|domain: ")


def test_a_killed_master_goes_on_with_the_order(automatic: Automatic) -> None:
    client = automatic.system.client("killed")
    client.route("kill.example.com", automatic.backend.url)
    os.kill(automatic.system.master_pid(), signal.SIGKILL)
    wait_for(lambda: automatic.certificate("kill.example.com") is not None, 25, "a certificate in spite of all")


def test_a_ca_that_is_down_is_told_and_a_missing_key_file_stops_all(tmp_path: Path) -> None:
    tls = free_port()
    system = System(tmp_path, workers=1, tls__bind=f"127.0.0.1:{tls}", acme__enabled="yes", acme__terms_agreed="yes",
                    acme__directory=f"https://127.0.0.1:{free_port()}/dir")
    backend = Backend()
    try:
        client = system.client()
        client.route("down.example.com,*.example.com", backend.url)
        wait_for(lambda: client.json("CERT_STATUS|SID|down.example.com")[0]["state"] == "failed", 15, "a failed order")
        found = client.json("CERT_STATUS|SID|down.example.com")[0]
        assert "can't be reached" in found["error"] and found["next_attempt"]
        # One name has shown that the CA is away: others don't storm it.
        client.route("later.example.com", backend.url)
        assert system.admin("/api/v1/certificates").json()["certificates"][1] == found
        assert system.sql("SELECT DISTINCT what, why FROM v_certificate_history WHERE domain = 'down.example.com'") == [
            ("failed", found["error"])]
        assert "dns-01" in client.json("CERT_STATUS|SID|*.example.com")[0]["error"]
        metrics = system.admin("/metrics").text
        assert 'proxyd_certificate_orders_total{result="failed"} 1.0' in metrics and "proxyd_certificates_failing 2.0" in metrics
        listed, printed = (subprocess.run([sys.executable, "-m", "proxyd.ctl.main", name, "--admin", f"http://127.0.0.1:{system.admin_port}"],
                                          capture_output=True, text=True, cwd=ROOT, check=False) for name in ("certs", "ca"))
        assert listed.returncode == 1 and "down.example.com" in listed.stdout, listed
        context = ssl.create_default_context(cadata=printed.stdout)
        with socket.create_connection(("127.0.0.1", tls), timeout=10) as raw, context.wrap_socket(
                raw, server_hostname="down.example.com") as sock:
            assert sock.getpeercert(), "meanwhile the local CA signs"
        assert system.get("/", "down.example.com").status == 200
        system.stop()
        key = tmp_path / "certificates.key"
        key.unlink()
        system.start()
        wait_for(lambda: "certificates.key is gone" in system.log(), 10, "the missing key file to be told")
        assert not key.exists(), "nothing takes its place"
    finally:
        system.stop()
        backend.stop()
