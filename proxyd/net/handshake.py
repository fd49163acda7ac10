"""TLS handshakes with backends: what a route asks of them, their contexts, and why one failed, in words. OpenSSL's own names say it to
nobody else.

Files that a route names are in one directory (`[proxy] backend_tls`), so no route can use a key that is not meant for backends. They are
read when a worker takes the route up, and again when they change, never by a request.
"""

from __future__ import annotations

import logging
import os
import re
import ssl
from dataclasses import dataclass
from typing import Any

import gevent
from gevent import ssl as gevent_ssl

from proxyd.config.options import BackendTls
from proxyd.config.optionvalues import FILE_NAME
from proxyd.net.tls import RELOAD_SECONDS, CertificateError, file_mark, load_chain, read_certificate

log = logging.getLogger("proxyd.tls")

#: What is offered by ALPN to a backend in HTTP/1.1, and to one that may speak HTTP/2.
HTTP1, EITHER = ("http/1.1",), ("h2", "http/1.1")
_MOST_CONTEXTS = 1000

_WORDS = {
    "WRONG_VERSION_NUMBER": "the server does not speak TLS on this port",
    "HTTP_REQUEST": "the server does not speak TLS on this port",
    "RECORD_LAYER_FAILURE": "the server does not speak TLS on this port",
    "UNSUPPORTED_PROTOCOL": "the server offers no version from TLS 1.2 on",
    "TLSV1_ALERT_PROTOCOL_VERSION": "the server offers no version from TLS 1.2 on",
    "TLSV1_UNRECOGNIZED_NAME": "the server has no certificate for this name",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": "the server asks for a client certificate",
    "SSLV3_ALERT_BAD_CERTIFICATE": "the server refuses the client certificate",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": "the server refuses the client certificate: it is of a kind that it does not take",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": "the server refuses the client certificate",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": "the server refuses the client certificate: it has expired",
    "SSLV3_ALERT_CERTIFICATE_REVOKED": "the server refuses the client certificate: it is revoked",
    "TLSV1_ALERT_UNKNOWN_CA": "the server refuses the client certificate: it does not know its CA",
    "TLSV1_ALERT_ACCESS_DENIED": "the server refuses the client certificate: it may not come in",
    "TLSV1_ALERT_DECRYPT_ERROR": "the server refuses the client certificate: its signature is wrong",
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


def late_fault(error: OSError) -> str:
    """Why a server has refused a handshake that was complete for us; empty for any other error. In TLS 1.3 it looks at the client's
    certificate, or misses it, when the client may be sending already (RFC 8446 4.4)."""
    late = isinstance(error, ssl.SSLError) and "client certificate" in _WORDS.get(error.reason or "", "")
    return f"TLS with the upstream failed: {fault(error)}" if late and isinstance(error, ssl.SSLError) else ""


def wrap(sock: Any, host: str, tls: BackendTls, protocols: tuple[str, ...]) -> Any:
    """TLS on a socket that is connected to a backend, with the handshake done. `protocols`: offered by ALPN. Raises OSError,
    ssl.SSLError among them."""
    return backend_context(tls, protocols).wrap_socket(sock, server_hostname=tls.server_name or host)


def backend_context(tls: BackendTls, protocols: tuple[str, ...]) -> Any:
    """The context for such handshakes. Raises ssl.SSLError if a file can't be used."""
    key = (tls.verify, tls.ca, tls.certificate, protocols)
    found = _contexts.get(key)
    if found is None:
        found = _keep(key)
    if isinstance(found.made, str):
        raise ssl.SSLError(1, found.made)
    return found.made


def prepare(tls: BackendTls) -> None:
    """Read the files now, so that no request has to wait for it. One that can't be used is logged."""
    for protocols in (HTTP1, EITHER):
        try:
            backend_context(tls, protocols)
        except ssl.SSLError as error:
            log.error("TLS with backends: %s", error.strerror)
            return


_Key = tuple[bool, str, str, tuple[str, ...]]


@dataclass(slots=True)
class _Kept:
    """A context, or why there is none, and the marks of the files that it was made of."""

    made: Any
    marks: tuple[tuple[int, int], ...]


_contexts: dict[_Key, _Kept] = {}
_directory = ""
_following: gevent.Greenlet | None = None


def use_directory(path: str) -> None:
    """Look for files there from now on: a process that has read its settings says so once."""
    global _directory
    _directory = path
    _contexts.clear()


def check_file(key: str, name: str) -> None:
    """Raises ValueError if the file that an option names can't be used."""
    if name:
        try:
            _load(_plain_context(True, ()), *((name, "") if key == "tls_ca" else ("", name)))
        except CertificateError as error:
            raise ValueError(f"{key}: {error}") from None


def _keep(key: _Key) -> _Kept:
    global _following
    if len(_contexts) >= _MOST_CONTEXTS:
        _contexts.clear()
    kept = _contexts[key] = _made(key)
    if kept.marks and not _following:
        _following = gevent.spawn(_follow)
    return kept


def _made(key: _Key) -> _Kept:
    verify, ca, certificate, protocols = key
    marks = _marks(key)
    try:
        return _Kept(_load(_plain_context(verify, protocols, not ca), ca, certificate), marks)
    except CertificateError as error:
        return _Kept(str(error), marks)


def _marks(key: _Key) -> tuple[tuple[int, int], ...]:
    return tuple(file_mark(os.path.join(_directory, name)) for name in key[1:3] if name)


def _follow() -> None:
    """Read files again when they change. What can't be used then leaves the last good one in use."""
    while True:
        gevent.sleep(RELOAD_SECONDS)
        for key, kept in list(_contexts.items()):
            if kept.marks and _marks(key) != kept.marks:
                made = _made(key)
                if isinstance(made.made, str):
                    log.error("TLS with backends: %s; what was read before stays in use", made.made)
                    kept.marks = made.marks
                else:
                    _contexts[key] = made


def _plain_context(verify: bool, protocols: tuple[str, ...], system: bool = True) -> Any:
    # Not create_default_context: in a process that isn't monkey-patched, its context would block all greenlets.
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if system:
        context.load_default_certs()
    if protocols:
        context.set_alpn_protocols(list(protocols))
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _load(context: Any, ca: str, certificate: str) -> Any:
    """Load the files into a context. Raises CertificateError."""
    if ca:
        path = _path(ca)
        try:
            with open(path, "rb"):
                context.load_verify_locations(path)
        except OSError as error:
            why = "it holds no PEM certificate" if isinstance(error, ssl.SSLError) else error.strerror
            raise CertificateError(f"can't use the CA file {path}: {why}") from None
    if certificate:
        path = _path(certificate)
        read_certificate(path)
        load_chain(context, path)
    return context


def _path(name: str) -> str:
    if not re.fullmatch(FILE_NAME, name):
        raise CertificateError(f'"{name}" is not the name of a file in {_directory}')
    return os.path.join(_directory, name)
