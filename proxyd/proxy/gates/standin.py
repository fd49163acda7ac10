"""A service's own maintenance server as its backend: GET and HEAD that do not ask for a document are forwarded to it.

So a maintenance page can poll for JSON, read a stream and show its images. Documents get the page with 503, see
proxyd.proxy.gates.maintenance.
"""

from __future__ import annotations

import posixpath
import time
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyd.base.urls import parse_backend
from proxyd.config.options import DEFAULT_OPTIONS, tls_of
from proxyd.proxy.core.answers import wants_html
from proxyd.proxy.core.upstreams import Upstream, UpstreamState
from proxyd.proxy.gates.pageserver import CONNECT_TIMEOUT, PATIENCE, Breaker

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.upstream.parts import Parts

#: Destinations of a fetch that show a document (Fetch standard, Sec-Fetch-Dest).
_DOCUMENTS = frozenset(("document", "iframe", "frame", "embed", "object"))
_PAGES = (".html", ".htm", ".php")
#: What the server does not have is asked for in another place, or is in maintenance.
_NOT_THERE = frozenset((404,))
_MODE = ("X-Maintenance-Mode", "true")


def asks_for_document(ex: Exchange) -> bool:
    """Whether the request is a person's who wants a page to look at. A client that says nothing of what it wants is judged by the path."""
    destination = ex.head.get("sec-fetch-dest")
    if destination:
        return destination in _DOCUMENTS
    accept = ex.head.get("accept")
    if accept and accept.strip() != "*/*":
        return wants_html(accept)
    return ex.path.endswith("/") or posixpath.splitext(ex.path)[1].lower() in _PAGES


def answered(parts: Parts, ex: Exchange, held: Upstream, breaker: Breaker) -> bool:
    """Forward the request to the maintenance server of a route. Returns whether its answer is out: False if it fails, or has no such file.

    It is looked for below the page's folder, where a page's relative links mean it, and then in the place that the path names. Raises
    ResponseCut and ClientGone."""
    # Here, because they bring libraries that must come after gevent's patches. The arbiter imports the gates before, once for all workers.
    from proxyd.proxy.upstream.attempt import attempt
    from proxyd.proxy.upstream.pool import UpstreamError

    if ex.method not in ("GET", "HEAD") or ex.head.upgrade or ex.client.has_body() or not breaker.admits(time.monotonic()):
        return False
    ex.set_headers.append(_MODE)
    try:
        for server in _servers(held.maintenance_page_url, held.options.tls_verify):
            if server.base_path and f"{ex.path}/".startswith(f"{server.base_path}/"):
                continue
            own = replace(server, route_id=held.route_id, slot=held.slot, number=held.number, service=held.service, instance=held.instance)
            if attempt(parts, ex, own, 0, _NOT_THERE):
                breaker.ended(True, time.monotonic())
                return True
            breaker.ended(True, time.monotonic())
            ex.begin_again()
    except UpstreamError:
        breaker.ended(False, time.monotonic())
        ex.begin_again()
    ex.stop_waiting()
    ex.set_headers.remove(_MODE)
    ex.upstream, ex.upstream_started = None, 0.0
    return False


@lru_cache(maxsize=256)
def _servers(page_url: str, verify: bool) -> tuple[Upstream, ...]:
    """The page's server, with paths below the page's folder, and with paths as they are."""
    backend = parse_backend(page_url.partition("#")[0].partition("?")[0])
    folder = backend.path.rpartition("/")[0] if not page_url.endswith("/") else backend.path
    options = replace(DEFAULT_OPTIONS, connect_timeout=CONNECT_TIMEOUT, timeout=PATIENCE, tls_verify=verify, pool_size=0)
    return tuple(Upstream(
        route_id="", slot=0, number=0, service="", instance="", session_id="", scheme=backend.scheme, host=backend.host, port=backend.port,
        base_path=path, authority=backend.place, host_field=backend.authority,
        tls=tls_of(options), enabled=True, websocket=False, path="/", priority=0, domains=(), options=options,
        headers=(), rate_limits=(), maintenance_since=0.0, maintenance_page_url="", drain_started_at=0.0, drain_seconds=0.0,
        state=UpstreamState()) for path in dict.fromkeys((folder, "")))
