"""Events as they happen, as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from gevent.queue import Empty, Full, Queue

from proxyd.admin.http import RequestRefused

if TYPE_CHECKING:
    from proxyd.events.bus import Event, EventBus

HEARTBEAT_SECONDS = 15.0
_MAX_FOLLOWERS = 64
_MAX_WAITING = 1000


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


class Follower:
    """An answer's body that goes on until the client leaves; a client that is too slow misses events and is told so."""

    def __init__(self, bus: EventBus, type_: str, heartbeat: float, left: Callable[[], None]) -> None:
        self._type = type_
        self._heartbeat = heartbeat
        self._waiting: Queue[Event] = Queue(_MAX_WAITING)
        self._missed = 0
        self._left: Callable[[], None] | None = left
        self._unsubscribe = bus.subscribe(self._take)

    def _take(self, event: Event) -> None:
        if self._type and event.type != self._type:
            return
        try:
            self._waiting.put_nowait(event)
        except Full:
            self._missed += 1

    def __iter__(self) -> Iterator[bytes]:
        yield b"retry: 2000\n: proxyd events\n\n"
        while True:
            try:
                event = self._waiting.get(timeout=self._heartbeat)
            except Empty:
                yield b": heartbeat\n\n"
                continue
            if self._missed:
                yield block("missed", {"type": "missed", "missed": self._missed})
                self._missed = 0
            yield block(event.type, _shown(event))

    def close(self) -> None:
        """The client is gone."""
        if self._left is not None:
            self._unsubscribe()
            self._left()
            self._left = None


def _shown(event: Event) -> dict[str, object]:
    return {"type": event.type, "at": event.at, "route_id": event.route_id, "session_id": event.session_id, "actor": event.actor,
            "data": event.data}


def block(type_: str, data: dict[str, object]) -> bytes:
    """One event; JSON text holds no line break, and neither may the type."""
    name = "".join(char for char in type_ if char.isprintable())
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False, default=str)}\n\n".encode()
