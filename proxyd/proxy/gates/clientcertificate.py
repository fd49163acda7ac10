"""Who may use a route only with a certificate (`client_certificate = required`).

The handshake asks for one where a route of the name that the client asked for wants it, and refuses one that is not of the CA. This gate
decides by the route itself: a host may have routes of both kinds, and a connection may carry requests for other hosts than the one that
its handshake was for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.proxy.core.refusal import Refusal, refuse

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool

_REFUSED = refuse("client_certificate", "this service wants a client certificate")
_ELSEWHERE = refuse("misdirected", "this service wants a client certificate, for which this connection was not asked: open another one")


def client_certificate(_: object, ex: Exchange, pool: Pool) -> Refusal | None:
    """403 without a certificate; 421 where the connection's handshake did not ask for one."""
    if pool.members[0].options.client_certificate != "required" or ex.client.certificate is not None:
        return None
    return _REFUSED if ex.client.asked or not ex.client.secure else _ELSEWHERE
