"""Error pages: what a client is shown in place of the proxy's own page (option and setting error_pages).

A file has the variables of `base/errorpages`, and its kind goes by Accept. A path of the backend is asked for on another member of the
pool, if there is one, with the short limits and the cache of maintenance pages. Whatever fails leaves the proxy's own page.
"""

from __future__ import annotations

import html
import json
from dataclasses import replace
from typing import TYPE_CHECKING

from proxyd.base.errorpages import ErrorPages, page_for
from proxyd.base.reasons import CLOSED
from proxyd.base.urls import ALWAYS
from proxyd.net import pagefiles
from proxyd.proxy.core.answers import reason_phrase, wants_html
from proxyd.proxy.core.refusal import Page, Refusal
from proxyd.proxy.gates.pageserver import PageServers

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream


class ErrorPageGate:
    """The error pages of a worker. `rules`: those of the settings, for what a route says nothing of, and for requests without a route."""

    def __init__(self, rules: ErrorPages) -> None:
        self._rules = rules
        self._servers = PageServers()
        for rule in rules:
            pagefiles.prepare(rule.page)

    def dressed(self, ex: Exchange, refusal: Refusal) -> Refusal:
        """The refusal with the page that is meant for it. It may wait for a backend, for two seconds at most."""
        status = refusal.status
        if refusal.page is not None or status < 400 or status == CLOSED or ex.response_started:
            return refusal
        own = ex.pool.members[0].options.error_pages if ex.pool is not None else ()
        name = page_for(own, status) or page_for(self._rules, status)
        if not name:
            return refusal
        page = self._from_backend(ex, name, status) if name.startswith("/") else _from_file(ex, name, refusal)
        return refusal if page is None else replace(refusal, page=page)

    def _from_backend(self, ex: Exchange, path: str, status: int) -> Page | None:
        """The page at a path of a member. None if it fails, and for clients that want no HTML."""
        member = _asked(ex)
        if member is None or not wants_html(ex.head.get("accept")):
            return None
        ex.stop_waiting()
        place = member.authority if member.port else f"{member.authority}:"
        scheme = "h2c" if member.http2 == ALWAYS and member.scheme == "http" else member.scheme
        fetched = self._servers.get(f"{scheme}://{place}{member.base_path}{path.replace('{status}', str(status))}", member.tls)
        if fetched is None or not (200 <= fetched.status < 300 or fetched.status == status):
            return None
        return Page(fetched.content_type or "text/html; charset=utf-8", fetched.body)


def _asked(ex: Exchange) -> Upstream | None:
    """The member that is asked for its page: another one than the request failed at, if there is one in service."""
    if ex.pool is None:
        return None
    serving = [member for member in ex.pool.members if member.enabled and not member.maintenance_since]
    return next((member for member in serving if ex.upstream is None or member.route_id != ex.upstream.route_id),
                serving[0] if serving else None)


def _from_file(ex: Exchange, name: str, refusal: Refusal) -> Page | None:
    """The page of a file, in the form that the client prefers. None if there is none in that form."""
    as_html = wants_html(ex.head.get("accept"))
    template = pagefiles.template(name, "html" if as_html else "json")
    if template is None:
        return None
    values = {
        "status": str(refusal.status), "phrase": reason_phrase(refusal.status), "code": refusal.code, "detail": refusal.detail,
        "host": ex.host, "path": ex.head.path.partition("?")[0], "request_id": ex.request_id}
    escaped = html.escape if as_html else _in_json
    text = "".join([escaped(values[part]) if index % 2 else part for index, part in enumerate(template)])
    return Page("text/html; charset=utf-8" if as_html else "application/json", text.encode("utf-8", "replace"))


def _in_json(text: str) -> str:
    """A text as it stands between the quotes of a JSON string."""
    return json.dumps(text)[1:-1]
