"""What certificates and TLS contexts are made of: PEM files, ciphers, listeners, files that change.

A certificate that can't be loaded is a clear message; handshakes never touch a file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
    """What a PEM file holds: the names it is for (lower case), its end in Unix seconds, and the kind of its key: `RSA`, `ECDSA` or
    another one. OpenSSL holds one certificate of each kind, and shows each client one that it can read."""

    path: str
    names: tuple[str, ...]
    expires: float
    serial: int
    kind: str


def read_certificate(path: str) -> Certificate:
    """The first certificate of a PEM file (chain and key). Raises CertificateError."""
    return read_pem(path)[0]


def read_pem(path: str) -> tuple[Certificate, bytes]:
    """The first certificate of a PEM file, and all that is in it. Raises CertificateError."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

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
    kind = _kind(certificate.public_key())
    return Certificate(path, tuple(names), certificate.not_valid_after_utc.timestamp(), certificate.serial_number, kind), content


def _kind(key: object) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(key, rsa.RSAPublicKey):
        return "RSA"
    return "ECDSA" if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__


def load_pem(context: ssl.SSLContext, pem: bytes, path: str) -> None:
    """Load chain and key from memory. `path`: where they are from. Raises CertificateError. Python's ssl reads files only, so the kernel
    makes one that has no place on a disk."""
    try:
        with _file_of(pem) as file:
            _load(context, file, path)
    except OSError as error:
        raise CertificateError(f"can't load the certificate {path} from memory: {error}") from None


@contextlib.contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    fd = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left):]
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)


def load_chain(context: ssl.SSLContext, path: str) -> None:
    """Load the chain and key of a PEM file. Raises CertificateError; a passphrase is never asked for."""
    _load(context, path, path)


def _load(context: ssl.SSLContext, file: str, path: str) -> None:

    def no_passphrase() -> str:
        raise CertificateError(f"the key in {path} is encrypted, and nobody is here to type its passphrase; store it without: "
                               "openssl pkey -in FILE")

    try:
        context.load_cert_chain(file, password=no_passphrase)
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


class Trust(NamedTuple):
    """Whose certificates clients may show: CAs as DER one after the other, and their lists of revoked ones as PEM, empty for none."""

    authorities: bytes = b""
    lists: bytes = b""


def server_context(tls: TlsSettings, trust: Trust | None = None) -> ssl.SSLContext:
    """A context for handshakes with clients, without a certificate. `trust`: for those who are asked for theirs."""
    from gevent import ssl as gevent_ssl

    context: ssl.SSLContext = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if tls.min_version == "1.3" or tls.ciphers == "modern" else ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_TLS12_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION
    # All that are left are good, and a client knows which of them its processor is fast at.
    context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(["h2", "http/1.1"] if tls.http2 else ["http/1.1"])
    # OpenSSL makes two for a new session of TLS 1.3, each of which is encrypted twice, a record and a system call. A client that goes on
    # with its session gets another one (RFC 8446 4.6.1).
    context.num_tickets = 1
    if trust is not None and trust.authorities:
        context.load_verify_locations(cadata=trust.authorities)
        if trust.lists:
            # Python takes lists from files only. A CA without a list, or with one that has ended, lets nobody in (RFC 5280 6.3.3).
            with _file_of(trust.lists) as path:
                context.load_verify_locations(cafile=path)
            context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN
    return context


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
