"""Certificates of the session's domains."""

from __future__ import annotations

import time

from proxyd.base.urls import normalize_domain
from proxyd.registry import fields
from proxyd.registry.caller import Caller
from proxyd.registry.fields import Field
from proxyd.registry.framing import to_json
from proxyd.registry.protocol import CommandError, command
from proxyd.store.sql.certificates import status

TOPIC = "Live state"


@command("CERT_STATUS", TOPIC, Field("domain", fields.anything, "One domain of the session. Empty: all.", True, ""),
         answer="`CERT_STATUS_OK|[{domain, state: valid/ordering/failed/none, not_after, issuer, challenge, error, next_attempt}]`",
         help="Show the certificates of the session's domains.", repeatable=True)
def cert_status(caller: Caller, domain: str) -> str:
    domains = sorted({name for spec in caller.session.routes.values() for name in spec.domains})
    if domain:
        try:
            wanted = normalize_domain(domain)
        except ValueError as error:
            raise CommandError(f"domain: {error}") from None
        if wanted not in domains:
            raise CommandError(f'domain: "{domain}" is not a domain of an active route of this session')
        domains = [wanted]
    return "CERT_STATUS_OK|" + to_json(caller.registry.store.read(status, domains, time.time()))
