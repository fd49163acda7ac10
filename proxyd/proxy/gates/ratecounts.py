"""Counts requests against rate limits: on this host over all its workers, or in Redis over several hosts.

Both answer two questions about a bound (key, amount, window in seconds): may one more request pass, and what is its standing?
A standing is the number of requests that remain, and seconds: until the window ends or, if none remain, until one does.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, TypeVar

import gevent
from gevent.lock import BoundedSemaphore
from limits import RateLimitItemPerSecond
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES

from proxyd.config.sections import RatelimitSettings
from proxyd.store.memory.outage import TRY, WITHOUT, Outage
from proxyd.store.memory.ratelimits import SharedCounters, SlidingCounter

log = logging.getLogger("proxyd.ratelimit")

SLIDING, FIXED, MOVING = "sliding-window-counter", "fixed-window", "moving-window"
#: Most connections of a worker to Redis.
_REDIS_CONNECTIONS = 16

#: How long a lease is valid, in seconds; the part of the bound that it may be (one thousandth); and the hits of the largest.
_LEASE_SECONDS, _LEASE_PART, _LARGEST_LEASE = 0.05, 1000, 32

Standing = tuple[int, float]
Answer = TypeVar("Answer")


class Lease:
    """Counts the hits of a busy client against a bound in advance, several at a time.

    A lease of one is a plain hit. A lease that is used up in time is followed by one twice as large, up to a thousandth of the
    bound. So a limit below 2000 is counted hit by hit. The next hit gives back what was not used. Hence a client never gets more
    than counting one by one would allow, and at most a thousandth less for each worker.
    """

    __slots__ = ("_amount", "_clock", "_counter", "_largest", "_left", "_number", "_size", "_until", "_window")

    def __init__(self, counter: SlidingCounter, amount: int, window: float, clock: Callable[[], float]) -> None:
        self._counter = counter
        self._amount = amount
        self._window = window
        self._clock = clock
        self._largest = min(_LARGEST_LEASE, amount // _LEASE_PART)
        self._size = 1
        self._left = 0
        self._number = 0
        self._until = 0.0

    def take(self) -> bool:
        """Count a hit. Returns whether it may pass."""
        left = self._left
        if left and self._clock() < self._until:
            self._left = left - 1
            return True
        return self._renew(left)

    def _renew(self, unused: int) -> bool:
        now = self._clock()
        size = 1
        if unused:
            self._counter.give_back(unused, self._number, self._window)
        elif now < self._until:
            size = min(self._size * 2, self._largest)
        allowed = self._counter.take(self._amount, self._window, size)
        if not allowed and size > 1:
            size = 1
            allowed = self._counter.take(self._amount, self._window)
        self._size = size
        self._left = size - 1
        self._number = int(now / self._window)
        # A lease ends with the counter's window, because its hits are counted in that window.
        self._until = min(now + _LEASE_SECONDS, (self._number + 1) * self._window)
        return allowed


class HostCounters:
    """Counters in shared memory. `hit(key, amount, window)` counts one more request and returns whether it may pass."""

    def __init__(self, settings: RatelimitSettings, directory: str, clock: Callable[[], float] | None = None) -> None:
        self._strategy = settings.strategy
        self._counters = counters = SharedCounters(
            directory=directory, entries=settings.entries, moving=settings.strategy == MOVING, clock=clock)
        takes = {SLIDING: counters.take_sliding, FIXED: counters.take_fixed, MOVING: counters.take_moving}
        self.hit: Callable[[str, int, float], bool] = takes[settings.strategy]
        self.outage = counters.outage
        self.file = counters.file

    def taker(self, key: str, amount: int, window: float) -> Callable[[], bool]:
        """A function like `hit` for one bound. It is faster, and may be used if the standing of the bound is not shown."""
        if self._strategy == SLIDING:
            counter = self._counters.sliding(key)
            if amount // _LEASE_PART > 1:
                return Lease(counter, amount, window, self._counters.clock).take
            return partial(counter.take, amount, window)
        return partial(self.hit, key, amount, window)

    def forget(self, key: str) -> None:
        """Drop what was prepared to count a key quickly; what was counted stays."""
        self._counters.forget(key)

    def standing(self, key: str, amount: int, window: float) -> Standing:
        """How the bound stands."""
        counters = self._counters
        if self._strategy == FIXED:
            return max(0, amount - counters.get(key)), counters.get_expiry(key) - counters.wall()
        if self._strategy == MOVING:
            start, used = counters.get_moving_window(key, amount, window)
            return max(0, amount - used), start + window - counters.wall()
        before, _, count, current = counters.get_sliding_window(key, window)
        return _sliding(before, count, current - window, amount, window)

    def close(self) -> None:
        """Unmap."""
        self._counters.close()


class RedisCounters:
    """Counters in Redis, by the library's own strategies. While Redis does not answer, answers are None, `outage` is on for all
    workers of the host, and the log says so once. `hosts`: how many hosts count there."""

    def __init__(self, settings: RatelimitSettings, outage: Outage, hosts: Callable[[], int]) -> None:
        self._hosts = hosts
        self._strategy = settings.strategy
        self._outage = outage
        self._timeout = settings.storage_timeout
        # More at once would only queue in Redis, and many would time out there.
        self._places = BoundedSemaphore(_REDIS_CONNECTIONS)
        self._limiter: Any = None
        self._problem: Exception | None = None
        try:
            self._limiter = STRATEGIES[settings.strategy](_storage(settings.storage, settings.storage_timeout))
        except Exception as error:  # such as a missing redis package: requests must go on
            self._problem = error

    def hit(self, key: str, amount: int, window: float) -> bool | None:
        """Count one more request. Returns whether it may pass."""
        return self._ask(lambda limiter: bool(limiter.hit(_item(amount, window), key)))

    def standing(self, key: str, amount: int, window: float) -> Standing | None:
        """How the bound stands."""
        return self._ask(lambda limiter: self._standing(limiter, _item(amount, window), key))

    def _standing(self, limiter: Any, item: RateLimitItemPerSecond, key: str) -> Standing:
        if self._strategy != SLIDING:
            stats = limiter.get_window_stats(item, key)
            return max(0, stats.remaining), stats.reset_time - time.time()
        window = item.get_expiry()
        before, before_left, count, current = limiter.storage.get_sliding_window(item.key_for(key), window)
        return _sliding(before, count, current - window if count else before_left, item.amount, window)

    def _ask(self, question: Callable[[Any], Answer]) -> Answer | None:
        with self._places:
            turn = self._outage.turn(time.monotonic())
            if turn == WITHOUT:
                return None
            try:
                if self._problem is not None:
                    raise self._problem
                # The socket's own timeouts do not cover a name that does not resolve.
                with gevent.Timeout(self._timeout, TimeoutError("no answer in time")):
                    answer = question(self._limiter)
            except Exception as error:  # whatever a driver raises, the request must go on
                if self._outage.begin(time.monotonic()):
                    hosts = self._hosts()
                    share = f"with its share of each limit, one of {hosts}" if hosts > 1 else "alone"
                    log.warning("rate limits: Redis can't be reached (%s); each host counts %s, until it answers", error, share)
                return None
            if turn == TRY and self._outage.end():
                log.warning("rate limits: Redis answers again, hits are counted there")
            return answer


def _storage(url: str, timeout: float) -> Any:
    from redis.backoff import NoBackoff
    from redis.exceptions import ConnectionError as Disconnected
    from redis.retry import Retry

    # Retry once if Redis closed the idle connection. Do not retry after a timeout: that would only take longer.
    retry: Any = Retry(NoBackoff(), 1, (Disconnected,))
    return storage_from_string(url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=retry)


@lru_cache(maxsize=4096)
def _item(amount: int, window: float) -> RateLimitItemPerSecond:
    """The bound in the library's form, which has whole seconds."""
    return RateLimitItemPerSecond(amount, max(1, math.ceil(window)), "proxyd")


def _sliding(before: int, count: int, left: float, amount: int, window: float) -> Standing:
    """The standing of a sliding window counter with `count` hits in this window and `before` in the last one.

    `left`: seconds that remain of this window. The last window's hits are weighed by the same share.
    """
    remaining = max(0, amount - int(before * left / window) - count)
    return remaining, left if remaining else _sliding_wait(before, left, count, amount, window)


def _sliding_wait(before: int, before_left: float, count: int, amount: int, window: float) -> float:
    """Seconds until one more request passes a sliding window counter.

    The last window's weight shrinks evenly. This window's count begins to shrink when this window becomes the last one. The
    weighed count must fall below the room, not just reach it: hence one more millisecond.
    """
    room = amount - count
    if room <= 0:
        return before_left + window * max(0.0, 1.0 - amount / max(count, 1)) + 0.001
    if not before or before * before_left < room * window:
        return 0.0
    return before_left - room * window / before + 0.001
