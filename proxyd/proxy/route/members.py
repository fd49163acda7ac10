"""The members of a pool that are tried for one request, one after another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from proxyd.base import clock
from proxyd.proxy.core.refusal import Refusal
from proxyd.proxy.route.choose import choose
from proxyd.proxy.upstream import websocket

if TYPE_CHECKING:
    from proxyd.http1 import RequestHead
    from proxyd.proxy.core.upstreams import Pool, Upstream
    from proxyd.proxy.upstream.parts import Parts
    from proxyd.proxy.upstream.places import Place


class Members:
    """Finds members for a request. `pool` may be replaced between two of them. `refusal`: why there is no further one. `full`:
    members that would take the request if they had a place within max_in_flight."""

    __slots__ = ("_blocked", "_client_ip", "_cookie", "_head", "_parts", "_tried", "full", "pool", "refusal")

    refusal: Refusal

    def __init__(self, parts: Parts, head: RequestHead, client_ip: str, pool: Pool) -> None:
        self.pool = pool
        self._parts = parts
        self._head = head
        self._client_ip = client_ip
        self._cookie = head.get("cookie") if pool.sticky else None
        self._tried: tuple[str, ...] = ()
        self._blocked: tuple[str, ...] = ()
        self.full: tuple[Upstream, ...] = ()

    def admitted(self, place: Place | None = None) -> Iterator[tuple[Upstream, int]]:
        """Members whose circuits have admitted the request, each with the number to report its outcome with. A WebSocket has been
        counted by then, and so has a place within max_in_flight. Asking for the next member means that this one failed.

        `place`: a place that the request holds already. Its member is the first one, if it can be."""
        circuits, client_ip, cookie = self._parts.circuits, self._client_ip, self._cookie
        upgrade = self._head.upgrade == "websocket"
        first = self.pool.members[0]
        if self.pool.calm and place is None and not (upgrade or first.options.max_in_flight or circuits.opened(first)):
            # What most requests meet: nothing to choose from, nothing to count, and no circuit to ask for leave.
            yield first, 0
            self._tried = (first.route_id,)
        busy: Refusal | None = None
        places = self._parts.places
        while True:
            now = clock.now()
            others = self._blocked if place is None else self._other_than(place)
            chosen = choose(self.pool, client_ip, cookie, self._tried, others, circuits, now)
            if isinstance(chosen, Refusal):
                if place is not None:
                    place.give_back()
                    place = None
                    continue
                self.refusal = busy or chosen
                return
            admission = circuits.admit(chosen, now)
            if admission < 0:
                self._blocked = (*self._blocked, chosen.route_id)
                continue
            if upgrade:
                busy = websocket.reserve(self._parts, chosen)
                if busy is not None:
                    circuits.cancel(chosen, admission)
                    self._blocked = (*self._blocked, chosen.route_id)
                    continue
            if place is not None:
                place.use()
                place = None
            elif chosen.options.max_in_flight and not places.take(chosen):
                circuits.cancel(chosen, admission)
                if upgrade and chosen.websocket:
                    self._parts.websockets.release(chosen.number)
                self._blocked = (*self._blocked, chosen.route_id)
                self.full = (*self.full, chosen)
                continue
            yield chosen, admission
            self._tried = (*self._tried, chosen.route_id)

    def _other_than(self, place: Place) -> tuple[str, ...]:
        """The members that must not be asked as long as the request holds a place at another one."""
        return (*self._blocked, *(member.route_id for member in self.pool.members if member.number != place.number))

    def leave(self, member: Upstream) -> bool:
        """Stop asking `member`, if another member would take the request. Returns whether one would."""
        blocked = (*self._blocked, member.route_id)
        other = choose(self.pool, self._client_ip, self._cookie, self._tried, blocked, self._parts.circuits, clock.now())
        if isinstance(other, Refusal):
            return False
        self._blocked = blocked
        return True
