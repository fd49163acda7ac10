"""One request in progress: what the client asked, where the request goes, how far it is, and its outcome."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import TYPE_CHECKING, Protocol

from proxyd.http1 import ProtocolError, RequestHead
from proxyd.proxy.core.phases import (
    REQUEST_BODY,
    REQUEST_RATE,
    REQUEST_SEND,
    RESPONSE_HEAD,
    RESPONSE_RATE,
    RESPONSE_WRITE,
    START,
    TOTAL,
    Phase,
)

#: What `Exchange.lasting` says of a request that core/busywatch has met: it is looked at, or parked.
LOOKED_AT, PARKED = 1, 2

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.clientside import ClientSide
    from proxyd.proxy.core.origin import Origin
    from proxyd.proxy.core.pace import Pace
    from proxyd.proxy.core.upstreams import Pool, Upstream


class Counters(Protocol):
    """The counters of a route that the rooms of the request path add to."""

    in_flight: int
    queued: int
    rate_limited: int
    retries: int
    circuit_rejected: int
    drain_rejected: int
    maintenance_hits: int
    queue_waits: int
    queue_rejected: int
    holds: int
    hold_rejected: int
    slow_warnings: int
    slow_criticals: int
    late: int
    unbuffered: int

    def record(self, status: int, seconds: float, sent: int, received: int, failure: str = "") -> None:
        """Count one finished request."""


class Sending(Protocol):
    """The greenlet that sends the request's body to the upstream. `done_at`: when all of it was sent, seconds of time.monotonic."""

    done: bool
    done_at: float
    error: Exception | None

    def stop(self) -> None:
        """End it. Harmless if it has ended."""


class Queued(Protocol):
    """A request that waits in a queue."""

    def wait(self) -> None:
        """Wait until somebody wakes it."""

    def leave(self) -> None:
        """Wake it without a place. Must not wait."""


class Kept(Protocol):
    """A request's body that was read before its upstream was chosen, or the beginning of one. `length`: that of a whole body without
    trailers, else -1."""

    length: int

    def pieces(self) -> Iterator[bytes]:
        """What was read, from the beginning. Raises ProtocolError 503 if it can't be read again."""

    def close(self) -> None:
        """Give back what it holds."""


class Traced(Protocol):
    """The ids of a request that is traced, as hexadecimal text. `own`, `attempt`: of its two spans. `parent`: of the span before it."""

    trace_id: str
    parent: str
    own: str
    attempt: str

    @property
    def told(self) -> str:
        """The traceparent for the backend."""


class Watch(Protocol):
    """What watches requests in flight."""

    def wake(self, ex: Exchange) -> None:
        """The parked request begins to wait for something else."""


class Carrying(Protocol):
    """A WebSocket that is open."""

    def end(self, reason: str) -> None:
        """Send both sides a close frame. A second call cuts them. Must not wait."""


class Exchange:
    """A request and its response. Instants are time.monotonic() seconds, durations seconds.

    `phase` and `deadline` belong together: what the exchange waits for, and until when. `expired`: the phase whose deadline has
    passed, if any. `failure`: the reason code of a refusal or failure, as in log and header. `unread`: why the request could not
    be read; then `head` is empty. `origin`: what trusted proxies say of the client; None if they say nothing. `body`: a small body
    that was read as a whole; `kept`: a larger one, or its beginning. `at_upstream`: it counts as one of its upstream's requests.
    """

    __slots__ = (
        "at_upstream", "attempts", "body", "bytes_received", "bytes_sent", "client", "client_gone", "client_ip", "compressed",
        "connect_seconds", "counters", "deadline", "expired", "failure", "first_byte_seconds", "granted", "head", "host", "kept", "lasting",
        "method", "origin", "paced", "path", "phase", "pool", "queued", "request_id", "response_started", "set_headers", "started",
        "status", "total_deadline", "trace", "tunnel", "unread", "upload", "upstream", "upstream_limit", "upstream_started",
        "upstream_stream", "upstream_timeout", "user", "watch",
    )  # fmt: skip

    def __init__(self, client: ClientSide, head: RequestHead, started: float, unread: ProtocolError | None = None) -> None:
        self.client = client
        self.head = head
        self.method = head.method
        self.unread = unread
        self.started = started
        self.host = ""
        self.path = ""
        self.client_ip = client.peer
        self.origin: Origin | None = None
        self.request_id = ""
        self.pool: Pool | None = None
        self.upstream: Upstream | None = None
        self.counters: Counters | None = None
        self.status = 0
        self.failure = ""
        self.attempts = 0
        self.at_upstream = False
        self.body: bytes | None = None
        self.kept: Kept | None = None
        self.upload: Sending | None = None
        self.tunnel: Carrying | None = None
        self.queued: Queued | None = None
        #: The ids of its spans; None if it is not traced.
        self.trace: Traced | None = None
        #: Fields that the backend gets because somebody has let the request pass (gates/forwardauth).
        self.granted: tuple[tuple[str, str], ...] = ()
        #: Who has logged in (gates/basicauth, gates/forwardauth), empty if nobody has.
        self.user = ""
        self.bytes_received = 0
        self.bytes_sent = 0
        self.connect_seconds = 0.0
        self.first_byte_seconds = 0.0
        self.upstream_limit = 0
        self.upstream_timeout = 0.0
        self.upstream_started = 0.0
        self.upstream_stream: Stream | None = None
        self.response_started = False
        self.compressed = False
        self.set_headers: list[tuple[str, str]] = []
        self.client_gone = False
        self.deadline = inf
        self.total_deadline = inf
        self.phase = START
        self.expired: Phase | None = None
        self.paced: tuple[Phase, Pace | None] | None = None
        #: Not 0 once it is watched as one that lasts (core/busywatch), and only then there is a `watch`.
        self.lasting = 0
        self.watch: Watch

    @property
    def secure(self) -> bool:
        """Whether the client itself speaks HTTPS, to us or to a trusted proxy in front."""
        return self.client.secure if self.origin is None else self.origin.scheme == "https"

    # Only these methods write `status`, `response_started`, `phase` and `deadline`.

    def begin_response(self, status: int) -> None:
        """A final response with this status is about to be sent."""
        self.status = status
        self.response_started = True

    def hold_back(self, status: int) -> None:
        """The upstream answered with a status that is not passed on, because the request may be sent again."""
        self.status = status

    def begin_again(self) -> None:
        """Another attempt begins. Forget how the last one ended."""
        self.status = 0
        self.expired = None

    def end_unanswered(self, status: int) -> None:
        """The client gets no response, or no more of it. `status` is for the log, if no response has begun."""
        self.status = self.status or status

    def wait_unwatched(self, phase: Phase) -> None:
        """From now on the exchange waits for `phase`, which has its own timeout."""
        self.phase = phase
        self.deadline = inf

    def wait_in_queue(self, queued: Queued, phase: Phase, until: float) -> None:
        """Wait until `queued` is woken. Its `leave` is called if `until` (time.monotonic() seconds) or total_timeout passes, or if the
        client goes away."""
        counters = self.counters
        if counters is not None:
            counters.queued += 1
        self.queued = queued
        self.wait_for(phase, until)
        try:
            queued.wait()
        finally:
            self.queued = None
            self.stop_waiting()
            if counters is not None:
                counters.queued -= 1

    def stop_waiting(self) -> None:
        """The exchange waits for nothing, so the last deadline must not pass later."""
        self.deadline = inf

    def wait_for(self, phase: Phase, deadline: float) -> None:
        """From now on the exchange waits for `phase`, until `deadline` or the total deadline."""
        if deadline > self.total_deadline:
            deadline = self.total_deadline
        # One that goes on waiting for the same stays parked: at the deadline that it had, it is looked at anyway.
        if self.lasting == PARKED and (phase is not self.phase or deadline < self.deadline):
            self.watch.wake(self)
        self.phase = phase
        self.deadline = deadline

    def wait_for_body(self, phase: Phase, deadline: float) -> None:
        """Like `wait_for`, for a body that is sent to the upstream. Does nothing once the response has begun: then its waits count,
        because a client may stop sending when it reads an early response."""
        if not self.response_started:
            self.wait_for(phase, deadline)

    def expire(self, now: float) -> None:
        """The watchdog's call after the deadline: shut down the side that the exchange waits for, unless that side is only slow."""
        more = self._slow_peer() if now < self.total_deadline else 0.0
        if more:
            self.wait_for(self.phase, now + more)
            return
        self._give_up(TOTAL if now >= self.total_deadline else self.phase)

    def _give_up(self, expired: Phase) -> None:
        self.expired = expired
        self.deadline = inf
        if self.tunnel is not None:
            self.tunnel.end("max_duration" if expired is TOTAL else expired.reason)
        elif self.phase.of_client:
            self.client.interrupt(self.phase is REQUEST_BODY)
            if self.upstream_stream is not None:
                self.upstream_stream.shutdown()
        elif self.upstream_stream is not None:
            self.upstream_stream.shutdown()
        elif self.queued is not None:
            self.queued.leave()

    def _slow_peer(self) -> float:
        """Seconds to go on waiting for a peer that takes what we send, even if slowly. 0.0 if it takes nothing."""
        if self.phase is RESPONSE_WRITE:
            return self.client.takes()
        # The kernel still sends buffered data of a large body after the last piece was written.
        sending = self.phase is REQUEST_SEND or (self.phase is RESPONSE_HEAD and self.upload is not None)
        if sending and self.upstream_stream is not None and self.upstream_stream.moved():
            return self.upstream_timeout
        return 0.0

    def look(self, now: float) -> None:
        """The watchdog's call: if the client has gone, or is too slow, end the work for it."""
        phase = self.phase
        if phase.of_client:
            if self.expired is None and self._too_slow(now, phase):
                self._give_up(RESPONSE_RATE if phase is RESPONSE_WRITE else REQUEST_RATE)
            return
        stream, queued = self.upstream_stream, self.queued
        if (stream is None and queued is None) or self.client_gone or self.tunnel is not None:
            return
        if self.client.gone():
            self.client_gone = True
            if stream is not None:
                stream.shutdown()
            elif queued is not None:
                queued.leave()

    def _too_slow(self, now: float, phase: Phase) -> bool:
        """Whether the client, which is waited for, moves less than the least rate. The first look at a phase only begins to count."""
        client, sending = self.client, phase is RESPONSE_WRITE
        moved = client.moved_bytes(sending)
        if moved < 0:
            return False
        if self.paced is None or self.paced[0] is not phase:
            self.paced = (phase, client.rates.pace(sending, now, moved))
            return False
        pace = self.paced[1]
        return pace is not None and not pace.keeps(now, moved)
