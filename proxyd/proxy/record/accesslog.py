"""The access log. The data of a finished request are kept in memory; lines are made and written in batches.

The text format is the combined format plus route, upstream, upstream time, total time, request id, reason, host and service. Settings
choose the combined format alone or JSON instead, and shortened addresses. A native thread writes, so a slow disk or a full pipe delays the
log, never a request. Lines beyond the limit are dropped and counted.
"""

from __future__ import annotations

import ipaddress
import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import gevent
from gevent.threadpool import ThreadPool

from proxyd.base.jobs import Job
from proxyd.base.text import rfc3339
from proxyd.base.trouble import Trouble
from proxyd.http1 import PROTOCOLS

if TYPE_CHECKING:
    from proxyd.config.sections import LogSettings
    from proxyd.http1 import RequestHead

log = logging.getLogger("proxyd.proxy")

_FLUSH_SECONDS = 0.2
_LAST_SECONDS = 2.0
_MAX_PENDING = 100_000
#: Lines that are made in one go.
_AT_ONCE = 256
_ESCAPES = {code: f"\\x{code:02x}" for code in (*range(32), 34, 92, 127)}
#: Characters of UTF-8, and C1 control bytes that are in none. The C1 characters of UTF-8 come first: both steer terminals.
_BEYOND_ASCII = re.compile(
    r"(?P<control>\xc2[\x80-\x9f])|[\xc2-\xdf][\x80-\xbf]|\xe0[\xa0-\xbf][\x80-\xbf]|[\xe1-\xec\xee\xef][\x80-\xbf]{2}"
    r"|\xed[\x80-\x9f][\x80-\xbf]|\xf0[\x90-\xbf][\x80-\xbf]{2}|[\xf1-\xf3][\x80-\xbf]{3}|\xf4[\x80-\x8f][\x80-\xbf]{2}"
    r"|(?P<byte>[\x80-\x9f])")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Finished(NamedTuple):
    """The data of a finished request for its line. `at`: Unix seconds. `sent`: bytes. The other times are seconds."""

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
    service: str
    user: str


@lru_cache(maxsize=4096)
def short(address: str) -> str:
    """The network of a client's address: of IPv4 without the last byte, of IPv6 the first 48 bits. Others as they are."""
    try:
        network = ipaddress.ip_network(f"{address}/{48 if ':' in address else 24}", strict=False)
    except ValueError:
        return address
    return str(network.network_address)


def _clean(value: str) -> str:
    """A header value, escaped for quotes. The parser of heads allows no control character of ASCII but the tab."""
    if '"' in value or "\\" in value or "\t" in value:
        value = value.translate(_ESCAPES)
    return value if value.isascii() else _BEYOND_ASCII.sub(_without_controls, value)


def _without_controls(found: re.Match[str]) -> str:
    """The match, with C1 control bytes (0x80 to 0x9f) and characters escaped."""
    return "".join([f"\\x{ord(char):02x}" for char in found[0]]) if found["control"] or found["byte"] else found[0]


def _referer_and_agent(head: RequestHead) -> tuple[str, str]:
    """The two header fields of the combined format, empty if missing."""
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
    """Writes the lines. `target`: a path, `-` for standard output, or `off`. `form`: text, combined or json. `clock`: Unix
    seconds. `shortened`: addresses are. `lost`: told how many lines of a route were lost.

    Lines are made a few hundred at a time. One by one, the code would be out of the processor's cache each time. By the thousand,
    requests would wait, and the data would stay in memory for long.
    """

    def __init__(self, target: str, form: str, clock: Callable[[], float] = time.time, shortened: bool = False,
                 lost: Callable[[str, int], None] = lambda route, lines: None) -> None:
        self._target = target
        self._clock = clock
        self._over: list[Finished] = []
        self._pending: list[str] = []
        #: The route of each of them.
        self._routes: list[str] = []
        self._lost = lost
        self._dropped = 0
        self._second = -1
        self._stamp = ""
        self._pool = ThreadPool(1)
        self._job = Job("access-log", _FLUSH_SECONDS, self._look, log)
        self._writing: gevent.Greenlet | None = None
        self._fd = -1
        self._trouble = Trouble(log, f"can't write the access log {target}")
        self.enabled = target != "off"
        self._line = {"json": self._json, "combined": self._combined}.get(form, self._text)
        self._address = short if shortened else str

    def record(self, head: RequestHead, client: str, status: int, sent: int, route: str, upstream: str, upstream_seconds: float,
               seconds: float, request_id: str, reason: str, service: str = "", user: str = "") -> None:
        """Log a finished request. Sizes are bytes, times are seconds. `route`, `service`: of the member that got it, or would have. `user`:
        who has logged in."""
        over = self._over
        over.append(Finished(self._clock(), head, client, status, sent, route, upstream, upstream_seconds, seconds, request_id, reason,
                             service, user))
        if len(over) >= _AT_ONCE:
            self._make_lines()

    def _make_lines(self) -> None:
        self._pending += map(self._line, self._over)
        self._routes += [one.route for one in self._over]
        self._over.clear()

    def _drop(self, routes: list[str]) -> None:
        """Count lines of these routes as lost."""
        self._dropped += len(routes)
        for route, lines in Counter(routes).items():
            self._lost(route, lines)

    def _text(self, one: Finished) -> str:
        return (f'{self._beginning(one)} route={one.route or "-"} upstream={one.upstream or "-"} '
                f'upstream_time={one.upstream_seconds:.4f} time={one.seconds:.4f} id={one.request_id} reason={one.reason or "-"} '
                f'host={_clean(one.head.host or "") or "-"} service={one.service or "-"}\n')

    def _combined(self, one: Finished) -> str:
        return f"{self._beginning(one)}\n"

    def _beginning(self, one: Finished) -> str:
        """The combined log format."""
        if not self._second <= one.at < self._second + 1:
            self._second = int(one.at)
            self._stamp = common_stamp(one.at)
        head = one.head
        referer, agent = _referer_and_agent(head)
        # A request that could not be read has no request line.
        line = f"{head.method} {_clean(head.target)} HTTP/{PROTOCOLS[head.version]}" if head.method != "-" else "-"
        return (f'{self._address(one.client) or "-"} - {_clean(one.user) or "-"} [{self._stamp}] "{line}" {one.status} {one.sent} '
                f'"{_clean(referer) or "-"}" "{_clean(agent) or "-"}"')

    def _json(self, one: Finished) -> str:
        head = one.head
        referer, agent = _referer_and_agent(head)
        return json.dumps({
            "at": rfc3339(one.at), "client": self._address(one.client), "method": head.method, "host": head.host, "target": head.target,
            "protocol": f"HTTP/{PROTOCOLS[head.version]}", "status": one.status, "bytes": one.sent, "referer": referer or None,
            "user_agent": agent or None, "route": one.route, "upstream": one.upstream,
            "upstream_seconds": round(one.upstream_seconds, 6), "seconds": round(one.seconds, 6), "request_id": one.request_id,
            "reason": one.reason, "service": one.service, "user": one.user or None}, separators=(",", ":")) + "\n"

    def start(self) -> None:
        """Open the file and begin to write. If it can't be opened, that is logged and tried again. Traffic goes on without it."""
        if self.enabled:
            try:
                self._open()
            except OSError as error:
                self._trouble.goes_on(error.strerror)
            self._job.start()

    def reopen(self) -> None:
        """Open the file again, after it was rotated. If that fails, the old one stays open."""
        if self._target in ("-", "off"):
            return
        failure = self._pool.apply(self._exchange)
        if failure is not None:
            log.error("can't reopen the access log %s: %s", self._target, failure)

    def _exchange(self) -> str | None:
        """Reopen in the thread that writes. If another thread closed the descriptor, its number could become a client's at once."""
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
        """Begin to write the pending lines, unless writing is in progress."""
        if self._writing is None or self._writing.dead:
            if self._pending or self._over:
                self._writing = gevent.spawn(self._write)
        elif len(self._pending) > _MAX_PENDING:
            self._drop(self._routes[_MAX_PENDING:])
            del self._pending[_MAX_PENDING:], self._routes[_MAX_PENDING:]
            self._trouble.goes_on("lines come faster than they can be written")

    def flush(self) -> None:
        """Write the pending lines, as far as that is quick. Waits for the writing thread, not for requests."""
        if not self.enabled:
            return
        with gevent.Timeout(_LAST_SECONDS, False):
            if self._writing is not None:
                self._writing.join()
            self._write()

    def _write(self) -> None:
        self._make_lines()
        lines, routes = self._pending.copy(), self._routes.copy()
        self._pending.clear()
        self._routes.clear()
        # Latin-1 restores the bytes that clients sent. JSON is ASCII.
        failure = self._pool.apply(self._write_all, ("".join(lines).encode("latin-1", "replace"),))
        if failure is not None:
            self._drop(routes)
            self._trouble.goes_on(failure)
        else:
            self._trouble.is_over(f"; {self._dropped} lines were lost" if self._dropped else "")
            self._dropped = 0

    def _write_all(self, data: bytes) -> str | None:
        """Write in the thread. Returns the reason of a failure, because gevent prints what a pool's thread raises."""
        try:
            if self._fd < 0:
                self._open()
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view):]
        except OSError as error:
            return error.strerror
        return None


def access_log(settings: LogSettings, lost: Callable[[str, int], None] = lambda route, lines: None) -> AccessLog:
    """The access log that the settings ask for. `lost`: told how many lines of a route were lost."""
    form = settings.format if settings.access_format == "same" else settings.access_format
    return AccessLog(settings.access, form, shortened=settings.access_addresses == "short", lost=lost)
