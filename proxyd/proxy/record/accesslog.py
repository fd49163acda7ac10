"""The access log: what there is to say is kept when a request is over; lines are made and written in batches.

Text is the combined format plus route, upstream, upstream time, total time, request id and reason; JSON by a
setting. Writing happens in a native thread: a slow disk or a full pipe delays the log, never a request, and
what does not fit the bound is dropped and counted.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import gevent
from gevent.threadpool import ThreadPool

from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.base.trouble import Trouble
from proxyd.http1 import PROTOCOLS

if TYPE_CHECKING:
    from proxyd.http1 import RequestHead

log = logging.getLogger("proxyd.proxy")

_FLUSH_SECONDS = 0.2
_LAST_SECONDS = 2.0
_MAX_PENDING = 100_000
#: Lines made at a time.
_AT_ONCE = 256
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 34, 92, 127)}
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Finished(NamedTuple):
    """A request that is over, as its line is made of it. `at`: Unix seconds; `sent`: bytes; the other times are in seconds."""

    at: float
    head: RequestHead
    client: str
    status: int
    sent: int
    route: str
    upstream: str
    upstream_seconds: float
    seconds: float
    request_id: str
    reason: str


def _clean(value: str) -> str:
    """A header value made safe between quotes. The reader of heads lets no other control character pass."""
    return value.translate(_ESCAPES) if '"' in value or "\\" in value or "\t" in value else value


def _referer_and_agent(head: RequestHead) -> tuple[str, str]:
    """The two fields of the combined format, empty where they are missing."""
    referer = agent = ""
    for name, value in head.headers:
        size = len(name)
        if size == 10:
            if name.lower() == "user-agent":
                agent = value
        elif size == 7 and name.lower() == "referer":
            referer = value
    return referer, agent


def common_stamp(at: float) -> str:
    """An instant as the common log format writes it, in UTC: `24/Nov/2026:09:00:00 +0000`."""
    moment = time.gmtime(at)
    return (f"{moment.tm_mday:02d}/{_MONTHS[moment.tm_mon - 1]}/{moment.tm_year}:"
            f"{moment.tm_hour:02d}:{moment.tm_min:02d}:{moment.tm_sec:02d} +0000")


class AccessLog:
    """Where the lines go. `target`: a path, `-` for standard output, `off`; `form`: text or json; `clock`: Unix seconds.

    Lines are made a few hundred at a time: between two requests what makes them would come cold into the processor each time, and
    with thousands at once requests would wait, and so much of them stay alive.
    """

    def __init__(self, target: str, form: str, clock: Callable[[], float] = time.time) -> None:
        self._target = target
        self._clock = clock
        self._over: list[Finished] = []
        self._pending: list[str] = []
        self._dropped = 0
        self._second = -1
        self._stamp = ""
        self._pool = ThreadPool(1)
        self._job = Job("access-log", _FLUSH_SECONDS, self._look, log)
        self._writing: gevent.Greenlet | None = None
        self._fd = -1
        self._trouble = Trouble(log, f"can't write the access log {target}")
        self.enabled = target != "off"
        self._line = self._json if form == "json" else self._text

    def record(self, head: RequestHead, client: str, status: int, sent: int, route: str, upstream: str, upstream_seconds: float,
               seconds: float, request_id: str, reason: str) -> None:
        """Log a request that is over; sizes in bytes, times in seconds."""
        over = self._over
        over.append(Finished(self._clock(), head, client, status, sent, route, upstream, upstream_seconds, seconds, request_id, reason))
        if len(over) >= _AT_ONCE:
            self._make_lines()

    def _make_lines(self) -> None:
        self._pending += map(self._line, self._over)
        self._over.clear()

    def _text(self, one: Finished) -> str:
        if not self._second <= one.at < self._second + 1:
            self._second = int(one.at)
            self._stamp = common_stamp(one.at)
        head = one.head
        referer, agent = _referer_and_agent(head)
        # A request that could not be read has no line.
        line = f"{head.method} {_clean(head.target)} HTTP/{PROTOCOLS[head.version]}" if head.method != "-" else "-"
        return (f'{one.client or "-"} - - [{self._stamp}] "{line}" {one.status} {one.sent} '
                f'"{_clean(referer) or "-"}" "{_clean(agent) or "-"}" route={one.route or "-"} upstream={one.upstream or "-"} '
                f'upstream_time={one.upstream_seconds:.4f} time={one.seconds:.4f} id={one.request_id} reason={one.reason or "-"}\n')

    def _json(self, one: Finished) -> str:
        head = one.head
        referer, agent = _referer_and_agent(head)
        return json.dumps({
            "at": rfc3339(one.at), "client": one.client, "method": head.method, "host": head.host, "target": head.target,
            "protocol": f"HTTP/{PROTOCOLS[head.version]}", "status": one.status, "bytes": one.sent, "referer": referer or None,
            "user_agent": agent or None, "route": one.route, "upstream": one.upstream,
            "upstream_seconds": round(one.upstream_seconds, 6), "seconds": round(one.seconds, 6), "request_id": one.request_id,
            "reason": one.reason}, separators=(",", ":")) + "\n"

    def start(self) -> None:
        """Open the file and begin to write; one that can't be opened is said so and tried again: traffic goes on without."""
        if self.enabled:
            try:
                self._open()
            except OSError as error:
                self._trouble.goes_on(error.strerror)
            self._job.start()

    def reopen(self) -> None:
        """Open the file anew, after it was rotated; on failure the old one stays."""
        if self._target in ("-", "off"):
            return
        failure = self._pool.apply(self._exchange)
        if failure is not None:
            log.error("can't reopen the access log %s: %s", self._target, failure)

    def _exchange(self) -> str | None:
        """Reopen in the thread that writes: a number closed under it could be a client's the next moment."""
        old = self._fd
        try:
            self._open()
        except OSError as error:
            return error.strerror
        if old >= 0:
            os.close(old)
        return None

    def _open(self) -> None:
        if self._target == "-":
            self._fd = 1
            return
        folder = os.path.dirname(self._target)
        if folder:
            os.makedirs(folder, exist_ok=True)
        self._fd = os.open(self._target, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)

    def _look(self) -> None:
        """Begin to write what is pending, unless that is under way."""
        if self._writing is None or self._writing.dead:
            if self._pending or self._over:
                self._writing = gevent.spawn(self._write)
        elif len(self._pending) > _MAX_PENDING:
            self._dropped += len(self._pending) - _MAX_PENDING
            del self._pending[_MAX_PENDING:]
            self._trouble.goes_on("it takes lines more slowly than they come")

    def flush(self) -> None:
        """Write what is pending, as far as that is quick; waits for the writing thread, not for requests."""
        if not self.enabled:
            return
        with gevent.Timeout(_LAST_SECONDS, False):
            if self._writing is not None:
                self._writing.join()
            self._write()

    def _write(self) -> None:
        self._make_lines()
        lines = self._pending.copy()
        self._pending.clear()
        # Latin-1 gives back the bytes that clients sent; JSON is ASCII.
        failure = self._pool.apply(self._write_all, ("".join(lines).encode("latin-1", "replace"),))
        if failure is not None:
            self._dropped += len(lines)
            self._trouble.goes_on(failure)
        else:
            self._trouble.is_over(f"; {self._dropped} lines were lost" if self._dropped else "")
            self._dropped = 0

    def _write_all(self, data: bytes) -> str | None:
        """Write in the thread; why that failed, as a value: gevent prints what a pool's thread raises."""
        try:
            if self._fd < 0:
                self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view):]
        except OSError as error:
            return error.strerror
        return None
