"""What protects the registry beside tokens: refusing to listen where anybody could come, and TLS."""

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
    """Raises ListenError for an address beyond loopback that nothing protects."""
    demands_certificates = settings.tls_certificate and settings.tls_client_ca
    if is_loopback(settings.bind) or settings.tokens_file or demands_certificates or settings.allow_unprotected:
        return
    raise ListenError(
        f"[registry] bind = {settings.bind} is not loopback, and neither tokens_file nor tls_client_ca is set: anybody who "
        "reaches it could take your traffic. Set one of them, or allow_unprotected = yes if your network is the protection.")


class RegistryTls:
    """TLS of the registry as its settings want it; renewed files are taken up. Raises ListenError where it can't begin."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._files = Files([path for path in (settings.tls_certificate, settings.tls_client_ca) if path])
        self._current = _context(settings)

    def context(self) -> Any:
        """The context for a new connection; of files that can't be used any more, what was loaded before."""
        if self._files.changed(time.monotonic()):
            try:
                self._current = _context(self._settings)
                log.info("the registry's certificate is loaded anew")
            except ListenError as error:
                log.error("%s; what was loaded before stays in use", error)
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
