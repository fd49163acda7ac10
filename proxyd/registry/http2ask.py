"""Asks a backend that speaks HTTP/2 whether it is there: one GET, of which only the status counts."""

from __future__ import annotations

import contextlib
import ssl
import time
from typing import Any

from gevent import ssl as gevent_ssl

from proxyd.base.urls import parse_backend
from proxyd.http2.client import ClientConnection
from proxyd.http2.connection import Bounds
from proxyd.http2.errors import ConnectionFault, StreamFault
from proxyd.http2.events import Answer, Ended
from proxyd.http2.fields import read_answer
from proxyd.net.dial import dial

_RECEIVE = 65536


def ask_http2(url: str, verify: bool) -> int:
    """The status of the answer to a GET of a backend url. Sets no time limit: the caller has one. Raises OSError, ValueError."""
    backend = parse_backend(url)
    sock: Any = dial(backend.host, backend.port)
    with contextlib.closing(sock):
        if backend.scheme == "https":
            sock = _context(verify).wrap_socket(sock, server_hostname=backend.host)
        try:
            return _ask(sock, [(":method", "GET"), (":scheme", backend.scheme), (":authority", backend.authority),
                               (":path", backend.path or "/"), ("accept", "*/*")])
        except (ConnectionFault, StreamFault) as fault:
            raise OSError(f"no HTTP/2: {fault.detail}") from None
        finally:
            sock.close()


def _ask(sock: Any, fields: list[tuple[str, str]]) -> int:
    engine = ClientConnection(Bounds(1, 65536, 65536, 65536), time.monotonic())
    engine.begin(fields, True)
    while True:
        if engine.sender.waiting():
            sock.sendall(engine.sender.take(_RECEIVE))
        data = sock.recv(_RECEIVE)
        if not data:
            raise ConnectionResetError("the connection was closed without an answer")
        engine.feed(data, time.monotonic())
        while (event := engine.next_event()) is not None:
            if type(event) is Ended:
                raise ConnectionResetError("the stream was reset")
            if type(event) is Answer and (status := read_answer(event.fields)[0]) >= 200:
                return status


def _context(verify: bool) -> gevent_ssl.SSLContext:
    # Not create_default_context, as in health/probe.
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    context.set_alpn_protocols(["h2"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
