"""Rate limits per client address, by the limits library: over the workers of a host through shared memory, over hosts
through Redis. While Redis can't be reached, each host counts with its share of each limit, and the log says so. No request fails for it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

from proxyd.base.attempts import WINDOW, subject
from proxyd.base.conditions import conditions_of
from proxyd.base.text import format_duration, rfc3339
from proxyd.config.optionvalues import BY_ADDRESS, BY_USER
from proxyd.config.settings import Settings
from proxyd.proxy.core.origin import trust_check
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.gates.ratecounts import HostCounters, RedisCounters, Standing
from proxyd.store.sql.traffic import RejectionBatch

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, Upstream

#: Most addresses with a row of their own in a minute, and most rows kept while the database is locked. All beyond share one row.
_MAX_ADDRESSES = 1000
_MAX_ROWS = 10_000
OTHERS = "others"
#: Wrong passwords that one address (IPv6: /64) may give in a minute, on one host.
MOST_WRONG_LOGINS = 10
_LOGINS = "basic_auth/"
_MAX_CLIENTS = 50_000

#: The counter of a bound, the requests it allows, and its window in seconds.
Bound = tuple[str, int, float]
#: The fast function that counts a hit (None if there is none), and the bounds that apply to a client.
Client = tuple[Callable[[], bool] | None, tuple[Bound, ...]]


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a request may pass, a sentence for the client if not, and the headers that show its standing."""

    allowed: bool
    detail: str
    headers: tuple[tuple[str, str], ...]


class RateLimiter:
    """The rate limits of one worker. Create it after the fork. `clock`: the clock of the host's windows, for tests."""

    def __init__(self, settings: Settings, directory: str, clock: Callable[[], float] | None = None) -> None:
        limits = settings.ratelimit
        self._show = limits.headers
        self._prefix = limits.ipv6_prefix
        self._spared = trust_check(limits.allow)
        self._any_spared = bool(limits.allow)
        self._host = HostCounters(limits, directory, clock)
        self.file = self._host.file
        #: Hosts that count in Redis, this one included: how many shares a limit has while Redis is away.
        self.hosts = 1
        self._redis = RedisCounters(limits, self._host.outage, lambda: self.hosts) if limits.storage != "shared" else None
        self._hit = self._host.hit if self._redis is None else self._hit_in_redis
        self._rejected: dict[tuple[str, str, str], int] = {}
        self._minute = 0
        self._minute_text = ""
        self._named: set[tuple[str, str]] = set()
        self._clients: dict[tuple[Upstream, str], Client] = {}
        self._client = lru_cache(maxsize=65536)(self._client_of)

    def hit(self, upstream: Upstream, client_ip: str, now: float, key: str = "") -> Decision | None:
        """Count a request against the upstream's limits. None: it passes, and no header is sent.

        `now`: Unix seconds. `key`: what it is counted by in place of the client's address. All bounds must allow the request. If one
        refuses it, it counts for none (but see `_exceeded`).
        """
        if key and self._client(client_ip) is None:
            return None
        known = self._clients.get((upstream, key or client_ip))
        if known is None:
            known = self._meet(upstream, client_ip, key)
        take, bounds = known
        if take is not None:
            over = () if take() else bounds
        elif bounds:
            over = self._exceeded(bounds)
        else:
            return None
        if over:
            return self._reject(upstream, client_ip, bounds, over, now, "with this key" if key else "from this address")
        if not self._show:
            return None
        return Decision(True, "", _fields(bounds, {bound: self._standing(bound) for bound in bounds}, now))

    def _meet(self, upstream: Upstream, client_ip: str, key: str = "") -> Client:
        """The bounds that apply to a new client, and how to count them. A client in `allow` has none."""
        client = key or self._client(client_ip)
        place = f"{upstream.service}/{upstream.domains[0]}{upstream.path}/{upstream.priority}"
        asked = conditions_of(upstream.options)
        place += f"/{asked.text}" if asked is not None else ""
        bounds = () if client is None else tuple(
            (f"{place}/{window:g}/{client}", amount, window) for amount, window in upstream.rate_limits)
        if len(self._clients) >= _MAX_CLIENTS:
            self._clients.clear()
        simple = len(bounds) == 1 and self._redis is None and not self._show
        take = self._host.taker(*bounds[0]) if simple else None
        self._clients[(upstream, key or client_ip)] = take, bounds
        return take, bounds

    def standing(self, upstream: Upstream, client_ip: str) -> list[tuple[int, float, int]]:
        """Each limit that applies to a client, its window in seconds, and how many requests are left; nothing is counted."""
        return [(bound[1], bound[2], int(self._standing(bound)[0])) for bound in self._meet(upstream, client_ip)[1]]

    def logins_wait(self, address: str) -> float:
        """Seconds until an address may give another wrong password; 0 if it may now."""
        left, wait = self._host.standing(f"{_LOGINS}{subject(address)}", MOST_WRONG_LOGINS, WINDOW)
        return 0.0 if left else max(1.0, wait)

    def login_failed(self, address: str) -> None:
        """An address has given a wrong password."""
        self._host.hit(f"{_LOGINS}{subject(address)}", MOST_WRONG_LOGINS, WINDOW)

    def key_of(self, ex: Exchange, parts: tuple[tuple[str, str], ...]) -> str:
        """What a request is counted by, as option rate_limit_key says: a hash, since fields and cookies may be long, and secrets."""
        found = []
        for kind, name in parts:
            value = ""
            if kind == "header":
                value = ", ".join(ex.head.get_all(name))
            elif kind == "cookie":
                value = cookie(ex.head.get_all("cookie"), name)
            elif kind == "user":
                value = ex.user
            elif kind == "path":
                value = "/".join(ex.path.split("/", int(name) + 1)[: int(name) + 1])
            found.append(f"{kind}:{value}" if value else f"address:{self._client(ex.client_ip)}")
        return hashlib.blake2b("\0".join(found).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()

    def forget(self, live: Callable[[Upstream], bool]) -> None:
        """Drop what is remembered of clients of routes that are gone or changed: only a crowd of clients would have pushed it out."""
        gone = [key for key in self._clients if not live(key[0])]
        for key in gone:
            for bound in self._clients.pop(key)[1]:
                self._host.forget(bound[0])

    def _exceeded(self, bounds: tuple[Bound, ...]) -> tuple[Bound, ...]:
        """The bounds that refuse one more hit. If none does, the hit is counted in all."""
        if len(bounds) == 1:
            return () if self._hit(*bounds[0]) else bounds
        over = tuple(bound for bound in bounds if not self._standing(bound)[0])
        # Another worker may take the last hit in between. Then the bounds with room have counted a refused hit.
        return over or tuple(bound for bound in bounds if not self._hit(*bound))

    def _hit_in_redis(self, key: str, amount: int, window: float) -> bool:
        assert self._redis is not None
        passes = self._redis.hit(key, amount, window)
        return self._host.hit(key, self._share(amount), window) if passes is None else passes

    def _share(self, amount: int) -> int:
        """This host's part of a limit while Redis is away. A limit below the number of hosts lets one request pass on each."""
        return max(1, amount // self.hosts)

    def _standing(self, bound: Bound) -> Standing:
        if self._redis is None:
            return self._host.standing(*bound)
        found = self._redis.standing(*bound)
        key, amount, window = bound
        return self._host.standing(key, self._share(amount), window) if found is None else found

    def _reject(self, upstream: Upstream, client_ip: str, bounds: tuple[Bound, ...], over: tuple[Bound, ...],
                now: float, whose: str) -> Decision:
        self._count_rejection(upstream.route_id, self._client(client_ip) or client_ip, now)
        standings = {bound: (0, max(1.0, self._standing(bound)[1])) for bound in over}
        worst = max(over, key=lambda bound: standings[bound][1])
        _, amount, window = worst
        if self._redis is not None and self._host.outage.on:
            amount = self._share(amount)
        wait = math.ceil(standings[worst][1])
        fields = (("Retry-After", str(wait)), *_fields(bounds, standings, now))
        return Decision(False, f"more than {amount} requests in {window:g} s {whose}; try again in {wait} s", fields)

    def _client_of(self, address: str) -> str | None:
        """The address or, for IPv6, the network that a limit counts by. None for a client in `allow`."""
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

    # -- rejections for the database

    def _count_rejection(self, route_id: str, client: str, now: float) -> None:
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._minute_text = minute, rfc3339(minute * 60.0)
            self._named.clear()
        if (route_id, client) not in self._named:
            if len(self._named) >= _MAX_ADDRESSES:
                client = OTHERS
            else:
                self._named.add((route_id, client))
        self._add((route_id, self._minute_text, client), 1)

    def _add(self, row: tuple[str, str, str], count: int) -> None:
        if row not in self._rejected and len(self._rejected) >= _MAX_ROWS:
            row = (row[0], row[1], OTHERS)
        self._rejected[row] = self._rejected.get(row, 0) + count

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
            self._add(row, count)

    def close(self) -> None:
        """Unmap the counters."""
        self._host.close()


class HasLimiter(Protocol):
    """What this gate needs of a worker."""

    limiter: RateLimiter


def rate_limit(parts: HasLimiter, ex: Exchange, pool: Pool) -> Refusal | None:
    """429 for a client that exceeds a limit of the pool. Otherwise the response gets RateLimit fields, if the settings say so."""
    limited = pool.limited
    if limited is None:
        return None
    by = limited.options.rate_limit_key
    if by == BY_ADDRESS:
        return _count(parts.limiter, ex, limited, "")
    # Nobody has logged in yet: `user_limit` counts by user.
    return None if BY_USER in by else _count(parts.limiter, ex, limited, parts.limiter.key_of(ex, by))


def user_limit(parts: HasLimiter, ex: Exchange, pool: Pool) -> Refusal | None:
    """The rate limit of a route that counts by user. It comes after the logins."""
    limited = pool.limited
    if limited is None or BY_USER not in limited.options.rate_limit_key:
        return None
    return _count(parts.limiter, ex, limited, parts.limiter.key_of(ex, limited.options.rate_limit_key))


def _count(limiter: RateLimiter, ex: Exchange, limited: Upstream, key: str) -> Refusal | None:
    decision = limiter.hit(limited, ex.client_ip, time.time(), key)
    if decision is None:
        return None
    if not decision.allowed:
        return refuse("rate_limited", decision.detail, decision.headers, "rate_limited")
    ex.set_headers.extend(decision.headers)
    return None


def cookie(values: Sequence[str], name: str) -> str:
    """The value of the first cookie of a name in Cookie fields (RFC 6265 5.4), empty if there is none."""
    for value in values:
        for pair in value.split(";"):
            known, _, found = pair.partition("=")
            if known.strip() == name:
                return found.strip()
    return ""


def _fields(bounds: tuple[Bound, ...], standings: dict[Bound, Standing], now: float) -> tuple[tuple[str, str], ...]:
    """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers-11), and the X- fields that older clients read.

    For a refusal `standings` holds only the bounds that refused, because Retry-After must not be earlier than any of them allows.
    """
    names = {bound: "default" if len(bounds) == 1 else format_duration(bound[2]) for bound in bounds}
    policies = ", ".join(f'"{names[bound]}";q={bound[1]};w={max(1, math.ceil(bound[2]))}' for bound in bounds)
    limits = ", ".join(f'"{names[bound]}";r={remaining};t={max(0, math.ceil(wait))}' for bound, (remaining, wait) in standings.items())
    tightest = min(standings, key=lambda bound: (standings[bound][0], -standings[bound][1]))
    remaining, wait = standings[tightest]
    return (("RateLimit-Policy", policies), ("RateLimit", limits), ("X-RateLimit-Limit", str(tightest[1])),
            ("X-RateLimit-Remaining", str(remaining)), ("X-RateLimit-Reset", str(math.ceil(now + wait))))
