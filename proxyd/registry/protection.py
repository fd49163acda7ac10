"""What protects the registry beside tokens: TLS."""

from __future__ import annotations

import logging
import ssl
import time
from typing import Any

from proxyd.config.sections import RegistrySettings
from proxyd.net.listen import ListenError
from proxyd.net.tls import CertificateError, Files, load_chain

log = logging.getLogger("proxyd.registry")


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
