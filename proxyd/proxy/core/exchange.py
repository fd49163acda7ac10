"""One request on its way: what was asked, where it goes, how far it is, and what came of it."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

from proxyd.http1 import ProtocolError, RequestHead
from proxyd.proxy.core.phases import REQUEST_BODY, REQUEST_SEND, RESPONSE_HEAD, RESPONSE_WRITE, START, TOTAL, Phase

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.clientside import ClientSide
    from proxyd.proxy.core.upstreams import Pool, Upstream


class Counters(Protocol):
    """What is counted of a route while its requests are on their way; the rooms that count add to these."""

    in_flight: int
    rate_limited: int
    retries: int
    circuit_rejected: int
    drain_rejected: int
    maintenance_hits: int
    slow_warnings: int
    slow_criticals: int

    def record(self, status: int, seconds: float, sent: int, received: int) -> None:
        """Count one request that is over."""


class Sending(Protocol):
    """The request's body on its way to the upstream, in a greenlet of its own."""

    done: bool
    error: Exception | None

    def stop(self) -> None:
        """End it; safe when it is over."""


class Carrying(Protocol):
    """A WebSocket that is open."""

    def end(self, reason: str) -> None:
        """Say goodbye to both sides; called again, cut them. Must not wait."""


class Exchange:
    """A request and its response. Instants are time.monotonic() seconds, durations seconds.

    `deadline` and `phase` belong together: what the wait is for, and until when; `expired` is the phase whose
    deadline passed, once one did. `failure` is the reason code of a refusal or failure, as in log and header. `unread` is why
    there is no request: what came could not be read, and `head` is empty.
    """

    __slots__ = (
        "attempts", "body", "bytes_received", "bytes_sent", "client", "client_gone", "client_ip", "compressed", "connect_seconds",
        "counters", "deadline", "expired", "failure", "first_byte_seconds", "head", "host", "method", "path", "phase",
        "pool", "request_id", "response_started", "set_headers", "started", "status", "total_deadline", "tunnel", "unread", "upstream",
        "upload", "upstream_limit", "upstream_started",
        "upstream_stream", "upstream_timeout",
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
        self.request_id = ""
        self.pool: Pool | None = None
        self.upstream: Upstream | None = None
        self.counters: Counters | None = None
        self.status = 0
        self.failure = ""
        self.attempts = 0
        self.body: bytes | None = None
        self.upload: Sending | None = None
        self.tunnel: Carrying | None = None
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

    # Nobody else writes `status`, `response_started`, `phase` and `deadline`.

    def begin_response(self, status: int) -> None:
        """A final response with this status is about to go out."""
        self.status = status
        self.response_started = True

    def hold_back(self, status: int) -> None:
        """The upstream answered with a status that is not passed on: the request may be tried again."""
        self.status = status

    def begin_again(self) -> None:
        """Another attempt begins: forget how the last one ended."""
        self.status = 0
        self.expired = None

    def end_unanswered(self, status: int) -> None:
        """The client gets no response, or no more of it; `status` is for the log, unless there is one."""
        self.status = self.status or status

    def wait_unwatched(self, phase: Phase) -> None:
        """From now on the wait is for `phase`, which has a clock of its own."""
        self.phase = phase
        self.deadline = inf

    def stop_waiting(self) -> None:
        """Nothing is waited for: what was must not run out later."""
        self.deadline = inf

    def wait_for(self, phase: Phase, deadline: float) -> None:
        """From now on the wait is for `phase`, until `deadline` or the total deadline."""
        self.phase = phase
        self.deadline = deadline if deadline < self.total_deadline else self.total_deadline

    def wait_for_body(self, phase: Phase, deadline: float) -> None:
        """The same for a body on its way to the upstream. Once the answer is on its way back, it is that one's waits that count: a
        client may well stop sending when it reads an early one."""
        if not self.response_started:
            self.wait_for(phase, deadline)

    def expire(self, now: float) -> None:
        """The watchdog's call: end the wait by shutting down the side that is waited for, unless it is slow and not silent."""
        more = self._slow_peer() if now < self.total_deadline else 0.0
        if more:
            self.wait_for(self.phase, now + more)
            return
        self.expired = expired = TOTAL if now >= self.total_deadline else self.phase
        self.deadline = inf
        if self.tunnel is not None:
            self.tunnel.end("max_duration" if expired is TOTAL else expired.reason)
        elif self.phase.of_client:
            self.client.interrupt(self.phase is REQUEST_BODY)
            if self.upstream_stream is not None:
                self.upstream_stream.shutdown()
        elif self.upstream_stream is not None:
            self.upstream_stream.shutdown()

    def _slow_peer(self) -> float:
        """Seconds to go on waiting for a peer that takes what we send, if slowly; 0.0 for one that does not."""
        if self.phase is RESPONSE_WRITE:
            return self.client.takes()
        # What the kernel has of a large body is on its way for a while after the last piece was sent.
        sending = self.phase is REQUEST_SEND or (self.phase is RESPONSE_HEAD and self.upload is not None)
        if sending and self.upstream_stream is not None and self.upstream_stream.moved():
            return self.upstream_timeout
        return 0.0

    def look(self, now: float) -> None:
        """The watchdog's call each tick: a client that went away ends the work done for it."""
        if self.upstream_stream is None or self.client_gone or self.phase.of_client or self.tunnel is not None:
            return
        if self.client.gone():
            self.client_gone = True
            self.upstream_stream.shutdown()
