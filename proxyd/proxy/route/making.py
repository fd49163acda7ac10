"""Makes a worker's upstream of a route's row: what the row says, and beneath it what the settings say for all routes."""

from __future__ import annotations

import logging
from dataclasses import replace

from proxyd.base.conditions import NAMES
from proxyd.base.text import route_number
from proxyd.base.urls import parse_backend
from proxyd.base.variables import SetFields
from proxyd.config.defaults import beneath, defaults
from proxyd.config.options import RouteOptions, parse_option, route_options, tls_of
from proxyd.net import pagefiles
from proxyd.net.handshake import prepare
from proxyd.proxy.core.setfields import REMOVED, prepared
from proxyd.proxy.core.upstreams import Upstream, UpstreamState
from proxyd.store.sql.snapshot import RouteRecord

log = logging.getLogger("proxyd.proxy")


def upstream_of(record: RouteRecord, old: Upstream | None) -> Upstream | None:
    """The upstream of a row. A row that can't be read is left out and logged, because the others must go on."""
    try:
        backend = parse_backend(record.backend_url)
        options = _options(record)
    except ValueError as error:
        log.error("route %s is ignored: %s", record.route_id, error)
        return None
    if options.send_proxy != "off":
        # Each connection says whose it is.
        options = replace(options, pool_size=0)
    for rule in options.error_pages:
        if not rule.page.startswith("/"):
            pagefiles.prepare(rule.page)
    tls = tls_of(options)
    if tls.ca or tls.certificate:
        prepare(tls)
    same = old is not None and (old.scheme, old.host, old.port, old.tls) == (backend.scheme, backend.host, backend.port, tls)
    state = old.state if old is not None and same else UpstreamState()
    strip = record.path if options.strip_prefix == "true" else options.strip_prefix
    strip = "" if strip == "/" else strip
    rewrite = options.rewrite
    if rewrite is not None and rewrite.prefix:
        strip = rewrite.prefix
    keeps_host = options.preserve_host and not options.upstream_host
    return Upstream(
        route_id=record.route_id, slot=record.slot, number=route_number(record.route_id),
        service=record.service, instance=record.instance, session_id=record.session_id, scheme=backend.scheme,
        host=backend.host, port=backend.port, base_path=backend.path, authority=backend.place, enabled=record.enabled,
        websocket=options.websocket or backend.websocket, path=record.path, priority=record.priority, domains=record.domains,
        options=options, headers=_headers(record, options), rate_limits=record.rate_limits, maintenance_since=record.maintenance_since,
        maintenance_page_url=record.maintenance_page_url, drain_started_at=record.drain_started_at,
        drain_seconds=record.drain_seconds, state=state, held_until=record.held_until,
        request_headers=_request_headers(record, options), strip=strip, puts_back=bool(strip) or not keeps_host,
        http2=backend.spoken(options.http2), host_field=options.upstream_host or backend.authority, keeps_host=keeps_host,
        tls=tls, instead=rewrite.new if rewrite is not None else "", plain=not strip and not backend.path and rewrite is None,
        rollout=record.rollout, answer=backend.answer)


#: Fields of CORS (Fetch standard 3.2.3) that an answer has from its route or from its backend, but not from both.
_CORS = tuple((f"Access-Control-{name}", REMOVED) for name in (
    "Allow-Origin", "Allow-Credentials", "Expose-Headers", "Allow-Methods", "Allow-Headers", "Max-Age"))


def _headers(record: RouteRecord, options: RouteOptions) -> SetFields:
    """The fields that answers get. With a policy of the route's own, the backend's fields of CORS are taken away."""
    fields = prepared(beneath(record.headers, defaults().headers))
    return (*_CORS, *fields) if options.cors_origins else fields


def _request_headers(record: RouteRecord, options: RouteOptions) -> SetFields:
    """The fields that requests get. With a login, what says who the user is must not come from the client, and no backend needs a
    password that has been checked here."""
    fields = prepared(beneath(record.request_headers, defaults().request_headers))
    taken = options.forward_auth_headers if options.forward_auth is not None else ()
    if options.basic_auth:
        taken = ("Authorization", "Remote-User")
    if not taken:
        return fields
    declared = {name.lower() for name, _ in fields}
    return (*((name, REMOVED) for name in taken if name.lower() not in declared), *fields)


def _options(record: RouteRecord) -> RouteOptions:
    """The options of a row, without those that can't be read. Raises ValueError for conditions: the route would take every request."""
    try:
        return route_options(record.options)
    except ValueError:
        good = []
        for key, value in record.options:
            try:
                parse_option(key, value)
            except ValueError as error:
                if key in NAMES:
                    raise
                log.error("route %s: option ignored: %s", record.route_id, error)
            else:
                good.append((key, value))
        return route_options(tuple(good))
