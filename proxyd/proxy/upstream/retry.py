"""Retries: which requests are sent again, and how long to wait. A budget in the upstream's state keeps retries from flooding a
failing backend.

A request is sent again only before any byte of a response was sent, and only if its method is idempotent (RFC 9110 9.2.2) and
it has no body or a kept one. Other requests are sent again only if the upstream can't have seen them. After a connect failure
another replica is asked even if the retry option is off, and at no cost: that is what replicas are for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import gevent

from proxyd.base.errorpages import replaced_statuses
from proxyd.base.text import parse_status_set
from proxyd.config.optionvalues import RETRY_CAUSES
from proxyd.proxy.core.grpc import is_grpc
from proxyd.proxy.core.phases import TOTAL
from proxyd.proxy.core.upstreams import RETRY_COST

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts
    from proxyd.proxy.upstream.pool import UpstreamError

#: RFC 9110 9.2.2.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
#: No statuses.
NONE: frozenset[int] = frozenset()


@lru_cache(maxsize=1024)
def _wanted(retry_on: tuple[str, ...]) -> tuple[frozenset[str], frozenset[int]]:
    """The causes and the statuses in an option's value."""
    causes = frozenset(item for item in retry_on if item in RETRY_CAUSES)
    codes = [parse_status_set(item) for item in retry_on if item not in RETRY_CAUSES]
    return causes, frozenset().union(*codes)


def statuses(ex: Exchange, upstream: Upstream) -> frozenset[int]:
    """The upstream's statuses that are retried, or replaced by a page, instead of passed on."""
    options = upstream.options
    replaced = replaced_statuses(options.error_pages) if options.error_pages_replace and not is_grpc(ex.head) else NONE
    if not options.retry:
        return replaced
    if ex.attempts >= options.retry_max_attempts or not replayable(ex) or upstream.state.retry_budget < RETRY_COST:
        return replaced
    return _wanted(options.retry_on)[1] | replaced


def replayable(ex: Exchange) -> bool:
    """Whether the request may be sent again although the upstream may have seen it: twice has the effect of once."""
    return ex.method in _IDEMPOTENT and ex.upload is None and (ex.body is not None or not ex.client.has_body())


def on_new_connection(ex: Exchange, upstream: Upstream, failure: UpstreamError) -> bool:
    """Whether a request that failed on a pooled connection is sent again at once on a new one.

    Usually the upstream closed the idle connection at that moment (RFC 9112 9.3.1). A failure in the middle of the request looks the
    same, so this is taken from the budget.
    """
    stale = failure.code == "upstream_closed" and ex.expired is None and not ex.client_gone
    if not stale or (ex.method not in _IDEMPOTENT and not failure.unsent) or ex.upload is not None:
        return False
    return upstream.state.spend_retry()


def verdict(ex: Exchange, upstream: Upstream, failure: UpstreamError, leave: Callable[[Upstream], bool]) -> float | None:
    """The seconds to wait (full jitter) before a request that failed on `upstream` is sent again, or None if it is not.

    `leave` excludes that upstream if another one would take the request, and returns whether one would. A retry that is granted
    has been taken from the budget.
    """
    if ex.response_started or ex.client_gone:
        return None
    if _never_connected(ex, failure) and leave(upstream):
        return 0.0
    options = upstream.options
    if ex.upload is not None or ex.expired is TOTAL:
        return None
    if not options.retry or ex.attempts >= options.retry_max_attempts or not (replayable(ex) or failure.unsent):
        return None
    causes, codes = _wanted(options.retry_on)
    if failure.cause not in causes and not (failure.cause == "status" and ex.status in codes):
        return None
    delay = _delay(options.retry_backoff, options.retry_initial_delay, options.retry_max_delay, ex.attempts)
    if time.monotonic() + delay >= ex.total_deadline or not upstream.state.spend_retry():
        return None
    return delay


def _never_connected(ex: Exchange, failure: UpstreamError) -> bool:
    """Whether no connection could be opened. Then another replica may be asked at once, whatever the options are. This costs the
    upstreams nothing, so it is not taken from the budget."""
    return failure.unsent and failure.cause != "reset" and time.monotonic() < ex.total_deadline


def wait(ex: Exchange, seconds: float) -> bool:
    """Wait before another attempt. Returns whether the client is still there."""
    # The deadline of the failed attempt must not pass during the wait. The next attempt would count as expired.
    ex.stop_waiting()
    if seconds:
        gevent.sleep(seconds)
        ex.client_gone = ex.client.gone()
    return not ex.client_gone


def again(parts: Parts, ex: Exchange, upstream: Upstream) -> None:
    """Begin another attempt: count it, and reset the outcome of the last one, which was on `upstream`."""
    parts.stats.of(upstream.route_id).retries += 1
    ex.begin_again()


def _delay(backoff: str, initial: float, longest: float, attempts: int) -> float:
    """Seconds to wait before the next attempt: random, between 0 and a bound that grows with each attempt."""
    if backoff == "none":
        return 0.0
    bound = initial if backoff == "constant" else initial * 2.0 ** (attempts - 1)
    return random.uniform(0.0, min(bound, longest))
