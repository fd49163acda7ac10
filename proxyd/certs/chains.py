"""Keys, requests and chains of certificates, without a CA and without I/O."""

from __future__ import annotations

import base64
import datetime
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from proxyd.certs.proofs import OrderFailed


def new_key(kind: str) -> str:
    """A private key as PEM: `ecdsa256` or `rsa2048`."""
    key = ec.generate_private_key(ec.SECP256R1()) if kind == "ecdsa256" else rsa.generate_private_key(65537, 2048)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def csr_of(domain: str, key: str) -> bytes:
    """The request for one name, as PEM."""
    private: Any = load_pem_private_key(key.encode(), None)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(domain)]), critical=False).sign(private, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def check_chain(chain: str, domain: str, key: str, now: datetime.datetime) -> x509.Certificate:
    """The leaf of a chain that is for this name and key, valid now, each signed by the next. Raises OrderFailed."""
    try:
        found = x509.load_pem_x509_certificates(chain.encode())
    except ValueError:
        raise OrderFailed("that is something else than a chain of certificates") from None
    leaf = found[0]
    private: Any = load_pem_private_key(key.encode(), None)
    if leaf.public_key() != private.public_key():
        raise OrderFailed("the certificate is for another key")
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = []
    if domain not in [name.lower() for name in names]:
        raise OrderFailed(f"the certificate is for other names: {', '.join(names[:5])}")
    if not leaf.not_valid_before_utc <= now < leaf.not_valid_after_utc:
        raise OrderFailed(f"the certificate is valid from {leaf.not_valid_before_utc} to {leaf.not_valid_after_utc}, not now: is this "
                          "host's clock right?")
    for one, signer in zip(found, found[1:], strict=False):
        try:
            one.verify_directly_issued_by(signer)
        except Exception:
            raise OrderFailed("the chain is wrong: a certificate in it is not signed by the next one") from None
    return leaf


def certificate_id(chain: str) -> str | None:
    """How a CA names the leaf of a chain that it issued (RFC 9773 4.1); None for one that does not say who issued it."""
    leaf = x509.load_pem_x509_certificate(chain.encode())
    try:
        issuer = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        return None
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1)
    return f"{_base64url(issuer)}.{_base64url(serial)}" if issuer else None


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
