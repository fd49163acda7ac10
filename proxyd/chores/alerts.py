"""Alerts to a chat: posts what needs a person to a webhook, as JSON that both Slack and Discord accept."""

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

from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.config.sections import AlertSettings
from proxyd.events.bus import Event, EventBus
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.observed import RouteStats, SlowRequest
from proxyd.store.sql.query import tuples
from proxyd.store.sql.wellness import Wellness

log = logging.getLogger("proxyd.alerts")

_QUEUE = 1000
_RETRIES = 3
_LONGEST_WAIT = 30.0
_TIMEOUT = (5.0, 10.0)
_POLL = 1.0
#: A row older than this is not the request that was just counted.
_RECENT = 10.0
_MAX_SUBJECTS = 10_000
#: What is told once it has lasted so many seconds. Of what the other kinds are about, events tell.
_TOLD = frozenset(("database", "no_worker", "out_of_service", "failing", "health_checker", "worker_stale", "worker_behind", "host_behind",
                   "problem"))
_LASTS = 5.0
#: Discord refuses longer ones.
_MAX_TEXT = 1900


@dataclass(slots=True)
class _Subject:
    """When the last alert about something was sent, and how often it has happened since without one."""

    told: float
    held_back: int = 0


class Alerts:
    """Listens to the bus and polls the slow requests. `backoff`: seconds until the first retry; it doubles each time."""

    def __init__(self, settings: AlertSettings, store: Store, bus: EventBus, wellness: Wellness | None = None,
                 backoff: float = 1.0) -> None:
        self._settings = settings
        self._store = store
        self._bus = bus
        self._backoff = backoff
        self._queue: Queue[str] = Queue(_QUEUE)
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._stopping: list[Any] = []
        #: How many critical requests each route had at the last look.
        self._seen: dict[str, int] | None = None
        self._sending = Job("alerts", None, self._send_waiting, log, trouble="an alert was not sent")
        self._slow = Job("slow-requests", _POLL, self._look_at_slow, log, first=0.0, expected=StoreError,
                         trouble="slow requests are looked at later", level=logging.DEBUG)
        #: What was unwell at the last looks, and since when (time.monotonic() seconds).
        self._unwell: dict[tuple[str, str], float] = {}
        self._wellness = wellness
        self._looking = Job("unwell", _POLL, self._look_at_unwell, log, trouble="what is unwell is looked at later")
        self.jobs = (self._sending, self._slow, self._looking)
        self._name = os.uname().nodename

    def start(self) -> None:
        """Begin, if a webhook is set."""
        if not self._settings.webhook:
            return
        for job in self.jobs:
            if job is not self._looking or self._wellness is not None:
                job.start()
        self._stopping = [self._bus.subscribe(self._take), *(job.stop for job in self.jobs)]

    def stop(self) -> None:
        """End. Alerts that still wait are not sent."""
        for stop in self._stopping:
            stop()
        self._stopping = []

    def _take(self, event: Event) -> None:
        """Turn an event into an alert if it needs one. The bus calls this, so it must not block."""
        route, data = event.route_id or "-", event.data
        reason = data.get("reason", "")
        if event.type == "backend_health_changed" and data.get("status") == "down":
            self._tell(("health", route), f"{data.get('url', 'the upstream')} of route {route} is down: {reason}")
        elif event.type == "circuit_state_changed" and data.get("to") == "open":
            self._tell(("circuit", route), f"circuit of route {route} is open (was {data.get('from', '')}): {reason}")
        elif event.type == "certificate_changed" and data.get("error"):
            self._tell(("order", data["domain"]), f"no new certificate for {data['domain']}: {data['error']}")
        elif event.type == "certificate_expiring":
            when = "expired on" if data["days"] <= 0 else f"expires in {data['days']:g} days, on"
            # The last word is another subject: it must not wait for the interval after the one that warned.
            said = f"the certificate {data['path']} for {', '.join(data['names'])}"
            self._tell(("certificate" if data["days"] > 0 else "expired", said), f"{said} {when} {data['expires']}")

    def _tell(self, subject: tuple[str, str], message: str, times: int = 1) -> None:
        """Queue an alert about something that happened `times`, unless one about the same subject was sent within the interval."""
        now = time.monotonic()
        known = self._subjects.get(subject)
        if known is not None and now - known.told < self._settings.interval:
            known.held_back += times
            return
        others = times - 1 + (known.held_back if known is not None else 0)
        more = f" ({others} more since the last alert)" if others else ""
        if known is None and len(self._subjects) >= _MAX_SUBJECTS:
            self._forget(now)
        self._subjects[subject] = _Subject(now)
        try:
            self._queue.put_nowait(f"proxyd on {self._name}: {message}{more}"[:_MAX_TEXT])
            self._sending.wake()
        except Full:
            log.warning("%d alerts already wait for the webhook; dropped this one: %s", _QUEUE, message)

    def _forget(self, now: float) -> None:
        """Make room: forget the subjects whose interval has passed, or all of them if none has."""
        interval = self._settings.interval
        self._subjects = {key: item for key, item in self._subjects.items() if now - item.told < interval}
        if len(self._subjects) >= _MAX_SUBJECTS:
            self._subjects.clear()

    def _send_waiting(self) -> None:
        while not self._queue.empty():
            self._send(self._queue.get_nowait())

    def _send(self, text: str) -> None:
        """Post an alert, with retries where they can help. The log names only the URL's host, because its path is a secret."""
        host = urlsplit(self._settings.webhook).hostname or "the webhook"
        for attempt in range(_RETRIES + 1):
            wait = self._backoff * 2 ** attempt
            try:
                # Each alert opens a new connection. Alerts are rare, so a kept connection would be dead by the next one.
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

    def _look_at_unwell(self) -> None:
        """Tell of what is unwell and lasts, and no event tells of: services that are away, routes that fail every request, workers."""
        assert self._wellness is not None, "started without"
        now, known, self._unwell = time.monotonic(), self._unwell, {}
        for item in self._wellness.findings():
            subject = item.kind, item.subject
            began = self._unwell[subject] = known.get(subject, now)
            if item.kind in _TOLD and began >= 0 and now - began >= _LASTS:
                self._unwell[subject] = -1.0
                self._tell(subject, f"{item.sentence}. {item.todo}")

    def _look_at_slow(self) -> None:
        """Tell of critical requests that are new since the last look.

        Workers count them in the database and publish no event, so this polls the counters. Rows alone would not do: only the
        worst of an hour are kept, and the next slow request may be a faster one than those.
        """
        counted = self._store.read(_criticals)
        seen = self._seen if self._seen is not None else counted
        for route_id, count in counted.items():
            more = count - seen.get(route_id, 0)
            if more > 0:
                self._tell(("slow", route_id), self._store.read(_latest_critical, route_id), more)
        self._seen = counted


def _criticals() -> dict[str, int]:
    """How many critical requests each route has had. Runs in the database thread."""
    slow = RouteStats._meta.fields["slow_criticals"]
    return dict(tuples(RouteStats.select(RouteStats.route_id, slow).where(slow > 0)))


def _latest_critical(route_id: str) -> str:
    """What to tell of a route's last critical request. Runs in the database thread."""
    row = SlowRequest.select().where((SlowRequest.route_id == route_id) & (SlowRequest.level == "critical")).order_by(
        SlowRequest.at.desc(), SlowRequest.id.desc()).first()
    if row is None or row.at < rfc3339(time.time() - _RECENT):
        return f"slow request on route {route_id}: it took longer than slow_critical"
    return (f"slow request on route {route_id}: {row.method} {row.url} took {row.total_ms / 1000:.1f} s "
            f"(status {row.status_code}, upstream {row.upstream}, id {row.request_id})")
