"""Automatic HTTPS over the years, in seconds: names proved by tls-alpn-01, a CA that advises when to renew, traffic meanwhile."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.acmerelay import Relay
from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.pebble import Pebble
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, wait_for


class Aging:
    """Four workers, and a CA in front of pebble whose advice and trouble a test chooses."""

    def __init__(self, directory: Path) -> None:
        self.tls_port = free_port()
        (directory / "pebble").mkdir()
        self.system = System(
            directory / "system", workers=4, start=False, tls__bind=f"127.0.0.1:{self.tls_port}", acme__enabled="yes",
            acme__terms_agreed="yes", acme__challenges="tls-alpn-01", acme__profile="shortlived", database__busy_timeout="20s")
        self.token = directory / "token"
        self.token.write_text("a-token-of-the-operator\n")
        self.token.chmod(0o600)
        self.system.settings["admin__token_file"] = self.token
        self.pebble = Pebble(directory / "pebble", self.system.proxy_port, self.tls_port)
        self.ca = Relay(self.pebble)
        self.system.settings |= {"acme__directory": self.ca.url, "acme__ca_file": self.pebble.ca_file}
        self.system.start()
        self.backend = Backend()
        self.client = self.system.client("aging")

    def stop(self) -> None:
        self.system.stop()
        self.ca.stop()
        self.pebble.stop()
        self.backend.stop()

    def shown(self, name: str, *protocols: str) -> tuple[dict[str, Any], str | None] | None:
        """The certificate shown for a name, and the protocol of ALPN; None where it does not verify."""
        context = self.pebble.trusting()
        if protocols:
            context.set_alpn_protocols(list(protocols))
        with socket.create_connection(("127.0.0.1", self.tls_port), timeout=10) as raw:
            try:
                with context.wrap_socket(raw, server_hostname=name) as sock:
                    return dict(sock.getpeercert() or {}), sock.selected_alpn_protocol()
            except ssl.SSLError:
                return None

    def serials(self, domain: str) -> list[str]:
        return [row[0] for row in self.system.sql(f"SELECT serial FROM certificates WHERE domain = '{domain}'")]

    def has(self, domain: str) -> None:
        """Declare a domain, and wait for its certificate."""
        self.client.route(domain, self.backend.url)
        wait_for(lambda: self.shown(domain) is not None, 20, f"a certificate for {domain}")


    def proxyctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "proxyd.ctl.main", "certs", *words, "--admin",
                               f"http://127.0.0.1:{self.system.admin_port}", "--token-file", str(self.token)],
                              capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.fixture(scope="module")
def aging(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Aging]:
    running = Aging(tmp_path_factory.mktemp("aging"))
    yield running
    running.stop()


def test_a_name_is_proved_by_tls_alpn(aging: Aging) -> None:
    aging.has("alpn.example.com")
    assert aging.ca.orders[-1]["profile"] == "shortlived"
    wait_for(lambda: aging.system.sql("SELECT COUNT(*) FROM acme_challenges") == [(0,)], 10, "no challenge left")
    found = aging.shown("alpn.example.com", "acme-tls/1", "http/1.1")
    assert found is not None and found[1] == "http/1.1"
    assert not [path for path in aging.system.access_log().splitlines() if "acme-challenge" in path]


def test_what_the_ca_advises_is_renewed_and_says_what_it_replaces(aging: Aging) -> None:
    aging.has("advised.example.com")
    wait_for(lambda: any("/renewal-info/" in path for path in aging.ca.asked), 20, "the CA to be asked for its advice")
    named: list[str] = []

    def window(identifier: str) -> tuple[float, float]:
        """The first one is to be renewed at once."""
        named.append(identifier)
        moment = time.time() + (-60 if identifier == named[0] else 1e6)
        return moment, moment

    aging.ca.window = window
    aging.has("asked.example.com")
    wait_for(lambda: any(order.get("replaces") == named[0] for order in aging.ca.orders if named), 20, "an order that replaces it")
    wait_for(lambda: len(set(named)) > 1, 20, "the new one to be asked about, too")
    assert aging.system.sql("SELECT error FROM certificate_orders WHERE state = 'failed'") == []


def test_an_operator_renews_revokes_imports_and_removes(aging: Aging, tmp_path: Path) -> None:
    aging.has("hand.example.com")
    first = aging.serials("hand.example.com")
    assert aging.proxyctl("renew", "hand.example.com").returncode == 0
    wait_for(lambda: aging.serials("hand.example.com") not in ([], first), 20, "another certificate")
    second = aging.serials("hand.example.com")
    done = aging.proxyctl("revoke", "hand.example.com", "--reason", "superseded")
    assert done.returncode == 0, done.stderr
    assert any("/revoke-cert" in path for path in aging.ca.asked)
    wait_for(lambda: aging.serials("hand.example.com") not in ([], second), 20, "one with another key in its place")
    # One of another CA, for a name that nobody orders for.
    authority = Authority(tmp_path)
    path = authority.issue("own.pem", "own.example.net", "hand.example.com")
    assert aging.proxyctl("import", str(path)).returncode == 0
    with socket.create_connection(("127.0.0.1", aging.tls_port), timeout=10) as raw, authority.trusting().wrap_socket(
            raw, server_hostname="own.example.net") as sock:
        assert sock.getpeercert()
    listed = aging.proxyctl("list").stdout
    assert "own.example.net" in listed and "test authority" in listed
    refused = aging.proxyctl("revoke", "own.example.net")
    assert refused.returncode == 1 and "not revoked" in refused.stderr
    assert aging.proxyctl("remove", "own.example.net").returncode == 0
    assert aging.serials("own.example.net") == []
    for words, said in ((("remove", "own.example.net"), "no certificate"), (("renew", "own.example.net"), "no live route"),
                        (("import", str(authority.file)), "no private key"), (("renew", "a b"), "400")):
        refused = aging.proxyctl(*words)
        assert refused.returncode == 1 and (said in refused.stderr or said == "400"), refused
