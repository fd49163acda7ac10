"""Maintenance: a matched route whose service is being worked on answers 503 with a page instead of the backend.

The page is the service's own maintenance server's, where MAINT_ENTER named one: its HTML with status 503, its assets as
they are. It is asked with short timeouts, its answers are kept for a moment, and a breaker of its own keeps a dead one
from slowing anybody; then, and without one, there is the operator's page or the built-in one.
"""

from __future__ import annotations

import html
import json
import logging
import posixpath
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pybreaker

from proxyd.proxy.errors import wants_html
from proxyd.proxy.headers import trust_check
from proxyd.settings import Settings
from proxyd.text import rfc3339

if TYPE_CHECKING:
    import requests

    from proxyd.proxy.exchange import Exchange
    from proxyd.proxy.table import Pool, Upstream

log = logging.getLogger("proxyd.proxy")

_CONNECT_TIMEOUT, _READ_TIMEOUT = 0.5, 1.5
_MAX_BODY = 1 << 20
_KEPT_SECONDS = 2.0
_KEPT_PAGES = 64
_BREAKER_FAILURES, _BREAKER_SECONDS = 3, 10.0

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta name="robots" content="noindex"><title>Maintenance: {host}</title><style>
:root{{color-scheme:light dark;--ink:#1d2129;--paper:#f7f7f5;--accent:#2457a6}}
@media(prefers-color-scheme:dark){{:root{{--ink:#e6e6e3;--paper:#16181d;--accent:#8ab4f8}}}}
body{{margin:0;background:var(--paper);color:var(--ink);font:1.0625rem/1.6 system-ui,sans-serif}}
main{{max-width:34rem;margin:0 auto;padding:18vh 1.25rem 3rem}}
h1{{font-size:1.75rem;line-height:1.25;margin:0 0 1rem}}
.rule{{width:3rem;height:.25rem;background:var(--accent);margin:0 0 1.5rem}}
small{{opacity:.75}}code{{font-size:.9em}}
</style></head><body><main><div class="rule" role="presentation"></div>
<h1>Down for maintenance</h1>
<p><strong>{host}</strong> is being worked on since <time datetime="{since}">{since_shown} UTC</time>. Nothing is wrong with your
connection or your device.</p>
<p>It will be back soon: please try again in {wait}.</p>
<p><small>Request <code>{request_id}</code></small></p></main></body></html>
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets instead of the backend's answer."""

    status: int
    content_type: str
    body: bytes
    headers: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Fetched:
    status: int
    content_type: str
    body: bytes


class Maintenance:
    """The gate, with what it keeps of maintenance servers' answers."""

    def __init__(self, settings: Settings) -> None:
        self._bypasses = trust_check(settings.maintenance.bypass)
        self._retry_after = max(1, round(settings.maintenance.retry_after))
        self._page = _operators_page(settings.maintenance.page)
        self._kept: OrderedDict[str, tuple[float, _Fetched]] = OrderedDict()
        self._breakers: dict[str, pybreaker.CircuitBreaker] = {}
        self._session: requests.Session | None = None

    def answer(self, ex: Exchange, pool: Pool) -> Answer | None:
        """The answer, or None where the request may pass: another replica is in service, or the client is let through.

        A member that lost its session holds the page up as well: services restart while they are in maintenance.
        """
        held: Upstream | None = None
        for member in pool.members:
            if not member.maintenance_since:
                if member.enabled:
                    return None
                continue
            if held is None or member.maintenance_page_url:
                held = member
        if held is None or self._bypasses(ex.client_ip):
            return None
        headers = (("Retry-After", str(self._retry_after)), ("X-Maintenance-Mode", "true"), ("X-Proxyd-Reason", "maintenance"))
        if held.maintenance_page_url:
            fetched = self._from_server(ex, held.maintenance_page_url)
            if fetched is not None:
                return Answer(fetched.status, fetched.content_type, fetched.body, headers)
        return self._built_in(ex, held, headers)

    def _built_in(self, ex: Exchange, held: Upstream, headers: tuple[tuple[str, str], ...]) -> Answer:
        if not wants_html(ex.head.get("accept")):
            problem = {"type": "urn:proxyd:maintenance", "title": "Service Unavailable", "status": 503, "code": "maintenance",
                       "detail": "the service is down for maintenance", "since": rfc3339(held.maintenance_since),
                       "retry_after_seconds": self._retry_after, "request_id": ex.request_id}
            return Answer(503, "application/problem+json", (json.dumps(problem) + "\n").encode(), headers)
        if self._page is not None:
            return Answer(503, "text/html; charset=utf-8", self._page, headers)
        since = rfc3339(held.maintenance_since)
        wait = f"{self._retry_after} seconds" if self._retry_after < 120 else f"{round(self._retry_after / 60)} minutes"
        page = _PAGE.format(host=html.escape(ex.host), since=since, since_shown=since[:16].replace("T", " "), wait=wait,
                            request_id=html.escape(ex.request_id))
        return Answer(503, "text/html; charset=utf-8", page.encode(), headers)

    def _from_server(self, ex: Exchange, page_url: str) -> _Fetched | None:
        """The asset that was asked for, or the page with status 503; None when the server fails."""
        path = ex.head.path.partition("?")[0]
        extension = posixpath.splitext(path)[1].lower()
        if ex.method in ("GET", "HEAD") and extension not in ("", ".html", ".htm", ".php"):
            # Put together by hand: joined as a reference, //elsewhere/x.css would be fetched from elsewhere.
            asset = self._fetch(f"{_origin(page_url)}/{ex.path.lstrip('/')}")
            if asset is not None and asset.status == 200 and not asset.content_type.startswith("text/html"):
                return asset
        page = self._fetch(page_url)
        if page is None or page.status >= 400 and page.status != 503:
            return None
        return _Fetched(503, page.content_type or "text/html; charset=utf-8", page.body)

    def _fetch(self, url: str) -> _Fetched | None:
        now = time.monotonic()
        kept = self._kept.get(url)
        if kept is not None and now - kept[0] < _KEPT_SECONDS:
            return kept[1]
        origin = _origin(url)
        breaker = self._breakers.get(origin)
        if breaker is None:
            if len(self._breakers) > 1000:
                self._breakers.clear()
            breaker = self._breakers[origin] = pybreaker.CircuitBreaker(_BREAKER_FAILURES, _BREAKER_SECONDS)
        try:
            # An answer keeps for two seconds, so that the lock pybreaker holds meanwhile is asked for by few.
            fetched: _Fetched = breaker.call(self._get, url)
        except pybreaker.CircuitBreakerError:
            return None
        except Exception as error:
            log.warning("the maintenance server %s failed, showing the built-in page: %s", origin, error)
            return None
        self._kept[url] = (now, fetched)
        if len(self._kept) > _KEPT_PAGES:
            self._kept.popitem(last=False)
        return fetched

    def _get(self, url: str) -> _Fetched:
        import requests  # costs a tenth of a second, which no worker without maintenance should pay

        if self._session is None:
            self._session = requests.Session()
            self._session.trust_env = False
        deadline = time.monotonic() + _READ_TIMEOUT
        with self._session.get(url, timeout=(_CONNECT_TIMEOUT, _READ_TIMEOUT), stream=True, allow_redirects=False) as response:
            pieces, size = [], 0
            for piece in response.iter_content(65536):
                pieces.append(piece)
                size += len(piece)
                if size > _MAX_BODY or time.monotonic() > deadline:
                    raise ValueError(f"{url} is larger than {_MAX_BODY} bytes or too slow")
            return _Fetched(response.status_code, response.headers.get("Content-Type", ""), b"".join(pieces))


def _origin(url: str) -> str:
    """Scheme and authority of a url."""
    return "/".join(url.split("/", 3)[:3])


def _operators_page(path: str) -> bytes | None:
    """The page of the [maintenance] page setting, read once at start."""
    if not path:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        log.error("[maintenance] page: can't read %s (%s); the built-in page is shown", path, error.strerror)
        return None
