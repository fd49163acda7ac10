"""Certificates of clients: the CA that they must be of, and what is told of one that a client has shown.

Files of CAs are read when a process starts, and again when they change, never by a handshake.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxyd.config.sections import TlsSettings
from proxyd.net.tls import CertificateError, Trust

if TYPE_CHECKING:
    from cryptography import x509

log = logging.getLogger("proxyd.tls")

#: By these a backend is told. Nobody else's are passed on.
SUBJECT_FIELD, FINGERPRINT_FIELD = "X-Forwarded-Client-Subject", "X-Forwarded-Client-Fingerprint"
#: Longer subjects are not told: a backend would refuse the whole request.
_LONGEST = 2048
#: Largest file of CAs, and of their lists.
_LARGEST = 4 << 20
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----\s*", re.DOTALL)


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


def shown_certificate(tls: Any) -> ClientCertificate | None:
    """What the client of a TLS connection has shown; OpenSSL has verified it."""
    data = tls.getpeercert(True)
    if not data:
        return None
    from cryptography import x509

    try:
        subject = _printable(x509.load_der_x509_certificate(data).subject.rfc4514_string())
    except ValueError as error:
        log.warning("the subject of a client's certificate can't be read: %s", error)
        subject = ""
    return ClientCertificate(subject if len(subject) <= _LONGEST else "", hashlib.sha256(data).hexdigest())


def _printable(text: str) -> str:
    """The text with all other characters as the hex pairs of their bytes (RFC 4514 2.4)."""
    return "".join([one if " " <= one <= "~" else "".join([f"\\{byte:02X}" for byte in one.encode()]) for one in text])


def read_trust(tls: TlsSettings) -> tuple[Trust, float]:
    """What the files of the settings hold, and when the first list of revoked certificates is out of date, in Unix seconds. Raises
    CertificateError: for a CA without a list, too, where there is a file of them, since none of its clients would be let in."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    content = _read(tls.client_ca, "the CAs of clients")
    try:
        authorities = x509.load_pem_x509_certificates(content)
    except ValueError:
        raise CertificateError(f"{tls.client_ca} holds no PEM certificates of CAs") from None
    trust = Trust(b"".join(one.public_bytes(Encoding.DER) for one in authorities))
    if not tls.client_crl:
        return trust, float("inf")
    texts = _LIST.findall(_read(tls.client_crl, "the lists of revoked certificates"))
    try:
        lists = [x509.load_pem_x509_crl(text) for text in texts]
    except ValueError:
        raise CertificateError(f"{tls.client_crl} holds a list that can't be read") from None
    ends = float("inf")
    for authority in authorities:
        mine = [one for one in lists if _is_by(one, authority)]
        if not mine:
            raise CertificateError(f"{tls.client_crl} holds no list of revoked certificates (PEM, X509 CRL) signed by the CA "
                                   f"{authority.subject.rfc4514_string()}")
        ends = min(ends, max(one.next_update_utc.timestamp() if one.next_update_utc else float("inf") for one in mine))
    return trust._replace(lists=b"".join(texts)), ends


def _read(path: str, what: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise CertificateError(f"can't read {what} in {path}: {error.strerror}") from None
    if len(content) > _LARGEST:
        raise CertificateError(f"{path} is larger than {_LARGEST} bytes")
    return content


def _is_by(one: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return one.issuer == authority.subject and one.is_signature_valid(authority.public_key())  # type: ignore[arg-type]
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False


_there = False


def use_client_ca(path: str) -> None:
    """Whether routes may ask for certificates of clients: a process that has read its settings says so once."""
    global _there
    _there = bool(path)


def check_client_certificate(value: str) -> None:
    """Raises ValueError for a route that asks for what nobody can verify."""
    if value != "off" and not _there:
        raise ValueError("client_certificate: no CA of clients is known; set [tls] client_ca")
