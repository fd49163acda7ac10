"""Certificates of the HTTPS listener: loaded, chosen by SNI, reloaded when their files change.

A certificate that can't be loaded is a clear message and the last good one stays; handshakes never touch a file.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

log = logging.getLogger("proxyd.tls")

RELOAD_SECONDS = 2.0


class CertificateError(Exception):
    """A certificate file can't be used; the message says which, why, and what it should hold."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a PEM file holds: the names it is for (lower case), its end in Unix seconds, and the file's mark."""

    path: str
    names: tuple[str, ...]
    expires: float
    serial: int
    mark: tuple[int, int]


def read_certificate(path: str) -> Certificate:
    """The first certificate of a PEM file (chain and key). Raises CertificateError."""
    try:
        content = Path(path).read_bytes()
        status = os.stat(path)
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
    return Certificate(path, tuple(names), certificate.not_valid_after_utc.timestamp(), certificate.serial_number,
                       (status.st_mtime_ns, status.st_size))


def days_left(certificate: Certificate, now: float) -> float:
    """Days until the certificate ends, negative after."""
    return (certificate.expires - now) / 86400


class Certificates:
    """The certificates of a worker. `context` is for new connections; SNI picks the certificate, the first is the default.

    Raises CertificateError when one can't be loaded at the start; later the last good set stays.
    """

    def __init__(self, paths: tuple[str, ...], min_version: str, protocols: list[str]) -> None:
        self._paths = paths
        self._minimum = ssl.TLSVersion.TLSv1_3 if min_version == "1.3" else ssl.TLSVersion.TLSv1_2
        self._protocols = protocols
        self._by_name: dict[str, ssl.SSLContext] = {}
        self._marks: dict[str, tuple[int, int]] = {}
        self._checked = time.monotonic()
        self.context = self._load()

    def refresh(self, now: float) -> None:
        """Load the files anew if one changed; at most every few seconds. `now`: time.monotonic()."""
        if now - self._checked < RELOAD_SECONDS:
            return
        self._checked = now
        if {path: _mark(path) for path in self._paths} == self._marks:
            return
        try:
            self.context = self._load()
            log.info("certificates reloaded")
        except CertificateError as error:
            log.error("%s; the certificates loaded before stay in use", error)
            self._marks = {path: _mark(path) for path in self._paths}

    def _load(self) -> ssl.SSLContext:
        by_name: dict[str, ssl.SSLContext] = {}
        marks: dict[str, tuple[int, int]] = {}
        default: ssl.SSLContext | None = None
        for path in self._paths:
            certificate = read_certificate(path)
            context = self._context(path)
            marks[path] = certificate.mark
            default = default or context
            for name in certificate.names:
                by_name.setdefault(name, context)
        if default is None:
            raise CertificateError("[tls] bind is set, but [tls] certificates names no file")
        self._by_name, self._marks = by_name, marks
        return default

    def _context(self, path: str) -> ssl.SSLContext:
        from gevent import ssl as gevent_ssl

        context: ssl.SSLContext = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._minimum
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(self._protocols)
        try:
            context.load_cert_chain(path)
        except (OSError, ssl.SSLError) as error:
            raise CertificateError(f"can't use the certificate {path}: {error}") from None
        context.sni_callback = self._choose
        return context

    def _choose(self, sock: Any, name: str | None, context: ssl.SSLContext) -> None:
        """Exact name, then `*.` of its parent, else the default certificate stays (RFC 6066 3)."""
        if not name:
            return
        name = name.lower()
        chosen = self._by_name.get(name) or self._by_name.get("*." + name.partition(".")[2])
        if chosen is not None and chosen is not context:
            sock.context = chosen


def _mark(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return (0, 0)
    return (status.st_mtime_ns, status.st_size)
