"""Certificates for tests, made on the spot: an authority, and what it signs."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


class Authority:
    """A certificate authority of its own; `file` is its certificate, for those who are to trust it."""

    def __init__(self, directory: Path, name: str = "test authority") -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._certificate = self._build(self._name, self._key).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True).add_extension(
            x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True).sign(self._key, hashes.SHA256())
        self.file = directory / f"{name.replace(' ', '-')}.pem"
        self.file.write_bytes(self._certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, *names: str, days: float = 90, kind: str = "ecdsa", subject: str = "") -> Path:
        """A PEM file of certificate and key (`ecdsa` or `rsa`) for DNS names or addresses; a file that is there is replaced in one step.
        `subject`: its common name, the first name by default."""
        key = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa" else rsa.generate_private_key(65537, 2048)
        called = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject or names[0])])
        alternatives = x509.SubjectAlternativeName([_general(name) for name in names])
        certificate = self._build(called, key, days).add_extension(alternatives, critical=False).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False).sign(self._key, hashes.SHA256())
        path = self._directory / file
        fresh = path.with_suffix(".new")
        fresh.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
        os.replace(fresh, path)
        return path

    def revoking(self, *revoked: Path, days: float = 7) -> bytes:
        """Its list of revoked certificates, as PEM, that is good for so many days."""
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder().issuer_name(self._name).last_update(
            now - datetime.timedelta(days=2)).next_update(now + datetime.timedelta(days=days))
        for path in revoked:
            serial = x509.load_pem_x509_certificate(path.read_bytes()).serial_number
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(now - datetime.timedelta(days=1)).build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        return ssl.create_default_context(cafile=str(self.file))

    def serving(self, file: str, name: str, *protocols: str) -> ssl.SSLContext:
        """A server's context with a certificate of this authority, that offers protocols by ALPN."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.issue(file, name))
        if protocols:
            context.set_alpn_protocols(list(protocols))
        return context

    def _build(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, days: float = 90) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key.public_key()).serial_number(
            x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=2)).not_valid_after(
            now + datetime.timedelta(days=days)).add_extension(
            x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
