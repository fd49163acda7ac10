"""The local CA: it signs on the spot for names that no public CA can know, and for names whose certificate is on order."""

from __future__ import annotations

import datetime
import ipaddress
import secrets
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_YEARS = 10
_LEAF_DAYS = 90


def pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    """A private key as PEM text."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def make(now: datetime.datetime) -> tuple[str, str]:
    """A new CA: its certificate and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"proxyd local CA {secrets.token_hex(4)}")])
    certificate = _builder(name, name, key.public_key(), now, 365 * _YEARS).add_extension(
        x509.BasicConstraints(ca=True, path_length=0), critical=True).add_extension(
        x509.KeyUsage(False, False, False, False, False, True, True, False, False), critical=True).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem_of(key)


@dataclass(frozen=True, slots=True)
class LocalAuthority:
    """The local CA, ready to sign."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @staticmethod
    def of(chain: str, key: str) -> LocalAuthority:
        """From PEM texts."""
        private = serialization.load_pem_private_key(key.encode(), None)
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        return LocalAuthority(x509.load_pem_x509_certificate(chain.encode()), private)

    def issue(self, name: str, now: datetime.datetime) -> tuple[str, str]:
        """Certificate and key for a name or an address, as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
        except ValueError:
            alternative = x509.DNSName(name)
        certificate = _builder(self.certificate.subject, x509.Name([]), key.public_key(), now, _LEAF_DAYS).add_extension(
            x509.SubjectAlternativeName([alternative]), critical=True).add_extension(
            x509.BasicConstraints(ca=False, path_length=None), critical=True).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False).add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False).sign(self.key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem_of(key)


def _builder(issuer: x509.Name, subject: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime.datetime,
             days: int) -> x509.CertificateBuilder:
    return x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key).serial_number(
        x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
        now + datetime.timedelta(days=days)).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
