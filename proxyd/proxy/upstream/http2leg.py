"""One request on an HTTP/2 connection to an upstream: the Stream that an attempt sends to and that an answer is relayed from."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Sequence
from math import inf
from typing import TYPE_CHECKING, Protocol

from proxyd.http1 import HeadLimits, ProtocolError, ResponseHead, parse_response_head
from proxyd.http1.response import NONE, STREAMED
from proxyd.http2.client import ClientConnection, ClientStream
from proxyd.http2.errors import CANCEL, HTTP_1_1_REQUIRED, NAMES, PROTOCOL_ERROR, REFUSED_STREAM, StreamFault
from proxyd.http2.fields import read_answer
from proxyd.proxy.core.http2fields import trailers
from proxyd.proxy.core.http2write import Wait

if TYPE_CHECKING:
    from proxyd.http2.events import Field
    from proxyd.net.stream import Stream


class LegError(OSError):
    """A stream that can't go on. `unsent`: the upstream has not looked at the request (RFC 9113 8.7). `code`: the reason for the client;
    `error`: that of HTTP/2, 0 if there is none."""

    def __init__(self, detail: str, unsent: bool = False, code: str = "upstream_closed", error: int = 0) -> None:
        super().__init__(detail)
        self.unsent = unsent
        self.code = code
        self.error = error

    def again(self) -> LegError:
        """The same for another stream."""
        return LegError(str(self), self.unsent, self.code, self.error)


def reset_error(error: int) -> LegError:
    """What it means that the upstream has reset a stream."""
    return LegError(f"the upstream reset the stream ({NAMES.get(error, f'error {error}')})",
                    error in (REFUSED_STREAM, HTTP_1_1_REQUIRED), error=error)


class Connected(Protocol):
    """What a leg needs of its connection."""

    engine: ClientConnection
    failed: LegError | None

    @property
    def stream(self) -> Stream:
        """The connection's."""

    def wake(self) -> None:
        """There is something to send."""

    def left(self, leg: Leg) -> None:
        """A leg is not needed any more."""


class Leg:
    """A request and its answer. The connection's reader calls `answer`, `receive`, `trail` and `fail`; its writer calls `sent`.

    ended        the answer is whole (what was not read of it may still be here)
    trailers     the fields behind it
    reused       the connection has answered before
    """

    __slots__ = (
        "_body", "_due", "_engine", "_error", "_heads", "_link", "_reader", "_sent", "_silent", "_state", "_tunnel", "_writer", "address",
        "ended", "idle_limit", "idle_until", "opened_at", "reused", "secure", "served", "trailers",
    )  # fmt: skip

    def __init__(self, link: Connected, reused: bool) -> None:
        self._link = link
        self._engine = link.engine
        self._state: ClientStream | None = None
        self._heads: deque[tuple[list[Field], int]] = deque()
        self._body: list[bytes] = []
        self._error: OSError | None = None
        self._reader = Wait()
        self._writer = Wait()
        self._sent = 0
        #: Bytes of the body that are still to come, -1 if that is not known; whether there can't be a body.
        self._due = -1
        self._silent = False
        #: Whether it carries a WebSocket.
        self._tunnel = False
        self.ended = False
        self.trailers: list[tuple[str, str]] = []
        self.reused = reused
        self.secure = link.stream.secure
        self.address = link.stream.address
        self.opened_at = link.stream.opened_at
        self.idle_limit = self.idle_until = inf
        self.served = 1

    # -- what the connection's greenlets call

    def answer(self, fields: list[Field], size: int, ended: bool) -> None:
        """A head has come."""
        self._heads.append((fields, size))
        self.ended = ended
        self._reader.end()

    def receive(self, data: bytes, ended: bool) -> None:
        """A piece of the body."""
        size = len(data)
        if self._error is not None or (size and self._silent):
            self._engine.consumed(self._owned(), size)
            if size and self._silent and self._error is None:
                self.blame("a body comes where there can't be one")
            return
        if self._due >= 0:
            self._due -= size
            if self._due < 0 or (ended and self._due):
                self._engine.consumed(self._owned(), size)
                self.blame("content-length is not the length of the body")
                return
        if size:
            self._body.append(data)
        self.ended = ended
        self._reader.end()

    def trail(self, fields: list[Field]) -> None:
        """The trailers, which end the body."""
        try:
            self.trailers = trailers(fields, 502)
        except StreamFault as fault:
            self.blame(fault.detail)
        except ProtocolError as error:
            self.blame(error.detail)
        else:
            self.receive(b"", True)

    def fail(self, error: LegError) -> None:
        """The stream is gone. An answer that is whole stays; nothing more can be sent."""
        if not self.ended and self._error is None:
            self._error = error
        self._reader.end()
        self.sent()

    def sent(self) -> None:
        """All that was to be sent is in frames, or never will be."""
        self._writer.end()

    def blame(self, detail: str) -> None:
        """Reset the stream: what came on it breaks HTTP/2."""
        self.ended = False
        self.fail(LegError(f"the upstream breaks HTTP/2: {detail}", code="upstream_http2"))
        self._reset(PROTOCOL_ERROR)

    # -- the request

    def begin(self, fields: Iterable[tuple[str, str]], end: bool) -> None:
        """Send the head. Raises LegError."""
        link = self._link
        if link.failed is not None:
            raise link.failed.again()
        if self._engine.room() <= 0:
            raise LegError("the upstream takes no more streams", True)
        state = self._state = self._engine.begin(fields, end)
        state.owner = self
        link.wake()

    def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self._tunnel and self.ended:
            # Nobody reads it: who has ended a WebSocket can't answer. To some servers it is a fault, for which they end the connection.
            return
        self._send(bytes(data) if isinstance(data, bytearray) else data, False)

    def send_last(self, data: bytes) -> None:
        """Send a body that is whole. Raises OSError."""
        self._send(data, True)

    def finish(self, fields: Sequence[tuple[str, str]]) -> None:
        """End the body, with trailers or none. Raises OSError."""
        state = self._sending()
        if fields:
            self._engine.sender.head(state, 0, fields, True)
        else:
            self._engine.sender.body(state, b"", True)
        self._link.wake()

    def _send(self, data: bytes | memoryview, end: bool) -> None:
        state = self._sending()
        whole = self._engine.sender.body(state, data, end)
        self._link.wake()
        if whole:
            return
        try:
            self._writer.wait()
        finally:
            if state.pending:
                self._engine.sender.withdraw(state)
        if end:
            if self._error is not None:
                raise self._error
        else:
            self._sending()

    def _sending(self) -> ClientStream:
        if self._error is not None:
            raise self._error
        state = self._owned()
        if not state.sending:
            raise BrokenPipeError("the upstream takes no more of the request")
        return state

    def _owned(self) -> ClientStream:
        assert self._state is not None
        return self._state

    # -- the answer

    def head(self, method: str, limits: HeadLimits, tunnel: bool = False) -> ResponseHead:
        """The next head, perhaps an informational one. `tunnel`: 2xx begins one, whatever it says of a length (RFC 9110 9.3.6). Raises
        OSError, and ProtocolError 502."""
        while not self._heads:
            if self._error is not None:
                raise self._error
            self._reader.wait()
        fields, size = self._heads.popleft()
        try:
            response = answer_head(fields, size, method, limits)
        except StreamFault as fault:
            self.blame(fault.detail)
            raise LegError(f"the upstream breaks HTTP/2: {fault.detail}", code="upstream_http2") from None
        if tunnel and 200 <= response.status < 300:
            self._tunnel = True
        elif response.status >= 200:
            self._expect(response)
        return response

    def _expect(self, response: ResponseHead) -> None:
        """Compare what has come of the body, and what comes, with what the head says of it."""
        came = sum(map(len, self._body))
        if response.body_kind == NONE:
            self._silent = True
            wrong = came > 0
        else:
            due = response.content_length
            wrong = 0 <= due < came or (self.ended and 0 <= due != came)
            self._due = due - came if due >= 0 else -1
        if wrong:
            self.blame("content-length is not the length of the body")

    def take(self) -> bytes:
        """What has come of the body."""
        body = self._body
        if not body:
            return b""
        data = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        self._engine.consumed(self._owned(), len(data))
        self._link.wake()
        return data

    @property
    def cause(self) -> int:
        """With which error the upstream has ended the stream, 0 if with none."""
        return self._error.error if isinstance(self._error, LegError) else 0

    @property
    def takes_websockets(self) -> bool:
        """Whether the upstream takes extended CONNECT."""
        return self._engine.takes_websockets

    @property
    def whole(self) -> bool:
        """Whether all of the answer was read."""
        return self.ended and not self._body

    def recv(self, size: int = 0) -> bytes:
        while True:
            data = self.take()
            if data or self.ended:
                return data
            if self._error is not None:
                raise self._error
            self._reader.wait()

    recv_later = recv

    def recv_into(self, buffer: memoryview) -> int:
        raise NotImplementedError("a stream's body is read in pieces")

    def give_way(self) -> None:
        """Nothing to do: the connection's reader gives way."""

    # -- how it ends

    def _reset(self, code: int) -> None:
        if self._state is not None:
            self._engine.reset(self._state, code)
            self._link.wake()

    def shutdown(self) -> None:
        self.ended = False
        self.fail(LegError("the request was ended"))
        self._reset(CANCEL)

    stop_reading = shutdown

    def stop_sending(self) -> None:
        if self._tunnel and self.ended:
            self._reset(CANCEL)
            return
        # An error is for whoever reads: it finds out, too.
        with contextlib.suppress(OSError):
            self.finish(())

    def end(self) -> Stream:
        return self

    def close(self) -> None:
        held = sum(map(len, self._body))
        if held and self._state is not None:
            self._body.clear()
            self._engine.consumed(self._state, held)
        state = self._state
        if state is not None and state.receiving and not state.sending and not self._due and self._error is None:
            # All has come but the end, which is on its way.
            self._error = LegError("the request has ended")
        else:
            self._reset(CANCEL)
        self._link.left(self)

    def cancel(self) -> None:
        """End a stream whose end has not come."""
        self._reset(CANCEL)

    reset = close

    @property
    def open(self) -> bool:
        """Whether the stream is."""
        return self._state is not None and self._state.id in self._engine.streams.open

    def quiet(self) -> bool:
        return not self._body

    def fileno(self) -> int:
        return -1

    def gone(self) -> bool:
        return self._error is not None

    def moved(self) -> bool:
        state = self._state
        if state is None:
            return False
        before, self._sent = self._sent, state.sent
        # One that only waits for its turn, or for the kernel, goes by what the upstream takes of all.
        return state.sent > before or (state.room > 0 and self._link.stream.moved())

    def taken(self) -> int:
        """Not known of one stream."""
        return -1


class LegBody:
    """The body of an answer that comes by HTTP/2, in the form of http1's BodyReader. What it says of the end changes only when it is
    fed, so that nobody misses the end between two pieces."""

    __slots__ = ("_leg", "done")

    more = False
    reusable = False

    def __init__(self, leg: Leg) -> None:
        self._leg = leg
        self.done = False

    @property
    def trailers(self) -> list[tuple[str, str]]:
        return self._leg.trailers

    def feed(self, data: bytes) -> bytes:
        """What was read is the body."""
        self.done = self._leg.whole
        return data

    def end(self) -> bool:
        """Nothing more comes: whether the body is complete with that."""
        self.done = self._leg.whole
        return self.done


def answer_head(fields: list[Field], size: int, method: str, limits: HeadLimits) -> ResponseHead:
    """A head in the form of HTTP/1.1, so that the same rules hold for it. Raises StreamFault, ProtocolError 502."""
    if size > limits.head_size:
        raise ProtocolError(502, "head_too_large", f"the head is longer than {limits.head_size} bytes")
    status, kept = read_answer(fields)
    lines = [b"HTTP/1.1 %d " % status, *[b"%b: %b" % field for field in kept], b"\r\n"]
    response = parse_response_head(b"\r\n".join(lines), method, limits)
    response.version = 20
    response.keep_alive = False
    if response.body_kind != NONE:
        response.body_kind = STREAMED
    return response


def request_fields(head: bytes, scheme: str) -> list[tuple[str, str]]:
    """The head of a request in the form of HTTP/1.1 as HTTP/2's fields. What belongs to the connection is left out by the encoder."""
    line, *lines = head[:-4].decode("latin-1").split("\r\n")
    method, target, _ = line.split(" ")
    _, _, host = lines[0].partition(": ")
    fields = [(":method", method), (":scheme", scheme), (":authority", host), (":path", target)]
    for text in lines[1:]:
        name, _, value = text.partition(": ")
        fields.append((name, value))
    return fields


