"""Events as they happen, as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxyd.admin.feed import HEARTBEAT_SECONDS, Feed
from proxyd.admin.http import RequestRefused

if TYPE_CHECKING:
    from proxyd.events.bus import Event, EventBus

_MAX_FOLLOWERS = 64


class Followers:
    """Counts those that follow, so that they can't take all connections."""

    def __init__(self, bus: EventBus) -> None:
        self._bus = bus
        self.count = 0

    def follow(self, type_: str, heartbeat: float = HEARTBEAT_SECONDS) -> Follower:
        """A stream of the events of a type (empty: all). Raises RequestRefused."""
        if self.count >= _MAX_FOLLOWERS:
            raise RequestRefused(503, "too_many_followers", f"{_MAX_FOLLOWERS} clients follow events already", {"Retry-After": "10"})
        self.count += 1
        return Follower(self._bus, type_, heartbeat, self._left)

    def _left(self) -> None:
        self.count -= 1


class Follower(Feed):
    """The events of a type."""

    def __init__(self, bus: EventBus, type_: str, heartbeat: float, left: Callable[[], None]) -> None:
        super().__init__("events", heartbeat)
        self._type = type_
        self._left: Callable[[], None] | None = left
        self._unsubscribe = bus.subscribe(self._take)

    def _take(self, event: Event) -> None:
        if not self._type or event.type == self._type:
            self.put(event.type, _shown(event))

    def close(self) -> None:
        """The client is gone."""
        if self._left is not None:
            self._unsubscribe()
            self._left()
            self._left = None


def _shown(event: Event) -> dict[str, object]:
    return {"type": event.type, "at": event.at, "route_id": event.route_id, "session_id": event.session_id, "actor": event.actor,
            "data": event.data}
