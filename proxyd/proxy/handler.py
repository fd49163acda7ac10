"""The path of a request through the proxy, in this order: match, gates, upstream, forward, record."""

from __future__ import annotations

import logging
import time
import uuid
from typing import TYPE_CHECKING

import gevent

from proxyd.base.paths import normalize_host, request_path
from proxyd.base.reasons import CLIENT_GONE, CLOSED
from proxyd.http1 import ProtocolError
from proxyd.proxy.core import grpc
from proxyd.proxy.core.answers import answer
from proxyd.proxy.core.challenges import PREFIX, challenge_answer
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.headers import kept_request_id, loops, max_forwards
from proxyd.proxy.core.origin import identify
from proxyd.proxy.core.phases import REQUEST_BODY, REQUEST_RATE, RESPONSE_RATE, RESPONSE_WRITE, TOTAL
from proxyd.proxy.core.refusal import ANSWERED, Page, Refusal, refuse
from proxyd.proxy.core.whole import read_ahead
from proxyd.proxy.gates import COMMON, GATES, PLAIN
from proxyd.proxy.gates.maintenance import maintenance
from proxyd.proxy.route import balance
from proxyd.proxy.route.choose import HELD
from proxyd.proxy.route.members import Members
from proxyd.proxy.upstream import retry
from proxyd.proxy.upstream.forward import forward
from proxyd.proxy.upstream.pieces import ResponseCut
from proxyd.proxy.upstream.pool import UpstreamError

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, Upstream
    from proxyd.proxy.runtime import Runtime
    from proxyd.proxy.upstream.places import Place

log = logging.getLogger("proxyd.proxy")

#: Bodies up to this size are read before the upstream is chosen, so that they can be sent again.
KEPT_BODY = 65536
#: Methods that may be meant for the proxy itself. "-" stands for a request that could not be read.
_STEERED = frozenset(("CONNECT", "OPTIONS", "TRACE", "-"))
_OPTIONS = Refusal(200, "", "", page=Page("text/plain", b""))


def handle(runtime: Runtime, ex: Exchange) -> None:
    """Answer one exchange. A client that can't be answered is disconnected. Raises only what ends the greenlet."""
    runtime.busy_watch.add(ex)
    try:
        _serve(runtime, ex)
    except ClientGone:
        slow = ex.expired is RESPONSE_WRITE or ex.expired is RESPONSE_RATE
        ex.failure = ex.failure or (ex.expired.reason if ex.expired is not None and slow else "client_gone")
        ex.end_unanswered(CLIENT_GONE)
        ex.client.close_after()
    except ResponseCut as cut:
        ex.failure = cut.code
        log.warning("request %s: %s", ex.request_id, cut.detail)
        if not grpc.end_cut(ex, cut.code, cut.detail, cut.error):
            ex.client.abort()
    except (gevent.GreenletExit, SystemExit):
        raise
    except Exception:
        _internal_error(ex)
    finally:
        runtime.busy_watch.discard(ex)
        if ex.lasting:
            runtime.busy_watch.forget(ex)
        if runtime.clients is not None:
            runtime.clients.end(ex)
        _record(runtime, ex)


def _serve(runtime: Runtime, ex: Exchange) -> None:
    try:
        refusal = _route(runtime, ex)
    except BodyTimeout:
        cause = ex.expired if ex.expired is TOTAL or ex.expired is REQUEST_RATE else REQUEST_BODY
        refusal = Refusal(408, cause.reason, "the request body did not arrive in time")
    except ProtocolError as error:
        refusal = Refusal(error.status, error.code, error.detail)
    if refusal is not None and refusal is not ANSWERED:
        _refuse(ex, runtime.error_pages.dressed(ex, refusal))


def _refuse(ex: Exchange, refusal: Refusal) -> None:
    if ex.response_started:
        raise ResponseCut(refusal.code, refusal.detail)
    answer(ex, refusal)


def _internal_error(ex: Exchange) -> None:
    error_id = uuid.uuid4().hex[:12]
    log.exception("internal error %s in request %s %s %s", error_id, ex.request_id, ex.method, ex.head.target)
    ex.failure = "internal_error"
    ex.client.close_after()
    try:
        _refuse(ex, refuse("internal_error", f"the proxy failed (error {error_id})"))
    except (ClientGone, ResponseCut):
        ex.client.abort()


def _route(runtime: Runtime, ex: Exchange) -> Refusal | None:
    """Take the request through all steps. Each step can refuse it. Returns the refusal, or None when an answer is out."""
    head = ex.head
    client = ex.client
    if client.trusted and head.edge and (origin := identify(client, head, runtime.trusts)) is not None:
        ex.origin = origin
        ex.client_ip = origin.address
    ex.request_id = (kept_request_id(ex) if head.edge else "") or runtime.next_request_id()
    if runtime.tracer is not None:
        ex.trace = runtime.tracer.begin(ex)
    if runtime.clients is not None and (refusal := runtime.clients.enter(ex)) is not None:
        return refusal
    if head.method in _STEERED and (refusal := _steered(ex)) is not None:
        return refusal
    if head.edge and loops(ex, runtime.via):
        return refuse("loop", "the request has been through this proxy before: a backend points back to it")
    ex.host = normalize_host(head.host or "")
    ex.path, readings = request_path(head.path)
    certificates = runtime.certificates
    if (certificates is not None and certificates.challenges and head.path.startswith(PREFIX)
            and (refusal := challenge_answer(certificates.challenges, head.path)) is not None):
        return refusal
    settings = runtime.settings.proxy
    if (settings.redirect_https or settings.hsts) and (refusal := _over_https(runtime, ex)) is not None:
        return refusal
    if ex.started > runtime.sync.valid_until and not runtime.sync.catch_up():
        return refuse("stale_table", "a newer configuration is known, but could not be read", (("Retry-After", "1"),))
    pool = runtime.table.match(ex.host, ex.path, head)
    if pool is None:
        return _unmatched(runtime, ex)
    ex.pool = pool
    first = pool.members[0]
    ex.counters = runtime.stats.of(first.route_id)
    if (certificates is not None and not ex.secure and first.options.tls_redirect and first.options.tls == "auto"
            and certificates.served.covers(ex.host)):
        return _to_https(runtime, ex)
    if (readings and first.options.ambiguous_path == "refuse"
            and any(runtime.table.match(ex.host, reading, head) is not pool for reading in readings)):
        return refuse("ambiguous_path", "a backend may read this path as one of another route")
    if first.options.total_timeout:
        ex.total_deadline = ex.started + first.options.total_timeout
    if head.te_trailers and grpc.is_grpc(head):
        ex.total_deadline = min(ex.total_deadline, ex.started + grpc.time_limit(head))
    for gate in GATES if pool.guarded else COMMON if pool.maintained or pool.limited is not None else PLAIN:
        refusal = gate(runtime, ex, pool)
        if refusal is not None:
            return refusal
    if (head.content_length > 0 or head.chunked) and _keep_body(runtime, ex, first.options.request_buffer):
        current = _current(runtime, ex)
        if current is None:
            return _unmatched(runtime, ex)
        pool = current
        if (refusal := maintenance(runtime, ex, pool)) is not None:
            return refusal
    try:
        return _forward(runtime, ex, pool)
    finally:
        if ex.kept is not None:
            ex.kept.close()


def _steered(ex: Exchange) -> Refusal | None:
    """The answer to a request for the proxy itself, or to one that could not be read. None for a request meant for a backend."""
    if ex.unread is not None:
        return Refusal(ex.unread.status, ex.unread.code, ex.unread.detail)
    if ex.method == "CONNECT":
        return refuse("connect_refused", "this is not a forward proxy: CONNECT is refused")
    if max_forwards(ex):
        return None
    if ex.method == "OPTIONS":
        return _OPTIONS
    return refuse("trace_ends_here", "Max-Forwards is 0, and this proxy does not answer TRACE", (("Allow", "OPTIONS"),))


def _over_https(runtime: Runtime, ex: Exchange) -> Refusal | None:
    """Redirect a client from HTTP to HTTPS, and add Strict-Transport-Security for a client on HTTPS, as the settings say."""
    settings = runtime.settings.proxy
    if settings.redirect_https and not ex.secure:
        return _to_https(runtime, ex)
    if settings.hsts and ex.secure:
        # Only on HTTPS: a browser must ignore the field on plain HTTP (RFC 6797 7.2).
        ex.set_headers.append(("Strict-Transport-Security", f"max-age={int(settings.hsts)}"))
    return None


def _to_https(runtime: Runtime, ex: Exchange) -> Refusal:
    """The redirect to the same place over HTTPS."""
    host = ex.host if ex.origin is None else normalize_host(ex.origin.host)
    if not host:
        return refuse("missing_host", "this service is reached by HTTPS, and the request names no host to go to")
    port = runtime.settings.tls.public_port
    where = host if port == 443 else f"{host}:{port}"
    return refuse("https_only", "this service is reached by HTTPS", (("Location", f"https://{where}{ex.head.path}"),))


def _unmatched(runtime: Runtime, ex: Exchange) -> Refusal:
    if not runtime.ready:
        return refuse("no_table", "the routes are not loaded yet", (("Retry-After", "1"),))
    if runtime.table.knows_host(ex.host):
        return refuse("no_route", "no route matches this request")
    if runtime.certificates is not None and runtime.certificates.served.covers(ex.host):
        return refuse("no_service", "this host has a certificate, but no service is registered for it now", (("Retry-After", "5"),))
    how = runtime.settings.proxy.unknown_host
    return Refusal(CLOSED if how == "close" else int(how), "unknown_host", "no route is known for this host")


def _current(runtime: Runtime, ex: Exchange) -> Pool | None:
    """The request's pool as it is now. During a wait it may have begun to drain, entered maintenance or vanished."""
    if time.monotonic() > runtime.sync.valid_until:
        runtime.sync.catch_up()
    found = runtime.table.match(ex.host, ex.path, ex.head)
    if found is not None:
        ex.pool = found
    return found


def _forward(runtime: Runtime, ex: Exchange, pool: Pool) -> Refusal | None:
    """Take the request to a member of the pool. If none can take it now, and the route holds its requests, wait until one can."""
    holds = runtime.holds
    refusal = HELD if holds.queues and pool.key in holds.queues else _ask_members(runtime, ex, pool)
    until = 0.0
    while refusal is not None and (until := holds.until(ex, pool, refusal, until)):
        ended = holds.wait(ex, pool, until)
        if ended is not None:
            return ended
        current = _current(runtime, ex)
        if current is None:
            return _unmatched(runtime, ex)
        pool = current
        refusal = maintenance(runtime, ex, pool) or _ask_members(runtime, ex, pool)
    return refusal


def _ask_members(runtime: Runtime, ex: Exchange, pool: Pool, place: Place | None = None) -> Refusal | None:
    """Try members of the pool until one answers, or the failed request may not be tried again. `place`: a place that the request
    has at one of them."""
    members = Members(runtime, ex.head, ex.client_ip, pool)
    failure: UpstreamError | None = None
    for chosen, admission in members.admitted(place):
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
        if (refusal := maintenance(runtime, ex, pool)) is not None:
            return refusal
    if failure is None:
        return _queue(runtime, ex, members.full) if members.full else members.refusal
    log.warning("request %s: %s %s%s: %s", ex.request_id, ex.method, ex.host, ex.path, failure.detail)
    return Refusal(failure.status, failure.code, failure.detail)


def _queue(runtime: Runtime, ex: Exchange, full: tuple[Upstream, ...]) -> Refusal | None:
    """Wait for a place at one of the members that are full, then go on as if the request had just come."""
    place = runtime.places.wait(ex, full)
    if isinstance(place, Refusal):
        return place
    try:
        pool = _current(runtime, ex)
        if pool is None:
            return _unmatched(runtime, ex)
        if (refusal := maintenance(runtime, ex, pool)) is not None:
            return refusal
        return _ask_members(runtime, ex, pool, place)
    finally:
        place.give_back()


def _keep_body(runtime: Runtime, ex: Exchange, buffer: int) -> bool:
    """Read a small body of known length as a whole, so that it can be sent with the head, and sent again. Returns whether it did.

    With the option request_buffer (`buffer`: its bytes), other bodies are read too, as far as there is room.

    This comes before an upstream is chosen. The client may send slowly, and the choice must be fresh when the request is sent.
    """
    client = ex.client
    length = ex.head.content_length
    if not client.has_body():
        return False
    if length > KEPT_BODY or length < 0:
        if buffer:
            read_ahead(runtime.storage, ex, buffer)
        return bool(buffer)
    if client.expects_continue():
        client.send_continue()
    pieces = []
    while client.has_body():
        pieces.append(client.read_body())
    ex.body = b"".join(pieces)
    ex.bytes_received = length
    return True


def _record(runtime: Runtime, ex: Exchange) -> None:
    """Count and log the exchange, in memory only."""
    ended = time.monotonic()
    total = ended - ex.started
    upstream = ex.upstream
    counters = ex.counters or runtime.stats.of("-")
    counters.record(ex.status, total, ex.bytes_sent, ex.bytes_received, ex.failure)
    if upstream is not None:
        options = upstream.options
        # The life of a WebSocket says nothing about the speed of its backend.
        if (options.slow_warning or options.slow_critical) and ex.status != 101:
            runtime.rows.slow(ex, upstream, counters, total)
        if options.slo_latency is not None and total > options.slo_latency.seconds and ex.status != 101:
            counters.late += 1
    # A request that was refused belongs to the route that it matched.
    member = upstream or (ex.pool.members[0] if ex.pool is not None else None)
    if ex.failure:
        runtime.refusals.count(ex.failure)
    if ex.failure or ex.status >= 500:
        runtime.errors.record(ex, member)
    if ex.trace is not None and runtime.tracer is not None:
        runtime.tracer.end(ex, ex.trace, member, ended)
    if runtime.watched.places and member is not None:
        runtime.watched.record(ex, member, ended)
    access = runtime.access
    if access.enabled:
        access.record(
            ex.head, ex.client_ip, ex.status, ex.bytes_sent, member.route_id if member is not None else "",
            upstream.authority if upstream is not None else "", ended - ex.upstream_started if ex.upstream_started else 0.0,
            total, ex.request_id, ex.failure, member.service if member is not None else "", ex.user)
