"""Events of a host that does not lead: the leader publishes them, so that every subscriber hears of all hosts from one place."""

from __future__ import annotations

import logging
from collections import deque
from typing import Any, Protocol

from proxyd.base.jobs import Job
from proxyd.events.bus import EventBus
from proxyd.events.types import NAMES
from proxyd.store.sql import words
from proxyd.store.sql.database import Store, StoreError

log = logging.getLogger("proxyd.events")

#: While the database is away, the oldest go.
_MOST = 1000
_KIND = "event"


class Publishes(Protocol):
    """Where something is told of: the bus, or the way to the leader's."""

    def publish(self, type: str, data: dict[str, Any], route_id: str | None = None, *, at: float | None = None) -> object:
        """Tell everybody. `at`: Unix seconds, now if None."""


class ToLeader:
    """Says what happens on host `host` to the leader. An event that nobody hears, because no host leads just then, is lost."""

    def __init__(self, store: Store, host: str) -> None:
        self._store = store
        self._host = host
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_MOST)
        self._job = Job("events-to-leader", None, self._send, log, gap=0.05, expected=StoreError, trouble="events wait for the database")
        self.jobs = (self._job,)

    def start(self) -> None:
        """Begin to send."""
        self._job.start()

    def stop(self) -> None:
        """Send no more."""
        self._job.stop()

    def publish(self, type: str, data: dict[str, Any], route_id: str | None = None, *, at: float | None = None) -> None:
        """Tell the leader."""
        self._waiting.append({"kind": _KIND, "host": self._host, "type": type, "data": data, "route_id": route_id, "at": at})
        self._job.wake()

    def _send(self) -> None:
        while self._waiting:
            batch = list(self._waiting)
            self._store.call(_say_all, batch)
            for word in batch:
                # Those that came too many meanwhile have pushed some of them out.
                if self._waiting and self._waiting[0] is word:
                    self._waiting.popleft()


def _say_all(batch: list[dict[str, Any]]) -> None:
    for word in batch:
        words.say(word)


def publish_word(bus: EventBus, word: dict[str, Any]) -> None:
    """Publish an event that another host has told of. What is none is ignored: the database hands over what anybody says who may log in."""
    type_, data, route_id, at = (word.get(name) for name in ("type", "data", "route_id", "at"))
    if (word.get("kind") == _KIND and type_ in NAMES and isinstance(data, dict) and isinstance(route_id, str | None)
            and isinstance(at, float | int | None)):
        bus.publish(str(type_), data, route_id, at=at)
