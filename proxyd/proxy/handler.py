"""The way of a request through the proxy, in the order of the design: match, gates, upstream, forward, record."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

import gevent

from proxyd.base.paths import normalize_host, normalize_path
from proxyd.http1 import ProtocolError
from proxyd.proxy.core import answers as errors
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.headers import client_address, forwarded_secure, kept_request_id, loops, max_forwards
from proxyd.proxy.core.refusal import Refusal
from proxyd.proxy.route import balance
from proxyd.proxy.route.members import Members
from proxyd.proxy.upstream import retry
from proxyd.proxy.upstream.forward import forward
from proxyd.proxy.upstream.pool import UpstreamError
from proxyd.proxy.upstream.relay import ResponseCut

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool
    from proxyd.proxy.runtime import Runtime

log = logging.getLogger("proxyd.proxy")

#: Bodies up to this size are read before the upstream is chosen, so that they can be sent again.
KEPT_BODY = 65536
#: Methods that may be meant for the proxy itself. "-" is what stands for one that could not be read.
_STEERED = frozenset(("CONNECT", "OPTIONS", "TRACE", "-"))
_BY_CIRCUIT = frozenset(("circuit_open", "upstream_down"))


def handle(runtime: Runtime, ex: Exchange) -> None:
    """Answer one exchange. Raises nothing but what ends the greenlet; a client that can't be answered is cut."""
    runtime.busy_watch.add(ex)
    try:
        _serve(runtime, ex)
    except ClientGone:
        ex.failure = ex.failure or ("response_write" if ex.expired == "response_write" else "client_gone")
        ex.status = ex.status or 499
        ex.client.keep_alive = False
    except ResponseCut as cut:
        ex.failure = cut.code
        log.warning("request %s: %s", ex.request_id, cut.detail)
        ex.client.abort()
    except (gevent.GreenletExit, SystemExit):
        raise
    except Exception:
        _internal_error(ex)
    finally:
        runtime.busy_watch.discard(ex)
        _record(runtime, ex)


def _serve(runtime: Runtime, ex: Exchange) -> None:
    try:
        _route(runtime, ex)
    except BodyTimeout:
        code = "total_timeout" if ex.expired == "total_timeout" else "body_timeout"
        _answer(ex, 408, code, "the request body did not arrive in time")
    except ProtocolError as error:
        _answer(ex, error.status, error.code, error.detail)


def _answer(ex: Exchange, status: int, code: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    if ex.response_started:
        raise ResponseCut(code, detail)
    errors.respond(ex, status, code, detail, headers)


def _internal_error(ex: Exchange) -> None:
    error_id = uuid.uuid4().hex[:12]
    log.exception("internal error %s in request %s %s %s", error_id, ex.request_id, ex.method, ex.head.target)
    ex.failure = "internal_error"
    ex.client.keep_alive = False
    try:
        _answer(ex, 500, "internal_error", f"the proxy failed (error {error_id})")
    except (ClientGone, ResponseCut):
        ex.client.abort()


def _route(runtime: Runtime, ex: Exchange) -> None:
    """Find the pool, refuse what must not go there, and forward."""
    head = ex.head
    client = ex.client
    if client.trusted:
        ex.client_ip = client_address(ex, runtime.trusts)
    ex.request_id = (kept_request_id(ex) if head.edge else "") or runtime.next_request_id()
    if head.method in _STEERED and not _may_go_on(ex):
        return None
    if head.edge and loops(ex, runtime.via):
        return _answer(ex, 508, "loop", "the request has been through this proxy before: a backend points back to it")
    ex.host = host = normalize_host(head.host or "")
    ex.path = path = normalize_path(head.path)
    settings = runtime.settings.proxy
    if settings.redirect_https or settings.hsts:
        secure = client.secure or (client.trusted and forwarded_secure(ex))
        if settings.redirect_https and not secure:
            if not host:
                return _answer(ex, 400, "missing_host", "this service is reached by HTTPS, and the request names no host to go to")
            location = (("Location", f"https://{host}{head.path}"),)
            return _answer(ex, 308, "https_only", "this service is reached by HTTPS", location)
        if settings.hsts and secure:
            # Not on plain HTTP, where a browser must not believe it (RFC 6797 7.2).
            ex.set_headers.append(("Strict-Transport-Security", f"max-age={int(settings.hsts)}"))
    pool = runtime.table.match(host, path)
    if pool is None:
        return _unmatched(runtime, ex, host)
    ex.pool = pool
    first = pool.members[0]
    ex.counters = runtime.stats.of(first.route_id)
    limit = first.options.max_body_size or settings.max_body_size
    if limit:
        if head.content_length > limit:
            return _answer(ex, 413, "body_too_large", f"the request body is larger than {limit} bytes")
        ex.upstream_limit = limit
    if first.options.total_timeout:
        ex.total_deadline = ex.started + first.options.total_timeout
    return _through_gates(runtime, ex, pool)


def _may_go_on(ex: Exchange) -> bool:
    """Whether a CONNECT, OPTIONS or TRACE is for somebody behind us; it is answered here where it is not. Raises ProtocolError for a
    request that could not be read."""
    if ex.unread is not None:
        raise ex.unread
    if ex.method == "CONNECT":
        _answer(ex, 405, "connect_refused", "this is not a forward proxy: CONNECT is refused")
        return False
    if max_forwards(ex):
        return True
    if ex.method == "OPTIONS":
        errors.send(ex, 200, "text/plain", b"", ())
    else:
        _answer(ex, 405, "trace_ends_here", "Max-Forwards is 0, and this proxy does not answer TRACE", (("Allow", "OPTIONS"),))
    return False


def _unmatched(runtime: Runtime, ex: Exchange, host: str) -> None:
    table = runtime.table
    if not runtime.ready:
        return _answer(ex, 503, "no_table", "the routes are not loaded yet", (("Retry-After", "1"),))
    if table.knows_host(host):
        return _answer(ex, 404, "no_route", "no route matches this path")
    how = runtime.settings.proxy.unknown_host
    if how == "close":
        ex.failure, ex.status = "unknown_host", 444
        ex.client.abort()
        return None
    return _answer(ex, int(how), "unknown_host", "no route is known for this host")


def _through_gates(runtime: Runtime, ex: Exchange, pool: Pool) -> None:
    """Maintenance, rate limit, then an upstream that takes it: each can refuse, in this order."""
    if pool.maintained and _in_maintenance(runtime, ex, pool):
        return None
    limited = pool.limited
    if limited is not None:
        decision = runtime.limiter.hit(limited, ex.client_ip, time.time())
        if decision is not None:
            if not decision.allowed:
                if ex.counters is not None:
                    ex.counters.rate_limited += 1
                return _answer(ex, 429, "rate_limited", decision.detail, decision.headers)
            ex.set_headers.extend(decision.headers)
    if _keep_body(ex):
        current = _current(runtime, ex)
        if current is None:
            return _unmatched(runtime, ex, ex.host)
        pool = current
        if pool.maintained and _in_maintenance(runtime, ex, pool):
            return None
    return _forward(runtime, ex, pool)


def _in_maintenance(runtime: Runtime, ex: Exchange, pool: Pool) -> bool:
    """Whether the pool is in maintenance for this client, who has been answered then."""
    held = runtime.maintenance.answer(ex, pool)
    if held is None:
        return False
    ex.failure = "maintenance"
    if ex.counters is not None:
        ex.counters.maintenance_hits += 1
    errors.send(ex, held.status, held.content_type, held.body, held.headers)
    return True


def _current(runtime: Runtime, ex: Exchange) -> Pool | None:
    """The request's pool as it is now, after a wait: it may drain, be in maintenance, or be gone meanwhile."""
    found = runtime.table.match(ex.host, ex.path)
    if found is not None:
        ex.pool = found
    return found


def _forward(runtime: Runtime, ex: Exchange, pool: Pool) -> None:
    """Try members of the pool until one answers, or what failed may not be tried again."""
    members = Members(runtime, ex, pool)
    failure: UpstreamError | None = None
    for chosen, admission in members.admitted():
        if chosen.route_id != pool.members[0].route_id or ex.counters is None:
            ex.counters = runtime.stats.of(chosen.route_id)
        if pool.sticky:
            balance.stick(ex, pool, chosen)
        failure = forward(runtime, ex, chosen, admission)
        if failure is None:
            return None
        seconds = retry.verdict(ex, chosen, failure, members.leave)
        if seconds is None or not retry.wait(ex, seconds):
            break
        current = _current(runtime, ex)
        if current is None:
            break
        members.pool = pool = current
        retry.again(runtime, ex, chosen)
        if pool.maintained and _in_maintenance(runtime, ex, pool):
            return None
    if failure is not None:
        return _failed(ex, failure)
    return _refused(ex, members.refusal)


def _keep_body(ex: Exchange) -> bool:
    """Read a small body of known length whole, so that it can go out with the head, and go out again; whether there was one.

    Before an upstream is chosen, since the client may take its time: who is chosen is asked at once.
    """
    client = ex.client
    length = ex.head.content_length
    if not 0 < length <= KEPT_BODY or not client.has_body():
        return False
    if client.expects_continue():
        client.send_continue()
    pieces = []
    while client.has_body():
        pieces.append(client.read_body())
    ex.body = b"".join(pieces)
    ex.bytes_received = length
    return True


def _failed(ex: Exchange, failure: UpstreamError) -> None:
    log.warning("request %s: %s %s%s: %s", ex.request_id, ex.method, ex.host, ex.path, failure.detail)
    return _answer(ex, failure.status, failure.code, failure.detail)


def _refused(ex: Exchange, refusal: Refusal) -> None:
    counters = ex.counters
    if counters is not None:
        if refusal.code in _BY_CIRCUIT:
            counters.circuit_rejected += 1
        elif refusal.code == "draining":
            counters.drain_rejected += 1
    return _answer(ex, refusal.status, refusal.code, refusal.detail, refusal.headers)


def _record(runtime: Runtime, ex: Exchange) -> None:
    """Count and log the exchange; memory only."""
    ended = time.monotonic()
    total = ended - ex.started
    upstream = ex.upstream
    counters = ex.counters or runtime.stats.of("-")
    counters.record(ex.status, total, ex.bytes_sent, ex.bytes_received)
    if upstream is not None:
        options = upstream.options
        # How long a WebSocket was open says nothing about its speed.
        if (options.slow_warning or options.slow_critical) and ex.status != 101:
            runtime.rows.slow(ex, upstream, counters, total)
    if ex.failure:
        runtime.refusals.count(ex.failure)
    access = runtime.access
    if access.enabled:
        access.record(
            ex.head, ex.client_ip, ex.status, ex.bytes_sent, upstream.route_id if upstream is not None else "",
            upstream.authority if upstream is not None else "", ended - ex.upstream_started if ex.upstream_started else 0.0,
            total, ex.request_id, ex.failure)
