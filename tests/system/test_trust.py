"""Who may come near the registry and the admin HTTP: certificates, tokens, sockets, and what is written down about it."""

from __future__ import annotations

import json
import os
import socket
import ssl
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from proxyd.client import Client, ClientError, ConnectionLost
from proxyd.registry.auth import new_token
from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.system import ROOT, System
from tests.support.waiting import free_port, wait_for

ADMIN_TOKEN = "an-admin-token-of-some-length"


def proxyctl(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    """proxyctl as a process, with the system's settings."""
    return subprocess.run([sys.executable, "-m", "proxyd.ctl.main", *arguments], env=system.environment, cwd=system.directory,
                          capture_output=True, text=True, timeout=30)


class Locked:
    """A registry that demands a certificate of its own authority, and a token."""

    def __init__(self, directory: Path) -> None:
        self.authority = Authority(directory)
        self.server = self.authority.issue("registry.pem", "127.0.0.1", "localhost", days=5)
        self.service = self.authority.issue("service.pem", "shop-1")
        self.token, kept = new_token()
        (directory / "tokens.ini").write_text(f"[token shop]\nhash = {kept}\nservices = shop\ndomains = *.shop.test\n")
        self.token_file = directory / "shop.token"
        self.token_file.write_text(f"{self.token}\nanother line\n")
        (directory / "admin.token").write_text(f"{ADMIN_TOKEN}\n")
        self.system = System(directory / "system", workers=1, registry__tls_certificate=self.server,
                             registry__tls_client_ca=self.authority.file, registry__tokens_file=directory / "tokens.ini",
                             admin__token_file=directory / "admin.token", log__level="debug")

    def context(self, certificate: Path | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.authority.file))
        if certificate is not None:
            context.load_cert_chain(certificate)
        return context

    def client(self, certificate: Path | None, token: str | None, service: str = "shop") -> Client:
        return Client(f"127.0.0.1:{self.system.registry_port}", service=service, instance=f"i-{time.monotonic_ns()}", token=token,
                      tls=self.context(certificate), timeout=5)

    def refused(self) -> list[dict[str, Any]]:
        """The audit rows of refused logins."""
        return [{"actor": actor, **json.loads(detail)} for actor, detail in
                self.system.sql("SELECT actor, detail FROM events WHERE type = 'login_refused'")]


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Locked]:
    running = Locked(tmp_path_factory.mktemp("locked"))
    yield running
    running.system.stop()


def test_certificate_and_token_together_let_a_service_in(locked: Locked, backend: Backend) -> None:
    with locked.client(locked.service, locked.token) as client:
        client.route_add("a.shop.test", "/", backend.url)
        client.apply()
        assert locked.system.get("/", "a.shop.test").status == 200


def test_without_a_certificate_of_the_authority_nobody_gets_past_the_handshake(locked: Locked, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "another authority").issue("stranger.pem", "shop-1")
    for certificate in (None, stranger):
        with pytest.raises(ConnectionLost):
            locked.client(certificate, locked.token).connect()
    with pytest.raises(OSError), socket.create_connection(("127.0.0.1", locked.system.registry_port), timeout=5) as plain:
        plain.sendall(b"REGISTER|shop|plain\n")
        if not plain.recv(100).startswith(b"ACK"):
            raise OSError("refused")


def test_proxyctl_brings_certificate_and_token(locked: Locked) -> None:
    files = ("--tls-ca", str(locked.authority.file), "--tls-cert", str(locked.service))
    done = proxyctl(locked.system, "send", "PING", *files, "--token-file", str(locked.token_file))
    # The session's name is proxyctl, which this token may not use: it was heard, and refused by name.
    assert (done.returncode, done.stdout) == (1, "")
    assert 'this token may not register as "proxyctl"' in done.stderr
    assert proxyctl(locked.system, "send", "PING", *files[:2]).returncode == 3
    missing = proxyctl(locked.system, "send", "PING", "--tls-cert", "/no/such.pem")
    assert missing.returncode == 1 and "/no/such.pem" in missing.stderr


def test_refused_logins_are_written_down_with_address_and_reason(locked: Locked) -> None:
    with pytest.raises(ClientError, match="token is missing or not known"):
        locked.client(locked.service, "wrong").connect()
    answer = requests.post(f"http://127.0.0.1:{locked.system.admin_port}/login", json={"token": "wrong"}, timeout=5)
    assert answer.status_code == 401
    wait_for(lambda: {one.get("to", one.get("service")) for one in locked.refused()} >= {"admin", "shop"}, what="both rows")
    assert all(one["reason"] and one["actor"].startswith("127.0.0.1") for one in locked.refused())


def test_secrets_are_in_no_log_no_answer_and_no_file_of_ours(locked: Locked) -> None:
    # Broken, of the wrong kind, and in the place of the port: an error must not repeat it.
    for metadata in (f'0|{{"token":"{locked.token}"', f'0|"{locked.token}"', f'0|{{"token":["{locked.token}"]}}',
                     f'{{"token": "{locked.token}"}}'):
        with locked.context(locked.service).wrap_socket(
                socket.create_connection(("127.0.0.1", locked.system.registry_port), timeout=5), server_hostname="127.0.0.1") as sock:
            sock.sendall(f"REGISTER|shop|odd|{metadata}\n".encode())
            assert locked.token.encode() not in sock.recv(4096)
    requests.get(f"http://127.0.0.1:{locked.system.admin_port}/api/v1/sessions", timeout=5,
                 headers={"Authorization": f"Bearer {ADMIN_TOKEN}"}).raise_for_status()
    with locked.client(locked.service, locked.token) as client:
        assert "token" not in client.session_info()["metadata"]
    written = b"".join(path.read_bytes() for path in locked.system.directory.rglob("*") if path.is_file())
    for secret in (locked.token, ADMIN_TOKEN):
        assert secret.encode() not in written


def test_a_renewed_certificate_of_the_registry_is_taken_up_and_its_end_is_watched(locked: Locked) -> None:
    def serial() -> str:
        with locked.context(locked.service).wrap_socket(
                socket.create_connection(("127.0.0.1", locked.system.registry_port), timeout=5), server_hostname="127.0.0.1") as sock:
            return str((sock.getpeercert() or {})["serialNumber"])

    assert f"the certificate {locked.server} for 127.0.0.1, localhost expires in 5.0 days" in locked.system.log().replace(
        "localhost, 127.0.0.1", "127.0.0.1, localhost")
    wait_for(lambda: locked.system.sql("SELECT count(*) FROM events WHERE type = 'certificate_expiring'") == [(1,)])
    before = serial()
    locked.authority.issue("registry.pem", "127.0.0.1", "localhost", days=200)
    wait_for(lambda: serial() != before, 10, "the new certificate")
    status = json.loads(proxyctl(locked.system, "status", "--json").stdout)
    assert [item["path"] for item in status["certificates"]] == [str(locked.server)]


def test_everything_works_over_unix_sockets_that_are_for_owner_and_group(tmp_path: Path, backend: Backend) -> None:
    # The path of a socket has 107 bytes at most.
    os.symlink(tmp_path, short := Path(f"/tmp/proxyd-test-{os.getpid()}"))
    system = System(tmp_path / "s", workers=1, start=False, registry__bind=f"unix:{short}/r", admin__bind=f"unix:{short}/a")
    log = (tmp_path / "log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "gunicorn", "-c", str(ROOT / "gunicorn.conf.py"), "proxyd.wsgi:app"],
                               env=system.environment, cwd=ROOT, stdout=log, stderr=log)
    try:
        wait_for(lambda: (tmp_path / "a").exists() and proxyctl(system, "status").returncode == 0, 20, "a system")
        assert [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("r", "a")] == [0o660, 0o660]
        with Client(f"unix:{short}/r", service="shop", instance="i1") as client:
            client.route_add("a.test", "/", backend.url)
            client.apply()
            assert system.get("/", "a.test").status == 200
            listed = json.loads(proxyctl(system, "sessions", "--json").stdout)
            assert [one["address"] for one in listed] == ["unix:"]
        assert proxyctl(system, "send", "PING").stdout == "PONG\n"
    finally:
        process.terminate()
        process.wait(15)
        log.close()
        short.unlink()


def test_beyond_loopback_the_registry_needs_protection_or_the_word_that_it_has_it(tmp_path: Path) -> None:
    def checked(**settings: Any) -> subprocess.CompletedProcess[str]:
        system = System(tmp_path, start=False, registry__bind=f"0.0.0.0:{free_port()}", **settings)
        return subprocess.run([sys.executable, "-m", "proxyd", "check"], env=system.environment, cwd=ROOT, capture_output=True,
                              text=True, timeout=30)

    refused = checked()
    assert refused.returncode == 2 and "anyone who can connect could take your traffic" in refused.stderr
    assert "allow_unprotected" not in checked(registry__allow_unprotected="yes").stderr
