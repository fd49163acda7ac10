"""Which of the master's listeners would be open to anyone who can connect. The start, `proxyd check` and the master all refuse that."""

from __future__ import annotations

from collections.abc import Iterator

from proxyd.base.text import is_loopback
from proxyd.config.settings import Settings


def exposed(settings: Settings) -> Iterator[tuple[str, str]]:
    """Section and reason for each `bind` that is refused. Connects and listens nowhere."""
    registry, admin = settings.registry, settings.admin
    protected = registry.tokens_file or (registry.tls_certificate and registry.tls_client_ca)
    if not (protected or registry.allow_unprotected or is_loopback(registry.bind)):
        yield "registry", (
            f"{registry.bind} is not loopback, and neither tokens_file nor tls_client_ca is set: anyone who can connect could take your "
            "traffic. Set one of them, or allow_unprotected = yes if your network is the protection.")
    if admin.enabled and not (admin.viewer_token_file or admin.allow_unprotected or is_loopback(admin.bind)):
        yield "admin", (
            f"{admin.bind} is not loopback, and reading needs no login: anyone who can connect could see routes, sessions and traffic. "
            "Bind it to loopback, set viewer_token_file, or allow_unprotected = yes if your network is the protection.")
