"""Requests to upstreams that speak HTTP/2: connections that requests share, and the attempt on one of their streams.

The option `http2` asks for it where the upstream offers it: over TLS by ALPN, in the clear by an answer to HTTP/2's first bytes, before
any request is sent. An upstream that does not gets HTTP/1.1, and is asked again after some minutes. One named `h2c://` gets HTTP/2 alone.
"""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING

import gevent
from gevent.event import Event

from proxyd.base.urls import ALWAYS
from proxyd.http1 import ProtocolError, ResponseHead
from proxyd.http1.reading import MAX_INFORMATIONAL
from proxyd.http2.errors import HTTP_1_1_REQUIRED
from proxyd.net.tlsstream import TlsStream
from proxyd.proxy.core.headers import request_head
from proxyd.proxy.core.phases import CONNECT, RESPONSE_HEAD, TOTAL
from proxyd.proxy.upstream import retry
from proxyd.proxy.upstream.attempt import attempt, exchange, failure, pass_on
from proxyd.proxy.upstream.http2leg import Leg, LegError, request_fields
from proxyd.proxy.upstream.http2link import Link
from proxyd.proxy.upstream.pool import UpstreamError, connect, release
from proxyd.proxy.upstream.upload import Upload

if TYPE_CHECKING:
    from proxyd.http2.connection import Bounds
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream
    from proxyd.proxy.upstream.parts import Parts

#: How long an upstream that does not speak HTTP/2 is not asked again, seconds: over TLS that costs nothing, in the clear a connection.
_PLAIN_SECONDS, _PLAIN_CLEAR_SECONDS = 60.0, 600.0
#: How long an upstream in the clear has to answer HTTP/2's first bytes, where HTTP/1.1 is the other choice, seconds.
_ANSWER_SECONDS = 2.0
#: How often a request is sent again because the upstream has not looked at it, and how often it looks for a connection with room.
_TRIES, _LOOKS = 3, 20


class _Opening:
    """A connection that is being opened, and the requests that wait for it. `link` is None where the upstream speaks HTTP/1.1 only."""

    def __init__(self) -> None:
        self.done = Event()
        self.waiting = 0
        self.link: Link | None = None
        self.error: UpstreamError | None = None


class UpstreamLinks:
    """The HTTP/2 connections of this worker to one upstream. `plain_until`: until then the upstream is taken for one that speaks
    HTTP/1.1 only (monotonic seconds)."""

    def __init__(self) -> None:
        self._links: list[Link] = []
        self._openings: list[_Opening] = []
        self.plain_until = 0.0

    def all(self) -> list[Link]:
        """The connections."""
        return self._links

    def prune(self, addresses: frozenset[str] | None) -> None:
        """Begin no more requests on connections to other addresses."""
        self._links = [link for link in self._links if link.alive]
        for link in self._links:
            if addresses is not None and link.stream.address not in addresses:
                link.retire()

    def retire(self) -> None:
        """Begin no more requests: the route is gone."""
        for link in self._links:
            link.retire()

    def leg(self, ex: Exchange, upstream: Upstream, bounds: Bounds) -> Leg | None:
        """A stream for a request that is sent at once. None if the upstream is to get HTTP/1.1. Raises UpstreamError."""
        for _ in range(_LOOKS):
            now = time.monotonic()
            for link in self._links:
                if link.usable(now):
                    return link.leg(now)
            if now < self.plain_until:
                return None
            opening = next((opening for opening in self._openings if opening.waiting < bounds.streams), None)
            if opening is None:
                opening = _Opening()
                self._openings.append(opening)
                gevent.spawn(self._open, opening, upstream, bounds)
            self._wait(ex, upstream, opening, now)
            found = opening.link
            if found is not None and found.usable(now):
                return found.leg(now)
        raise UpstreamError("other", 502, "upstream_http2", "the upstream takes no streams on its HTTP/2 connections", True)

    @staticmethod
    def _wait(ex: Exchange, upstream: Upstream, opening: _Opening, begun: float) -> None:
        """Wait for a connection, within connect_timeout and the rest of total_timeout. Raises UpstreamError."""
        ex.wait_unwatched(CONNECT)
        limit = upstream.options.connect_timeout
        left = max(0.001, ex.total_deadline - begun)
        opening.waiting += 1
        try:
            done = opening.done.wait(min(limit, left))
        finally:
            opening.waiting -= 1
            ex.connect_seconds = time.monotonic() - begun
        if not done:
            if left <= limit:
                ex.expired = TOTAL
            raise UpstreamError("timeout", 504, "total_timeout" if left <= limit else "connect_timeout",
                                f"no connection to the upstream within {min(limit, left):g} s", True)
        error = opening.error
        if error is not None:
            raise UpstreamError(error.cause, error.status, error.code, error.detail, error.unsent)

    def _open(self, opening: _Opening, upstream: Upstream, bounds: Bounds) -> None:
        """Open a connection. Runs in a greenlet of its own, so that no request that gives up takes it from the others."""
        try:
            opening.link = self._connect(upstream, bounds)
        except UpstreamError as error:
            opening.error = error
        except Exception as error:
            opening.error = UpstreamError("other", 502, "upstream_http2", f"no HTTP/2 connection to the upstream: {error}", True)
            raise
        finally:
            self._openings.remove(opening)
            opening.done.set()

    def _connect(self, upstream: Upstream, bounds: Bounds) -> Link | None:
        options = upstream.options
        begun = time.monotonic()
        stream = connect(upstream, options.connect_timeout, "connect_timeout", True)
        if isinstance(stream, TlsStream) and stream.protocol != "h2":
            self.plain_until = begun + _PLAIN_SECONDS
            release(upstream, stream, time.monotonic())
            return None
        until = stream.opened_at + options.pool_max_age if options.pool_max_age else inf
        link = Link(stream, bounds, options.http2_ping, options.pool_idle_timeout if options.pool_size else 0.0, until)
        limit = begun + options.connect_timeout - time.monotonic()
        sure = upstream.http2 == ALWAYS or upstream.scheme == "https"
        link.settled.wait(max(0.001, limit if sure else min(limit, _ANSWER_SECONDS)))
        if upstream.state.retired:
            # Those who wait for it are the last.
            link.idle_for = 0.0
        if link.engine.settled and link.alive:
            self._links = [link, *(other for other in self._links if other.alive)]
            return link
        why = str(link.failed) if link.failed is not None else ""
        link.abort()
        if not sure:
            self.plain_until = time.monotonic() + _PLAIN_CLEAR_SECONDS
            return None
        if not why:
            raise UpstreamError("timeout", 504, "connect_timeout", "the upstream did not begin HTTP/2 in time", True)
        if link.failed is not None and link.failed.code == "upstream_tls":
            raise UpstreamError("other", 502, "upstream_tls", why, True)
        raise UpstreamError("other", 502, "upstream_http2", f"no HTTP/2 with the upstream: {why}", True)


def attempt_http2(parts: Parts, ex: Exchange, upstream: Upstream, admission: int, retry_statuses: frozenset[int]) -> bool:
    """`attempt` on a stream of HTTP/2, or on HTTP/1.1 where the upstream does not speak it."""
    ex.upstream = upstream
    ex.upstream_started = time.monotonic()
    links = links_of(upstream)
    tries = 0
    while True:
        leg = links.leg(ex, upstream, parts.http2_bounds)
        if leg is None:
            return attempt(parts, ex, upstream, admission, retry_statuses)
        try:
            return exchange(parts, ex, upstream, leg, admission, retry_statuses, _send, _read)
        except UpstreamError as error:
            tries += 1
            if not again(ex, upstream, leg, error, tries):
                raise


def links_of(upstream: Upstream) -> UpstreamLinks:
    """The HTTP/2 connections of this worker to an upstream."""
    links = upstream.state.links
    if not isinstance(links, UpstreamLinks):
        links = upstream.state.links = UpstreamLinks()
    return links


def again(ex: Exchange, upstream: Upstream, leg: Leg, error: UpstreamError, tries: int) -> bool:
    """Whether a request is sent again at once, after so many tries, and count that."""
    if tries >= _TRIES or not _may_be_sent_again(ex, upstream, leg, error):
        return False
    if ex.counters is not None:
        ex.counters.retries += 1
    return True


def _may_be_sent_again(ex: Exchange, upstream: Upstream, leg: Leg, error: UpstreamError) -> bool:
    """Whether the upstream has not looked at the request, whatever it is (RFC 9113 8.7), or a connection that others had used before has
    ended, as connections do."""
    if ex.expired is not None or ex.client_gone or ex.response_started or error.code == "upstream_tls":
        return False
    cause = leg.cause
    if not error.unsent:
        # A stream that was reset is an answer of its kind.
        return leg.reused and not cause and retry.on_new_connection(ex, upstream, error)
    if cause == HTTP_1_1_REQUIRED and upstream.http2 != ALWAYS:
        links_of(upstream).plain_until = time.monotonic() + _PLAIN_SECONDS
    # Who refuses a stream may be overloaded. Who ends a connection is not, as far as anybody knows.
    if cause and not upstream.state.spend_retry():
        return False
    upload = ex.upload
    if upload is not None:
        assert isinstance(upload, Upload)
        kept = upload.replay()
        if kept is None:
            return False
        ex.kept = kept
        ex.upload = None
    return True


def _send(ex: Exchange, upstream: Upstream, stream: Stream) -> None:
    """Send the request, or begin to."""
    assert isinstance(stream, Leg)
    fields = request_fields(request_head(ex, upstream), upstream.scheme)
    client, body = ex.client, ex.body
    try:
        if body is None and (ex.kept is not None or client.has_body()):
            ex.upstream_timeout = upstream.options.timeout
            stream.begin(fields, False)
            if client.expects_continue():
                client.send_continue()
            ex.upload = Upload(ex, stream, stream)
        else:
            ex.wait_for(RESPONSE_HEAD, time.monotonic() + upstream.options.timeout)
            stream.begin(fields, not body)
            if body:
                stream.send_last(body)
    except OSError as error:
        raise failed(ex, error) from None


def _read(parts: Parts, ex: Exchange, upstream: Upstream, stream: Stream) -> tuple[ResponseHead, bytes]:
    """The head of the final response, and what has come of the body. Informational responses are passed on."""
    assert isinstance(stream, Leg)
    first = True
    for _ in range(2 * MAX_INFORMATIONAL):
        try:
            response = stream.head(ex.method, parts.response_limits)
        except OSError as error:
            raise failed(ex, error) from None
        if first:
            first = False
            ex.first_byte_seconds = time.monotonic() - ex.upstream_started
        if response.status >= 200:
            return response, stream.take()
        pass_on(ex, upstream, (response,))
    raise ProtocolError(502, "too_many_informational", "the upstream sent too many informational responses")


def failed(ex: Exchange, error: OSError) -> Exception:
    """The error for a stream that failed."""
    if not isinstance(error, LegError):
        return failure(ex, str(error))
    failed = failure(ex, str(error), error.unsent)
    if isinstance(failed, UpstreamError) and failed.cause == "reset":
        if error.code == "upstream_tls":
            return UpstreamError("other", 502, error.code, str(error), ex.upload is None)
        return UpstreamError("reset", 502, error.code, str(error), error.unsent)
    return failed
