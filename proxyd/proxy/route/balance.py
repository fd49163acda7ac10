"""How replicas share requests: one function a policy, from the members that may be chosen to the one that is.

`in_flight` and the smooth weights are this worker's own view; over many requests the workers' shares add up alike.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, Upstream


def least_conn(members: list[Upstream], pool: Pool, client_ip: str) -> Upstream:
    """The member with the fewest requests in flight for its weight; ties go round by weight."""
    least = math.inf
    tied: list[Upstream] = []
    for member in members:
        load = member.state.in_flight / (member.options.weight or 1)
        if load < least:
            least, tied = load, [member]
        elif load == least:
            tied.append(member)
    return tied[0] if len(tied) == 1 else round_robin(tied, pool, client_ip)


def round_robin(members: list[Upstream], pool: Pool, client_ip: str) -> Upstream:
    """Smooth weighted round robin: each member gains its weight each turn, the richest is chosen and pays the total."""
    total = 0
    best = members[0]
    for member in members:
        weight = member.options.weight or 1
        total += weight
        member.state.current_weight += weight
        if member.state.current_weight > best.state.current_weight:
            best = member
    best.state.current_weight -= total
    return best


def ip_hash(members: list[Upstream], pool: Pool, client_ip: str) -> Upstream:
    """Weighted rendezvous hashing: a client keeps its member as long as that one is there, whoever else comes and goes."""
    return max(members, key=lambda member: _score(client_ip, identity(member), member.options.weight or 1))


POLICIES = {"least_conn": least_conn, "round_robin": round_robin, "ip_hash": ip_hash}


def identity(upstream: Upstream) -> str:
    """What makes a replica the same one after it registered anew: its backend."""
    return _identity(f"{upstream.scheme}://{upstream.authority}{upstream.base_path}")


@lru_cache(maxsize=65536)
def _identity(url: str) -> str:
    return hashlib.blake2b(url.encode(), digest_size=6).hexdigest()


@lru_cache(maxsize=65536)
def _score(client_ip: str, replica: str, weight: int) -> float:
    return -weight / math.log(place_of(client_ip, replica))


def place_of(client: str, salt: str) -> float:
    """A number above 0 and below 1 that is fixed for a client and salt."""
    digest = hashlib.blake2b(f"{client}\0{salt}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 1) / ((1 << 64) + 2)


def place_in_queue(client_ip: str, upstream: Upstream) -> float:
    """A client's fixed place (0 to 1) among those who leave a draining member or come to a warming one; independent of the one
    by which it was hashed there."""
    return place_of(client_ip, f"{identity(upstream)}/queue")


def stuck_to(cookie: str | None, name: str) -> str:
    """The replica identity in the sticky cookie of a Cookie header, or an empty text."""
    if not cookie or name not in cookie:
        return ""
    # Not http.cookies: one value it does not like (JSON, say) makes it drop every cookie of the header.
    for pair in cookie.split(";"):
        found, equals, value = pair.partition("=")
        if equals and found.strip() == name:
            return value.strip().strip('"')
    return ""


def stick(ex: Exchange, pool: Pool, chosen: Upstream) -> None:
    """Tell the client to come back to the chosen replica, unless its cookie says so already."""
    name = pool.sticky
    own = f"{name}="
    ex.set_headers = [field for field in ex.set_headers if not (field[0] == "Set-Cookie" and field[1].startswith(own))]
    if stuck_to(ex.head.get("cookie"), name) != identity(chosen):
        secure = "; Secure" if ex.client.secure else ""
        ex.set_headers.append(("Set-Cookie", f"{own}{identity(chosen)}; Path=/; HttpOnly; SameSite=Lax{secure}"))
