"""The client side of an exchange that comes as a WSGI environ: gunicorn's HTTP/2, or another WSGI server.

No raw connection, hence no WebSocket and no trailers; everything else works as on our own connections.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from proxyd.http1 import RequestHead
from proxyd.proxy.clientside import ClientGone
from proxyd.proxy.connection import BODY_PIECE, reason_phrase

if TYPE_CHECKING:
    from proxyd.proxy.exchange import Exchange
    from proxyd.proxy.runtime import Runtime
    from proxyd.proxy.stream import Stream


class WsgiClient:
    """The ClientSide of one WSGI call; `result()` is what the application returns to its server."""

    version = 11
    buffers: list[memoryview]

    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any], runtime: Runtime) -> None:
        self.head = _head(environ)
        self.peer = str(environ.get("REMOTE_ADDR", ""))
        self.secure = environ.get("wsgi.url_scheme") == "https"
        self.trusted = runtime.trusts(self.peer)
        self.forwarded = runtime.forwarded_fields(self.peer, self.secure)
        self.via = runtime.via
        self.via_field = runtime.via_field
        self.buffers = runtime.buffers
        self.keep_alive = True
        self.exchange: Exchange | None = None
        self._timeout = runtime.settings.proxy.body_timeout
        self._input = environ["wsgi.input"]
        self._left = self.head.content_length
        self._ended = not self.head.chunked and self._left <= 0
        self._start_response = start_response
        self._write: Callable[[bytes], Any] | None = None
        self._aborted = False

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
        try:
            data: bytes = self._input.read(min(self._left, BODY_PIECE) if self._left > 0 else BODY_PIECE)
        except Exception as error:
            raise ClientGone from error
        if self._left > 0:
            self._left -= len(data)
            if not data:
                raise ClientGone
        if not data or self._left == 0:
            self._ended = True
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


def _head(environ: dict[str, Any]) -> RequestHead:
    """The request head that an environ stands for (PEP 3333; RAW_URI is gunicorn's)."""
    query = environ.get("QUERY_STRING", "")
    path = environ.get("RAW_URI") or environ.get("PATH_INFO", "/") + (f"?{query}" if query else "")
    headers = [
        (name[5:].replace("_", "-").title(), str(value).replace("\r", "").replace("\n", ""))
        for name, value in environ.items()
        if name.startswith("HTTP_")
    ]
    if environ.get("CONTENT_TYPE"):
        headers.append(("Content-Type", environ["CONTENT_TYPE"]))
    from proxyd.http1.fieldnames import KINDS, learn

    skip = [index for index, (name, _) in enumerate(headers) if (KINDS[name] if name in KINDS else learn(name)) != 0]
    head = RequestHead(environ["REQUEST_METHOD"], path, 11, headers, skip)
    head.host = environ.get("HTTP_HOST")
    head.edge = [(headers[index][0].lower(), headers[index][1]) for index in skip
                 if headers[index][0].lower().startswith(("x-forwarded-", "forwarded", "via", "x-real-ip", "x-request-id"))]
    length = environ.get("CONTENT_LENGTH")
    if length:
        head.content_length = int(length)
    elif environ.get("wsgi.input_terminated") and environ["REQUEST_METHOD"] in ("POST", "PUT", "PATCH"):
        head.chunked = True
    return head
