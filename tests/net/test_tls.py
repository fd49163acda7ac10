"""Certificates and the files they come from."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from pathlib import Path

import gevent
import pytest

from proxyd.config.sections import TlsSettings
from proxyd.config.settings import load
from proxyd.net import tickets
from proxyd.net.certificates import Certificates
from proxyd.net.tls import RELOAD_SECONDS, Files
from tests.support.certificates import Authority


def shaken(server: ssl.SSLContext, client: ssl.SSLContext, name: str = "exact.test") -> str:
    """The cipher that a client and a server agree upon. Raises ssl.SSLError where they don't."""

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            server.wrap_socket(sock, server_side=True).close()
        gevent.get_hub().destroy()

    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    thread = threading.Thread(target=serve, args=(ours,))
    thread.start()
    try:
        with theirs, client.wrap_socket(theirs, server_hostname=name) as sock:
            cipher = sock.cipher()
            assert cipher is not None
            return cipher[0]
    finally:
        thread.join(10)


def listener(tmp_path: Path, **changed: str) -> tuple[Authority, ssl.SSLContext]:
    """The context of a listener by settings, with a certificate for exact.test."""
    authority = Authority(tmp_path)
    environment = {"PROXYD_TLS_CERTIFICATES": str(authority.issue("exact.pem", "exact.test"))}
    tls: TlsSettings = load(None, environment | {f"PROXYD_TLS_{name.upper()}": value for name, value in changed.items()}).tls
    context = Certificates(tls).context
    assert context is not None
    return authority, context


def old_client(authority: Authority, ciphers: str) -> ssl.SSLContext:
    client = authority.trusting()
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(ciphers)
    return client


def test_tls_1_2_is_spoken_with_authenticated_encryption_alone_in_the_clients_order(tmp_path: Path) -> None:
    authority, server = listener(tmp_path)
    assert shaken(server, authority.trusting()).startswith("TLS_")
    aes, chacha = "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-CHACHA20-POLY1305"
    assert shaken(server, old_client(authority, f"{chacha}:{aes}")) == chacha
    assert shaken(server, old_client(authority, f"{aes}:{chacha}")) == aes
    with pytest.raises(ssl.SSLError):
        shaken(server, old_client(authority, "ECDHE-ECDSA-AES128-SHA256"))


@pytest.mark.parametrize("changed", [{"ciphers": "modern"}, {"ciphers": "modern", "min_version": "1.2"}, {"min_version": "1.3"}])
def test_modern_is_tls_1_3_alone(tmp_path: Path, changed: dict[str, str]) -> None:
    authority, server = listener(tmp_path, **changed)
    assert shaken(server, authority.trusting()).startswith("TLS_")
    with pytest.raises(ssl.SSLError):
        shaken(server, old_client(authority, "ECDHE-ECDSA-AES128-GCM-SHA256"))


def test_rsa_and_ecdsa_stand_side_by_side_for_one_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    authority = Authority(tmp_path)
    rsa = authority.issue("rsa.pem", "exact.test", "other.test", kind="rsa")
    ecdsa = authority.issue("ecdsa.pem", "exact.test")
    certificates = Certificates(load(None, {"PROXYD_TLS_CERTIFICATES": f"{rsa}, {ecdsa}"}).tls)
    kinds = ("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256")

    def each() -> list[str]:
        assert certificates.context is not None
        return [shaken(certificates.context, old_client(authority, cipher)) for cipher in kinds]

    assert each() == list(kinds)
    # One that is broken leaves both as they were, and a renewed one is taken up beside the other.
    ecdsa.write_text("half a file")
    certificates.refresh(time.monotonic() + RELOAD_SECONDS + 1)
    assert "loaded before stays in use" in caplog.text
    assert each() == list(kinds)
    authority.issue("ecdsa.pem", "exact.test")
    certificates.refresh(time.monotonic() + 2 * RELOAD_SECONDS + 2)
    assert each() == list(kinds)
    # A name that only one of the files has is shown that one.
    assert certificates.context is not None
    with pytest.raises(ssl.SSLError):
        shaken(certificates.context, old_client(authority, kinds[1]), "other.test")


def resumed(client: ssl.SSLContext, context: ssl.SSLContext | None, session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession]:
    """A connection that tries to go on with a session: whether it does, and the session that it leaves."""
    server = context
    assert server is not None

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError), server.wrap_socket(sock, server_side=True) as secured:
            secured.sendall(b"x")
            secured.recv(1)
        gevent.get_hub().destroy()

    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    thread = threading.Thread(target=serve, args=(ours,))
    thread.start()
    try:
        with theirs, client.wrap_socket(theirs, server_hostname="exact.test", session=session) as sock:
            assert sock.recv(1) == b"x"
            assert sock.session is not None
            return bool(sock.session_reused), sock.session
    finally:
        thread.join(10)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_session_goes_on_at_another_worker_until_there_is_another_secret(tmp_path: Path, version: ssl.TLSVersion) -> None:
    assert tickets.works()
    authority = Authority(tmp_path)
    certificate, secret = authority.issue("exact.pem", "exact.test"), tmp_path / tickets.NAME
    tls = load(None, {"PROXYD_TLS_CERTIFICATES": str(certificate), "PROXYD_TLS_CLIENT_CA": str(authority.file)}).tls
    tickets.make(str(secret))
    assert secret.stat().st_mode & 0o777 == 0o600
    workers = [Certificates(tls, secret=str(secret)) for _ in range(2)]
    client = authority.trusting()
    client.maximum_version = version
    first, second = workers
    before, session = resumed(client, first.context, None)
    assert not before
    again, session = resumed(client, second.context, session)
    assert again
    # One who was not asked for a certificate must not resume as one who was.
    assert not resumed(client, second._asking, session)[0]
    tickets.make(str(secret))
    second.refresh(time.monotonic() + RELOAD_SECONDS + 1)
    assert not resumed(client, second.context, session)[0]
    assert resumed(client, first.context, session)[0]


def test_a_client_gets_one_ticket_with_a_new_session_and_one_whenever_it_goes_on(tmp_path: Path) -> None:
    authority, server = listener(tmp_path)
    client = authority.trusting()
    came: list[int] = []

    def note(connection: object, direction: str, version: object, kind: int, message: int, data: bytes) -> None:
        if (direction, kind, message) == ("read", 22, 4):
            came.append(message)

    client._msg_callback = note  # type: ignore[attr-defined]
    session = None
    for goes_on in (False, True, True):
        before = len(came)
        again, session = resumed(client, server, session)
        assert (again, len(came) - before) == (goes_on, 1)


def test_files_that_changed_are_named_once_and_not_looked_at_in_every_moment(tmp_path: Path) -> None:
    first, second = tmp_path / "first.pem", tmp_path / "second.pem"
    first.write_text("1")
    files = Files([str(first), str(second)])
    now = time.monotonic() + RELOAD_SECONDS + 1
    assert files.changed(now) == []
    first.write_text("12")
    second.write_text("2")
    assert files.changed(now + RELOAD_SECONDS / 2) == []
    assert files.changed(now + RELOAD_SECONDS) == [str(first), str(second)]
    assert files.changed(now + 2 * RELOAD_SECONDS) == []
    second.unlink()
    assert files.changed(now + 3 * RELOAD_SECONDS) == [str(second)]
