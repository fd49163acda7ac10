"""Asks a backend that speaks HTTP/2 whether it is there: one GET, of which only the status counts."""

from __future__ import annotations

import contextlib
from typing import Any

from proxyd.base.urls import parse_backend
from proxyd.config.options import BackendTls
from proxyd.http2.asking import Asker, Failed
from proxyd.net.dial import dial
from proxyd.net.handshake import wrap
from proxyd.net.proxyprotocol import header


def ask_http2(url: str, tls: BackendTls) -> int:
    """The status of the answer to a GET of a backend url. Sets no time limit: the caller has one. Raises OSError, ValueError."""
    backend = parse_backend(url)
    sock: Any = dial(backend.host, backend.port)
    with contextlib.closing(sock):
        if tls.send_proxy != "off":
            sock.sendall(header(tls.send_proxy, "", None))
        if backend.scheme == "https":
            sock = wrap(sock, backend.host, tls, ("h2",))
        try:
            return Asker(sock).ask("GET", backend.scheme, backend.authority, backend.path or "/", (("accept", "*/*"),), b"", 0).status
        except Failed as failure:
            raise OSError(str(failure)) from None
        finally:
            sock.close()
