"""Automatic HTTPS over the years, in seconds: names proved by tls-alpn-01, a CA that advises when to renew, traffic meanwhile."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from proxyd.base.text import parse_rfc3339
from proxyd.net.localca import make
from tests.support.acmerelay import Relay
from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.pebble import Pebble
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, patience, wait_for


class Aging:
    """Four workers, and a CA in front of pebble whose advice and trouble a test chooses."""

    def __init__(self, directory: Path) -> None:
        self.tls_port = free_port()
        (directory / "pebble").mkdir()
        self.system = System(
            directory / "system", workers=4, start=False, tls__bind=f"127.0.0.1:{self.tls_port}", acme__enabled="yes",
            acme__terms_agreed="yes", acme__challenges="tls-alpn-01", acme__profile="shortlived", acme__handshake_wait="8s",
            database__busy_timeout="20s")
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


    def act(self, method: str, domain: str, action: str = "") -> None:
        """Have the admin HTTP do what an operator asks for."""
        answer = self.system.admin(f"/api/v1/certificates/{domain}{action}", method, Authorization="Bearer a-token-of-the-operator")
        assert answer.status == 200, answer.text

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


def test_a_handshake_waits_for_the_first_certificate_of_its_name(aging: Aging) -> None:
    asked, answer, found = threading.Event(), threading.Event(), list[object]()

    def slow(path: str) -> None:
        if path.startswith("/chalZ/"):
            asked.set()
            answer.wait(30)

    aging.ca.after = slow
    waiting = threading.Thread(target=lambda: found.append(aging.shown("patient.example.com")))
    try:
        aging.client.route("patient.example.com", aging.backend.url)
        assert asked.wait(patience(30)), "the workers know of the order"
        waiting.start()
        waiting.join(0.3)
        assert aging.shown("other.example.org") is None, "others don't wait"
        assert waiting.is_alive()
    finally:
        aging.ca.after = lambda _: None
        answer.set()
        waiting.join(30)
    assert found and found[0] is not None, "it is shown the CA's, and never the local CA's"


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
    history = aging.system.sql("SELECT domain, what, why, actor <> '', serial <> '' FROM v_certificate_history WHERE domain IN "
                               "('hand.example.com', 'own.example.net') AND what <> 'ordered' ORDER BY id")
    assert history == [("hand.example.com", "obtained", "", 0, 1), ("hand.example.com", "renewed", "", 0, 1),
                       ("hand.example.com", "revoked", "superseded", 1, 1), ("hand.example.com", "obtained", "", 0, 1),
                       *((name, "imported", "", 1, 1) for name in ("own.example.net", "hand.example.com")),
                       ("own.example.net", "removed", "", 1, 1)]
    names = aging.system.sql("SELECT DISTINCT names, issuer, file FROM v_certificate_history WHERE what = 'imported'")
    assert names == [('["own.example.net", "hand.example.com"]', "test authority", "")]
    for words, said in ((("remove", "own.example.net"), "no certificate"), (("renew", "own.example.net"), "no live route"),
                        (("import", str(authority.file)), "no private key"), (("renew", "a b"), "400")):
        refused = aging.proxyctl(*words)
        assert refused.returncode == 1 and (said in refused.stderr or said == "400"), refused


@contextlib.contextmanager
def ending(aging: Aging, domain: str) -> Iterator[None]:
    """An order for a name that has its certificate, and is not over: the master waits, for some seconds, for a worker that is stopped."""
    before, (stopped, *_) = aging.serials(domain), aging.system.worker_pids()
    aging.ca.after = lambda path: os.kill(stopped, signal.SIGSTOP) if path.startswith("/certZ/") else None
    try:
        aging.act("POST", domain, "/renew")
        wait_for(lambda: aging.serials(domain) not in ([], before), 20, "the new certificate")
        aging.ca.after = lambda _: None
        yield
    finally:
        aging.ca.after = lambda _: None
        os.kill(stopped, signal.SIGCONT)


def test_a_renewal_that_is_ordered_while_the_last_one_is_ending_is_not_forgotten(aging: Aging) -> None:
    aging.has("ending.example.com")
    with ending(aging, "ending.example.com"):
        second = aging.serials("ending.example.com")
        aging.act("POST", "ending.example.com", "/renew")
    wait_for(lambda: aging.serials("ending.example.com") not in ([], second), 20, "the certificate that was asked for last")


def test_a_certificate_that_is_removed_while_its_order_is_ending_is_ordered_anew_and_none_fails(aging: Aging) -> None:
    aging.has("gone.example.com")
    with ending(aging, "gone.example.com"):
        second = aging.serials("gone.example.com")
        # The answer waits for the workers, too.
        removing = threading.Thread(target=aging.act, args=("DELETE", "gone.example.com"))
        removing.start()
        wait_for(lambda: aging.serials("gone.example.com") == [], 10, "the removal")
    removing.join(30)
    wait_for(lambda: aging.serials("gone.example.com") not in ([], second), 20, "another certificate")
    assert aging.system.sql("SELECT why FROM certificate_history WHERE domain = 'gone.example.com' AND what = 'failed'") == []


def test_a_renewal_under_traffic_fails_no_handshake(aging: Aging) -> None:
    aging.has("busy.example.com")
    context, stop, failed, serials = aging.pebble.trusting(), threading.Event(), list[str](), set[str]()

    def visit() -> None:
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", aging.tls_port), timeout=20) as raw, context.wrap_socket(
                        raw, server_hostname="busy.example.com") as sock:
                    serials.add(str((sock.getpeercert() or {})["serialNumber"]))
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: busy.example.com\r\nConnection: close\r\n\r\n")
                    if not sock.recv(65536).startswith(b"HTTP/1.1 200"):
                        failed.append("another answer than 200")
            except OSError as error:
                failed.append(str(error))
            stop.wait(0.05)

    visitors = [threading.Thread(target=visit) for _ in range(2)]
    for visitor in visitors:
        visitor.start()
    try:
        for _ in range(2):
            before = aging.serials("busy.example.com")
            assert aging.proxyctl("renew", "busy.example.com").returncode == 0
            wait_for(lambda before=before: aging.serials("busy.example.com") not in ([], before), 30, "a renewal")  # type: ignore[misc]
        wait_for(lambda: len(serials) >= 2, 30, "clients that are shown another one")
    finally:
        stop.set()
        for visitor in visitors:
            visitor.join(30)
    assert failed == []


def test_a_master_that_is_killed_at_any_step_orders_nothing_twice(aging: Aging) -> None:
    for number, step in enumerate(("/order-plz", "/chalZ/", "/finalize-order/", "/certZ/")):
        domain = f"step{number}.example.com"
        killed: list[int] = []

        def kill(path: str, step: str = step, killed: list[int] = killed) -> None:
            if path.startswith(step) and not killed:
                killed.append(aging.system.master_pid())
                os.kill(killed[0], signal.SIGKILL)

        placed = len(aging.ca.orders)
        aging.ca.after = kill
        try:
            wait_for(aging.system.ready, 30, "a master")
            client = aging.system.client(f"step{number}", f"s{number}")
            client.route(domain, aging.backend.url, apply=False)
            # The master may be killed before its answer is here.
            client.send("CONFIG_APPLY|SID")
            wait_for(lambda domain=domain: aging.shown(domain) is not None, 60, f"a certificate in spite of a kill at {step}")  # type: ignore[misc]
        finally:
            aging.ca.after = lambda _: None
        assert killed, step
        named = [order for order in aging.ca.orders[placed:] if domain in str(order["identifiers"])]
        # Of an order whose URL did not arrive before the kill nothing can be known.
        assert len(named) in ((1, 2) if step == "/order-plz" else (1,)), (step, named)
    wait_for(aging.system.ready, 30, "a master")
    wait_for(lambda: aging.system.sql("SELECT COUNT(*) FROM acme_challenges") == [(0,)], 20, "no challenge left")


def test_many_names_at_once_are_ordered_a_few_at_a_time(aging: Aging) -> None:
    names = [f"many{number}.example.com" for number in range(40)]
    at_once: list[int] = []

    def count(path: str) -> None:
        if path.startswith("/chalZ/"):
            at_once.append(aging.system.sql("SELECT COUNT(*) FROM certificate_orders WHERE state = 'ordering'")[0][0])

    aging.ca.after = count
    try:
        aging.client = aging.system.client("many", "many")
        aging.client.route(",".join(names), aging.backend.url)
        wait_for(lambda: aging.system.sql("SELECT COUNT(*) FROM certificates WHERE domain LIKE 'many%'") == [(len(names),)], 120,
                 "all certificates", 0.2)
    finally:
        aging.ca.after = lambda _: None
    assert 1 < max(at_once) <= 8
    assert len([order for order in aging.ca.orders if "many" in str(order)]) == len(names), "each is ordered once"


def test_a_ca_that_errs_is_told_in_words_and_not_stormed(aging: Aging) -> None:
    def told(domain: str, trouble: Callable[[str], tuple[int, Mapping[str, str], bytes] | None]) -> dict[str, Any]:
        aging.ca.trouble = trouble
        try:
            client = aging.system.client(domain, "i1")
            client.route(domain, aging.backend.url)
            wait_for(lambda: client.json(f"CERT_STATUS|SID|{domain}")[0]["state"] == "failed", 30, "a failed order")
            return dict(client.json(f"CERT_STATUS|SID|{domain}")[0])
        finally:
            aging.ca.trouble = lambda _: None

    # One that has forgotten the account gets it again.
    forgotten = json.dumps({"type": "urn:ietf:params:acme:error:accountDoesNotExist", "detail": "who are you?"}).encode()
    seen = len(aging.ca.asked)
    aging.ca.trouble = lambda path: (400, {"Content-Type": "application/problem+json"}, forgotten) if (
        path == "/order-plz" and "/sign-me-up" not in aging.ca.asked[seen:]) else None
    try:
        aging.has("account.example.com")
    finally:
        aging.ca.trouble = lambda _: None
    stranger, _ = make(datetime.datetime.now(datetime.UTC))
    wrong = told("chain.example.com", lambda path: (
        200, {"Content-Type": "application/pem-certificate-chain"}, stranger.encode()) if path.startswith("/certZ/") else None)
    assert "for another key" in wrong["error"]
    down = told("down.example.com", lambda path: (503, {"Retry-After": "1800"}, b"down") if path == "/order-plz" else None)
    assert down["error"] and parse_rfc3339(down["next_attempt"]) > time.time() + 1500
    problem = json.dumps({"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many certificates"}).encode()
    limited = told("limited.example.com", lambda path: (
        429, {"Content-Type": "application/problem+json", "Retry-After": "7200"}, problem) if path == "/order-plz" else None)
    assert "too many certificates" in limited["error"]
    failures = dict(aging.system.sql("SELECT domain, why FROM v_certificate_history WHERE what = 'failed'"))
    assert all(failures[f"{name}.example.com"] == row["error"] for name, row in (("chain", wrong), ("down", down), ("limited", limited)))
    # A limit means all names: nothing is ordered before its end, by hand neither.
    assert "wants no orders" in aging.proxyctl("renew", "down.example.com").stderr
