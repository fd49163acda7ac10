"""Traces requests for OpenTelemetry: spans, and how they are sent (OTLP over HTTP, in its JSON form).

A request that is traced has two spans: one from its first byte to its answer's last, with its waits as attributes, and one for the attempt
at the backend, which the backend is told as its parent. Spans wait in bounded memory, and a job sends them. A collector that is slow or
away costs spans, never a request.
"""

from __future__ import annotations

import json
import logging
import random
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from proxyd import __version__
from proxyd.base import tracecontext
from proxyd.base.jobs import Job
from proxyd.base.trouble import Trouble
from proxyd.http1 import PROTOCOLS
from proxyd.proxy.record.slow import split

if TYPE_CHECKING:
    from proxyd.config.sections import TracingSettings
    from proxyd.proxy.core.exchange import Exchange, Traced
    from proxyd.proxy.core.upstreams import Upstream

log = logging.getLogger("proxyd.proxy")

_PERIOD = 2.0
_MOST_WAITING = 2000
#: Spans in one request.
_AT_ONCE = 256
_TIMEOUT = (3.0, 5.0)
_SERVER, _CLIENT, _ERROR = 2, 3, 2
_LONGEST = 500
Attributes = dict[str, str | int | float]


class Trace:
    """The ids of a request that is traced, as hexadecimal text. `own`, `attempt`: of its two spans. `parent`: of the span before it, empty
    if it is the first."""

    __slots__ = ("attempt", "own", "parent", "trace_id")

    def __init__(self, trace_id: str, parent: str) -> None:
        self.trace_id = trace_id
        self.parent = parent
        self.own = secrets.token_hex(8)
        self.attempt = secrets.token_hex(8)

    @property
    def told(self) -> str:
        """The traceparent for the backend."""
        return tracecontext.written(self.trace_id, self.attempt)


class Tracer:
    """Decides which requests are traced, and sends their spans."""

    def __init__(self, settings: TracingSettings) -> None:
        self._url = settings.endpoint
        self._share = settings.sample / 100
        self._service = settings.service
        self._headers_file = settings.headers_file
        self._waiting: deque[dict[str, Any]] = deque(maxlen=_MOST_WAITING)
        self._dropped = 0
        self._trouble = Trouble(log, "spans are dropped")
        self._job = Job("tracing", _PERIOD, self._send, log)

    def start(self) -> None:
        """Begin to send."""
        self._job.start()

    def stop(self) -> None:
        """Send what waits, once."""
        self._job.stop()
        self._send()

    def begin(self, ex: Exchange) -> Traced | None:
        """Whether a request is traced. The decision of a trusted proxy in front is followed. Others say which trace it belongs to, but not
        whether it is recorded: anybody could have everything recorded."""
        parent = None
        for name, value in ex.head.headers:
            if len(name) == 11 and name.lower() == "traceparent":
                parent = tracecontext.parse(value)
                break
        if parent is not None and ex.client.trusted:
            return Trace(parent.trace_id, parent.span_id) if parent.sampled else None
        if random.random() >= self._share:
            return None
        return Trace(parent.trace_id, parent.span_id) if parent is not None else Trace(secrets.token_hex(16), "")

    def end(self, ex: Exchange, trace: Traced, member: Upstream | None, ended: float) -> None:
        """Keep the spans of a request that has ended. `member`: who got it, or would have. `ended`: time.monotonic() seconds."""
        if len(self._waiting) >= _MOST_WAITING - 1:
            self._dropped += 1
            return
        total = ended - ex.started
        queue, connect, first_byte, body = split(ex, total)
        status = ex.status
        found: Attributes = {
            "http.request.method": ex.method, "url.scheme": "https" if ex.secure else "http", "url.path": ex.path[:_LONGEST],
            "server.address": ex.host[:_LONGEST], "http.response.status_code": status, "client.address": ex.client_ip,
            "network.protocol.version": PROTOCOLS[ex.head.version], "http.response.body.size": ex.bytes_sent,
            "proxyd.request_id": ex.request_id, "proxyd.wait.before_ms": round(queue * 1000, 3),
            "proxyd.wait.connect_ms": round(connect * 1000, 3), "proxyd.wait.first_byte_ms": round(first_byte * 1000, 3),
            "proxyd.wait.body_ms": round(body * 1000, 3)}
        if member is not None:
            found |= {"http.route": member.path, "proxyd.route": member.route_id, "proxyd.service": member.service,
                      "proxyd.instance": member.instance}
        if ex.failure or status >= 500:
            found["error.type"] = ex.failure or str(status)
        now = time.time()
        name = f"{ex.method} {member.path}" if member is not None else ex.method
        self._waiting.append(_span(trace.trace_id, trace.own, trace.parent, name, _SERVER, now - total, now, found, status))
        upstream = ex.upstream
        if upstream is None or not ex.upstream_started:
            return
        place: Attributes = {"http.request.method": ex.method, "server.address": upstream.host, "server.port": upstream.port,
                             "http.response.status_code": status, "http.request.resend_count": max(0, ex.attempts - 1)}
        began = now - (ended - ex.upstream_started)
        self._waiting.append(_span(trace.trace_id, trace.attempt, trace.own, ex.method, _CLIENT, began, now, place, status))

    def _send(self) -> None:
        while self._waiting:
            spans = [self._waiting.popleft() for _ in range(min(_AT_ONCE, len(self._waiting)))]
            failure = self._post(spans)
            if failure:
                self._dropped += len(spans)
                self._trouble.goes_on(failure)
                return
        if self._trouble.reason or self._dropped:
            self._trouble.is_over(f"; {self._dropped} were lost")
            self._dropped = 0

    def _post(self, spans: list[dict[str, Any]]) -> str:
        """Send spans. What went wrong, or nothing."""
        # Only who traces pays for it.
        import requests

        resource: Attributes = {"service.name": self._service, "service.version": __version__}
        document = {"resourceSpans": [{"resource": {"attributes": _attributes(resource)}, "scopeSpans": [
            {"scope": {"name": "proxyd", "version": __version__}, "spans": spans}]}]}
        try:
            headers = {"Content-Type": "application/json", **read_headers(self._headers_file)}
            with requests.post(self._url, data=json.dumps(document, separators=(",", ":")), headers=headers, timeout=_TIMEOUT,
                               allow_redirects=False) as response:
                return "" if 200 <= response.status_code < 300 else f"the collector answered {response.status_code}"
        except (requests.RequestException, OSError, ValueError) as error:
            return f"the collector can't be reached ({type(error).__name__})"


def read_headers(path: str) -> dict[str, str]:
    """The fields of a file with lines like `Authorization: Bearer ...`. Raises OSError, and ValueError for another line."""
    found: dict[str, str] = {}
    if path:
        with open(path, encoding="ascii") as file:
            for line in file.read(16384).splitlines():
                name, colon, value = line.partition(":")
                if line.strip() and not (colon and name.strip()):
                    raise ValueError(f"{path} has a line that is not like Name: value")
                if line.strip():
                    found[name.strip()] = value.strip()
    return found


def _span(trace_id: str, span_id: str, parent: str, name: str, kind: int, begun: float, ended: float, attributes: Attributes,
          status: int) -> dict[str, Any]:
    span: dict[str, Any] = {
        "traceId": trace_id, "spanId": span_id, "name": name, "kind": kind, "startTimeUnixNano": str(int(begun * 1e9)),
        "endTimeUnixNano": str(int(ended * 1e9)), "attributes": _attributes(attributes)}
    if parent:
        span["parentSpanId"] = parent
    if status >= 500:
        span["status"] = {"code": _ERROR}
    return span


def _attributes(values: Attributes) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": value} if isinstance(value, str) else {"doubleValue": value}
             if isinstance(value, float) else {"intValue": str(value)}} for key, value in values.items()]
