"""The access log: entries are collected on the request path, formatted and written in batches off it.

Text is the combined format plus route, upstream, upstream time, total time, request id and reason; JSON by a
setting. Writing happens in a native thread: a slow disk or a full pipe delays the log, never a request, and
what does not fit the bound is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import time
from typing import TYPE_CHECKING, NamedTuple

import gevent
from gevent.threadpool import ThreadPool

from proxyd.text import rfc3339

if TYPE_CHECKING:
    from proxyd.http1 import RequestHead

log = logging.getLogger("proxyd.proxy")

_FLUSH_SECONDS = 0.2
_MAX_PENDING = 100_000
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 34, 92, 127)}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Entry(NamedTuple):
    """One request as it is logged; times in seconds, `at` in Unix seconds."""

    at: float
    client: str
    head: RequestHead
    status: int
    sent: int
    route: str
    upstream: str
    upstream_seconds: float
    total_seconds: float
    request_id: str
    reason: str


def _clean(value: str | None) -> str:
    """A header value made safe between quotes: nothing in it can end the field or the line."""
    return value.translate(_ESCAPES) if value else "-"


def text_line(entry: Entry, stamp: str) -> str:
    """The entry in combined format and our fields behind it."""
    head = entry.head
    line = f"{head.method} {_clean(head.target)} HTTP/1.{head.version - 10}"
    return (f'{entry.client} - - [{stamp}] "{line}" {entry.status} {entry.sent} '
            f'"{_clean(head.get("referer"))}" "{_clean(head.get("user-agent"))}" route={entry.route or "-"} '
            f'upstream={entry.upstream or "-"} upstream_time={entry.upstream_seconds:.4f} time={entry.total_seconds:.4f} '
            f'id={entry.request_id} reason={entry.reason or "-"}\n')


def json_line(entry: Entry) -> str:
    """The entry as one JSON object."""
    head = entry.head
    return json.dumps({
        "at": rfc3339(entry.at), "client": entry.client, "method": head.method, "host": head.host, "target": head.target,
        "protocol": f"HTTP/1.{head.version - 10}", "status": entry.status, "bytes": entry.sent, "referer": head.get("referer"),
        "user_agent": head.get("user-agent"), "route": entry.route, "upstream": entry.upstream,
        "upstream_seconds": round(entry.upstream_seconds, 6), "seconds": round(entry.total_seconds, 6),
        "request_id": entry.request_id, "reason": entry.reason}, separators=(",", ":")) + "\n"


def common_stamp(at: float) -> str:
    """An instant as the common log format writes it, in UTC: `24/Nov/2026:09:00:00 +0000`."""
    moment = time.gmtime(at)
    return (f"{moment.tm_mday:02d}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year}:"
            f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} +0000")


class AccessLog:
    """Where entries go: `add` is a list append. `target`: a path, `-` for standard output, `off`."""

    def __init__(self, target: str, form: str) -> None:
        self._target = target
        self._json = form == "json"
        self._pending: list[Entry] = []
        self._dropped = 0
        self._pool = ThreadPool(1)
        self._fd = -1
        self.enabled = target != "off"
        self.add = self._pending.append if self.enabled else self._ignore

    @staticmethod
    def _ignore(entry: Entry) -> None:
        """The log is off."""

    def start(self) -> None:
        """Open the file and begin to write. Raises OSError where it can't be opened."""
        if self.enabled:
            self._open()
            gevent.spawn(self._run)

    def reopen(self) -> None:
        """Open the file anew, after it was rotated; on failure the old one stays."""
        if self._target in ("-", "off"):
            return
        try:
            old = self._fd
            self._open()
            os.close(old)
        except OSError as error:
            log.error("can't reopen the access log %s: %s", self._target, error.strerror)

    def _open(self) -> None:
        if self._target == "-":
            self._fd = 1
            return
        folder = os.path.dirname(self._target)
        if folder:
            os.makedirs(folder, exist_ok=True)
        self._fd = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _run(self) -> None:
        while True:
            gevent.sleep(_FLUSH_SECONDS)
            self.flush()

    def flush(self) -> None:
        """Write what is pending; waits for the writing thread, not for requests."""
        pending = self._pending
        if not pending:
            return
        batch = pending[:_MAX_PENDING]
        self._dropped += len(pending) - len(batch)
        pending.clear()
        try:
            self._pool.apply(_write, (self._fd, self._format(batch)))
        except OSError as error:
            self._dropped += len(batch)
            log.error("can't write the access log %s: %s; %d entries lost so far", self._target, error.strerror, self._dropped)

    def _format(self, batch: list[Entry]) -> bytes:
        if self._json:
            return "".join([json_line(entry) for entry in batch]).encode("utf-8", "replace")
        lines = []
        second, stamp = -1, ""
        for entry in batch:
            if int(entry.at) != second:
                second = int(entry.at)
                stamp = common_stamp(second)
            lines.append(text_line(entry, stamp))
        return "".join(lines).encode("latin-1", "replace")


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view):]
