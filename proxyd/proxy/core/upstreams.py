"""A route's backend as a worker sees it: the upstream, its state in this worker, and the pool of replicas it belongs to.

`route/table` makes them. They are defined here because every room of the request path uses them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from proxyd.base.conditions import Conditions
from proxyd.base.ownanswers import OwnAnswer
from proxyd.base.values import value
from proxyd.base.variables import SetFields
from proxyd.config.options import BackendTls, RouteOptions

if TYPE_CHECKING:
    from proxyd.net.stream import Stream

#: Domain, path, priority, and the conditions in words.
PoolKey = tuple[str, str, int, str]
_USUAL_TLS = BackendTls()

#: The retry budget: one retry for every five requests, so at most a fifth more requests than clients send.
RETRY_COST = 5
_RETRIES_AT_FIRST = 5 * RETRY_COST
RETRIES_AT_MOST = 100 * RETRY_COST


class Idle(Protocol):
    """A connection that could be closed to make room."""

    def idle_since(self) -> float:
        """The instant since which nothing is under way on it (monotonic seconds). inf while something is."""

    def make_way(self) -> None:
        """End it. Must not wait."""


class Links(Protocol):
    """The HTTP/2 connections to one upstream."""

    def prune(self, addresses: frozenset[str] | None) -> None:
        """Begin no more requests on connections to other addresses."""

    def retire(self) -> None:
        """Begin no more requests: the route is gone."""

    def all(self) -> Sequence[Idle]:
        """The connections."""


class UpstreamState:
    """What this worker knows of an upstream beside its declaration; survives changes of the table. `retry_budget`: in fifths
    of a retry; each request brings one. `addresses`: those that the upstream's name has now, None where it is no name. `links`: None
    until it was asked by HTTP/2. `retired`: no route leads there any more, so requests under way leave no connection behind."""

    __slots__ = ("addresses", "current_weight", "idle", "in_flight", "links", "made", "retired", "retry_budget")

    def __init__(self) -> None:
        self.addresses: frozenset[str] | None = None
        self.idle: list[Stream] = []
        self.in_flight = 0
        self.links: Links | None = None
        self.current_weight = 0.0
        self.retry_budget = _RETRIES_AT_FIRST
        self.made = 0.0
        self.retired = False

    def spend_retry(self) -> bool:
        """Take a retry from the budget. Returns whether there was one."""
        if self.retry_budget < RETRY_COST:
            return False
        self.retry_budget -= RETRY_COST
        return True


@value
class Upstream:
    """One route and its backend, ready to serve. Instants are Unix seconds, 0.0 for none.

    `path`: the route's. `host`, `port`: those of a UNIX socket are its path and 0. `authority`: the backend's place, for logs.
    `keeps_host`: its requests have the client's Host; otherwise, and where the client sends none, they have `host_field`.
    `strip`: the prefix that its requests lose, and `instead` what they get in its place. `plain`: their target stays as it is.
    `puts_back`: what its answers say of the backend's own address is put back (core/putback). `http2`: 0, IF_OFFERED or ALWAYS."""

    route_id: str
    slot: int
    number: int
    service: str
    instance: str
    session_id: str
    scheme: str
    host: str
    port: int
    base_path: str
    authority: str
    enabled: bool
    websocket: bool
    path: str
    priority: int
    domains: tuple[str, ...]
    options: RouteOptions
    headers: SetFields
    rate_limits: tuple[tuple[int, float], ...]
    maintenance_since: float
    maintenance_page_url: str
    drain_started_at: float
    drain_seconds: float
    state: UpstreamState
    held_until: float = 0.0
    request_headers: SetFields = ()
    strip: str = ""
    puts_back: bool = False
    http2: int = 0
    #: What the proxy itself answers for the route, which then has no backend.
    answer: OwnAnswer | None = None
    host_field: str = ""
    keeps_host: bool = True
    tls: BackendTls = _USUAL_TLS
    instead: str = ""
    plain: bool = False
    #: What a rollout leaves to it, 1.0 for its usual share.
    rollout: float = 1.0


@value
class Pool:
    """The replicas behind one domain, path, priority and conditions, in the order of their route ids.

    `limited`: the member whose rate limits apply to the pool. `calm`: there is one enabled member without maintenance, drain or hold,
    so the choice is simple. `sticky`: name of the cookie that keeps a client on its replica. `guarded`: its options have gates that
    others do not have. `rolling`: a rollout leaves some members another share than their usual one.
    """

    key: PoolKey
    path: str
    priority: int
    members: tuple[Upstream, ...]
    limited: Upstream | None
    maintained: bool
    calm: bool
    sticky: str
    guarded: bool = False
    rolling: bool = False
    #: What a request must have beside host and path. None: nothing.
    conditions: Conditions | None = None
