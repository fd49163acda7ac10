"""Which members of a pool a client may go to while one instance is rolled out: the new one takes a share of the clients."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.proxy.route import balance

if TYPE_CHECKING:
    from proxyd.proxy.core.upstreams import Pool, Upstream


def members_for(pool: Pool, members: list[Upstream], client_ip: str, cookie: str | None) -> list[Upstream]:
    """Those of `members`, all of them sound, that may take a request of a client. A client stays on its side: by its sticky cookie, else
    by its address. A member that stands aside takes requests only if no other can."""
    usual = [member for member in members if member.rollout >= 1.0]
    taking = [member for member in members if 0.0 < member.rollout < 1.0]
    mine, others = (taking, usual) if taking and _takes_part(pool, taking, client_ip, cookie) else (usual, taking)
    if not mine:
        return others or members
    if all(member.drain_started_at for member in mine):
        # They pass their clients on, a share at a time.
        return mine + others
    return mine


def _takes_part(pool: Pool, taking: list[Upstream], client_ip: str, cookie: str | None) -> bool:
    """Whether a client is one of those that the new instance has got. With each step more of them are; none goes back."""
    first = taking[0]
    if pool.sticky and (wanted := balance.stuck_to(cookie, pool.sticky)) and any(balance.identity(one) == wanted for one in taking):
        return True
    # By the names, not by a route: on all paths of a service a client sees the same version.
    return balance.place_of(client_ip, f"{first.service}/{first.instance}/rollout") < first.rollout
