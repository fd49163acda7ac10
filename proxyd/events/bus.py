"""Events within the master: published once, seen by every subscriber in order, and kept as rows."""

from __future__ import annotations

import json
import logging
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.observed import EventRow
from proxyd.store.sql.upsert import insert

log = logging.getLogger("proxyd.events")

_MAX_PENDING = 100_000
#: How long the database thread, which others need, waits for another process's lock.
_PATIENCE = 0.25


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened. `at`: RFC 3339; `data`: JSON-ready, without `at` and `route_id`; `actor`: who asked."""

    type: str
    at: str
    route_id: str | None
    data: dict[str, Any] = field(default_factory=dict)
    session_id: str | None = None
    actor: str = ""

    def payload(self) -> dict[str, Any]:
        """What subscribers get."""
        head: dict[str, Any] = {"at": self.at}
        if self.route_id is not None:
            head["route_id"] = self.route_id
        return {**head, **self.data}


class EventBus:
    """Publishes to callbacks, which must not block, and writes rows in batches."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._callbacks: list[Callable[[Event], None]] = []
        self._pending: deque[Event] = deque(maxlen=_MAX_PENDING)
        self._job = Job("event-rows", None, self._write, log, gap=0.1, expected=StoreError, trouble="events wait for the database")
        self.jobs: tuple[Job, ...] = (self._job,)

    def start(self) -> None:
        """Begin to write rows."""
        self._job.start()

    def stop(self) -> None:
        """Write what is left."""
        self._job.stop()
        try:
            self._flush()
        except StoreError as error:
            log.warning("the last events are not written: %s", error)

    def subscribe(self, callback: Callable[[Event], None]) -> Callable[[], None]:
        """Call `callback` with every event from now on; returns the function that ends it."""
        self._callbacks.append(callback)

        def unsubscribe() -> None:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

        return unsubscribe

    def publish(self, type: str, data: dict[str, Any], route_id: str | None = None, session_id: str | None = None,
                actor: str = "", at: float | None = None, keep: bool = True) -> Event:
        """Tell everybody. `at`: Unix seconds, now if None; `keep`: write a row, too."""
        event = Event(type, rfc3339(time.time() if at is None else at), route_id, data, session_id, actor)
        for callback in list(self._callbacks):
            try:
                callback(event)
            except Exception:
                log.exception("an event subscriber failed")
        if keep:
            self._pending.append(event)
            self._job.wake()
        return event

    def _write(self) -> None:
        while self._pending:
            self._flush()

    def _flush(self) -> None:
        """Write a batch. Raises StoreError, and keeps what is not written."""
        batch = [self._pending.popleft() for _ in range(min(len(self._pending), 500))]
        if not batch:
            return
        try:
            self._store.call(write_events, batch, patience=_PATIENCE)
        except StoreError:
            # Where there is no room for all, the oldest go: a full deque would drop the newest.
            room = _MAX_PENDING - len(self._pending)
            self._pending.extendleft(reversed(batch[max(0, len(batch) - room):]))
            raise


def write_events(events: list[Event]) -> None:
    """Insert rows. Runs in the database thread."""
    insert(EventRow, [{"at": event.at, "type": event.type, "route_id": event.route_id, "session_id": event.session_id,
                       "actor": event.actor, "detail": json.dumps(event.data)} for event in events])
