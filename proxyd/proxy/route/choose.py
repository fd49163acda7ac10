"""Chooses the upstream of a pool that takes a request, or says why none does."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.route import balance
from proxyd.proxy.route.drain import drain_share, keeps_sticky
from proxyd.proxy.route.rollout import members_for

if TYPE_CHECKING:
    from proxyd.proxy.core.upstreams import Pool, Upstream
    from proxyd.proxy.upstream.circuit import Circuits

#: The share of a member at the very beginning of its slow start.
_LEAST_WARM = 0.05
_DISABLED = refuse("route_disabled", "the service has lost its connection to the registry; it may be back soon",
                    (("Retry-After", "5"),))
_DRAINING = refuse("draining", "the service is draining and takes no new requests",
                    (("Retry-After", "5"), ("X-Drain-Mode", "true")), "drain_rejected")
#: All members are held by TRAFFIC_HOLD. The request waits, so no client gets this answer.
HELD = refuse("held", "the service holds its requests for a moment", (("Retry-After", "5"),))
_DOWN = refuse("upstream_down", "no upstream of this route passes its health check", (("Retry-After", "5"),), "circuit_rejected")


def choose(pool: Pool, client_ip: str, cookie: str | None, tried: Sequence[str], blocked: Sequence[str], circuits: Circuits,
           now: float) -> Upstream | Refusal:
    """The upstream for a request from `client_ip` with that Cookie header, at `now` (an instant of `base.clock`).

    `tried`: members that got this request and failed; others come first. `blocked`: members that must not be asked again.
    """
    first = pool.members[0]
    if pool.calm and not blocked and not circuits.opened(first):
        return first
    serving = _serving(pool.members)
    if not serving:
        return _DISABLED
    if any(member.held_until for member in serving):
        serving = [member for member in serving if member.held_until <= now]
        if not serving:
            return HELD
    sound = [member for member in serving if member.route_id not in blocked and circuits.usable(member, now)]
    if not sound:
        return _unsound(serving, circuits, now)
    if tried:
        # Members that failed this request get it again only if there is no other.
        sound = [member for member in sound if member.route_id not in tried] or sound
    if pool.rolling:
        sound = members_for(pool, sound, client_ip, cookie)
    if pool.sticky:
        kept, sound = _sticky(pool, sound, cookie, client_ip, now)
        if kept is not None:
            return kept
    return _among(pool, sound, client_ip, circuits, now)


def _serving(members: Sequence[Upstream]) -> list[Upstream]:
    """The enabled members that are not in maintenance. If all are, all of them: then only clients with a bypass get here."""
    enabled = [member for member in members if member.enabled]
    return [member for member in enabled if not member.maintenance_since] or enabled


def _sticky(pool: Pool, members: list[Upstream], cookie: str | None, client_ip: str, now: float) -> tuple[Upstream | None, list[Upstream]]:
    """The member that the client sticks to (or None), and the members it may go to otherwise: not the one that it has just left."""
    wanted = balance.stuck_to(cookie, pool.sticky)
    if wanted:
        for member in members:
            if balance.identity(member) == wanted:
                if not member.drain_started_at or keeps_sticky(member, now, balance.place_in_queue(client_ip, member)):
                    return member, members
                return None, [other for other in members if other is not member] or members
    return None, members


def _among(pool: Pool, sound: list[Upstream], client_ip: str, circuits: Circuits, now: float) -> Upstream | Refusal:
    """One of the members. Members that drain or warm up take a part of their usual share. The policy shares the rest."""
    policy = balance.POLICIES[pool.members[0].options.balance]
    full, partial = _by_share(sound, circuits, now)
    if partial:
        if not full:
            return _last_ones(partial, pool.members[0].options.drain_alone == "refuse")
        if policy.by_client:
            # A client moves once, when its turn comes, instead of going back and forth.
            full += [member for member, share in partial if balance.place_in_queue(client_ip, member) < share]
        elif taker := _by_chance(full, partial):
            return taker
    if not full:
        return _DRAINING
    weighted = [member for member in full if member.options.weight] or full
    return weighted[0] if len(weighted) == 1 else policy.choose(weighted, client_ip)


def _by_share(sound: list[Upstream], circuits: Circuits, now: float) -> tuple[list[Upstream], list[tuple[Upstream, float]]]:
    """The members that take their usual traffic, and those that take only a part of it, with that part."""
    full: list[Upstream] = []
    partial: list[tuple[Upstream, float]] = []
    for member in sound:
        share = _share(member, circuits, now)
        if share >= 1.0:
            full.append(member)
        elif share > 0.0:
            partial.append((member, share))
    if full or not partial:
        return full, partial
    # Slow start needs others that do the work meanwhile. There are none, so it does not apply.
    return ([member for member, _ in partial if not member.drain_started_at],
            [(member, drain_share(member, now)) for member, _ in partial if member.drain_started_at])


def _share(member: Upstream, circuits: Circuits, now: float) -> float:
    """The part of its usual traffic that a draining or recovering member takes now, from 1.0 to 0.0."""
    share = drain_share(member, now) if member.drain_started_at else 1.0
    warm = member.options.slow_start
    if warm:
        age = now - circuits.recovered_at(member)
        if 0.0 <= age < warm:
            share *= max(_LEAST_WARM, age / warm)
    return share


def _by_chance(full: list[Upstream], partial: list[tuple[Upstream, float]]) -> Upstream | None:
    """The member with a smaller share that takes this request, or None.

    It is drawn by weight, not by the policy: to a policy that looks at load, such a member seems idle and would get too much.
    """
    total = sum(member.options.weight for member in full) + sum(share * member.options.weight for member, share in partial)
    point = random.random()
    for member, share in partial:
        part = share * member.options.weight
        if part:
            point -= part / (total - part + member.options.weight)
            if point < 0:
                return member
    return None


def _last_ones(partial: list[tuple[Upstream, float]], refuses: bool) -> Upstream | Refusal:
    """One of several members that all drain, in proportion to what they still take. Nobody takes over the remaining requests: they are
    served as well, or refused if `refuses`."""
    if refuses and random.random() >= max(share for _, share in partial):
        return _DRAINING
    parts = [share * member.options.weight for member, share in partial]
    return random.choices([member for member, _ in partial], parts if any(parts) else None)[0]


def _unsound(members: list[Upstream], circuits: Circuits, now: float) -> Refusal:
    """The refusal if no circuit lets the request through, with the time to come back."""
    members = [member for member in members if not circuits.health_down(member)]
    if not members:
        return _DOWN
    wait = max(1, math.ceil(min(circuits.retry_after(member, now) for member in members)))
    return refuse("circuit_open", "the upstream failed too often; its circuit is open", (("Retry-After", str(wait)),), "circuit_rejected")
