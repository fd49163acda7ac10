"""Rate limits per client address, by the limits library: over the workers of a host through shared memory, over hosts
through Redis. A Redis that can't be reached costs a word in the log and the exactness over hosts, never a request.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from limits import RateLimitItemPerSecond
from limits.errors import StorageError
from limits.storage import storage_from_string
from limits.strategies import STRATEGIES

from proxyd.proxy.headers import trust_check
from proxyd.settings import Settings
from proxyd.store.ratelimits import SharedCounters
from proxyd.store.traffic import RejectionBatch
from proxyd.text import rfc3339

if TYPE_CHECKING:
    from proxyd.proxy.table import Upstream

log = logging.getLogger("proxyd.ratelimit")

_MAX_ADDRESSES = 10_000
_MAX_BOUNDS = 50_000
_REDIS_TIMEOUT = 0.1
_REDIS_PAUSE = 5.0

#: Counts a hit on a key with so many requests allowed in a window of seconds; whether it is allowed.
Take = Callable[[str, int, float], bool]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may pass, a sentence for the client if not, and the headers that say where it stands."""

    allowed: bool
    detail: str
    headers: tuple[tuple[str, str], ...]


class RateLimiter:
    """The limits of one worker; made after fork."""

    def __init__(self, settings: Settings, directory: str) -> None:
        limits = settings.ratelimit
        self._strategy = limits.strategy
        self._show = limits.headers
        self._prefix = limits.ipv6_prefix
        self._spared = trust_check(limits.allow)
        self._any_spared = bool(limits.allow)
        self._local = SharedCounters(directory=directory, entries=limits.entries, moving=limits.strategy == "moving-window")
        self._local_limiter = STRATEGIES[self._strategy](self._local)
        self._redis: Any = None
        self._redis_url = limits.storage if limits.storage != "shared" else ""
        self._redis_after = 0.0
        self._redis_lost = False
        self._rejected: dict[tuple[str, str, str], int] = {}
        self._bounds: dict[tuple[Upstream, str], tuple[tuple[str, int, float], ...]] = {}
        #: Straight to the counters where no Redis has to be asked first.
        local: dict[str, Take] = {"fixed-window": self._take_fixed, "moving-window": self._local.acquire_entry}
        self._take_local: Take = local.get(self._strategy, self._local.take_sliding)
        self._take: Take = self._take_anywhere if self._redis_url else self._take_local
        self._client = lru_cache(maxsize=65536)(self._client_of)

    def hit(self, upstream: Upstream, client_ip: str, now: float) -> Decision | None:
        """Count a request against the upstream's limits; None: it passes, and no header is to be sent.

        `now`: Unix seconds. All bounds must hold; the first that does not is the answer.
        """
        bounds = self._bounds.get((upstream, client_ip))
        if bounds is None:
            bounds = self._bounds_of(upstream, client_ip)
        take = self._take
        for key, amount, window in bounds:
            if not take(key, amount, window):
                return self._reject(upstream, key, amount, window, self._client(client_ip) or client_ip, now)
        if not self._show or not bounds:
            return None
        key, amount, window = bounds[-1]
        remaining, reset = self._standing(key, amount, window, now)
        return Decision(True, "", _fields(amount, window, remaining, reset, now))

    def _bounds_of(self, upstream: Upstream, client_ip: str) -> tuple[tuple[str, int, float], ...]:
        """The counters that hold for a client: key, requests, window each; none for one that is spared."""
        client = self._client(client_ip)
        place = f"{upstream.service}/{upstream.domains[0]}{upstream.path}/{upstream.priority}"
        bounds = () if client is None else tuple(
            (f"{place}/{number}/{client}", amount, window) for number, (amount, window) in enumerate(upstream.rate_limits))
        if len(self._bounds) >= _MAX_BOUNDS:
            self._bounds.clear()
        self._bounds[(upstream, client_ip)] = bounds
        return bounds

    def _take_anywhere(self, key: str, amount: int, window: float) -> bool:
        if time.monotonic() >= self._redis_after:
            try:
                return bool(self._redis_limiter().hit(_item(amount, window), key))
            except Exception as error:  # whatever a driver raises, the request goes on
                self._redis_fails(error)
        return self._take_local(key, amount, window)

    def _take_fixed(self, key: str, amount: int, window: float) -> bool:
        return self._local.incr(key, window) <= amount

    def _redis_limiter(self) -> Any:
        if self._redis is None:
            storage = storage_from_string(self._redis_url, wrap_exceptions=True, socket_timeout=_REDIS_TIMEOUT,
                                          socket_connect_timeout=_REDIS_TIMEOUT)
            self._redis = STRATEGIES[self._strategy](storage)
        if self._redis_lost:
            if not self._redis.storage.check():
                raise StorageError(ConnectionError("no answer to PING"))
            self._redis_lost = False
            log.warning("rate limits: Redis answers again, hits are counted there")
        return self._redis

    def _redis_fails(self, error: Exception) -> None:
        self._redis_after = time.monotonic() + _REDIS_PAUSE
        if not self._redis_lost:
            self._redis_lost = True
            log.warning("rate limits: Redis can't be reached (%s); counting on this host alone until it answers", error)

    def _standing(self, key: str, amount: int, window: float, now: float) -> tuple[int, float]:
        """What remains of a bound, and the instant (Unix seconds) at which more does."""
        if self._redis_url and not self._redis_lost and self._redis is not None:
            try:
                stats = self._redis.get_window_stats(_item(amount, window), key)
            except Exception as error:
                self._redis_fails(error)
            else:
                return max(0, stats.remaining), stats.reset_time
        if self._strategy == "fixed-window":
            return max(0, amount - self._local.get(key)), self._local.get_expiry(key)
        if self._strategy == "moving-window":
            start, used = self._local.get_moving_window(key, amount, window)
            return max(0, amount - used), start + window
        before, before_left, count, _ = self._local.get_sliding_window(key, window)
        remaining = max(0, amount - int(before * before_left / window) - count)
        return remaining, now + _sliding_wait(before, before_left, count, amount, window)

    def _reject(self, upstream: Upstream, key: str, amount: int, window: float, client: str, now: float) -> Decision:
        row = (upstream.route_id, rfc3339(now)[:16] + ":00.000Z", client)
        if row in self._rejected or len(self._rejected) < _MAX_ADDRESSES:
            self._rejected[row] = self._rejected.get(row, 0) + 1
        _, reset = self._standing(key, amount, window, now)
        wait = max(1, math.ceil(reset - now))
        fields = (("Retry-After", str(wait)), *_fields(amount, window, 0, reset, now))
        return Decision(False, f"more than {amount} requests in {window:g} s from this address; try again in {wait} s", fields)

    def _client_of(self, address: str) -> str | None:
        """The address a limit is kept for, None where none holds: IPv6 clients own a whole prefix."""
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return address
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        if self._any_spared and self._spared(str(ip)):
            return None
        if ip.version == 4:
            return str(ip)
        return str(ipaddress.ip_network((ip, self._prefix), strict=False))

    def take(self) -> RejectionBatch | None:
        """The rejections since the last call, for the database."""
        if not self._rejected:
            return None
        batch = RejectionBatch(self._rejected)
        self._rejected = {}
        return batch

    def give_back(self, batch: RejectionBatch) -> None:
        """A batch that could not be written."""
        for row, count in batch.rejected.items():
            if row in self._rejected or len(self._rejected) < _MAX_ADDRESSES:
                self._rejected[row] = self._rejected.get(row, 0) + count

    def close(self) -> None:
        """Unmap the counters."""
        self._local.close()


@lru_cache(maxsize=4096)
def _item(amount: int, window: float) -> RateLimitItemPerSecond:
    return RateLimitItemPerSecond(amount, max(1, math.ceil(window)), "proxyd")


def _sliding_wait(before: int, before_left: float, count: int, amount: int, window: float) -> float:
    """Seconds until one more request passes a sliding window counter: the old window's weight shrinks evenly, and
    this window's count begins to shrink when it has become the old one. What is weighed must fall below the room that
    there is, hence the millisecond more."""
    room = amount - count
    if room <= 0:
        return before_left + window * max(0.0, 1.0 - amount / max(count, 1)) + 0.001
    if not before or before * before_left < room * window:
        return 0.0
    return before_left - room * window / before + 0.001


def _fields(amount: int, window: float, remaining: int, reset: float, now: float) -> tuple[tuple[str, str], ...]:
    """RateLimit and RateLimit-Policy (draft-ietf-httpapi-ratelimit-headers), and the X- fields older clients read."""
    wait = max(0, math.ceil(reset - now))
    return (("RateLimit-Policy", f'"default";q={amount};w={max(1, math.ceil(window))}'),
            ("RateLimit", f'"default";r={remaining};t={wait}'),
            ("X-RateLimit-Limit", str(amount)), ("X-RateLimit-Remaining", str(remaining)),
            ("X-RateLimit-Reset", str(math.ceil(reset))))
