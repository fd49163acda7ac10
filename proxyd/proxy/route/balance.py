"""How replicas share requests. Each policy is a small type that chooses one of the available members.

`in_flight` and the smooth weights are this worker's own view. Over many requests the workers' shares add up to the same.
"""

from __future__ import annotations

import hashlib
import math
from functools import lru_cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool, Upstream


class Policy(Protocol):
    """How a pool shares requests. `by_client`: a client keeps its member, so when it has to leave, it should move only once."""

    name: str
    by_client: bool

    def choose(self, members: list[Upstream], client_ip: str) -> Upstream:
        """The member for a request. `members`: those that may be chosen."""


class RoundRobin:
    """Smooth weighted round robin: in each turn every member gains its weight. The one with the most is chosen and pays the total."""

    name = "round_robin"
    by_client = False

    def choose(self, members: list[Upstream], client_ip: str) -> Upstream:
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


class LeastConn:
    """The member with the fewest requests in flight for its weight. `ties` decides among equal ones."""

    name = "least_conn"
    by_client = False

    def __init__(self, ties: Policy) -> None:
        self._ties = ties

    def choose(self, members: list[Upstream], client_ip: str) -> Upstream:
        least = math.inf
        tied: list[Upstream] = []
        for member in members:
            load = member.state.in_flight / (member.options.weight or 1)
            if load < least:
                least, tied = load, [member]
            elif load == least:
                tied.append(member)
        return tied[0] if len(tied) == 1 else self._ties.choose(tied, client_ip)


class IpHash:
    """Weighted rendezvous hashing: a client keeps its member as long as that member exists, whichever others come and go."""

    name = "ip_hash"
    by_client = True

    def choose(self, members: list[Upstream], client_ip: str) -> Upstream:
        return max(members, key=lambda member: _score(client_ip, identity(member), member.options.weight or 1))


_ALL: tuple[Policy, ...] = (LeastConn(RoundRobin()), RoundRobin(), IpHash())
#: By name. The option `balance` (config/options) takes these names; a test holds the two together.
POLICIES: dict[str, Policy] = {policy.name: policy for policy in _ALL}


def identity(upstream: Upstream) -> str:
    """The identity of a replica: its backend. So a replica that registers again stays the same one."""
    return _identity(f"{upstream.scheme}://{upstream.authority}{upstream.base_path}")


@lru_cache(maxsize=65536)
def _identity(url: str) -> str:
    return hashlib.blake2b(url.encode(), digest_size=6).hexdigest()


@lru_cache(maxsize=65536)
def _score(client_ip: str, replica: str, weight: int) -> float:
    return -weight / math.log(place_of(client_ip, replica))


def place_of(client: str, salt: str) -> float:
    """A number between 0 and 1 (both excluded) that is fixed for a client and a salt."""
    digest = hashlib.blake2b(f"{client}\0{salt}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "big") + 1) / ((1 << 64) + 2)


def place_in_queue(client_ip: str, upstream: Upstream) -> float:
    """A client's fixed place (0 to 1) in the order in which clients leave a draining member or come to a recovered one.

    It is independent of the number by which the client was hashed to that member.
    """
    return place_of(client_ip, f"{identity(upstream)}/queue")


def stuck_to(cookie: str | None, name: str) -> str:
    """The replica identity in the sticky cookie of a Cookie header, or an empty text."""
    if not cookie or name not in cookie:
        return ""
    # Not with http.cookies: it drops every cookie of a header in which it can't parse one (such as JSON).
    for pair in cookie.split(";"):
        found, equals, value = pair.partition("=")
        if equals and found.strip() == name:
            return value.strip().strip('"')
    return ""


def stick(ex: Exchange, pool: Pool, chosen: Upstream) -> None:
    """Set the sticky cookie to the chosen replica, unless the client's cookie names it already."""
    name = pool.sticky
    own = f"{name}="
    ex.set_headers = [field for field in ex.set_headers if not (field[0] == "Set-Cookie" and field[1].startswith(own))]
    if stuck_to(ex.head.get("cookie"), name) != identity(chosen):
        options = pool.members[0].options
        site = options.sticky_same_site
        # Browsers drop a cookie of other sites that is not Secure.
        secure = "; Secure" if ex.secure or site == "none" or options.sticky_secure == "always" else ""
        age = f"; Max-Age={math.ceil(options.sticky_max_age)}" if options.sticky_max_age else ""
        ex.set_headers.append(("Set-Cookie", f"{own}{identity(chosen)}; Path=/; HttpOnly; SameSite={site.capitalize()}{age}{secure}"))
