"""Retries: what may be tried again, how long to wait, and a budget, so that a failing backend is not flooded.

Only before any byte of a response went out. Idempotent methods (RFC 9110 9.2.2) with no body or a kept one; anything
else only where the upstream can't have seen the request. A connect failure goes to another replica even where the
retry option is off: that is what replicas are for.
"""

from __future__ import annotations

import random
import time
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING

import gevent

from proxyd.options import RETRY_CAUSES
from proxyd.proxy.forward import IDEMPOTENT
from proxyd.text import parse_status_set

if TYPE_CHECKING:
    from proxyd.proxy.exchange import Exchange
    from proxyd.proxy.runtime import Runtime
    from proxyd.proxy.table import Pool, Upstream
    from proxyd.proxy.upstream import UpstreamError

#: Extra requests allowed for each request, and the few that are allowed without any (a worker, route and second).
SHARE = 0.2
_FLOOR = 5.0
_CEILING = 100.0
_NONE: frozenset[int] = frozenset()


class Budget:
    """Tokens: each request brings 0.2, each retry takes 1; one a second is free while there are fewer than five."""

    __slots__ = ("_at", "_tokens")

    def __init__(self, now: float) -> None:
        self._tokens = _FLOOR
        self._at = now

    def deposit(self) -> None:
        """A request came."""
        if self._tokens < _CEILING:
            self._tokens += SHARE

    def available(self, now: float) -> bool:
        """Whether a retry would be allowed at `now` (monotonic seconds)."""
        if self._tokens < _FLOOR:
            self._tokens = min(_FLOOR, self._tokens + now - self._at)
        self._at = now
        return self._tokens >= 1.0

    def withdraw(self, now: float) -> bool:
        """Take a retry out of the budget; whether it was there."""
        if not self.available(now):
            return False
        self._tokens -= 1.0
        return True


@lru_cache(maxsize=1024)
def _wanted(retry_on: tuple[str, ...]) -> tuple[frozenset[str], frozenset[int]]:
    """Causes and statuses in an option's value."""
    causes = frozenset(item for item in retry_on if item in RETRY_CAUSES)
    codes = [parse_status_set(item) for item in retry_on if item not in RETRY_CAUSES]
    return causes, frozenset().union(*codes)


def statuses(runtime: Runtime, ex: Exchange, upstream: Upstream) -> frozenset[int]:
    """The upstream's statuses that are not passed on but tried again, for an upstream with the retry option."""
    state = upstream.state
    if state.budget is None:
        state.budget = Budget(time.monotonic())
    if ex.attempts == 1:
        state.budget.deposit()
    if ex.attempts >= upstream.options.retry_max_attempts or not _replayable(ex) or not state.budget.available(time.monotonic()):
        return _NONE
    return _wanted(upstream.options.retry_on)[1]


def _replayable(ex: Exchange) -> bool:
    return ex.method in IDEMPOTENT and ex.upload is None and (ex.body is not None or not ex.client.has_body())


def pause(runtime: Runtime, ex: Exchange, pool: Pool, upstream: Upstream, failure: UpstreamError) -> bool:
    """Whether to try again after `failure`; waits the backoff (full jitter) before it says so."""
    options = upstream.options
    if ex.response_started or ex.client_gone or ex.upload is not None or ex.expired == "total_timeout":
        return False
    refused = failure.unsent and failure.cause == "connection_refused"
    if not options.retry:
        if not refused or ex.attempts >= len(pool.members):
            return False
        runtime.stats.of(upstream.route_id).retries += 1
        return True
    if ex.attempts >= options.retry_max_attempts:
        return False
    if not (_replayable(ex) or failure.unsent):
        return False
    causes, codes = _wanted(options.retry_on)
    if failure.cause not in causes and not (failure.cause == "status" and ex.status in codes):
        return False
    now = time.monotonic()
    if upstream.state.budget is not None and not upstream.state.budget.withdraw(now):
        return False
    delay = _delay(options.retry_backoff, options.retry_initial_delay, options.retry_max_delay, ex.attempts)
    if now + delay >= ex.total_deadline:
        return False
    runtime.stats.of(upstream.route_id).retries += 1
    ex.expired = ""
    ex.status = 0
    # The deadline of the failed attempt must not run out on the pause, or the next one would count as expired.
    ex.deadline = inf
    if delay:
        gevent.sleep(delay)
        if ex.client.gone():
            ex.client_gone = True
            return False
    return True


def _delay(backoff: str, initial: float, longest: float, attempts: int) -> float:
    """Seconds to wait before the next attempt, somewhere between none and the bound that grows from try to try."""
    if backoff == "none":
        return 0.0
    bound = initial if backoff == "constant" else initial * 2.0 ** (attempts - 1)
    return random.uniform(0.0, min(bound, longest))
