"""TLS handshakes with backends: their contexts, and why one failed, in words. OpenSSL's own names say it to nobody else."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any

from gevent import ssl as gevent_ssl

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


@lru_cache(maxsize=16)
def client_context(verify: bool, protocols: tuple[str, ...]) -> Any:
    """A context for connections to backends, from TLS 1.2 on, that offers these protocols (ALPN)."""
    # Not create_default_context: in a process that isn't monkey-patched, its context would block all greenlets.
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_default_certs()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
