"""Forwards a request to one member of its pool, counts it, and reports the outcome to the member's circuit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.base import clock
from proxyd.proxy.core.upstreams import RETRIES_AT_MOST
from proxyd.proxy.upstream import retry, upgrade, websocket
from proxyd.proxy.upstream.attempt import attempt
from proxyd.proxy.upstream.http2 import attempt_http2
from proxyd.proxy.upstream.parts import leave
from proxyd.proxy.upstream.pieces import ResponseCut
from proxyd.proxy.upstream.pool import UpstreamError

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts


def forward(parts: Parts, ex: Exchange, upstream: Upstream, admission: int) -> UpstreamError | None:
    """Make one attempt at an upstream whose circuit has admitted the request.

    Returns None if the response was sent, else the failure that came before any of it was. Raises ResponseCut, ClientGone,
    BodyTimeout, and ProtocolError (about the client's body).
    """
    circuits = parts.circuits
    counters = ex.counters
    state = upstream.state
    ex.attempts += 1
    if ex.attempts > 1:
        ex.connect_seconds = ex.first_byte_seconds = 0.0
    elif state.retry_budget < RETRIES_AT_MOST:
        state.retry_budget += 1
    state.in_flight += 1
    ex.at_upstream = True
    if counters is not None:
        counters.in_flight += 1
    try:
        if ex.head.upgrade == "websocket":
            websocket.tunnel(parts, ex, upstream, admission)
            return None
        if ex.head.upgrade and (protocols := upgrade.listed(ex, upstream)):
            upgrade.tunnel(parts, ex, upstream, admission, protocols)
            return None
        ask = attempt if not upstream.http2 else attempt_http2
        options = upstream.options
        kept_back = retry.statuses(ex, upstream) if options.retry or options.error_pages_replace else retry.NONE
        if ask(parts, ex, upstream, admission, kept_back):
            return None
        return UpstreamError("status", ex.status, f"upstream_{ex.status}", f"the upstream answered {ex.status}")
    except UpstreamError as error:
        circuits.report(upstream, admission, False, clock.now(), ex.pool)
        return error
    except ResponseCut:
        if ex.expired is None or not ex.expired.of_client:
            circuits.report(upstream, 0, False, clock.now(), ex.pool)
        raise
    except BaseException:
        # This says nothing about the upstream. If a response was begun, the trial has been reported already.
        if not ex.response_started:
            circuits.cancel(upstream, admission)
        raise
    finally:
        if ex.at_upstream:
            leave(parts, ex, upstream)
        if counters is not None:
            counters.in_flight -= 1
