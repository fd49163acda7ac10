"""Groups a worker's errors by route, status and reason, and counts unknown hosts, in bounded memory; hands both on in batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from proxyd.base.text import parse_rfc3339, rfc3339
from proxyd.store.sql.errors import ErrorBatch
from proxyd.store.sql.servicesums import NO_ROUTE

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

#: Groups between two batches. Those beyond are counted for no route, by status and reason alone, of which there are few.
_MOST_GROUPS = 500
#: Unknown hosts between two batches. What comes beyond is counted under this name.
_MOST_HOSTS = 200
OTHERS = "(others)"
_LONGEST_URL, _LONGEST_HOST, _LONGEST_ID = 200, 253, 100
#: Not an error: it is planned.
_PLANNED = "maintenance"

Key = tuple[str, int, str]
Last = tuple[float, str, str, str, str]


class Errors:
    """What this worker saw since the last batch."""

    def __init__(self) -> None:
        self._groups: dict[Key, tuple[int, Last]] = {}
        self._hosts: dict[str, int] = {}

    def record(self, ex: Exchange, member: Upstream | None) -> None:
        """Keep a request that failed or was refused. `member`: who got it, or would have."""
        reason = ex.failure
        if reason == _PLANNED:
            return
        if reason == "unknown_host":
            self._ask(ex.host[:_LONGEST_HOST], 1)
        url = f"{ex.host}{ex.path}"[:_LONGEST_URL]
        upstream = ex.upstream.authority if ex.upstream is not None else ""
        self._count((member.route_id if member is not None else NO_ROUTE, ex.status, reason), 1,
                    (time.time(), ex.method[:20], url, upstream, ex.request_id[:_LONGEST_ID]))

    def _count(self, key: Key, requests: int, last: Last) -> None:
        groups = self._groups
        if key not in groups and len(groups) >= _MOST_GROUPS:
            key = (NO_ROUTE, *key[1:])
        known = groups.get(key)
        if known is None:
            groups[key] = requests, last
        else:
            groups[key] = known[0] + requests, max(known[1], last)

    def _ask(self, host: str, requests: int) -> None:
        hosts = self._hosts
        if host not in hosts and len(hosts) >= _MOST_HOSTS:
            host = OTHERS
        hosts[host] = hosts.get(host, 0) + requests

    def take(self) -> ErrorBatch | None:
        """A batch of what was seen since the last one, or None."""
        if not self._groups:
            return None
        groups = [(*key, requests, rfc3339(at), *last) for key, (requests, (at, *last)) in self._groups.items()]
        batch = ErrorBatch(groups, self._hosts, rfc3339(time.time()))  # type: ignore[arg-type]
        self._groups, self._hosts = {}, {}
        return batch

    def give_back(self, batch: ErrorBatch) -> None:
        """Add a batch that could not be written. Its times are those of its groups, to the millisecond."""
        for route_id, status, reason, requests, at, *last in batch.groups:
            self._count((route_id, status, reason), requests, (parse_rfc3339(at), *last))  # type: ignore[arg-type]
        for host, count in batch.hosts.items():
            self._ask(host, count)
