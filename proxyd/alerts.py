"""Alerts to a chat: what needs a person is posted to a webhook, as JSON that Slack and Discord both take."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent
import requests
from gevent.queue import Full, Queue

from proxyd.settings import AlertSettings
from proxyd.store.bus import Event, EventBus
from proxyd.store.database import Store, StoreError
from proxyd.store.models import SlowRequest

log = logging.getLogger("proxyd.alerts")

_QUEUE = 1000
_RETRIES = 3
_LONGEST_WAIT = 30.0
_TIMEOUT = (5.0, 10.0)
_POLL = 1.0
_SLOW_AT_ONCE = 200
_MAX_SUBJECTS = 10_000
#: Discord refuses longer ones.
_MAX_TEXT = 1900


@dataclass(slots=True)
class _Subject:
    """When something was last told, and how often it happened since without being told."""

    told: float
    held_back: int = 0


class Alerts:
    """Listens to the bus and looks at the slow requests. `backoff`: seconds until the first retry; it doubles."""

    def __init__(self, settings: AlertSettings, store: Store, bus: EventBus, backoff: float = 1.0) -> None:
        self._settings = settings
        self._store = store
        self._bus = bus
        self._backoff = backoff
        self._queue: Queue[str] = Queue(_QUEUE)
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._stopping: list[Any] = []
        self._name = os.uname().nodename

    def start(self) -> None:
        """Begin, if there is a webhook."""
        if not self._settings.webhook:
            return
        greenlets = [gevent.spawn(self._send_all), gevent.spawn(self._follow_slow)]
        self._stopping = [self._bus.subscribe(self._take), *(greenlet.kill for greenlet in greenlets)]

    def stop(self) -> None:
        """End; what was not yet sent is not sent."""
        for stop in self._stopping:
            stop()
        self._stopping = []

    def _take(self, event: Event) -> None:
        """An event of the bus: must not block."""
        route, data = event.route_id or "-", event.data
        reason = data.get("reason", "")
        if event.type == "backend_health_changed" and data.get("status") == "down":
            self._tell(("health", route), f"{data.get('url', 'the upstream')} of route {route} is down: {reason}")
        elif event.type == "circuit_state_changed" and data.get("to") == "open":
            self._tell(("circuit", route), f"circuit of route {route} is open (was {data.get('from', '')}): {reason}")

    def _tell(self, subject: tuple[str, str], message: str) -> None:
        """Queue an alert, unless there was one about the same within the interval."""
        now = time.monotonic()
        known = self._subjects.get(subject)
        if known is not None and now - known.told < self._settings.interval:
            known.held_back += 1
            return
        more = f" ({known.held_back} more since the last alert)" if known is not None and known.held_back else ""
        if known is None and len(self._subjects) >= _MAX_SUBJECTS:
            self._forget(now)
        self._subjects[subject] = _Subject(now)
        try:
            self._queue.put_nowait(f"proxyd on {self._name}: {message}{more}"[:_MAX_TEXT])
        except Full:
            log.warning("%d alerts wait for the webhook; this one is dropped: %s", _QUEUE, message)

    def _forget(self, now: float) -> None:
        """Make room: subjects whose interval is over, or all of them when each is in its interval."""
        interval = self._settings.interval
        self._subjects = {key: item for key, item in self._subjects.items() if now - item.told < interval}
        if len(self._subjects) >= _MAX_SUBJECTS:
            self._subjects.clear()

    def _send_all(self) -> None:
        while True:
            text = self._queue.get()
            try:
                self._send(text)
            except Exception:
                log.exception("an alert was not sent: %s", text)

    def _send(self, text: str) -> None:
        """Post, with retries where they can help; a failure is logged without the URL's path, which is a secret."""
        host = urlsplit(self._settings.webhook).hostname or "the webhook"
        for attempt in range(_RETRIES + 1):
            wait = self._backoff * 2 ** attempt
            try:
                # A new connection each time: alerts are rare, and a kept one would be dead by then.
                with requests.post(self._settings.webhook, json={"text": text, "content": text}, timeout=_TIMEOUT,
                                   allow_redirects=False) as response:
                    status = response.status_code
                    if 200 <= status < 300:
                        return
                    failure = f"{host} answered {status}"
                    if 300 <= status < 500 and status not in (408, 429):
                        break
                    asked = response.headers.get("Retry-After", "")
                    if asked.isdigit():
                        wait = max(wait, float(asked))
            except requests.RequestException as error:
                failure = f"{host} can't be reached ({type(error).__name__})"
            if attempt < _RETRIES:
                gevent.sleep(min(wait, _LONGEST_WAIT))
        log.error("[alerts] webhook: %s; this alert was not delivered: %s", failure, text)

    def _follow_slow(self) -> None:
        """Look for new critical rows each second. Workers write them, so there is no event to hear of."""
        seen: int | None = None
        while True:
            try:
                if seen is None:
                    seen, _ = self._store.read(_slow_since, None)
                else:
                    seen, rows = self._store.read(_slow_since, seen)
                    for row in rows:
                        self._tell(("slow", row.route_id), f"slow request on route {row.route_id}: {row.method} {row.url} took "
                                   f"{row.total_ms / 1000:.1f} s (status {row.status_code}, upstream {row.upstream}, "
                                   f"id {row.request_id})")
            except StoreError as error:
                log.debug("slow requests are looked at later: %s", error)
            except Exception:
                log.exception("slow requests")
            gevent.sleep(_POLL)


def _slow_since(seen: int | None) -> tuple[int, list[SlowRequest]]:
    """The newest id, and critical rows behind `seen` (None: none), at most a few hundred. Runs in the database thread."""
    newest = SlowRequest.select(SlowRequest.id).order_by(SlowRequest.id.desc()).limit(1).scalar() or 0
    # Ids come again after the newest rows were deleted, so the mark goes back with them.
    if seen is None or newest <= seen:
        return newest, []
    rows = (SlowRequest.select().where((SlowRequest.id > seen) & (SlowRequest.id <= newest) & (SlowRequest.level == "critical"))
            .order_by(SlowRequest.id).limit(_SLOW_AT_ONCE))
    return newest, list(rows)
