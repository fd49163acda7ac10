"""The members of a pool that are tried for one request, one after another."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxyd.proxy.core.refusal import Refusal
from proxyd.proxy.route.choose import choose
from proxyd.proxy.upstream import websocket

if TYPE_CHECKING:
    from proxyd.http1 import RequestHead
    from proxyd.proxy.core.upstreams import Pool, Upstream
    from proxyd.proxy.upstream.parts import Parts


class Members:
    """Finds members for a request. `pool` may be replaced between two of them. `refusal`: why there is no further one."""

    __slots__ = ("_blocked", "_client_ip", "_cookie", "_head", "_parts", "_tried", "pool", "refusal")

    refusal: Refusal

    def __init__(self, parts: Parts, head: RequestHead, client_ip: str, pool: Pool) -> None:
        self.pool = pool
        self._parts = parts
        self._head = head
        self._client_ip = client_ip
        self._cookie = head.get("cookie") if pool.sticky else None
        self._tried: tuple[str, ...] = ()
        self._blocked: tuple[str, ...] = ()

    def admitted(self) -> Iterator[tuple[Upstream, int]]:
        """Members whose circuits have admitted the request, each with the number to report its outcome with. A WebSocket has been
        counted by then. Asking for the next member means that this one failed."""
        circuits, client_ip, cookie = self._parts.circuits, self._client_ip, self._cookie
        upgrade = self._head.upgrade == "websocket"
        full: Refusal | None = None
        while True:
            now = time.time()
            chosen = choose(self.pool, client_ip, cookie, self._tried, self._blocked, circuits, now)
            if isinstance(chosen, Refusal):
                self.refusal = full or chosen
                return
            admission = circuits.admit(chosen, now)
            if admission < 0:
                self._blocked = (*self._blocked, chosen.route_id)
                continue
            if upgrade:
                full = websocket.reserve(self._parts, chosen)
                if full is not None:
                    circuits.cancel(chosen, admission)
                    self._blocked = (*self._blocked, chosen.route_id)
                    continue
            yield chosen, admission
            self._tried = (*self._tried, chosen.route_id)

    def leave(self, member: Upstream) -> bool:
        """Stop asking `member`, if another member would take the request. Returns whether one would."""
        blocked = (*self._blocked, member.route_id)
        other = choose(self.pool, self._client_ip, self._cookie, self._tried, blocked, self._parts.circuits, time.time())
        if isinstance(other, Refusal):
            return False
        self._blocked = blocked
        return True
