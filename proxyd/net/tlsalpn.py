"""The challenge tls-alpn-01 (RFC 8737): the first message of a client that may be a CA's, and the certificate that it is shown.

Python's ssl tells nobody what a client offers by ALPN before it chooses a certificate, so the ClientHello is looked at where it still
lies in the socket. That is done only while a name is to be proved.
"""

from __future__ import annotations

import datetime
import hashlib
import socket
import struct
from typing import Any

import gevent.socket
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from proxyd.net.localca import pem_of

PROTOCOL = "acme-tls/1"

#: RFC 8737 3: the extension that holds the digest, as an OCTET STRING of 32 bytes.
_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
_OCTETS = b"\x04\x20"
_RECORD_HEAD = 5
_HANDSHAKE, _CLIENT_HELLO = 22, 1
_SERVER_NAME, _ALPN = 0, 16
#: RFC 8446 5.1: longest record in the clear.
_LONGEST = 1 << 14
_ONLY = bytes([len(PROTOCOL)]) + PROTOCOL.encode()


def proof_asked(sock: Any) -> str | None:
    """The name that a CA wants to see proved on a new connection, in lower case; None if this is anybody else. It waits for the client's
    first record, and takes nothing off the gevent socket. Raises OSError."""
    head = _peek(sock, _RECORD_HEAD)
    if len(head) < _RECORD_HEAD or head[0] != _HANDSHAKE:
        return None
    length = int.from_bytes(head[3:5])
    if length > _LONGEST:
        return None
    return name_of_proof(_peek(sock, _RECORD_HEAD + length)[_RECORD_HEAD:])


def _peek(sock: Any, size: int) -> bytes:
    """So many bytes, fewer of a client that has ended."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, size)
    try:
        gevent.socket.wait_read(sock.fileno())
        return bytes(sock.recv(size, socket.MSG_PEEK))
    finally:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)


def name_of_proof(message: bytes) -> str | None:
    """The server name in a ClientHello (RFC 8446 4.1.2) that offers `acme-tls/1` and nothing else, as a CA must; None for any other
    message, malformed ones among them."""
    try:
        if message[0] != _CLIENT_HELLO:
            return None
        at = 4 + 2 + 32
        at += 1 + message[at]
        at += 2 + _short(message, at)
        at += 1 + message[at]
        end = at + 2 + _short(message, at)
        at += 2
        found: dict[int, bytes] = {}
        while at < end:
            kind, size = _short(message, at), _short(message, at + 2)
            found[kind] = message[at + 4:at + 4 + size]
            at += 4 + size
        name = found.get(_SERVER_NAME, b"")
        if found.get(_ALPN, b"")[2:] != _ONLY or name[2] != 0 or len(name) != 5 + _short(name, 3):
            return None
        return name[5:].decode("ascii").lower()
    except (IndexError, struct.error, UnicodeDecodeError):
        return None


def _short(message: bytes, at: int) -> int:
    return int(struct.unpack_from("!H", message, at)[0])


def proof(name: str, answer: str, now: datetime.datetime) -> tuple[str, str]:
    """Certificate and key as PEM that prove a name. `answer`: the key authorization (RFC 8555 8.1)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([])
    day = datetime.timedelta(days=1)
    certificate = x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key()).serial_number(
        x509.random_serial_number()).not_valid_before(now - day).not_valid_after(now + day).add_extension(
        x509.SubjectAlternativeName([x509.DNSName(name)]), critical=True).add_extension(
        x509.UnrecognizedExtension(_IDENTIFIER, _OCTETS + hashlib.sha256(answer.encode()).digest()), critical=True).sign(
        key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), pem_of(key)
