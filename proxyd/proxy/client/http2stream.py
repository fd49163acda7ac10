"""One request of an HTTP/2 connection: the client's side of its exchange."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import gevent

from proxyd.http1 import ProtocolError, RequestHead
from proxyd.http2.connection import Connection
from proxyd.http2.errors import CANCEL, INTERNAL_ERROR, NO_ERROR
from proxyd.http2.stream import Stream as Http2State
from proxyd.proxy.client.http2tunnel import Http2Tunnel, accepted
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.grpc import is_grpc
from proxyd.proxy.core.http2write import Wait
from proxyd.proxy.core.phases import REQUEST_BODY, RESPONSE_WRITE

if TYPE_CHECKING:
    from proxyd.net.clientcert import ClientCertificate
    from proxyd.net.crew import Job
    from proxyd.net.stream import Stream
    from proxyd.proxy.client.front import Front
    from proxyd.proxy.core.exchange import Exchange



class Carrier(Protocol):
    """What a stream needs of its connection."""

    engine: Connection
    front: Front
    peer: str
    secure: bool
    trusted: bool
    forwarded: str
    certificate: ClientCertificate | None
    asked: bool
    timeout: float

    def wake(self) -> None:
        """There is something to send."""

    def gone(self) -> bool:
        """Whether the client has closed the connection, where nobody reads it at the moment."""

    def descriptor(self) -> int:
        """The number of the connection's descriptor."""

    def acknowledged(self) -> int:
        """How many bytes the client has taken in all, of all streams. -1 where that is not known."""

    def starved(self, stream: Http2Stream) -> None:
        """An answer waits for its client's window, and next to nothing of it was let out."""

    def fed(self, stream: Http2Stream) -> None:
        """It does not wait any more."""


#: An answer of which the client's window has let out no more than this is one that it does not want.
_NEXT_TO_NOTHING = 1024


class Http2Stream:
    """The ClientSide of one exchange. The connection's reader calls `receive`, `fail` and `lose`; its writer calls `sent`."""

    __slots__ = (
        "_acknowledged", "_answered_100", "_body", "_came", "_connection", "_declared", "_due", "_engine", "_gone", "_late", "_raw",
        "_reader", "_received", "_sender", "_streams", "_taken", "_timeout", "_trailers", "_turns", "_writer", "asked", "buffers",
        "certificate", "ended",
        "exchange", "fault", "forwarded", "head", "job", "peer", "rates", "secure", "state", "trusted", "version", "via", "via_field",
    )  # fmt: skip

    by_pipe = None

    def __init__(self, connection: Carrier, state: Http2State) -> None:
        self._connection = connection
        self._engine = connection.engine
        self._sender = connection.engine.sender
        self.state = state
        self.peer = connection.peer
        self.secure = connection.secure
        self.trusted = connection.trusted
        self.forwarded = connection.forwarded
        self.certificate = connection.certificate
        self.asked = connection.asked
        self.via = connection.front.via
        self.via_field = connection.front.via_field
        self.buffers = connection.front.buffers
        self.rates = connection.front.rates
        self.version = 20
        self.head: RequestHead | None = None
        self.exchange: Exchange | None = None
        #: What runs its exchange.
        self.job: Job | None = None
        self.ended = not state.receiving
        self._timeout = connection.timeout
        self._body: list[bytes] = []
        self._declared = -1
        self._received = 0
        self._trailers: list[tuple[str, str]] = []
        self.fault: ProtocolError | None = None
        self._gone = self._late = self._answered_100 = self._raw = False
        #: Whether it is a call of gRPC, where both sides stream: nobody who waits for an answer to begin sends first.
        self._streams = False
        self._due = 0
        self._taken = self._came = self._turns = self._acknowledged = 0
        self._reader = Wait()
        self._writer = Wait()

    # -- what the connection's greenlets call

    def expect(self, head: RequestHead) -> str:
        """Take the head, before anything of the body. Returns what is wrong with the length, if anything."""
        self.head = head
        if not head.upgrade:
            self._declared = head.content_length
        return "content-length without a body" if self.ended and self._declared > 0 else ""

    def receive(self, data: bytes, ended: bool) -> str:
        """A piece of the body. Returns what is wrong with its length, if anything."""
        size = len(data)
        if self._gone:
            self._engine.consumed(self.state, size)
            return ""
        self.ended = ended
        self._came += size
        if self._declared >= 0:
            self._received += size
            if self._received > self._declared or (ended and self._received != self._declared):
                self._engine.consumed(self.state, size)
                return "content-length is not the length of the body"
        if size:
            self._body.append(data)
        self._reader.end()
        return ""

    def trail(self, fields: list[tuple[str, str]]) -> str:
        """The trailers, which end the body. Returns what is wrong with its length, if anything."""
        self._trailers = fields
        return self.receive(b"", True)

    def fail(self, fault: ProtocolError) -> None:
        """What the client sent is wrong, and its stream was reset. The exchange learns it when it reads on, or answers."""
        self.fault = fault
        self.lose()

    def refuse(self, fault: ProtocolError) -> None:
        """The rest of the body is refused. The exchange learns it when it reads on, and can still answer."""
        self.fault = fault
        self._reader.end()

    def lose(self) -> None:
        """The client, or its stream, is gone."""
        self._gone = True
        self._reader.end()
        self.sent()
        exchange = self.exchange
        if exchange is not None and not exchange.phase.of_client:
            exchange.look(time.monotonic())

    def sent(self) -> None:
        """All that was to be sent is in frames, or never will be."""
        self._writer.end()

    def over(self) -> None:
        """The exchange has ended: nobody reads or writes here any more."""
        self._gone = True
        state = self.state
        if self._body:
            held = sum(map(len, self._body))
            self._body.clear()
            self._engine.consumed(state, held)
        if state.sending:
            self._engine.reset(state, INTERNAL_ERROR)
        elif state.receiving:
            # The answer is whole, and the rest of the request is of no use (RFC 9113 8.1).
            self._engine.reset(state, NO_ERROR)
        self._connection.wake()
        # These refer to each other: else all that the request held would stay until Python looks for cycles.
        self.exchange = self.job = state.owner = None

    def await_body(self, head: RequestHead) -> ProtocolError | None:
        """Wait until a body of unknown length begins, or it is clear that there is none. Returns the error if it does neither in
        time."""
        head.expect_continue = (head.get("expect") or "").lower() == "100-continue"
        self._streams = is_grpc(head)
        if not head.expect_continue and not self._streams:
            patience = self.rates.seconds(0)
            with gevent.Timeout(min(self._timeout, patience), False):
                while not (self._body or self.ended or self._gone):
                    self._reader.wait()
            if not (self._body or self.ended or self._gone):
                code = "body_timeout" if self._timeout <= patience else "request_too_slow"
                return ProtocolError(408, code, "the request body did not arrive in time")
        head.chunked = self.has_body()
        return None

    # -- the request's body

    def has_body(self) -> bool:
        return not self.ended or bool(self._body)

    def expects_continue(self) -> bool:
        head = self.head
        return head is not None and head.expect_continue and not self._answered_100 and not self._body and not self.ended

    def send_continue(self) -> None:
        self._answered_100 = True
        self.informational(100, ())

    def read_body(self) -> bytes:
        while True:
            if self.fault is not None:
                raise self.fault
            body = self._body
            if body:
                data = body[0] if len(body) == 1 else b"".join(body)
                body.clear()
                self._engine.consumed(self.state, len(data))
                self._connection.wake()
                return data
            if self.ended:
                return b""
            if self._gone:
                raise ClientGone
            if self._late:
                raise BodyTimeout
            if self.exchange is not None:
                self.exchange.wait_for_body(REQUEST_BODY, time.monotonic() + self._timeout)
            self._reader.wait()

    def trailers(self) -> list[tuple[str, str]]:
        return self._trailers

    # -- the response

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        if self._gone:
            raise ClientGone
        self._sender.head(self.state, status, headers, False)
        self._connection.wake()

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        if self._gone:
            raise ClientGone
        if length >= 0:
            headers = [*headers, ("Content-Length", str(length))]
        if last and not body:
            self._sender.head(self.state, status, headers, True)
            self._connection.wake()
            return
        self._sender.head(self.state, status, headers, False)
        self._due = length - len(body) if length >= 0 else -1
        if body:
            self._send(body, last)
        else:
            self._connection.wake()

    def write(self, data: bytes | memoryview) -> None:
        if self._due > 0:
            self._due -= len(data)
            self._send(data, not self._due)
        else:
            self._send(data, False)

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        if self._due >= 0:
            return
        if self._gone:
            raise ClientGone
        if trailers:
            self._sender.head(self.state, 0, trailers, True)
        else:
            self._sender.body(self.state, b"", True)
        self._connection.wake()

    def _send(self, data: bytes | memoryview, end: bool) -> None:
        """Send a piece of the answer, and wait until all of it is in frames: `data` may be written over then."""
        if self._gone:
            raise ClientGone
        state = self.state
        whole = self._sender.body(state, data, end)
        self._connection.wake()
        if whole:
            return
        exchange = self.exchange
        if exchange is not None and not self._raw:
            exchange.wait_for(RESPONSE_WRITE, time.monotonic() + self._timeout)
        self._taken = state.sent
        starved = state.room <= 0 and state.sent < _NEXT_TO_NOTHING
        if starved:
            self._connection.starved(self)
        try:
            self._writer.wait()
        finally:
            if starved:
                self._connection.fed(self)
            if state.pending:
                self._sender.withdraw(state)
        if self._gone:
            raise ClientGone

    def close_after(self) -> None:
        """Nothing to do: other streams go on, and this one has one exchange."""

    def abort(self) -> None:
        self._engine.reset(self.state, INTERNAL_ERROR)
        self.lose()
        self._connection.wake()

    def gone(self) -> bool:
        return self._gone or self._connection.gone()

    def descriptor(self) -> int:
        # The end of one stream is no matter of the kernel's: who waits is told by `lose`, and who begins to wait has to ask.
        return -1 if self._gone else self._connection.descriptor()

    def takes(self) -> float:
        state = self.state
        moved = state.sent != self._taken
        self._taken = state.sent
        # One that only waits for its turn is not to blame. The connection has a deadline of its own for what it sends.
        return self._timeout if moved or (state.room > 0 and self._sender.room > 0) else 0.0

    def unwanted(self) -> bool:
        """Whether the client's window still lets out next to nothing."""
        return self.state.room <= 0 and self.state.sent < _NEXT_TO_NOTHING

    def moved_bytes(self, sending: bool) -> int:
        if not sending:
            # A call of gRPC may send a message now and then. The longest silence is bounded for it, too.
            return self._came if not self._streams else -1
        state = self.state
        if not state.pending:
            return -1
        # While the client's windows have room, frames wait for its TCP, which takes those of all streams. What it takes then is this
        # stream's as well. Otherwise only the windows count.
        acknowledged = self._connection.acknowledged()
        if acknowledged >= 0:
            if state.room > 0 and self._sender.room > 0:
                self._turns += max(0, acknowledged - self._acknowledged)
            self._acknowledged = acknowledged
        return state.sent + self._turns

    def interrupt(self, reading_only: bool) -> None:
        if reading_only:
            self._late = True
            self._reader.end()
            return
        self._engine.reset(self.state, CANCEL)
        self._connection.wake()
        self.lose()

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        if self._gone:
            raise ClientGone
        if self.head is None or not accepted(self.head, headers):
            self.abort()
            raise ClientGone
        kept = [field for field in headers if field[0].lower() != "sec-websocket-accept"]
        self._sender.head(self.state, 200, kept, False)
        self._connection.wake()

    def take_over(self) -> tuple[Stream, bytes] | None:
        # The tunnel watches its own times.
        self._raw = True
        self._due = -1
        return Http2Tunnel(self), b""

    def write_raw(self, data: bytes | memoryview) -> None:
        """Send bytes of a tunnel. Raises ClientGone."""
        self._send(data, False)

    def cancel(self) -> None:
        """Reset the stream of a tunnel."""
        self._engine.reset(self.state, CANCEL)
        self._connection.wake()
        self.lose()
