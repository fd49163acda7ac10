"""A client's HTTP/2 connection: one greenlet reads it, one writes it, and each stream has one of its own for its exchange."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from math import inf
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import get_hub

from proxyd.base.reasons import CLIENT_GONE
from proxyd.http1 import ProtocolError, RequestHead
from proxyd.http2.connection import Bounds, Connection
from proxyd.http2.errors import ENHANCE_YOUR_CALM, NO_ERROR, REFUSED_STREAM, ConnectionFault, StreamFault
from proxyd.http2.events import Body, Ended, Event, Pong, Request, Trailers
from proxyd.http2.fields import read_request
from proxyd.http2.priority import parse_priority
from proxyd.http2.stream import Stream as Http2State
from proxyd.net.crew import begin
from proxyd.net.stream import LITTLE
from proxyd.proxy.client.http2head import request_head, too_large
from proxyd.proxy.client.http2stream import Http2Stream
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.core.http2fields import trailers
from proxyd.proxy.core.http2write import FrameWriter
from proxyd.proxy.core.origin import forwarded_fields

if TYPE_CHECKING:
    from proxyd.proxy.client.front import ClientStream, Front

log = logging.getLogger("proxyd.proxy")

Handler = Callable[[Exchange], None]

#: While so much waits to be sent, apart from bodies, nothing more is read.
_BACKLOG = 65536
#: Seconds that a client has to answer the PING behind the first GOAWAY.
_FAREWELL = 1.0
_LINGER_SECONDS = 1.0
#: So many answers that the client's windows let out next to nothing of, for so many seconds, are a flood: nobody asks for what
#: he doesn't take, and each holds a buffer.
_STARVED, _STARVED_SECONDS = 16, 0.5


_NO_HEAD = RequestHead("-", "-", 20, [], [])


class _Finished(Exception):
    """There is nothing more to read for."""


class _HeaderTimeout(ConnectionFault):
    """A header has not become whole in time. `reason`: its code."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(ENHANCE_YOUR_CALM, detail)
        self.reason = reason


class Http2Connection:
    """One connection. Watched: while no stream is open, while a header comes, while it sends, and while it says goodbye.

    `ahead`: bytes that were read already. `timeout`: body_timeout.
    """

    __slots__ = (
        "_active", "_ahead", "_drain_until", "_draining", "_greenlet", "_handle", "_head_begun", "_head_until", "_hub", "_idle_until",
        "_limits", "_paused", "_reading", "_sender", "_served", "_settings", "_starved", "_starved_until", "_writer", "asked",
        "certificate", "deadline", "engine", "forwarded", "front", "peer", "secure", "stream", "timeout", "trusted",
    )  # fmt: skip

    def __init__(self, stream: ClientStream, peer: str, front: Front, ahead: bytes = b"") -> None:
        self.stream = stream
        self.peer = peer
        self.front = front
        self.secure = stream.secure
        self.trusted = front.trusts(peer)
        self.certificate = stream.certificate
        self.asked = stream.asked
        self.forwarded = forwarded_fields(peer, stream.secure, stream.certificate)
        self._settings = settings = front.settings.proxy
        self.timeout = settings.body_timeout
        self._limits = front.head_limits
        now = time.monotonic()
        bounds = Bounds(settings.http2_max_streams, settings.http2_stream_window, settings.http2_connection_window,
                        settings.max_header_size)
        self.engine = Connection(bounds, now)
        self._sender = self.engine.sender
        self._ahead = ahead
        self._hub = get_hub()
        self._greenlet: Any = None
        self._writer = FrameWriter(self._sender, stream, self.timeout, self._watch_writing)
        self._reading = self._paused = False
        self._active: set[Http2Stream] = set()
        self._served = 0
        self._draining = False
        self._idle_until = now + settings.header_timeout
        self._head_until = self._drain_until = self._starved_until = inf
        self._starved: set[Http2Stream] = set()
        self._head_begun = 0.0
        self.deadline = self._idle_until

    # -- the connection

    def serve(self, handle: Handler) -> None:
        """Serve requests until the connection ends, then close the stream. Raises nothing but what ends the greenlet."""
        self._handle = handle
        self._greenlet = gevent.getcurrent()
        self.front.idle_watch.add(self)
        self._writer.start()
        polite = False
        try:
            try:
                self._read_on()
            except _Finished:
                polite = True
            except ConnectionFault as fault:
                polite = True
                log.info("HTTP/2 connection of %s: %s (error %s)", self.peer, fault.detail, fault.code)
                self.engine.stop(fault.code, fault.detail)
                if isinstance(fault, _HeaderTimeout):
                    self._refuse(Http2Stream(self, Http2State(0, 0, 0)), ProtocolError(408, fault.reason, fault.detail))
            except OSError:
                pass
            self._end_streams()
            if polite:
                self._linger()
        finally:
            self.front.idle_watch.discard(self)
            for client in self._active:
                if client.job is not None:
                    client.job.kill()
            self._writer.stop()
            self.stream.close()

    def _read_on(self) -> None:
        engine, stream = self.engine, self.stream
        data, self._ahead = self._ahead, b""
        if self.front.stopping:
            self.drain()
        while True:
            if data:
                engine.feed(data, time.monotonic())
                while (event := engine.next_event()) is not None:
                    self._take(event)
                    stream.give_way()
                self._watch_header()
            if self._sender.waiting():
                self.wake()
            if not self._active and (engine.stopped or engine.leaving):
                raise _Finished
            if self._sender.backlog > _BACKLOG:
                self._pause()
            self._reading = True
            # Of several streams, more may have come. One waits for its answer first.
            alone = len(self._active) < 2 and 0 < len(data) < LITTLE
            # The next may be long in coming.
            data = b""
            try:
                data = stream.recv_later() if alone else stream.recv()
            finally:
                self._reading = False
            if not data:
                return

    def _take(self, event: Event) -> None:
        if type(event) is Body:
            client: Http2Stream = event.stream.owner
            wrong = client.receive(event.data, event.ended)
            if wrong:
                self._malformed(client, wrong)
        elif type(event) is Request:
            self._begin(event)
        elif type(event) is Ended:
            client = event.stream.owner
            if event.detail:
                client.fail(ProtocolError(400, "malformed_request", event.detail))
            else:
                client.lose()
        elif type(event) is Trailers:
            self._trail(event)
        elif type(event) is Pong:
            self._finish()

    def _begin(self, event: Request) -> None:
        """A request has come: its exchange gets a greenlet of its own."""
        state = event.stream
        client = state.owner = Http2Stream(self, state)
        head, error = _NO_HEAD, None
        try:
            if event.size > self._limits.head_size:
                raise too_large(event.fields, self._limits)
            request = read_request(event.fields)
            if request.priority:
                self._sender.prefer(state, *parse_priority(request.priority))
            head = request_head(request, self._limits)
            wrong = client.expect(head)
        except StreamFault as fault:
            wrong = fault.detail
        except ProtocolError as refusal:
            error, wrong = refusal, ""
        if wrong:
            self._malformed(client, wrong)
            return
        if len(self._active) >= 2 * self._settings.http2_max_streams:
            # Those that were reset are still ending.
            self.engine.blame(state, REFUSED_STREAM)
            return
        self._idle_until = inf
        self._served += 1
        self._active.add(client)
        client.job = begin(self._run, (client, head, error, time.monotonic()))
        if self._served >= self._settings.requests_per_connection:
            self.drain()

    def _run(self, request: tuple[Http2Stream, RequestHead, ProtocolError | None, float]) -> None:
        client, head, error, began = request
        try:
            if error is None and head.content_length < 0 and head.method != "CONNECT" and not head.upgrade and client.has_body():
                error = client.await_body(head)
            if error is None and client.gone():
                error = client.fault or ProtocolError(CLIENT_GONE, "client_gone", "the stream was reset before anything was done for it")
            if error is not None:
                head = _NO_HEAD
            exchange = client.exchange = Exchange(client, head, began, error)
            self._handle(exchange)
        finally:
            client.over()
            self._active.discard(client)
            if not self._active:
                self._all_over()

    def _malformed(self, client: Http2Stream, detail: str) -> None:
        """Reset a stream because its request is malformed (RFC 9113 8.1.1), and have that logged. Raises ConnectionFault if that
        happens too often."""
        error = ProtocolError(400, "malformed_request", f"the request is malformed: {detail}")
        if client in self._active:
            client.fail(error)
        else:
            self._refuse(client, error)
        self.engine.blame(client.state)

    def _refuse(self, client: Http2Stream, error: ProtocolError) -> None:
        """Have a request that gets no answer counted and logged."""
        client.fail(error)
        client.exchange = Exchange(client, _NO_HEAD, time.monotonic(), error)
        self._handle(client.exchange)

    def _trail(self, event: Trailers) -> None:
        client: Http2Stream = event.stream.owner
        try:
            wrong = client.trail(trailers(event.fields, 400))
        except StreamFault as fault:
            wrong = fault.detail
        except ProtocolError as error:
            client.refuse(error)
            return
        if wrong:
            self._malformed(client, wrong)

    # -- sending

    def wake(self) -> None:
        """There is something to send."""
        self._writer.wake()

    def _watch_writing(self, until: float) -> None:
        if until < self.deadline:
            self.deadline = until

    def _pause(self) -> None:
        """Read nothing more while the client does not take our frames."""
        self._paused = True
        self._writer.wait_below(_BACKLOG)
        self._paused = False

    def gone(self) -> bool:
        """Whether the client has closed the connection, where nobody reads it at the moment."""
        return self._paused and self.stream.gone()

    def descriptor(self) -> int:
        """The number of the connection's descriptor, -1 once it is closed."""
        return self.stream.fileno()

    def acknowledged(self) -> int:
        """How many bytes the client has taken in all, of all streams. -1 where that is not known."""
        return self.stream.taken()

    def starved(self, stream: Http2Stream) -> None:
        """An answer waits for its client's window, and next to nothing of it was let out."""
        self._starved.add(stream)
        if len(self._starved) >= _STARVED and self._starved_until == inf:
            self._starved_until = time.monotonic() + _STARVED_SECONDS
            self.deadline = min(self.deadline, self._starved_until)

    def fed(self, stream: Http2Stream) -> None:
        """It does not wait any more."""
        self._starved.discard(stream)

    # -- deadlines

    def expire(self, now: float) -> None:
        """The idle watchdog's call. Deadlines that have moved on since leave only the next one."""
        if self._writer.until <= now:
            self._writer.until = now + self.timeout
            if not self.stream.moved():
                self.stream.shutdown()
        if self._head_until <= now:
            self._judge_header(now)
        elif self._idle_until <= now and self._head_until == inf:
            # A header that has begun has a time of its own.
            self._idle_until = inf
            if self._served:
                self.drain()
            else:
                self._finish()
        elif self._drain_until <= now:
            self._finish()
        if self._starved_until <= now:
            self._starved_until = inf
            if sum(client.unwanted() for client in self._starved) >= _STARVED:
                self._interrupt(ConnectionFault(ENHANCE_YOUR_CALM, "too many answers that the windows do not let out"))
        self.deadline = min(self._writer.until, self._head_until, self._idle_until, self._drain_until, self._starved_until)

    def idle_since(self) -> float:
        """The instant since which there is no stream. inf while there are some, or once the connection has been asked to go."""
        return self._idle_until - (self.front.idle_seconds if self._served else self._settings.header_timeout)

    def make_way(self) -> None:
        """End the idle connection. Must not wait."""
        self._idle_until = inf
        self._finish()

    def _watch_header(self) -> None:
        """A header that has begun has header_timeout to become whole, however it trickles."""
        if not self.engine.in_block:
            self._head_until = inf
        elif self._head_until == inf:
            self._head_begun = time.monotonic()
            self._head_until = self._head_begun + self.front.head_wait
            self.deadline = min(self.deadline, self._head_until)

    def _judge_header(self, now: float) -> None:
        """Give a header that is on its way more time if it has come at the least rate so far, else end the connection."""
        limit, earned = self._settings.header_timeout, self.front.rates.seconds(self.engine.block_size)
        self._head_until = self._head_begun + min(earned, limit)
        if self._head_until > now:
            return
        self._head_until = inf
        if earned < limit:
            self._interrupt(_HeaderTimeout("request_too_slow", "the request header did not arrive in time"))
        else:
            self._interrupt(_HeaderTimeout("header_timeout", f"the request header was not complete within {limit:g} s"))

    def _interrupt(self, error: Exception) -> None:
        """End the reader's wait with an error. It must be thrown in the hub: only there is it certain that the reader waits."""

        def throw() -> None:
            if self._reading:
                self._reading = False
                self._greenlet.throw(error)

        self._hub.loop.run_callback(throw)

    # -- the end

    def drain(self) -> None:
        """Let the connection end: say so, serve what the client has sent before it knew, then say which stream was the last. Must not
        wait."""
        if self._draining:
            return
        self._draining = True
        self.engine.shut_down()
        self._drain_until = time.monotonic() + _FAREWELL
        self.deadline = min(self.deadline, self._drain_until)
        self.wake()

    def _finish(self) -> None:
        """No new streams from now on. The connection ends with those that are open."""
        self._draining = True
        self._drain_until = inf
        self.engine.stop(NO_ERROR)
        self.wake()
        if not self._active:
            self._interrupt(_Finished())

    def _all_over(self) -> None:
        """The last exchange has ended."""
        if self.engine.stopped or self.engine.leaving:
            self._interrupt(_Finished())
        self._idle_until = time.monotonic() + self.front.idle_seconds
        if self._idle_until < self.deadline:
            self.deadline = self._idle_until

    def _end_streams(self) -> None:
        """End the exchanges that are left: nobody reads their answers."""
        for client in list(self._active):
            client.lose()
        for job in [client.job for client in self._active if client.job is not None]:
            job.join()

    def _linger(self) -> None:
        """Send what is left, and let it reach a client that is still sending: closing at once would send a reset."""
        self._writer.wait_for_all()
        if self._writer.over:
            return
        stream = self.stream.end()
        with gevent.Timeout(_LINGER_SECONDS, False):
            try:
                while stream.recv():
                    pass
            except OSError:
                pass


