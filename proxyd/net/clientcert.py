"""Certificates of clients: the CA that they must be of, and what is told of one that a client has shown.

Files of CAs are read when a process starts, and again when they change, never by a handshake.
"""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from proxyd.net.tls import CertificateError

log = logging.getLogger("proxyd.tls")

#: By these a backend is told. Nobody else's are passed on.
SUBJECT_FIELD, FINGERPRINT_FIELD = "X-Forwarded-Client-Subject", "X-Forwarded-Client-Fingerprint"
#: Longer subjects are not told: a backend would refuse the whole request.
_LONGEST = 2048
#: Largest file of CAs.
_LARGEST = 4 << 20


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """A certificate that is good. `subject`: RFC 4514, in printable ASCII, empty if it can't be told; `fingerprint`: SHA-256 in lower-case
    hex."""

    subject: str
    fingerprint: str

    @property
    def fields(self) -> tuple[tuple[str, str], ...]:
        """What a backend is told."""
        told = ((SUBJECT_FIELD, self.subject),) if self.subject else ()
        return (*told, (FINGERPRINT_FIELD, self.fingerprint))


def shown_certificate(sock: Any) -> ClientCertificate | None:
    """What the client of a TLS socket has shown; OpenSSL has verified it."""
    data = sock.getpeercert(True)
    if not data:
        return None
    try:
        subject = _printable(x509.load_der_x509_certificate(data).subject.rfc4514_string())
    except ValueError as error:
        log.warning("the subject of a client's certificate can't be read: %s", error)
        subject = ""
    return ClientCertificate(subject if len(subject) <= _LONGEST else "", hashlib.sha256(data).hexdigest())


def _printable(text: str) -> str:
    """The text with all other characters as the hex pairs of their bytes (RFC 4514 2.4)."""
    return "".join([one if " " <= one <= "~" else "".join([f"\\{byte:02X}" for byte in one.encode()]) for one in text])


def read_authorities(path: str) -> bytes:
    """The certificates of CAs in a PEM file, as DER one after the other. Raises CertificateError."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise CertificateError(f"{path} is larger than {_LARGEST} bytes")
        return b"".join(one.public_bytes(Encoding.DER) for one in x509.load_pem_x509_certificates(content))
    except OSError as error:
        raise CertificateError(f"can't read the CAs of clients in {path}: {error.strerror}") from None
    except ValueError:
        raise CertificateError(f"{path} holds no PEM certificates of CAs") from None


_there = False


def use_client_ca(path: str) -> None:
    """Whether routes may ask for certificates of clients: a process that has read its settings says so once."""
    global _there
    _there = bool(path)


def check_client_certificate(value: str) -> None:
    """Raises ValueError for a route that asks for what nobody can verify."""
    if value != "off" and not _there:
        raise ValueError("client_certificate: no CA of clients is known; set [tls] client_ca")
