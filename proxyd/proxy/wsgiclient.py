"""The client side of an exchange that comes as a WSGI environ: gunicorn's HTTP/2, or another WSGI server.

No raw connection, hence no WebSocket and no trailers; everything else works as on our own connections.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from proxyd.http1 import ProtocolError, RequestHead, parse_request_head
from proxyd.proxy.clientside import ClientGone
from proxyd.proxy.connection import BODY_PIECE, reason_phrase

if TYPE_CHECKING:
    from proxyd.proxy.exchange import Exchange
    from proxyd.proxy.runtime import Runtime
    from proxyd.proxy.stream import Stream


#: gunicorn's note that the request came by HTTP/2; no header field.
_VERSION = "HTTP_VERSION"
HTTP2_PIECE = 16384


class WsgiClient:
    """The ClientSide of one WSGI call; `result()` is what the application returns to its server.

    `read_head` comes first: what is wrong with the request is answered like with any other client.
    """

    version = 11
    buffers: list[memoryview]

    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any], runtime: Runtime) -> None:
        self.head = RequestHead("-", "-", 11, [], [])
        self.peer = str(environ.get("REMOTE_ADDR", ""))
        # gunicorn knows nothing of the TLS that our worker speaks: the socket tells.
        self.secure = environ.get("wsgi.url_scheme") == "https" or isinstance(environ.get("gunicorn.socket"), ssl.SSLSocket)
        self.trusted = runtime.trusts(self.peer)
        self.forwarded = runtime.forwarded_fields(self.peer, self.secure)
        self.via = runtime.via
        self.via_field = runtime.via_field
        self.buffers = runtime.buffers
        self.keep_alive = True
        self.exchange: Exchange | None = None
        self._timeout = runtime.settings.proxy.body_timeout
        self._environ = environ
        self._limits = runtime.head_limits
        self._input = environ["wsgi.input"]
        self._ahead = b""
        # gunicorn's HTTP/2 input waits until it has all that was asked for, or the end.
        self._piece = HTTP2_PIECE if _VERSION in environ else BODY_PIECE
        self._left = 0
        self._ended = True
        self._start_response = start_response
        self._write: Callable[[bytes], Any] | None = None
        self._aborted = False

    def read_head(self) -> RequestHead:
        """The request's head. Raises ProtocolError."""
        if _VERSION in self._environ and not self._environ.get("CONTENT_LENGTH"):
            # HTTP/2 frames bodies without a length: only reading shows whether there is one.
            self._ahead = self._read(1)
        head = self.head = parse_request_head(_head_bytes(self._environ, bool(self._ahead)), self._limits)
        self._left = head.content_length
        self._ended = not head.chunked and self._left <= 0
        return head

    def has_body(self) -> bool:
        return not self._ended

    def expects_continue(self) -> bool:
        return False

    def send_continue(self) -> None:
        """The server has done that."""

    def read_body(self) -> bytes:
        if self._ended:
            return b""
        if self.exchange is not None:
            self.exchange.wait_for("request_body", time.monotonic() + self._timeout)
        data, self._ahead = self._ahead, b""
        data += self._read(min(self._left, self._piece) if self._left > 0 else self._piece)
        if self._left > 0:
            self._left -= len(data)
            if not data:
                raise ClientGone
        if not data or self._left == 0:
            self._ended = True
        return data

    def _read(self, size: int) -> bytes:
        try:
            data: bytes = self._input.read(size)
        except Exception as error:
            raise ClientGone from error
        return data

    def trailers(self) -> list[tuple[str, str]]:
        return []

    def informational(self, status: int, headers: Sequence[tuple[str, str]]) -> None:
        """WSGI has no way to pass one on but 103, which is optional (RFC 8297)."""

    def start(self, status: int, reason: str, headers: Sequence[tuple[str, str]], length: int, body: bytes, last: bool) -> None:
        fields = list(headers)
        if length >= 0:
            fields.append(("Content-Length", str(length)))
        try:
            self._write = self._start_response(f"{status} {reason or reason_phrase(status) or 'Unknown'}", fields)
        except Exception as error:
            raise ClientGone from error
        if body:
            self.write(body)

    def write(self, data: bytes | memoryview) -> None:
        assert self._write is not None, "start first"
        try:
            self._write(bytes(data))
        except Exception as error:
            raise ClientGone from error

    def finish(self, trailers: Sequence[tuple[str, str]] = ()) -> None:
        """The server ends the body when the application returns."""

    def abort(self) -> None:
        self._aborted = True

    def gone(self) -> bool:
        return False

    def interrupt(self, reading_only: bool) -> None:
        """The server's own timeouts end the wait."""

    def switch(self, headers: Sequence[tuple[str, str]]) -> None:
        raise ClientGone

    def take_over(self) -> tuple[Stream, bytes] | None:
        return None

    def result(self) -> Iterable[bytes]:
        """Nothing more to send; raises where the response must not look complete."""
        if self._aborted:
            raise ConnectionAbortedError("the upstream ended the response early")
        return ()


def _head_bytes(environ: dict[str, Any], chunked: bool) -> bytes:
    """An environ as the HTTP/1.1 head it stands for (PEP 3333; RAW_URI is gunicorn's), to be read by the same strict rules.

    Raises ProtocolError where a value could end its line: HTTP/2 can carry what HTTP/1.1 can't.
    """
    query = environ.get("QUERY_STRING", "")
    target = environ.get("RAW_URI") or environ.get("PATH_INFO", "/") + (f"?{query}" if query else "")
    lines = [f"{environ['REQUEST_METHOD']} {target} HTTP/1.1"]
    fields = [(name[5:], value) for name, value in environ.items() if name.startswith("HTTP_") and name != _VERSION]
    lines += [f"{name.replace('_', '-').title()}: {value}" for name, value in fields]
    if environ.get("CONTENT_TYPE"):
        lines.append(f"Content-Type: {environ['CONTENT_TYPE']}")
    if environ.get("CONTENT_LENGTH"):
        lines.append(f"Content-Length: {environ['CONTENT_LENGTH']}")
    elif chunked:
        lines.append("Transfer-Encoding: chunked")
    if any("\r" in line or "\n" in line for line in lines):
        raise ProtocolError(400, "control_character", "the request contains a line break where none may be")
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
