"""Why a TLS handshake with a backend failed, in words: OpenSSL's own names say it to nobody else."""

from __future__ import annotations

import ssl

_WORDS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
    "HTTP_REQUEST": "the server does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the server does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the server offers no version from TLS 1.2 on",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server offers no version from TLS 1.2 on",
    "TLSV1_UNRECOGNIZED_NAME": "the server has no certificate for this name",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server asks for a client certificate",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "the server refuses the handshake: it may have no certificate for this name, or no cipher in common",
    "UNEXPECTED_EOF_WHILE_READING": "the server closed the connection in the handshake",
}


def fault(error: ssl.SSLError) -> str:
    """The reason of a failed handshake, with OpenSSL's name of it in brackets."""
    reason = error.reason or ""
    if isinstance(error, ssl.SSLCertVerificationError) and error.verify_message:
        return f"the certificate is refused: {error.verify_message.rstrip('.')} ({reason})"
    words = _WORDS.get(reason)
    return f"{words} ({reason})" if words else reason or str(error)
