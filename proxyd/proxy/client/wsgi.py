"""The client side of an exchange that comes as a WSGI environ, from another WSGI server.

There is no raw connection, hence no WebSocket, and there are no request trailers. Everything else works as on the proxy's own
connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import gevent
from gevent.hub import get_hub

from proxyd.base.text import UNIX
from proxyd.http1 import ProtocolError, RequestHead, parse_request_head
from proxyd.proxy.client.receiving import BODY_PIECE
from proxyd.proxy.core.answers import reason_phrase
from proxyd.proxy.core.clientside import BodyTimeout, ClientGone
from proxyd.proxy.core.origin import forwarded_fields
from proxyd.proxy.core.phases import REQUEST_BODY, RESPONSE_WRITE

if TYPE_CHECKING:
    from proxyd.net.clientcert import ClientCertificate
    from proxyd.net.stream import Stream
    from proxyd.proxy.client.front import Front
    from proxyd.proxy.core.exchange import Exchange


class WsgiClient:
    """The ClientSide of one WSGI call. `result()`: what the application returns to its server.

    Call `read_head` first. It raises what is wrong with the request, so that it is answered as for any other client.
    """

    version = 11
    #: Another server has made the handshake.
    certificate: ClientCertificate | None = None
    asked: bool = False
    buffers: list[memoryview]

    by_pipe = None

    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any], front: Front) -> None:
        self.head = RequestHead("-", "-", 11, [], [])
        # gunicorn knows no address of the peer of a UNIX socket.
        self.peer = str(environ.get("REMOTE_ADDR") or UNIX)
        self.secure = environ.get("wsgi.url_scheme") == "https"
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
        self._reader: gevent.Greenlet | None = None
        self._writer: gevent.Greenlet | None = None
        self._left = 0
        self._came = 0
        self._ended = True
        self._start_response = start_response
        self._write: Callable[[bytes], Any] | None = None
        self._complete = False
        self._due = -1

    def read_head(self) -> RequestHead:
        """The request's head. Raises ProtocolError."""
        head = self.head = parse_request_head(_head_bytes(self._environ), self._limits)
        # A raw connection can't be handed over, so a request for an upgrade gets the backend's plain answer.
        head.upgrade = ""
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
        data = self._read(self._size())
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
        """WSGI has no informational responses."""

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        # The connection is the server's, so what belongs to it is not ours to say (PEP 3333).
        fields = [field for field in headers if field[0] not in ("Connection", "Upgrade")]
        if length >= 0:
            fields.append(("Content-Length", str(length)))
        self._write = self._call(self._start_response, f"{status} {reason or reason_phrase(status) or 'Unknown'}", fields)
        self._due = length
        if body or not last:
            # An empty piece makes the server send the head. An event stream needs that before its first event.
            self.write(body)
        self._complete = self._complete or last

    def write(self, data: bytes | memoryview) -> None:
        self._due -= len(data)
        assert self._write is not None, "start first"
        if self.exchange is not None:
            self.exchange.wait_for(RESPONSE_WRITE, time.monotonic() + self._timeout)
        self._call(self._write, bytes(data))
        self._complete = self._due == 0

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """The server ends the body when the application returns. WSGI has no trailers."""
        self._complete = True

    def close_after(self) -> None:
        """Nothing to do: the server manages its connection."""

    def abort(self) -> None:
        """Mark the response as incomplete, so that `result` makes the server cut it."""
        self._complete = False

    def descriptor(self) -> int:
        return -1

    def gone(self) -> bool:
        return False

    def takes(self) -> float:
        return 0.0

    def moved_bytes(self, sending: bool) -> int:
        return -1 if sending else self._came

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
            raise ConnectionAbortedError("no complete response")
        return ()


def _head_bytes(environ: dict[str, Any]) -> bytes:
    """An environ as the HTTP/1.1 head that it stands for, so that the same strict rules apply (PEP 3333; RAW_URI is gunicorn's).

    Raises ProtocolError if a value contains a line break.
    """
    query = environ.get("QUERY_STRING", "")
    target = environ.get("RAW_URI") or environ.get("PATH_INFO", "/") + (f"?{query}" if query else "")
    lines = [f"{environ['REQUEST_METHOD']} {target} HTTP/1.1"]
    lines += [f"{name[5:].replace('_', '-').title()}: {value}" for name, value in environ.items() if name.startswith("HTTP_")]
    if environ.get("CONTENT_TYPE"):
        lines.append(f"Content-Type: {environ['CONTENT_TYPE']}")
    if environ.get("CONTENT_LENGTH"):
        lines.append(f"Content-Length: {environ['CONTENT_LENGTH']}")
    if any("\r" in line or "\n" in line for line in lines):
        raise ProtocolError(400, "control_character", "the request contains a line break where none may be")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
