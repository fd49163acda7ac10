"""Requests of our own to what a client named, made with `requests`: they go by the rules for targets and use our resolver."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import ssl
from collections.abc import Iterator
from http.client import RemoteDisconnected
from typing import Any

import gevent
import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NewConnectionError

from proxyd.base.urls import split_unix
from proxyd.config.options import BackendTls
from proxyd.net.dial import dial
from proxyd.net.handshake import HTTP1, backend_context, fault
from proxyd.net.proxyprotocol import header
from proxyd.net.targets import TargetDenied


@contextlib.contextmanager
def ask(url: str, timeout: tuple[float, float], tls: BackendTls) -> Iterator[requests.Response]:
    """GET a url, or one of a UNIX socket (`http://unix:/run/app.sock:/path`), without following redirects; the body is not read yet.
    It goes by nobody's environment: neither proxies nor a netrc.

    `timeout`: seconds to connect, and for each read. Raises requests.RequestException, ValueError and OSError, see `why`.
    """
    socket_path = ""
    if (unix := split_unix(url)) is not None:
        socket_path, target = unix
        url = f"http://localhost{target}"
    with requests.Session() as session:
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, _Adapter(socket_path, tls))
        with session.get(url, timeout=timeout, stream=True, allow_redirects=False, verify=tls.verify) as response:
            yield response


def why(error: BaseException) -> str:
    """Why a target gave no answer. Never what it sent: a library's error may quote that, and a client could read by it what only this
    host may read."""
    for inner in _nested(error):
        if isinstance(inner, TargetDenied):
            return str(inner.strerror)
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {fault(inner)}"
        if isinstance(inner, socket.gaierror):
            return f"the name can't be resolved: {inner.strerror}"
        if isinstance(inner, RemoteDisconnected):
            return "the connection was closed without an answer"
        if isinstance(inner, OSError) and inner.errno is not None and inner.errno in errno.errorcode:
            return os.strerror(inner.errno)
        if isinstance(inner, requests.ConnectTimeout):
            return "no connection in time"
        if isinstance(inner, requests.Timeout | TimeoutError):
            return "no answer in time"
    return "the answer is not HTTP"


def denied(error: BaseException) -> bool:
    """Whether the rules for targets forbid it: to ask again is of no use."""
    return any(isinstance(inner, TargetDenied) for inner in _nested(error))


def _nested(error: BaseException) -> list[BaseException]:
    """An error and those inside it, the innermost first."""
    found: list[BaseException] = []
    inner: Any = error
    while isinstance(inner, BaseException) and inner not in found and len(found) < 20:
        found.append(inner)
        inside = (*inner.args[:1], getattr(inner, "reason", None), inner.__context__)
        inner = next((item for item in inside if isinstance(item, BaseException)), None)
    return found[::-1]


class _Connection(HTTPConnection):
    #: The path of a UNIX socket, and what is sent before the request: each adapter makes a class of its own.
    path, first = "", b""

    def _new_conn(self) -> socket.socket:
        return _connected(self, self.path, self.first)


class _TlsConnection(HTTPSConnection):
    first = b""

    def _new_conn(self) -> socket.socket:
        return _connected(self, "", self.first)


class _Adapter(HTTPAdapter):
    def __init__(self, socket_path: str, tls: BackendTls) -> None:
        self._socket_path = socket_path
        self._tls = tls
        super().__init__()

    def cert_verify(self, *args: Any) -> None:
        """Leave the context as it is: it trusts what the route says, as for traffic."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        kwargs["ssl_context"] = backend_context(self._tls, HTTP1)
        if self._tls.server_name:
            kwargs["server_hostname"] = self._tls.server_name
        super().init_poolmanager(*args, **kwargs)
        first = header(self._tls.send_proxy, "", None) if self._tls.send_proxy != "off" else b""
        plain = type("_Connection", (_Connection,), {"path": self._socket_path, "first": first})
        secure = type("_TlsConnection", (_TlsConnection,), {"first": first})
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("_Pool", (HTTPConnectionPool,), {"ConnectionCls": plain}),
            "https": type("_TlsPool", (HTTPSConnectionPool,), {"ConnectionCls": secure})}


def _connected(connection: HTTPConnection, socket_path: str, first: bytes) -> socket.socket:
    limit = connection.timeout
    assert isinstance(limit, int | float)
    timeout = gevent.Timeout(limit)
    try:
        with timeout:
            host, port = (socket_path, 0) if socket_path else (connection._dns_host.strip("[]"), connection.port or connection.default_port)
            found: Any = dial(host, port)
    except gevent.Timeout as expired:
        if expired is not timeout:
            raise
        raise ConnectTimeoutError(connection, f"no connection within {limit:g} s") from None
    except OSError as error:
        raise NewConnectionError(connection, str(error)) from error
    if not socket_path:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    found.settimeout(limit)
    if first:
        found.sendall(first)
    sock: socket.socket = found
    return sock
