"""Retries: what may be tried again, how long to wait, and a budget (the upstream's state has it), so that a failing backend
is not flooded.

Only before any byte of a response went out. Idempotent methods (RFC 9110 9.2.2) with no body or a kept one; anything
else only where the upstream can't have seen the request. A connect failure goes to another replica even where the
retry option is off, and at no cost: that is what replicas are for.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING

import gevent

from proxyd.base.text import parse_status_set
from proxyd.config.options import RETRY_CAUSES
from proxyd.proxy.core.phases import TOTAL
from proxyd.proxy.core.upstreams import RETRY_COST

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts
    from proxyd.proxy.upstream.pool import UpstreamError

#: RFC 9110 9.2.2.
_IDEMPOTENT = frozenset(("GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"))
_NONE: frozenset[int] = frozenset()


@lru_cache(maxsize=1024)
def _wanted(retry_on: tuple[str, ...]) -> tuple[frozenset[str], frozenset[int]]:
    """Causes and statuses in an option's value."""
    causes = frozenset(item for item in retry_on if item in RETRY_CAUSES)
    codes = [parse_status_set(item) for item in retry_on if item not in RETRY_CAUSES]
    return causes, frozenset().union(*codes)


def statuses(ex: Exchange, upstream: Upstream) -> frozenset[int]:
    """The upstream's statuses that are not passed on but tried again."""
    options = upstream.options
    if not options.retry:
        return _NONE
    if ex.attempts >= options.retry_max_attempts or not _replayable(ex) or upstream.state.retry_budget < RETRY_COST:
        return _NONE
    return _wanted(options.retry_on)[1]


def _replayable(ex: Exchange) -> bool:
    return ex.method in _IDEMPOTENT and ex.upload is None and (ex.body is not None or not ex.client.has_body())


def on_new_connection(ex: Exchange, upstream: Upstream, failure: UpstreamError) -> bool:
    """Whether the request, which failed on a pooled connection, goes out again at once on a new one: the upstream closed its idle
    connection just as we used it (RFC 9112 9.3.1). It may also have failed in the middle of the request, which looks the
    same: hence this is taken from the budget."""
    stale = failure.code == "upstream_closed" and ex.expired is None and not ex.client_gone
    if not stale or (ex.method not in _IDEMPOTENT and not failure.unsent) or ex.upload is not None:
        return False
    return upstream.state.spend_retry()


def verdict(ex: Exchange, upstream: Upstream, failure: UpstreamError, leave: Callable[[Upstream], bool]) -> float | None:
    """Whether the request, which failed on `upstream`, goes out again: the seconds to wait before it does (full jitter), or None for
    no. `leave` keeps it from that upstream, if another would take it, and tells whether one would. A retry that is granted has
    been taken from the budget."""
    if ex.response_started or ex.client_gone:
        return None
    if _never_connected(ex, failure) and leave(upstream):
        return 0.0
    options = upstream.options
    if ex.upload is not None or ex.expired is TOTAL:
        return None
    if not options.retry or ex.attempts >= options.retry_max_attempts or not (_replayable(ex) or failure.unsent):
        return None
    causes, codes = _wanted(options.retry_on)
    if failure.cause not in causes and not (failure.cause == "status" and ex.status in codes):
        return None
    delay = _delay(options.retry_backoff, options.retry_initial_delay, options.retry_max_delay, ex.attempts)
    if time.monotonic() + delay >= ex.total_deadline or not upstream.state.spend_retry():
        return None
    return delay


def _never_connected(ex: Exchange, failure: UpstreamError) -> bool:
    """Whether no connection came about: another replica may be asked at once, whatever the options are. It has cost nobody
    anything, so it is not taken from the budget."""
    return failure.unsent and failure.cause != "reset" and time.monotonic() < ex.total_deadline


def wait(ex: Exchange, seconds: float) -> bool:
    """Wait before another attempt; whether the client is still there after it."""
    # The deadline of the failed attempt must not run out on the pause, or the next one would count as expired.
    ex.stop_waiting()
    if seconds:
        gevent.sleep(seconds)
        ex.client_gone = ex.client.gone()
    return not ex.client_gone


def again(parts: Parts, ex: Exchange, upstream: Upstream) -> None:
    """Another attempt begins: count it, and forget how the last one on `upstream` ended."""
    parts.stats.of(upstream.route_id).retries += 1
    ex.begin_again()


def _delay(backoff: str, initial: float, longest: float, attempts: int) -> float:
    """Seconds to wait before the next attempt, somewhere between none and the bound that grows from try to try."""
    if backoff == "none":
        return 0.0
    bound = initial if backoff == "constant" else initial * 2.0 ** (attempts - 1)
    return random.uniform(0.0, min(bound, longest))
