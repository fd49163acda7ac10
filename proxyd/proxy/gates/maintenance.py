"""Maintenance: a route in maintenance answers 503 with a page, and its backend is not asked.

If MAINT_ENTER named a page, documents get it with status 503 from the service's own maintenance server (proxyd.proxy.gates.pageserver),
and what asks for something else gets that server's answer (proxyd.proxy.gates.standin). Otherwise, or if that server fails, the answer
is the operator's page or the built-in one.
"""

from __future__ import annotations

import html
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from proxyd.base.text import rfc3339
from proxyd.config.options import BackendTls
from proxyd.config.settings import Settings
from proxyd.proxy.core.answers import problem, wants_html
from proxyd.proxy.core.origin import trust_check
from proxyd.proxy.core.refusal import ANSWERED, Page, Refusal
from proxyd.proxy.gates.pageserver import Fetched, PageServers
from proxyd.proxy.gates.standin import answered, asks_for_document
from proxyd.proxy.upstream.parts import Parts

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, Upstream

log = logging.getLogger("proxyd.proxy")

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex"><title>Maintenance: {host}</title><style>
:root{{color-scheme:light dark;--ink:#1d2129;--paper:#f7f7f5;--accent:#2457a6}}
@media(prefers-color-scheme:dark){{:root{{--ink:#e6e6e3;--paper:#16181d;--accent:#8ab4f8}}}}
body{{margin:0;background:var(--paper);color:var(--ink);font:1.0625rem/1.6 system-ui,sans-serif}}
main{{max-width:34rem;margin:0 auto;padding:18vh 1.25rem 3rem}}
h1{{font-size:1.75rem;line-height:1.25;margin:0 0 1rem}}
.rule{{width:3rem;height:.25rem;background:var(--accent);margin:0 0 1.5rem}}
small{{opacity:.85}}code{{font-size:.9em}}
</style></head><body><main><div class="rule" role="presentation"></div>
<h1>Down for maintenance</h1>
<p><strong>{host}</strong> has been closed for maintenance since <time datetime="{since}">{since_shown} UTC</time>. Nothing is wrong with
your connection or your device.</p>
<p>It will be back soon: please try again in {wait}.</p>
<p><small>Request <code>{request_id}</code></small></p></main></body></html>
"""
_DETAIL = "the service is down for maintenance"


def held_in(pool: Pool) -> Upstream | None:
    """The member whose maintenance holds for the pool, one with a page of its own if there is one. None if another one is in service.

    A member in maintenance counts even if it has lost its session, because services restart during maintenance.
    """
    held: Upstream | None = None
    for member in pool.members:
        if not member.maintenance_since:
            if member.enabled:
                return None
            continue
        if held is None or member.maintenance_page_url:
            held = member
    return held


class Maintenance:
    """Chooses the page for a request: from a maintenance server, the operator's own, or the built-in one."""

    def __init__(self, settings: Settings) -> None:
        self._bypasses = trust_check(settings.maintenance.bypass)
        self._retry_after = max(1, round(settings.maintenance.retry_after))
        self._page = _operators_page(settings.maintenance.page)
        self._servers = PageServers()

    def refusal(self, parts: Parts, ex: Exchange, pool: Pool) -> Refusal | None:
        """The refusal with the page, or None if the request may pass because another replica is in service or the client has a bypass.
        ANSWERED if the service's maintenance server has answered."""
        held = held_in(pool)
        if held is None or self._bypasses(ex.client_ip):
            return None
        headers = (("Retry-After", str(self._retry_after)), ("X-Maintenance-Mode", "true"))
        fetched: Fetched | None = None
        if held.maintenance_page_url:
            if asks_for_document(ex):
                fetched = self._from_server(held)
            elif answered(parts, ex, held, self._servers.breaker(held.maintenance_page_url)):
                if ex.counters is not None:
                    ex.counters.maintenance_hits += 1
                if ex.status >= 500:
                    # Planned, whoever says so: it is no error.
                    ex.failure = ex.failure or "maintenance"
                return ANSWERED
        page = Page(fetched.content_type, fetched.body) if fetched is not None else self._built_in(ex, held)
        return Refusal(503, "maintenance", _DETAIL, headers, "maintenance_hits", page)

    def _built_in(self, ex: Exchange, held: Upstream) -> Page:
        if not wants_html(ex.head.get("accept")):
            return problem(503, "maintenance", _DETAIL, ex.request_id, since=rfc3339(held.maintenance_since),
                           retry_after_seconds=self._retry_after)
        if self._page is not None:
            return Page("text/html; charset=utf-8", self._page)
        since = rfc3339(held.maintenance_since)
        page = _PAGE.format(host=html.escape(ex.host), since=since, since_shown=since[:16].replace("T", " "),
                            wait=_in_words(self._retry_after), request_id=html.escape(ex.request_id))
        return Page("text/html; charset=utf-8", page.encode())

    def _from_server(self, held: Upstream) -> Fetched | None:
        """The page with status 503. None if the server fails."""
        page_url, verify = held.maintenance_page_url, held.options.tls_verify
        page = self._servers.get(page_url, BackendTls(verify))
        if page is None or not (200 <= page.status < 300 or page.status == 503):
            return None
        return Fetched(503, page.content_type or "text/html; charset=utf-8", page.body)


class HasMaintenance(Parts, Protocol):
    """What this gate needs of a worker."""

    maintenance: Maintenance


def maintenance(parts: HasMaintenance, ex: Exchange, pool: Pool) -> Refusal | None:
    """The maintenance page, if no replica is in service and the client has no bypass."""
    return parts.maintenance.refusal(parts, ex, pool) if pool.maintained else None


def _in_words(seconds: int) -> str:
    """A time to wait, in words."""
    count, unit = (seconds, "second") if seconds < 120 else (round(seconds / 60), "minute")
    if count >= 120:
        count, unit = round(count / 60), "hour"
    return f"{count} {unit}{'' if count == 1 else 's'}"


def _operators_page(path: str) -> bytes | None:
    """The page of the [maintenance] page setting, read once at start."""
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        log.error("[maintenance] page: can't read %s (%s); the built-in page is shown", path, error.strerror)
        return None
