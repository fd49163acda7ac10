"""The client side of an exchange that comes as a WSGI environ: from gunicorn's HTTP/2, or from another WSGI server.

There is no raw connection, hence no WebSocket, and there are no request trailers. Everything else works as on the proxy's own
connections.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import get_hub

from proxyd.base.text import UNIX
from proxyd.http1 import ProtocolError, RequestHead, parse_request_head
from proxyd.net.gunicorn_inner import HTTP2_NOTE, body_at_hand, stream_reset, window
from proxyd.net.peer import Peer
from proxyd.proxy.client.connection import BODY_PIECE
from proxyd.proxy.core.answers import reason_phrase
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.origin import forwarded_fields
from proxyd.proxy.core.phases import REQUEST_BODY, RESPONSE_WRITE

if TYPE_CHECKING:
    from proxyd.net.stream import Stream
    from proxyd.proxy.client.front import Front
    from proxyd.proxy.core.exchange import Exchange

#: Seconds after which a greenlet checks again whether it may use an HTTP/2 connection.
_TURN = 0.01


class WsgiClient:
    """The ClientSide of one WSGI call. `result()`: what the application returns to its server.

    Call `read_head` first. It raises what is wrong with the request, so that it is answered as for any other client.
    """

    version = 11
    buffers: list[memoryview]

    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any], front: Front) -> None:
        self.head = RequestHead("-", "-", 11, [], [])
        # gunicorn knows no address of the peer of a UNIX socket.
        self.peer = str(environ.get("REMOTE_ADDR") or UNIX)
        # gunicorn does not know that our worker speaks TLS, but the socket's type tells.
        self.secure = environ.get("wsgi.url_scheme") == "https" or isinstance(environ.get("gunicorn.socket"), ssl.SSLSocket)
        self.trusted = front.trusts(self.peer)
        self.forwarded = forwarded_fields(self.peer, self.secure)
        self.via = front.via
        self.via_field = front.via_field
        self.buffers = front.buffers
        self.rates = front.rates
        self.exchange: Exchange | None = None
        self._timeout = front.settings.proxy.body_timeout
        self._environ = environ
        self._limits = front.head_limits
        self._input = environ["wsgi.input"]
        self._http2 = HTTP2_NOTE in environ
        self._socket = Peer(environ["gunicorn.socket"]) if self._http2 else None
        self._reader: gevent.Greenlet | None = None
        self._writer: gevent.Greenlet | None = None
        self._ahead = b""
        self._left = 0
        self._came = 0
        self._ended = True
        self._start_response = start_response
        self._write: Callable[[bytes], Any] | None = None
        self._complete = False
        self._due = -1
        self._awaits_window = False

    def read_head(self) -> RequestHead:
        """The request's head. Raises ProtocolError, ClientGone."""
        if self._http2 and not self._environ.get("CONTENT_LENGTH"):
            # An HTTP/2 body may have no length. Only reading shows whether there is a body.
            with gevent.Timeout(self._timeout, ProtocolError(408, "body_timeout", "the request body did not arrive in time")):
                self._ahead = self._read(1)
        head = self.head = parse_request_head(_head_bytes(self._environ, bool(self._ahead), self._http2), self._limits)
        # A raw connection can't be handed over, so a request for an upgrade gets the backend's plain answer.
        head.upgrade = ""
        if self._http2:
            head.version = 20
        self._left = head.content_length
        self._ended = not head.chunked and self._left <= 0
        return head

    def has_body(self) -> bool:
        return not self._ended

    def expects_continue(self) -> bool:
        return False

    def send_continue(self) -> None:
        """The server has sent it already."""

    def read_body(self) -> bytes:
        if self._ended:
            return b""
        if self.exchange is not None:
            self.exchange.wait_for_body(REQUEST_BODY, time.monotonic() + self._timeout)
        data, self._ahead = self._ahead, b""
        data = data or self._read(1 if self._http2 else self._size())
        if self._http2 and data:
            # This input waits until it has as many bytes as were asked for. So ask only for those that have arrived.
            held = body_at_hand(self._input)
            data += self._read(held) if held else b""
        self._came += len(data)
        if self._left > 0:
            self._left -= len(data)
            if not data or self._left < 0:
                raise ClientGone
        if not data or self._left == 0:
            self._ended = True
        return data

    def _size(self) -> int:
        return min(self._left, BODY_PIECE) if self._left > 0 else BODY_PIECE

    def _read(self, size: int) -> bytes:
        while self._awaits_window:
            gevent.sleep(_TURN)
        self._reader = gevent.getcurrent()
        try:
            data: bytes = self._input.read(size)
        except (BodyTimeout, ProtocolError):
            raise
        except Exception as error:
            raise ClientGone from error
        finally:
            self._reader = None
        return data

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that sends to the client. Raises ClientGone."""
        self._writer = gevent.getcurrent()
        try:
            return function(*arguments)
        except Exception as error:
            raise ClientGone from error
        finally:
            self._writer = None

    def trailers(self) -> list[tuple[str, str]]:
        return []

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """Send 103 (RFC 8297) over gunicorn's HTTP/2. WSGI has no informational responses."""
        if self._http2 and status == 103:
            self._call(self._environ["wsgi.early_hints"], [(name, self._text(value)) for name, value in headers])

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        fields = [(name, self._text(value)) for name, value in headers]
        if length >= 0:
            fields.append(("Content-Length", str(length)))
        self._write = self._call(self._start_response, f"{status} {reason or reason_phrase(status) or 'Unknown'}", fields)
        self._due = length
        if body or not last:
            # An empty piece makes the server send the head. An event stream needs that before its first event.
            self.write(body)
        self._complete = self._complete or last

    def _text(self, value: str) -> str:
        """A field's value as the text that the server encodes into the original bytes: with UTF-8 for HTTP/2 (of characters up to
        U+00FF), otherwise with Latin-1."""
        if value.isascii() or not self._http2:
            return value
        text = value.encode("latin-1").decode("utf-8", "replace")
        return text if max(text) < "\u0100" else value

    def write(self, data: bytes | memoryview) -> None:
        self._due -= len(data)
        assert self._write is not None, "start first"
        if self.exchange is not None:
            self.exchange.wait_for(RESPONSE_WRITE, time.monotonic() + self._timeout)
        if self._socket is None:
            self._call(self._write, bytes(data))
        else:
            self._socket.moved()
            self._call(self._write_http2, bytes(data))
        self._complete = self._due == 0

    def _write_http2(self, data: bytes) -> None:
        """Send a piece as far as the client's window has room.

        The server waits for room by reading, but two greenlets can't read. While one reads the request's body, the frames that it
        reads bring the room, so this one only waits.
        """
        write = self._write
        assert write is not None, "start first"
        while True:
            room = window(write)
            if len(data) <= room or self._reader is None:
                self._awaits_window = True
                try:
                    write(data)
                finally:
                    self._awaits_window = False
                return
            if room > 0:
                write(data[:room])
                data = data[room:]
            gevent.sleep(_TURN)

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """The server ends the body when the application returns. HTTP/2 has a hook of its own for trailers."""
        self._complete = True
        if trailers and self._http2:
            self._call(self._environ["gunicorn.http2.send_trailers"], [(name, self._text(value)) for name, value in trailers])

    def close_after(self) -> None:
        """Nothing to do: the server manages its connection."""

    def abort(self) -> None:
        """Mark the response as incomplete, so that `result` makes the server cut it."""
        self._complete = False

    def gone(self) -> bool:
        return self._socket is not None and self._socket.gone()

    def takes(self) -> float:
        return self._timeout if self._socket is not None and self._socket.moved() else 0.0

    def moved_bytes(self, sending: bool) -> int:
        if sending:
            return self._socket.taken() if self._socket is not None else -1
        return self._came

    def interrupt(self, reading_only: bool) -> None:
        get_hub().loop.run_callback(self._throw, reading_only)

    def _throw(self, reading_only: bool) -> None:
        """Interrupt the greenlet that waits. This must run in the hub: only there is it certain that a greenlet waits."""
        if reading_only:
            if self._reader is not None:
                self._reader.throw(BodyTimeout)
        elif self._writer is not None:
            self._writer.throw(ClientGone)

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        raise ClientGone

    def take_over(self) -> tuple[Stream, bytes] | None:
        return None

    def result(self) -> Iterable[bytes]:
        """An empty body, since everything has been sent. Raises if the response must not look complete."""
        if not self._complete:
            raise stream_reset() if self._http2 else ConnectionAbortedError("no complete response")
        return ()


def _head_bytes(environ: dict[str, Any], chunked: bool, http2: bool) -> bytes:
    """An environ as the HTTP/1.1 head that it stands for, so that the same strict rules apply (PEP 3333; RAW_URI is gunicorn's).

    Raises ProtocolError if a value contains a line break, which HTTP/2 can carry and HTTP/1.1 can't.
    """
    query = environ.get("QUERY_STRING", "")
    target = environ.get("RAW_URI") or environ.get("PATH_INFO", "/") + (f"?{query}" if query else "")
    lines = [f"{environ['REQUEST_METHOD']} {target} HTTP/1.1"]
    fields = [(name[5:], value) for name, value in environ.items() if name.startswith("HTTP_") and name != HTTP2_NOTE]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in fields]
    if environ.get("CONTENT_TYPE"):
        lines.append(f"Content-Type: {environ['CONTENT_TYPE']}")
    if environ.get("CONTENT_LENGTH"):
        lines.append(f"Content-Length: {environ['CONTENT_LENGTH']}")
    elif chunked:
        lines.append("Transfer-Encoding: chunked")
    if any("\r" in line or "\n" in line for line in lines):
        raise ProtocolError(400, "control_character", "the request contains a line break where none may be")
    # The server has decoded the bytes of fields as UTF-8 for HTTP/2, and as Latin-1 otherwise.
    return "\r\n".join([*lines, "", ""]).encode("utf-8" if http2 else "latin-1", "replace")
