"""Which upstream of a pool takes a request, or why none does."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxyd.proxy import balance
from proxyd.proxy.gates.drain import drain_share, keeps_sticky
from proxyd.proxy.refusal import Refusal

if TYPE_CHECKING:
    from proxyd.proxy.gates.circuit import Circuits
    from proxyd.proxy.table import Pool, Upstream

_DISABLED = Refusal(503, "route_disabled", "the service has lost its connection to the registry; it may be back soon",
                    (("Retry-After", "5"),))
_DRAINING = Refusal(503, "draining", "the service is draining and takes no new requests",
                    (("Retry-After", "5"), ("X-Drain-Mode", "true")))
_DOWN = Refusal(503, "upstream_down", "no upstream of this route passes its health check", (("Retry-After", "5"),))


def choose(pool: Pool, client_ip: str, cookie: str | None, tried: Sequence[str], blocked: Sequence[str], circuits: Circuits,
           now: float) -> Upstream | Refusal:
    """The upstream for a request of `client_ip` with that Cookie header, at `now` (Unix seconds).

    `tried` were sent the request and failed: others come first; `blocked` must not be asked again.
    """
    members = pool.members
    if pool.calm and not blocked and not circuits.opened(members[0]):
        return members[0]
    if not any(member.enabled for member in members):
        return _DISABLED
    # With all members in maintenance only those get here whom maintenance lets pass.
    spared = all(member.maintenance_since for member in members if member.enabled)
    serving = [member for member in members if member.enabled and (spared or not member.maintenance_since)]
    usable = [member for member in serving if member.route_id not in blocked]
    sound = [member for member in usable if circuits.usable(member, now)]
    if not sound:
        return _unsound(serving, circuits, now)
    if len(tried) < len(sound) or not all(member.route_id in tried for member in sound):
        sound = [member for member in sound if member.route_id not in tried]
    if pool.sticky:
        kept = _sticky(pool, sound, cookie, client_ip, now)
        if kept is not None:
            return kept
    taking = [member for member in sound if _takes(member, circuits, now)]
    if not taking:
        taking = [member for member in sound if not member.drain_started_at]
        if not taking:
            return _DRAINING
    weighted = [member for member in taking if member.options.weight] or taking
    if len(weighted) == 1:
        return weighted[0]
    return balance.POLICIES[members[0].options.balance](weighted, pool, client_ip)


def _sticky(pool: Pool, members: list[Upstream], cookie: str | None, client_ip: str, now: float) -> Upstream | None:
    wanted = balance.stuck_to(cookie, pool.sticky)
    if not wanted:
        return None
    for member in members:
        if balance.identity(member) == wanted:
            stays = not member.drain_started_at or keeps_sticky(member, now, balance.place_of(client_ip, wanted))
            return member if stays else None
    return None


def _takes(member: Upstream, circuits: Circuits, now: float) -> bool:
    """Whether a draining or recovering member takes this one: by chance, with its share."""
    share = drain_share(member, now) if member.drain_started_at else 1.0
    warm = member.options.slow_start
    if warm:
        recovered = circuits.recovered_at(member)
        if recovered and now - recovered < warm:
            share *= max(0.05, (now - recovered) / warm)
    return share >= 1.0 or random.random() < share


def _unsound(members: list[Upstream], circuits: Circuits, now: float) -> Refusal:
    """Why no circuit lets the request through, and when to come back."""
    members = [member for member in members if not circuits.health_down(member)]
    if not members:
        return _DOWN
    wait = max(1, math.ceil(min(circuits.retry_after(member, now) for member in members)))
    return Refusal(503, "circuit_open", "the upstream failed too often; its circuit is open", (("Retry-After", str(wait)),))
