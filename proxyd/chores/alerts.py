"""Alerts: what needs a person, told to webhooks, and told again when it is over."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from gevent.queue import Full, Queue

from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.base.webhooks import FINDINGS, Webhook, format_of
from proxyd.chores.webhooks import FIRING, RESOLVED, TEST, Alert, Sender
from proxyd.config.sections import AlertSettings
from proxyd.events.bus import Event, EventBus
from proxyd.store.sql.database import Store, StoreError
from proxyd.store.sql.models import Endpoint, RouteHistory
from proxyd.store.sql.observed import RouteStats, SlowRequest
from proxyd.store.sql.query import tuples
from proxyd.store.sql.servicesums import NO_ROUTE, Place, ServiceStats
from proxyd.store.sql.wellness import Wellness

log = logging.getLogger("proxyd.alerts")

_QUEUE = 1000
_POLL = 1.0
#: A row older than this is not the request that was just counted.
_RECENT = 10.0
_MAX_SUBJECTS = 10_000
_LASTS = 5.0
#: Seconds that something must be over before it is told: what flaps would be told again and again.
_SETTLES = 15.0
#: Seconds of which the share of errors is reckoned.
_ERRORS_PERIOD = 60.0


@dataclass(slots=True)
class _Subject:
    """When the last alert about something was sent, and how often it has happened since without one. `over`: since when it is over, and
    what to tell of that; None while it goes on."""

    told: float
    service: str
    route_id: str
    held_back: int = 0
    firing: bool = True
    over: tuple[float, str] | None = None


class Alerts:
    """Listens to the bus, and polls what no event tells of. `webhooks`: those of the section of that name. `backoff`: seconds until the
    first retry; it doubles each time."""

    def __init__(self, settings: AlertSettings, store: Store, bus: EventBus, wellness: Wellness | None = None,
                 backoff: float = 1.0, webhooks: Mapping[str, Webhook] | None = None) -> None:
        self._settings = settings
        self._store = store
        self._bus = bus
        hooks = {**({"": Webhook(settings.webhook, format_of(settings.webhook))} if settings.webhook else {}), **(webhooks or {})}
        self._senders = [Sender(name, webhook, backoff) for name, webhook in hooks.items()]
        self._queue: Queue[Alert] = Queue(_QUEUE)
        self._subjects: dict[tuple[str, str], _Subject] = {}
        self._stopping: list[object] = []
        #: How many critical requests each route had at the last look.
        self._seen: dict[str, int] | None = None
        self._counted: dict[Place, tuple[int, int]] | None = None
        self._sharing = Job("alerts-sorting", None, self._share, log, trouble="alerts wait")
        self._slow = Job("slow-requests", _POLL, self._look_at_slow, log, first=0.0, expected=StoreError,
                         trouble="slow requests are looked at later", level=logging.DEBUG)
        #: What was unwell at the last looks, and since when (time.monotonic() seconds).
        self._unwell: dict[tuple[str, str], float] = {}
        self._wellness = wellness
        self._looking = Job("unwell", _POLL, self._look_at_unwell, log, trouble="what is unwell is looked at later")
        self._errors = Job("error-rates", _ERRORS_PERIOD, self._look_at_errors, log, first=0.0, expected=StoreError,
                           trouble="shares of errors are looked at later", level=logging.DEBUG)
        self._settling = Job("alerts-over", _POLL, self._settle, log)
        self.jobs = (*(sender.job for sender in self._senders), self._sharing, self._slow, self._looking, self._errors, self._settling)
        self._name = os.uname().nodename

    def start(self) -> None:
        """Begin, if there is a webhook."""
        if not self._senders:
            return
        for job in self.jobs:
            if not (job is self._looking and self._wellness is None or job is self._errors and not self._settings.error_rate):
                job.start()
        self._stopping = [self._bus.subscribe(self._take), *(job.stop for job in self.jobs)]

    def stop(self) -> None:
        """End. Alerts that still wait are not sent."""
        for stop in self._stopping:
            stop()  # type: ignore[operator]
        self._stopping = []

    def shown(self) -> list[dict[str, object]]:
        """The webhooks, without their urls, whose paths are secrets."""
        return [{"name": sender.name, "host": sender.place, "format": sender.webhook.format, "types": list(sender.webhook.types),
                 "services": list(sender.webhook.services), "resolved": sender.webhook.resolved} for sender in self._senders]

    def test(self, name: str | None = None) -> list[tuple[str, str, str]]:
        """Send a message to each webhook, or to the one with a name, at once and once. Name, host and what went wrong of each. Raises
        KeyError for a name that there is not."""
        chosen = [sender for sender in self._senders if name is None or sender.name == name]
        if name is not None and not chosen:
            raise KeyError(name)
        alert = self._alert("health", TEST, "this is a test of the alerts")
        return [(sender.name, sender.place, sender.post(alert)[0]) for sender in chosen]

    def _take(self, event: Event) -> None:
        """Turn an event into an alert if it needs one. The bus calls this, so it must not block."""
        route, data = event.route_id or "-", event.data
        reason = data.get("reason", "")
        if event.type == "backend_health_changed":
            where = f"{data.get('url', 'the upstream')} of route {route}"
            if data.get("status") == "down":
                self._tell(("health", route), f"{where} is down: {reason}", route_id=route)
            elif data.get("status") == "healthy":
                self._over(("health", route), f"{where} is healthy again")
        elif event.type == "circuit_state_changed":
            if data.get("to") == "open":
                self._tell(("circuit", route), f"circuit of route {route} is open (was {data.get('from', '')}): {reason}", route_id=route)
            elif data.get("to") == "closed":
                self._over(("circuit", route), f"circuit of route {route} is closed again")
        elif event.type == "certificate_changed":
            if data.get("error"):
                self._tell(("certificate", data["domain"]), f"no new certificate for {data['domain']}: {data['error']}")
            elif data.get("state") == "valid":
                self._over(("certificate", data["domain"]), f"there is a new certificate for {data['domain']}")
        elif event.type == "certificate_expiring":
            when = "expired on" if data["days"] <= 0 else f"expires in {data['days']:g} days, on"
            # The last word is another subject: it must not wait for the interval after the one that warned.
            said = f"the certificate {data['path']} for {', '.join(data['names'])}"
            self._tell(("certificate", said if data["days"] > 0 else f"{said} expired"), f"{said} {when} {data['expires']}")
        elif event.type == "config_applied":
            for route_id in data.get("removed") or ():
                for kind in ("health", "circuit"):
                    self._over((kind, str(route_id)), f"route {route_id} is gone")

    def _tell(self, subject: tuple[str, str], message: str, times: int = 1, service: str = "", route_id: str = "") -> None:
        """Queue an alert about something that happened `times`, unless one about the same subject was sent within the interval."""
        now = time.monotonic()
        known = self._subjects.get(subject)
        if known is not None and now - known.told < self._settings.interval and not (known.firing is False and known.over is None):
            known.held_back += times
            # It was not over for long enough to be told.
            known.over, known.firing = None, True
            return
        others = times - 1 + (known.held_back if known is not None else 0)
        more = f" ({others} more since the last alert)" if others else ""
        if known is None and len(self._subjects) >= _MAX_SUBJECTS:
            self._forget(now)
        self._subjects[subject] = _Subject(now, service, route_id)
        self._queue_up(self._alert(subject[0], FIRING, f"{message}{more}", service, route_id))

    def _over(self, subject: tuple[str, str], message: str) -> None:
        """What was told is over. That is told when it has lasted."""
        known = self._subjects.get(subject)
        if known is not None and known.firing and known.over is None:
            known.over = time.monotonic(), message

    def _settle(self) -> None:
        now = time.monotonic()
        for subject, known in list(self._subjects.items()):
            if known.over is not None and now - known.over[0] >= _SETTLES:
                message = known.over[1]
                # The next one is told at once: whoever read that it is over must not believe it any longer.
                known.over, known.firing = None, False
                self._queue_up(self._alert(subject[0], RESOLVED, f"resolved: {message}", known.service, known.route_id))

    def _alert(self, type_: str, state: str, message: str, service: str = "", route_id: str = "") -> Alert:
        return Alert(type_, state, f"proxyd on {self._name}: {message}", rfc3339(time.time()), self._name, service,
                     "" if route_id == NO_ROUTE else route_id)

    def _queue_up(self, alert: Alert) -> None:
        try:
            self._queue.put_nowait(alert)
            self._sharing.wake()
        except Full:
            log.warning("%d alerts already wait for the webhook; dropped this one: %s", _QUEUE, alert.text)

    def _share(self) -> None:
        """Give each alert that waits to the webhooks that want it."""
        while not self._queue.empty():
            alert = self._queue.get_nowait()
            if alert.route_id and not alert.service:
                try:
                    service = self._store.read(_service_of, alert.route_id)
                except StoreError:
                    service = ""
                alert = Alert(alert.type, alert.state, alert.text, alert.at, alert.host, service, alert.route_id)
            for sender in self._senders:
                if sender.webhook.wants(alert.type, alert.service, alert.state == RESOLVED):
                    sender.put(alert)

    def _forget(self, now: float) -> None:
        """Make room: forget the subjects whose interval has passed, or all of them if none has."""
        interval = self._settings.interval
        self._subjects = {key: item for key, item in self._subjects.items() if now - item.told < interval}
        if len(self._subjects) >= _MAX_SUBJECTS:
            self._subjects.clear()

    def _look_at_unwell(self) -> None:
        """Tell of what is unwell and lasts, and no event tells of: services that are away, routes that fail every request, workers."""
        assert self._wellness is not None, "started without"
        now, known, self._unwell = time.monotonic(), self._unwell, {}
        for item in self._wellness.findings():
            subject = item.kind, item.subject
            began = self._unwell[subject] = known.get(subject, now)
            if item.kind in FINDINGS and began >= 0 and now - began >= _LASTS:
                self._unwell[subject] = -1.0
                self._tell(subject, f"{item.sentence}. {item.todo}", service=item.service)
        for subject, began in known.items():
            if began < 0 and subject not in self._unwell:
                self._over(subject, f"{subject[0].replace('_', ' ')}: {subject[1]}")

    def _look_at_errors(self) -> None:
        """Tell of services of whose requests too many failed since the last look."""
        counted = self._store.read(_errors)
        if self._counted is not None:
            for place, (requests, errors) in counted.items():
                before = self._counted.get(place, (0, 0))
                requests, errors = requests - before[0], errors - before[1]
                subject = "errors", "/".join(place)
                if requests >= self._settings.error_requests and errors * 100 >= self._settings.error_rate * requests:
                    said = f"of the requests of {place[0]} ({place[1]}) failed within a minute: {errors} of {requests}"
                    self._tell(subject, f"{errors * 100 / requests:.1f} % {said}", service=place[0])
                else:
                    self._over(subject, f"the requests of {place[0]} ({place[1]}) succeed again")
        self._counted = counted

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
                self._tell(("slow", route_id), self._store.read(_latest_critical, route_id), more, route_id=route_id)
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


def _service_of(route_id: str) -> str:
    """The service that a route is for, or was for. Runs in the database thread."""
    row = RouteHistory.select(Endpoint.service_name).join(Endpoint).where(RouteHistory.route_id == route_id).tuples().first()
    return str(row[0]) if row is not None else ""


def _errors() -> dict[Place, tuple[int, int]]:
    """Requests and errors of each service at a domain. Runs in the database thread."""
    fields = ServiceStats._meta.fields
    query = ServiceStats.select(ServiceStats.service_name, ServiceStats.domain, fields["requests"], fields["errors"])
    return {(service, domain): (requests, errors) for service, domain, requests, errors in tuples(query) if service != NO_ROUTE}
