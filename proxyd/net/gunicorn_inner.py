"""gunicorn's inner parts: what we use of gunicorn beyond what it documents is touched here and nowhere else.

Each function has a test on the pinned version (tests/net/test_gunicorn_inner.py): an upgrade has one place to break. The module stands
in this room because the proxy's side of HTTP/2 needs it as well as the server's. The worker class alone has to be where it is: it is a
subclass of gunicorn's (server/worker).
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from gevent.lock import BoundedSemaphore
from gunicorn import sock as gunicorn_sock
from gunicorn.glogging import Logger
from gunicorn.http2.errors import HTTP2StreamError

#: gunicorn's note in an environ that the request came by HTTP/2; no header field.
HTTP2_NOTE = "HTTP_VERSION"


def queued_signals(arbiter: Any) -> Iterator[int]:
    """Take out the signals that wait in an arbiter's queue; in a worker that was just forked, those of its copy."""
    while True:
        try:
            yield arbiter.SIG_QUEUE.get_nowait()
        except queue.Empty:
            return


class ErrorLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger, whose error log a subclass directs with `error_handler`."""

    def error_handler(self, output: str) -> tuple[str, logging.Formatter, str]:
        """Where the error log goes (a path, or `-`), in which form, and what is logged there first, if anything."""
        raise NotImplementedError

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: Any, stream: TextIO | None = None) -> None:
        if log is not self.error_log or output is None:
            super()._set_handler(log, output, fmt, stream)
            return
        output, form, first = self.error_handler(output)
        super()._set_handler(log, output, form, stream)
        if first:
            log.error("%s", first)


def speaks_http2(secured: Any) -> bool:
    """Whether a TLS connection agreed on HTTP/2: gunicorn's `handle` reads that connection's frames then."""
    return bool(gunicorn_sock.is_http2_negotiated(secured))


def send_in_turn(sock: Any) -> None:
    """Let each greenlet send its frames whole: one answers a request, another may read its body and give the client room for more.
    gunicorn sends all frames by the socket's `sendall`."""
    turn = BoundedSemaphore(1)
    send = sock.sendall

    def sendall(data: bytes) -> None:
        with turn:
            send(data)

    sock.sendall = sendall


def end_idle(greenlet: Any) -> None:
    """End the idle HTTP/2 connection that `greenlet` reads, with a GOAWAY: gunicorn does that for a TimeoutError of its read.
    Runs in the hub: only there is it sure that the greenlet waits."""
    greenlet.throw(TimeoutError("the worker stops"))


def body_at_hand(body: Any) -> int:
    """How many bytes of an HTTP/2 request's body (`wsgi.input`) have come and not been read; 0 for other bodies."""
    return len(getattr(body, "_buf", b""))


def window(write: Callable[[bytes], Any]) -> int:
    """How many bytes the client takes now, where `write` is what `start_response` returned for an HTTP/2 request."""
    response: Any = write.__self__  # type: ignore[attr-defined]
    return int(response.h2_conn.h2_conn.local_flow_control_window(response.stream_id))


def stream_reset() -> Exception:
    """What an application raises to have its HTTP/2 stream reset, without a traceback in gunicorn's log."""
    error: Exception = HTTP2StreamError(0, "no complete response")
    return error
