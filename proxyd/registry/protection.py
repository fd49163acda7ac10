"""What protects the registry beside tokens: TLS, and the refusal to listen where anyone could connect."""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any

from proxyd.base.text import is_loopback
from proxyd.config.sections import RegistrySettings
from proxyd.net.listen import ListenError
from proxyd.net.tls import CertificateError, Files, load_chain

log = logging.getLogger("proxyd.registry")


def check_exposure(settings: RegistrySettings) -> None:
    """Raises ListenError for an address beyond loopback without protection."""
    demands_certificates = settings.tls_certificate and settings.tls_client_ca
    if is_loopback(settings.bind) or settings.tokens_file or demands_certificates or settings.allow_unprotected:
        return
    raise ListenError(
        f"[registry] bind = {settings.bind} is not loopback, and neither tokens_file nor tls_client_ca is set: anyone who "
        "can connect could take your traffic. Set one of them, or allow_unprotected = yes if your network is the protection.")


class RegistryTls:
    """The registry's TLS context. Renewed files are loaded. Raises ListenError if the files can't be used at the start."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._files = Files([path for path in (settings.tls_certificate, settings.tls_client_ca) if path])
        self._current = _context(settings)

    def context(self) -> Any:
        """The context for a new connection. If changed files can't be used, the context loaded before stays."""
        if self._files.changed(time.monotonic()):
            try:
                self._current = _context(self._settings)
                log.info("the registry's certificate was reloaded")
            except ListenError as error:
                log.error("%s; the one loaded before stays in use", error)
        return self._current


def _context(settings: RegistrySettings) -> Any:
    """Raises ListenError."""
    from gevent import ssl as gevent_ssl

    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        load_chain(context, settings.tls_certificate)
        if settings.tls_client_ca:
            context.load_verify_locations(settings.tls_client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except CertificateError as error:
        raise ListenError(f"[registry] tls_certificate: {error}") from None
    except OSError as error:
        raise ListenError(f"[registry] tls_client_ca: can't use {settings.tls_client_ca}: {error}") from None
    return context
