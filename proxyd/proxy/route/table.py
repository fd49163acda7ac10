"""The route table: immutable, looked up by host and then by path segments. The cost does not grow with the number of routes.

A change makes a new table, which shares every host that the change did not touch. What must outlive a change, such as idle
connections and balancing weights, is in the upstreams' state objects. The new table takes them over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from proxyd.base.conditions import Asked, Conditions, Request, conditions_of
from proxyd.base.values import value
from proxyd.config.options import RouteOptions
from proxyd.config.optionvalues import BY_USER
from proxyd.proxy.core.upstreams import Pool, PoolKey, Upstream
from proxyd.proxy.route.making import upstream_of
from proxyd.store.sql.snapshot import Snapshot


@value
class _Host:
    """The pools of one host, by path. `deepest`: most segments of a path. `ranked`: priorities differ, so all prefixes count. `asks`: a
    route wants to see certificates of clients."""

    pools: dict[str, tuple[Pool, ...]]
    deepest: int
    ranked: bool
    asks: bool

    def match(self, path: str, head: Asked) -> Pool | None:
        if not self.deepest:
            # The host has one path, "/", as most hosts do.
            return self.pools["/"][0]
        best = None
        for prefix in _prefixes(path, self.deepest):
            found = self.pools.get(prefix)
            if found is not None:
                pool = found[0]
                if not self.ranked:
                    return pool
                if best is None or pool.priority > best.priority:
                    best = pool
        return best


@value
class _Choosy(_Host):
    """The pools of a host, some of which have conditions. Among those of a path, the one that is asked first comes first."""

    def match(self, path: str, head: Asked) -> Pool | None:
        request, best = Request(head), None
        for prefix in _prefixes(path, self.deepest):
            for pool in self.pools.get(prefix, ()):
                if best is not None and pool.priority <= best.priority:
                    break
                if pool.conditions is None or pool.conditions.hold(request):
                    if not self.ranked:
                        return pool
                    best = pool
                    break
        return best


def _prefixes(path: str, deepest: int) -> Iterable[str]:
    """The path's prefixes of whole segments, longest first, none deeper than any route."""
    if path == "/":
        yield "/"
        return
    end = len(path)
    at, depth = 0, 0
    while depth < deepest:
        at = path.find("/", at + 1)
        depth += 1
        if at < 0:
            break
    prefix = path if at < 0 else path[:at]
    if prefix.endswith("/") and len(prefix) > 1:
        prefix = prefix[:-1]
    while prefix:
        yield prefix
        end = prefix.rfind("/")
        prefix = prefix[:end]
    yield "/"


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """All routes as of `version`. A table never changes; `with_changes` makes the next one."""

    version: int
    upstreams: Mapping[str, Upstream]
    _hosts: dict[str, _Host]
    _by_domain: dict[str, tuple[str, ...]]

    @staticmethod
    def empty() -> Table:
        """A table without routes, before anything was loaded."""
        return Table(0, {}, {}, {})

    def match(self, host: str, path: str, head: Asked) -> Pool | None:
        """The pool for a normalised host and path, and a request's head, which is looked at where routes have conditions.

        The most specific host that has the path wins, then the priority, then the length, then the conditions.
        """
        hosts = self._hosts
        found = hosts.get(host)
        if found is not None:
            pool = found.match(path, head)
            if pool is not None:
                return pool
        dot = host.find(".")
        if dot > 0:
            found = hosts.get("*" + host[dot:])
            if found is not None:
                pool = found.match(path, head)
                if pool is not None:
                    return pool
        found = hosts.get("*")
        return found.match(path, head) if found is not None else None

    def knows_host(self, host: str) -> bool:
        """Whether any route names the host, or covers it with a wildcard."""
        dot = host.find(".")
        return host in self._hosts or "*" in self._hosts or (dot > 0 and "*" + host[dot:] in self._hosts)

    def asks(self, host: str) -> bool:
        """Whether a client that wants a host is to be asked for a certificate: a route of that host wants one."""
        dot = host.find(".")
        found = (self._hosts.get(name) for name in (host, "*" + host[dot:] if dot > 0 else "", "*"))
        return any(made.asks for made in found if made is not None)

    def with_changes(self, snapshot: Snapshot) -> Table:
        """The next table. The cost is that of the changed routes, and of a shallow copy of the host map."""
        upstreams = {} if snapshot.full else dict(self.upstreams)
        by_domain = {} if snapshot.full else dict(self._by_domain)
        hosts = {} if snapshot.full else dict(self._hosts)
        touched: dict[str, dict[str, None]] = {}

        def members(domain: str) -> dict[str, None]:
            found = touched.get(domain)
            if found is None:
                found = touched[domain] = dict.fromkeys(by_domain.get(domain, ()))
            return found

        for route_id in (*snapshot.removed, *(record.route_id for record in snapshot.routes)):
            old = upstreams.pop(route_id, None)
            for domain in old.domains if old is not None else ():
                members(domain).pop(route_id, None)
        for record in snapshot.routes:
            made = upstream_of(record, self.upstreams.get(record.route_id))
            if made is None:
                continue
            upstreams[record.route_id] = made
            for domain in made.domains:
                members(domain)[record.route_id] = None
        for domain, route_ids in touched.items():
            if route_ids:
                by_domain[domain] = tuple(route_ids)
                hosts[domain] = _host(domain, [upstreams[route_id] for route_id in route_ids])
            else:
                by_domain.pop(domain, None)
                hosts.pop(domain, None)
        return Table(snapshot.version, upstreams, hosts, by_domain)


def _host(domain: str, members: list[Upstream]) -> _Host:
    if len(members) == 1:
        # Most hosts have one route. A worker that starts makes all of them.
        only = members[0]
        path = only.path
        pool = _pool(domain, path, only.priority, conditions_of(only.options), members)
        kind = _Host if pool.conditions is None else _Choosy
        return kind({path: (pool,)}, 0 if path == "/" else path.count("/"), False, _asks(members))
    grouped: dict[str, dict[tuple[int, Conditions | None], list[Upstream]]] = {}
    for member in sorted(members, key=lambda item: item.number):
        grouped.setdefault(member.path, {}).setdefault((member.priority, conditions_of(member.options)), []).append(member)
    pools = {
        path: tuple(sorted((_pool(domain, path, priority, asked, found) for (priority, asked), found in alike.items()), key=_turn))
        for path, alike in grouped.items()
    }
    deepest = max(0 if path == "/" else path.count("/") for path in pools)
    if any(pool.conditions is not None for found in pools.values() for pool in found):
        return _Choosy(pools, deepest, len({pool.priority for found in pools.values() for pool in found}) > 1, _asks(members))
    return _Host(pools, deepest, len({found[0].priority for found in pools.values()}) > 1, _asks(members))


def _asks(members: list[Upstream]) -> bool:
    return any(member.options.client_certificate != "off" for member in members)


def _turn(pool: Pool) -> tuple[int, int, str]:
    """When a pool of a path is asked: by priority, then by how much it asks. What is left is decided by the words, the same everywhere."""
    asked = pool.conditions
    return -pool.priority, -asked.count if asked is not None else 0, asked.text if asked is not None else ""


def _pool(domain: str, path: str, priority: int, asked: Conditions | None, members: list[Upstream]) -> Pool:
    backends = [member for member in members if member.answer is None]
    if backends and len(backends) < len(members):
        # An answer of our own is no replica of what really serves.
        members = backends
    limited = next((member for member in members if member.rate_limits), None)
    maintained = any(member.maintenance_since for member in members)
    sticky = members[0].options.sticky_cookie if len(members) > 1 else ""
    calm = len(members) == 1 and members[0].enabled and not maintained and not (members[0].drain_started_at or members[0].held_until)
    rolling = any(member.rollout < 1.0 for member in members)
    by_user = limited is not None and BY_USER in limited.options.rate_limit_key
    guarded = by_user or _guarded(members[0].options) or members[0].answer is not None
    key: PoolKey = (domain, path, priority, asked.text if asked is not None else "")
    return Pool(key, path, priority, tuple(members), limited, maintained, calm, sticky, guarded, rolling, asked)


def _guarded(options: RouteOptions) -> bool:
    """Whether the options ask for gates that not every route has."""
    return bool(options.gates or options.allow or options.deny or options.cors_origins or options.basic_auth or options.forward_auth
                or options.client_certificate != "off")
