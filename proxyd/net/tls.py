"""Certificates of the HTTPS listener: loaded, chosen by SNI, reloaded when their files change.

A certificate that can't be loaded is a clear message and the last good one stays; handshakes never touch a file.
"""

from __future__ import annotations

import logging
import os
import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.x509.oid import NameOID

from proxyd.base.text import split_address
from proxyd.config.sections import TlsSettings

log = logging.getLogger("proxyd.tls")

RELOAD_SECONDS = 2.0

#: What TLS 1.2 may use: Mozilla's list "intermediate", all with forward secrecy and authenticated encryption. Its DHE suites are left out:
#: they need parameters for Diffie-Hellman, and clients of today have ECDHE. TLS 1.3 has only good ones, those of OpenSSL.
_TLS12_CIPHERS = ":".join((
    "ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305", "ECDHE-RSA-CHACHA20-POLY1305"))


class CertificateError(Exception):
    """A certificate file can't be used; the message says which, why, and what it should hold."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a PEM file holds: the names it is for (lower case), and its end in Unix seconds."""

    path: str
    names: tuple[str, ...]
    expires: float
    serial: int


def read_certificate(path: str) -> Certificate:
    """The first certificate of a PEM file (chain and key). Raises CertificateError."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"can't read the certificate {path}: {error.strerror}") from None
    try:
        certificate = x509.load_pem_x509_certificate(content)
    except ValueError:
        raise CertificateError(f"{path} holds no PEM certificate (chain first, key in the same file)") from None
    if b"PRIVATE KEY-----" not in content:
        raise CertificateError(f"{path} holds no private key (append the key to the chain)")
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        names = [name.lower() for name in extension.value.get_values_for_type(x509.DNSName)]
        names += [str(address) for address in extension.value.get_values_for_type(x509.IPAddress)]
    except x509.ExtensionNotFound:
        names = [str(item.value).lower() for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return Certificate(path, tuple(names), certificate.not_valid_after_utc.timestamp(), certificate.serial_number)


def load_chain(context: ssl.SSLContext, path: str) -> None:
    """Load the chain and key of a PEM file. Raises CertificateError; a passphrase is never asked for."""

    def no_passphrase() -> str:
        raise CertificateError(f"the key in {path} is encrypted, and nobody is here to type its passphrase; store it without: "
                               "openssl pkey -in FILE")

    try:
        context.load_cert_chain(path, password=no_passphrase)
    except (OSError, ssl.SSLError) as error:
        if "KEY_VALUES_MISMATCH" in str(error):
            raise CertificateError(f"the key in {path} is not that of its certificate") from None
        raise CertificateError(f"can't use the certificate {path}: {error}") from None


def certificate_problem(path: str) -> str | None:
    """Why a PEM file of chain and key can't be used, or None."""
    try:
        read_certificate(path)
        load_chain(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), path)
    except CertificateError as error:
        return str(error)
    return None


def tls_listeners(names: Sequence[Any], bind: str, plain_bind: str) -> list[bool]:
    """For each listening socket, by its getsockname, whether it is that of the normal-form address `bind`.

    Where none has that very address, those with its port are: a name, or systemd's socket, may be bound otherwise than it
    is written. Not if plain HTTP (`plain_bind`) has the same port elsewhere.
    """
    if bind.startswith("unix:"):
        return [name == bind.removeprefix("unix:") for name in names]
    host, port = split_address(bind)
    try:
        addresses = {host, *(str(found[4][0]) for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))}
    except OSError:
        addresses = {host}
    same_port = [isinstance(name, tuple) and name[1] == port for name in names]
    exact = [same and name[0] in addresses for same, name in zip(same_port, names, strict=True)]
    if any(exact) or (not plain_bind.startswith("unix:") and split_address(plain_bind)[1] == port):
        return exact
    return same_port


def days_left(certificate: Certificate, now: float) -> float:
    """Days until the certificate ends, negative after."""
    return (certificate.expires - now) / 86400


def server_context(tls: TlsSettings) -> ssl.SSLContext:
    """A context for handshakes with clients, without a certificate."""
    from gevent import ssl as gevent_ssl

    context: ssl.SSLContext = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" or tls.ciphers == "modern" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    # All that are left are good, and a client knows which of them its processor is fast at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"] if tls.http2 else ["http/1.1"])
    return context


class MoreCertificates(Protocol):
    """Where names are looked up that no file has."""

    def context_for(self, name: str) -> ssl.SSLContext | None: ...


class Certificates:
    """The certificates of a worker, each file for itself: one that can't be loaded is named in the log, and what it held before
    stays in use. `context` is for new connections, None where no file could be loaded; SNI picks the certificate, the first is
    the default. `more`: asked for names that no file has."""

    def __init__(self, tls: TlsSettings, more: MoreCertificates | None = None) -> None:
        self._tls = tls
        self._paths = paths = tls.certificates
        self._more = more
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._loaded: dict[str, tuple[Certificate, ssl.SSLContext]] = {}
        self._files = Files(paths)
        self.context: ssl.SSLContext | None = None
        self._load(paths)
        if self.context is None and more is not None:
            self.context = server_context(tls)
            self.context.sni_callback = self._choose

    def refresh(self, now: float) -> None:
        """Load the files that changed anew; at most every few seconds. `now`: time.monotonic()."""
        changed = self._files.changed(now)
        if changed and self._load(changed):
            log.info("certificates reloaded")

    def _load(self, paths: Sequence[str]) -> bool:
        """Load files; whether one could be."""
        changed = False
        for path in paths:
            try:
                self._loaded[path] = (read_certificate(path), self._context(path))
                changed = True
            except CertificateError as error:
                log.error("%s; %s", error, "the one loaded before stays in use" if path in self._loaded else "it is not used")
        if changed:
            by_name: dict[str, ssl.SSLContext] = {}
            known = [self._loaded[path] for path in self._paths if path in self._loaded]
            for certificate, context in known:
                for name in certificate.names:
                    by_name.setdefault(name, context)
            self._by_name, self.context = by_name, known[0][1]
        return changed

    def _context(self, path: str) -> ssl.SSLContext:
        context = server_context(self._tls)
        load_chain(context, path)
        context.sni_callback = self._choose
        return context

    def _choose(self, sock: Any, name: str | None, context: ssl.SSLContext) -> int | None:
        """Exact name, then `*.` of its parent, then what is not in a file, else the default certificate stays (RFC 6066 3)."""
        if not name:
            self._unnamed(sock)
            return None
        name = name.lower()
        chosen = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        if chosen is None and self._more is not None:
            try:
                chosen = self._more.context_for(name)
            except CertificateError as error:
                log.error("no certificate for %s: %s", name, error)
            if chosen is None and not self._loaded:
                return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        if chosen is not None and chosen is not context:
            sock.context = chosen
        return None

    def _unnamed(self, sock: Any) -> None:
        """A client that names nobody, and asks for the address that it connected to: a file's certificate, else one for that address."""
        if self._loaded or self._more is None:
            return
        address = sock.getsockname()
        chosen = self._more.context_for(address[0].removeprefix("::ffff:")) if isinstance(address, tuple) else None
        if chosen is not None:
            sock.context = chosen


class Files:
    """Files that somebody else replaces, like renewed certificates. They are looked at when this is made: read them after that, and
    what changes while they are read is seen the next time."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._marks = {path: file_mark(path) for path in paths}
        self._looked = time.monotonic()

    def changed(self, now: float) -> list[str]:
        """Those that changed since the last look; none where that was less than RELOAD_SECONDS ago. `now`: time.monotonic()."""
        if now - self._looked < RELOAD_SECONDS:
            return []
        self._looked = now
        before, self._marks = self._marks, {path: file_mark(path) for path in self._marks}
        return [path for path, mark in self._marks.items() if mark != before[path]]


def file_mark(path: str) -> tuple[int, int]:
    """What tells a file from a later version of it; zeros for one that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
