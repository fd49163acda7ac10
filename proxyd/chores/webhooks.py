"""Posts alerts to one webhook, in the form that it understands, with retries where they can help."""

from __future__ import annotations

import json
import logging
import re
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import urlsplit

import gevent
import requests
from gevent.queue import Full, Queue

from proxyd.base.jobs import Job
from proxyd.base.webhooks import DISCORD, NTFY, SLACK, Webhook

log = logging.getLogger("proxyd.alerts")

_QUEUE = 1000
_RETRIES = 3
_LONGEST_WAIT = 30.0
_TIMEOUT = (5.0, 10.0)
_MAX_TEMPLATE = 65536
_VARIABLE = re.compile(r"\{(\w+)\}")
#: Discord refuses longer ones.
_MAX_TEXT = 1900
FIRING, RESOLVED, TEST = "firing", "resolved", "test"
#: Priority and tag of ntfy, by state.
_NTFY = {FIRING: ("4", "warning"), RESOLVED: ("3", "white_check_mark"), TEST: ("3", "bell")}


@dataclass(frozen=True, slots=True)
class Alert:
    """What is told. `state`: firing, resolved or test. `service`, `route_id`: empty where it is about none. `at`: RFC 3339."""

    type: str
    state: str
    text: str
    at: str
    host: str
    service: str = ""
    route_id: str = ""


def rendered(webhook: Webhook, alert: Alert) -> tuple[bytes, dict[str, str]]:
    """Body and header fields. Raises OSError and ValueError for a template that can't be used."""
    text = alert.text[:_MAX_TEXT]
    if webhook.format == NTFY:
        priority, tag = _NTFY[alert.state]
        # Fields are ASCII for every server; the text is UTF-8.
        title = f"proxyd on {alert.host}".encode("ascii", "replace").decode()
        return text.encode(), {"Content-Type": "text/plain; charset=utf-8", "Title": title, "Priority": priority, "Tags": tag}
    body: Any
    if webhook.template:
        with open(webhook.template, encoding="utf-8") as file:
            body = _filled(json.loads(file.read(_MAX_TEMPLATE)), {**asdict(alert), "text": text})
    elif webhook.format == SLACK:
        body = {"text": text}
    elif webhook.format == DISCORD:
        # Nobody is to be called by what stands in a name.
        body = {"content": text, "allowed_mentions": {"parse": []}}
    else:
        body = {**asdict(alert), "text": text, "content": text}
    return json.dumps(body).encode(), {"Content-Type": "application/json"}


def template_problem(path: str) -> str:
    """Why a template can't be used, or an empty text."""
    try:
        with open(path, encoding="utf-8") as file:
            json.loads(file.read(_MAX_TEMPLATE))
    except (OSError, ValueError, RecursionError) as error:
        return str(error)
    return ""


def _filled(template: Any, values: dict[str, str]) -> Any:
    """The template with {text} and its like put into its texts: what they hold can't break the JSON."""
    if isinstance(template, str):
        return _VARIABLE.sub(lambda found: values.get(found[1], found[0]), template)
    if isinstance(template, list):
        return [_filled(item, values) for item in template]
    if isinstance(template, dict):
        return {key: _filled(item, values) for key, item in template.items()}
    return template


class Sender:
    """One webhook, and the alerts that wait for it: one that is slow keeps no other waiting. `backoff`: seconds until the first retry; it
    doubles each time."""

    def __init__(self, name: str, webhook: Webhook, backoff: float) -> None:
        self.name = name
        self.webhook = webhook
        self._backoff = backoff
        self._queue: Queue[Alert] = Queue(_QUEUE)
        self.job = Job(f"alerts-{name}" if name else "alerts", None, self._send_waiting, log, trouble="an alert was not sent")

    @property
    def place(self) -> str:
        """What may be told of the url: its host, because the path is a secret."""
        return urlsplit(self.webhook.url).hostname or "the webhook"

    def put(self, alert: Alert) -> None:
        """Send it as soon as may be. Must not wait."""
        try:
            self._queue.put_nowait(alert)
            self.job.wake()
        except Full:
            log.warning("%d alerts already wait for the webhook; dropped this one: %s", _QUEUE, alert.text)

    def _send_waiting(self) -> None:
        while not self._queue.empty():
            self._send(self._queue.get_nowait())

    def _send(self, alert: Alert) -> None:
        for attempt in range(_RETRIES + 1):
            failure, wait = self.post(alert)
            if not failure:
                return
            if wait < 0:
                break
            if attempt < _RETRIES:
                gevent.sleep(min(max(wait, self._backoff * 2 ** attempt), _LONGEST_WAIT))
        log.error("[alerts] webhook: %s; this alert was not delivered: %s", failure, alert.text)

    def post(self, alert: Alert) -> tuple[str, float]:
        """Post it once. What went wrong, or an empty text; and how many seconds the webhook wants to be left alone, below 0 where another
        attempt would be no use."""
        try:
            data, headers = rendered(self.webhook, alert)
        except (OSError, ValueError) as error:
            return f"the template {self.webhook.template} can't be used: {error}", -1.0
        try:
            # Each alert opens a new connection. Alerts are rare, so a kept connection would be dead by the next one.
            with requests.post(self.webhook.url, data=data, headers=headers, timeout=_TIMEOUT, allow_redirects=False) as response:
                status = response.status_code
                if 200 <= status < 300:
                    return "", 0.0
                asked = response.headers.get("Retry-After", "")
                gone = 300 <= status < 500 and status not in (408, 429)
                return f"{self.place} answered {status}", -1.0 if gone else float(asked) if asked.isdigit() else 0.0
        except requests.RequestException as error:
            return f"{self.place} can't be reached ({type(error).__name__})", 0.0
