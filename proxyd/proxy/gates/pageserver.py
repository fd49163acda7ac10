"""Requests to services' own maintenance servers. Timeouts are short, answers are cached for a moment, and a server that fails is
not asked for a while, so that it delays nobody."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from dataclasses import dataclass

import gevent

from proxyd.base.urls import parse_backend, split_unix
from proxyd.config.options import BackendTls

log = logging.getLogger("proxyd.proxy")

#: Seconds for a whole answer, and for its connection. Nobody should wait longer for a page.
PATIENCE, CONNECT_TIMEOUT = 2.0, 0.5
_MAX_BODY = 1 << 20
_KEPT_SECONDS = 2.0
_KEPT_ANSWERS = 64
_FAILURES, _REST_SECONDS = 3, 10.0
#: Most requests to all servers at once. Beyond that, clients get a cached page or the built-in one.
_MAX_ASKED = 16
_MAX_SERVERS = 1000
_HTTP2 = "h2c://"


@dataclass(frozen=True, slots=True)
class Fetched:
    """The answer of a maintenance server."""

    status: int
    content_type: str
    body: bytes


class Breaker:
    """After three failures in a row a server is left alone for ten seconds. Then one request decides. `now`: monotonic seconds."""

    __slots__ = ("failures", "rests_until")

    def __init__(self) -> None:
        self.failures = 0
        self.rests_until = 0.0

    def admits(self, now: float) -> bool:
        """Whether the server may be asked."""
        if now < self.rests_until:
            return False
        if self.failures >= _FAILURES:
            self.rests_until = now + PATIENCE
        return True

    def ended(self, good: bool, now: float) -> None:
        """Somebody has asked the server."""
        self.failures = 0 if good else self.failures + 1
        self.rests_until = now + _REST_SECONDS if self.failures >= _FAILURES else 0.0


class PageServers:
    """All maintenance servers that this worker asks."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str, tuple[float, Fetched]] = OrderedDict()
        self._asked: dict[str, gevent.Greenlet] = {}
        self._breakers: dict[str, Breaker] = {}

    def get(self, url: str, tls: BackendTls) -> Fetched | None:
        """The server's answer, None if it fails. Simultaneous calls for the same url share one request."""
        now = time.monotonic()
        kept = self._kept.get(url)
        if kept is not None and now - kept[0] < _KEPT_SECONDS:
            return kept[1]
        asked = self._asked.get(url)
        if asked is None:
            breaker = self.breaker(url)
            if len(self._asked) >= _MAX_ASKED or not breaker.admits(now):
                return None
            asked = self._asked[url] = gevent.spawn(self._ask, url, tls, breaker)
        # The greenlet has its own timeout, so it may outlive a caller that is killed.
        asked.join()
        found: Fetched | None = asked.value
        return found

    def breaker(self, url: str) -> Breaker:
        """Whether the server of a url is left alone for the moment."""
        server = origin(url)
        breaker = self._breakers.get(server)
        if breaker is None:
            if len(self._breakers) >= _MAX_SERVERS:
                self._breakers.clear()
            breaker = self._breakers[server] = Breaker()
        return breaker

    def _ask(self, url: str, tls: BackendTls, breaker: Breaker) -> Fetched | None:
        fetched: Fetched | None = None
        try:
            with gevent.Timeout(PATIENCE, TimeoutError(f"no complete answer within {PATIENCE:g} s")):
                fetched = _fetch(url, tls)
        except Exception as error:
            log.warning("the server of the page at %s failed, showing the built-in page: %s", origin(url), error)
        finally:
            self._asked.pop(url, None)
        now = time.monotonic()
        breaker.ended(fetched is not None, now)
        if fetched is not None:
            self._kept[url] = (now, fetched)
            self._kept.move_to_end(url)
            if len(self._kept) > _KEPT_ANSWERS:
                self._kept.popitem(last=False)
        return fetched


def _fetch(url: str, tls: BackendTls) -> Fetched:
    if url.startswith(_HTTP2):
        return _fetch_http2(url, tls)
    from proxyd.net import asking  # costs a tenth of a second, which no worker without maintenance should pay

    with asking.ask(url, (CONNECT_TIMEOUT, PATIENCE), tls) as response:
        pieces, size = [], 0
        for piece in response.iter_content(65536):
            pieces.append(piece)
            size += len(piece)
            if size > _MAX_BODY:
                raise ValueError(f"{url} is larger than {_MAX_BODY} bytes")
        return Fetched(response.status_code, response.headers.get("Content-Type", ""), b"".join(pieces))


def _fetch_http2(url: str, tls: BackendTls) -> Fetched:
    """The same from a backend that speaks HTTP/2 in the clear alone."""
    from proxyd.http2.asking import Asker
    from proxyd.net.dial import dial
    from proxyd.net.proxyprotocol import header

    server = origin(url)
    backend, target = parse_backend(server), url.removeprefix(server).removeprefix(":")
    with gevent.Timeout(CONNECT_TIMEOUT, TimeoutError(f"no connection within {CONNECT_TIMEOUT:g} s")):
        sock = dial(backend.host, backend.port)
    try:
        if tls.send_proxy != "off":
            sock.sendall(header(tls.send_proxy, "", None))
        reply = Asker(sock).ask("GET", "http", backend.authority, target or "/", (("accept", "*/*"),), b"", _MAX_BODY + 1)
    finally:
        sock.close()
    if len(reply.body) > _MAX_BODY:
        raise ValueError(f"{url} is larger than {_MAX_BODY} bytes")
    return Fetched(reply.status, reply.fields.get(b"content-type", b"").decode("latin-1"), reply.body)


def origin(url: str) -> str:
    """Scheme and authority of a url, or scheme and socket."""
    if (unix := split_unix(url)) is not None:
        return f"{_HTTP2 if url.startswith(_HTTP2) else 'http://'}unix:{unix[0]}"
    return "/".join(url.split("/", 3)[:3])
