"""The challenge tls-alpn-01 (RFC 8737): who is a CA, and the certificate that it is shown."""

from __future__ import annotations

import datetime
import hashlib

from proxyd.net.hello import Hello

PROTOCOL = "acme-tls/1"

#: RFC 8737 3: the extension that holds the digest, as an OCTET STRING of 32 bytes.
_IDENTIFIER = "1.3.6.1.5.5.7.1.31"
_OCTETS = b"\x04\x20"
_ONLY = bytes([len(PROTOCOL)]) + PROTOCOL.encode()


def wants_proof(hello: Hello) -> bool:
    """Whether this is a CA that wants to see the name proved: it offers this protocol and nothing else."""
    return hello.protocols == _ONLY


def proof(name: str, answer: str, now: datetime.datetime) -> tuple[str, str]:
    """Certificate and key as PEM that prove a name. `answer`: the key authorization (RFC 8555 8.1)."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from proxyd.net.localca import pem_of

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([])
    day = datetime.timedelta(days=1)
    certificate = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(
        x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True).add_extension(
        x509.UnrecognizedExtension(x509.ObjectIdentifier(_IDENTIFIER), _OCTETS + hashlib.sha256(answer.encode()).digest()),
        critical=True).sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem_of(key)
