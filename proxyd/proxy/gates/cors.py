"""CORS (Fetch standard 3.2): which pages of other origins may read the answers of a route. Preflights are answered here.

The policy is the route's alone: fields of this kind that its backend sends are taken away when the table is made (proxy/route/table).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from proxyd.proxy.core.refusal import Page, Refusal, refuse

if TYPE_CHECKING:
    from proxyd.config.options import RouteOptions
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool

#: What a preflight may ask for is repeated where `cors_headers` is `*`: names of fields, and not too many of them.
_NAMES = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}(?:[ \t]*,[ \t]*[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}){0,63}")
_VARY = ("Vary", "Origin")
_NOTHING = Page("text/plain", b"")


def allowed(options: RouteOptions, origin: str) -> bool:
    """Whether pages of the origin may read the route's answers."""
    origin = origin.lower()
    scheme, _, host = origin.partition("://")
    for known in options.cors_origins:
        if known in ("*", origin):
            return True
        # One label, as in the domains of routes.
        if "://*." in known and known == f"{scheme}://*{host[host.find('.'):]}" and host.find(".") > 0:
            return True
    return False


def cors(parts: object, ex: Exchange, pool: Pool) -> Refusal | None:
    """Let the answer carry the route's policy, an answer of our own as well. A preflight is answered when the address may come."""
    options = pool.members[0].options
    if not options.cors_origins:
        return None
    everybody = options.cors_origins == ("*",) and not options.cors_credentials
    if not everybody:
        ex.set_headers.append(_VARY)
    origin = ex.head.get("origin")
    if origin is None or not allowed(options, origin):
        return None
    ex.set_headers.append(("Access-Control-Allow-Origin", "*" if everybody else origin))
    if options.cors_credentials:
        ex.set_headers.append(("Access-Control-Allow-Credentials", "true"))
    if options.cors_expose and not _is_preflight(ex):
        ex.set_headers.append(("Access-Control-Expose-Headers", ", ".join(options.cors_expose)))
    return None


def preflight(parts: object, ex: Exchange, pool: Pool) -> Refusal | None:
    """The answer to a preflight, which `cors` has begun. None for other requests. 403 if the origin is none that may come."""
    options = pool.members[0].options
    if not options.cors_origins or not _is_preflight(ex):
        return None
    if not allowed(options, ex.head.get("origin") or ""):
        return refuse("cors_denied", "pages of this origin may not use this service")
    asked = ex.head.get("access-control-request-headers") or ""
    names = ", ".join(options.cors_headers)
    if "*" in options.cors_headers:
        names = asked if _NAMES.fullmatch(asked) else ""
    fields = [("Access-Control-Allow-Methods", ", ".join(options.cors_methods))]
    if names:
        fields.append(("Access-Control-Allow-Headers", names))
    if options.cors_max_age:
        fields.append(("Access-Control-Max-Age", str(int(options.cors_max_age))))
    return Refusal(200, "", "", (*fields, ("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers")), page=_NOTHING)


def _is_preflight(ex: Exchange) -> bool:
    return ex.method == "OPTIONS" and ex.head.get("access-control-request-method") is not None and ex.head.get("origin") is not None
