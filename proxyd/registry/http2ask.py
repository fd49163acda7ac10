"""Asks a backend that speaks HTTP/2 whether it is there: one GET, of which only the status counts.

A server of gRPC resets the stream of a GET, as it does with all that is no call. So it is asked again by a call, of gRPC's health service:
any answer will do, also that it has no such service.
"""

from __future__ import annotations

import contextlib
from typing import Any

from proxyd.base.urls import parse_backend
from proxyd.config.options import BackendTls
from proxyd.http2.asking import Asker, Failed, Reset
from proxyd.net.dial import dial
from proxyd.net.handshake import wrap
from proxyd.net.proxyprotocol import header

_CALL = "/grpc.health.v1.Health/Check"
_FIELDS = (("content-type", "application/grpc"), ("te", "trailers"))
#: A message of no bytes, not compressed.
_NOTHING = bytes(5)


def ask_http2(url: str, tls: BackendTls) -> int:
    """The status of the answer to a GET of a backend url, or to a call of gRPC. Sets no time limit: the caller has one.

    Raises OSError, ValueError."""
    backend = parse_backend(url)
    sock: Any = dial(backend.host, backend.port)
    with contextlib.closing(sock):
        if tls.send_proxy != "off":
            sock.sendall(header(tls.send_proxy, "", None))
        if backend.scheme == "https":
            sock = wrap(sock, backend.host, tls, ("h2",))
        asker = Asker(sock)
        try:
            try:
                return asker.ask("GET", backend.scheme, backend.authority, backend.path or "/", (("accept", "*/*"),), b"", 0).status
            except Reset:
                return asker.ask("POST", backend.scheme, backend.authority, _CALL, _FIELDS, _NOTHING, 0).status
        except Failed as failure:
            raise OSError(str(failure)) from None
        finally:
            sock.close()
