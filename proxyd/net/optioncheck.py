"""What of an option's value can't be judged by the text alone: targets that it names, and files of this host."""

from __future__ import annotations

from proxyd.base.errorpages import parse_error_pages
from proxyd.base.gateapi import check_installed, parse_gates
from proxyd.net.clientcert import check_client_certificate
from proxyd.net.handshake import check_file
from proxyd.net.pagefiles import check_page
from proxyd.net.targets import rules


def check_on_host(key: str, value: str) -> None:
    """Look at an option's value, which parses, in the process that stages it. Raises ValueError."""
    if key == "health_check_path":
        rules().check_health(value.strip())
    elif key == "forward_auth" and value.strip():
        rules().check_url(value.strip().partition("?")[0])
    elif key in ("tls_ca", "tls_client_certificate"):
        check_file(key, value.strip())
    elif key == "client_certificate":
        check_client_certificate(value.strip())
    elif key == "gates":
        check_installed(parse_gates(value))
    elif key == "error_pages":
        for rule in parse_error_pages(value):
            if not rule.page.startswith("/"):
                check_page(rule.page)
