"""Events of a host that does not lead: the leader publishes them, so that every subscriber hears of all hosts from one place."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from typing import Any

from proxyd.base.jobs import Job, Working
from proxyd.base.text import rfc3339
from proxyd.events.bus import Event, EventBus
from proxyd.events.types import NAMES
from proxyd.store.sql import words
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.observed import EventRow

log = logging.getLogger("proxyd.events")

#: While the database is away, the oldest go.
_MOST = 1000
#: Seconds between two looks for events, while somebody wants to hear of them; and most of one look.
_LOOK, _AT_ONCE = 0.5, 1000
_KIND = "event"


class ToLeader(Working, EventBus):
    """Says what happens on host `host` to the leader, and calls back with the events of all hosts as the leader writes them down. What
    happens while no host leads is lost."""

    def __init__(self, store: Store, host: str) -> None:
        super().__init__(store)
        self._host = host
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_MOST)
        #: The last event that was told of, None while nobody listens.
        self._told: int | None = None
        self._sending = Job("events-to-leader", None, self._send, log, gap=0.05, expected=StoreError,
                            trouble="events wait for the database")
        self._looking = Job("events-of-leader", _LOOK, self._look, log, expected=StoreError, trouble="events can't be read")
        self.jobs = (self._sending, self._looking)

    def publish(self, type: str, data: dict[str, Any], route_id: str | None = None, session_id: str | None = None,
                actor: str = "", at: float | None = None, keep: bool = True) -> Event:
        """Tell the leader, which tells everybody."""
        at = time.time() if at is None else at
        self._waiting.append({"kind": _KIND, "host": self._host, "type": type, "data": data, "route_id": route_id, "actor": actor,
                              "at": at})
        self._sending.wake()
        return Event(type, rfc3339(at), route_id, data, session_id, actor)

    def _send(self) -> None:
        while self._waiting:
            batch = list(self._waiting)
            self._store.call(_say_all, batch)
            for word in batch:
                # Those that came too many meanwhile have pushed some of them out.
                if self._waiting and self._waiting[0] is word:
                    self._waiting.popleft()

    def _look(self) -> None:
        if not self._callbacks:
            self._told = None
            return
        if self._told is None:
            self._told = self._store.read(_last)
        for number, event in self._store.read(_after, self._told):
            self._told = number
            for callback in list(self._callbacks):
                callback(event)


def _say_all(batch: list[dict[str, Any]]) -> None:
    for word in batch:
        words.say(word)


def _last() -> int:
    row = EventRow.select(EventRow.id).order_by(EventRow.id.desc()).first()
    return row.id if row is not None else 0


def _after(number: int) -> list[tuple[int, Event]]:
    query = EventRow.select().where(EventRow.id > number).order_by(EventRow.id).limit(_AT_ONCE)
    return [(row.id, Event(row.type, row.at, row.route_id, json.loads(row.detail), row.session_id, row.actor)) for row in query]


def publish_word(bus: EventBus, word: dict[str, Any]) -> None:
    """Publish an event that another host has told of. What is none is ignored: the database hands over what anybody says who may log in."""
    type_, data, route_id, at, actor = (word.get(name) for name in ("type", "data", "route_id", "at", "actor"))
    if (word.get("kind") == _KIND and type_ in NAMES and isinstance(data, dict) and isinstance(route_id, str | None)
            and isinstance(at, float | int | None) and isinstance(actor, str)):
        publish = bus.publish
        publish(str(type_), data, route_id, actor=actor, at=at)
