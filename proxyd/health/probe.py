"""One health check: connect, send a request and judge the answer, all within one time limit.

It uses the project's own response reader instead of the requests library. One core must do a thousand checks a second beside
the master's other work, and requests alone would use all of it.
"""

from __future__ import annotations

import errno
import os
import ssl
import time
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent import socket

from proxyd.base.urls import IF_OFFERED
from proxyd.config.options import BackendTls
from proxyd.health.grpccheck import USER_AGENT, ask_health
from proxyd.http1 import BodyReader, HeadLimits, HeadReader, ProtocolError, ResponseHead
from proxyd.http2.asking import Asker, Ending, Failed, NotHttp2
from proxyd.net.dial import dial
from proxyd.net.handshake import EITHER, fault, wrap
from proxyd.net.proxyprotocol import header
from proxyd.net.targets import TargetDenied
from proxyd.net.turns import let_others_run

#: The fields of a check for which a route says nothing.
STANDARD = (("User-Agent", USER_AGENT[1]), ("Accept", "*/*"))
_LIMITS = HeadLimits(8192, 200, 65536, 65536)
_RECEIVE = 65536
#: How long a target in the clear has to begin HTTP/2, where HTTP/1.1 is the other choice, seconds.
_ANSWER_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked, and how. Equal targets share one check. `path`: empty for a check that only connects. `keepalive`: whether
    the connection stays open for the next check. `bare_lf`: as for traffic (an option). `http2`: whether that is spoken, as of an Upstream.
    `service`: what gRPC's health service is asked about (empty: the server); None where it is not asked. `place`: where it is, if that is
    not what it gets as Host (`authority`). `send_proxy`: as for traffic (an option)."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str
    interval: float
    timeout: float
    expected: frozenset[int]
    body: str
    rise: int
    fall: int
    tls: BackendTls
    keepalive: bool = False
    bare_lf: bool = False
    http2: int = 0
    service: str | None = None
    place: str = ""
    send_proxy: str = "off"
    method: str = "GET"
    #: Fields of the request beside Host and Connection.
    fields: tuple[tuple[str, str], ...] = STANDARD

    @property
    def url(self) -> str:
        """The target as a url."""
        place = self.place or self.authority
        if self.service is not None:
            return f"grpc://{place}/{self.service}"
        if not self.port:
            return f"{self.scheme}://{place}:{self.path}" if self.path else f"{self.scheme}://{place}"
        return f"{self.scheme}://{place}{self.path}"


@dataclass(frozen=True, slots=True)
class Result:
    """The result of a check. `error`: empty for a successful one."""

    ok: bool
    status_code: int | None
    seconds: float
    error: str


class _Stale(Exception):
    """The kept connection was closed meanwhile. This says nothing about the target."""


@dataclass(slots=True)
class Probe:
    """Makes checks of one target. `sock`: the connection, if one is open."""

    target: Target
    max_body: int
    sock: Any = None
    _status: int | None = field(default=None, init=False)
    _http2: Asker | None = field(default=None, init=False)
    #: Whether the target was found to speak HTTP/1.1 only, where it may speak either.
    _plain: bool = field(default=False, init=False)

    def check(self) -> Result:
        """Check once. Never raises: a failure is a result."""
        target = self.target
        started = time.monotonic()
        self._status = None
        error = ""
        keep = False
        try:
            with gevent.Timeout(target.timeout):
                keep = self._check()
        except gevent.Timeout:
            error = f"no {'complete answer' if self.sock is not None else 'connection'} within {target.timeout:g} s"
        except Failed as failure:
            error = str(failure)
        except ProtocolError as failure:
            # Never what a server that speaks something else has said: whoever declared the check could read by it what is none of theirs.
            detail = "its first line is none of HTTP" if failure.code == "bad_status_line" else failure.detail
            error = f"not a valid HTTP answer: {detail}"
        except ssl.SSLError as failure:
            error = f"TLS: {fault(failure)}"
        except TargetDenied as failure:
            error = str(failure.strerror)
        except socket.gaierror as failure:
            error = f"the name {target.host} can't be resolved: {failure.strerror}"
        except OSError as failure:
            error = os.strerror(failure.errno) if failure.errno and failure.errno in errno.errorcode else str(failure)
        except UnicodeError as failure:
            error = f"the name {target.host} can't be resolved: {failure}"
        finally:
            if not keep:
                self.close()
        if error:
            self._plain = False
        return Result(not error, self._status, time.monotonic() - started, error)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.sock is not None:
            self.sock.close()
            self.sock = self._http2 = None

    def _check(self) -> bool:
        """Make the check. Returns whether the connection can be kept."""
        if self.sock is not None:
            try:
                return self._ask(kept=True) if self._http2 is None else self._ask_http2(self._http2, True)
            except _Stale:
                self.close()
        target = self.target
        http2 = target.http2 and not self._plain
        self._connect(bool(http2))
        if not target.path:
            return False
        if http2 and (target.scheme != "https" or self.sock.selected_alpn_protocol() == "h2"):
            self._http2 = check = Asker(self.sock)
            try:
                with gevent.Timeout(_ANSWER_SECONDS if target.http2 == IF_OFFERED else None, NotHttp2("no HTTP/2")):
                    check.greet()
                return self._ask_http2(check, False)
            except NotHttp2:
                if target.http2 != IF_OFFERED or target.scheme == "https":
                    raise
            self.close()
            self._plain = True
            self._connect(False)
        return self._ask(kept=False)

    def _connect(self, http2: bool) -> None:
        target = self.target
        self.sock = dial(target.host, target.port)
        if target.send_proxy != "off":
            self.sock.sendall(header(target.send_proxy, "", None))
        if target.scheme == "https":
            self.sock = wrap(self.sock, target.host, target.tls, EITHER if http2 else ())

    def _ask_http2(self, check: Asker, kept: bool) -> bool:
        target = self.target
        try:
            if target.service is not None:
                ask_health(check, target.scheme, target.authority, target.service, target.fields)
                return target.keepalive
            fields = [(name.lower(), value) for name, value in (*target.fields, *_length(target))]
            reply = check.ask(target.method, target.scheme, target.authority, target.path, fields, b"", self.max_body)
        except (OSError, Ending):
            if kept:
                raise _Stale from None
            raise
        self._status = reply.status
        self._judge(reply.status)
        self._find(reply.body)
        return target.keepalive

    def _ask(self, kept: bool) -> bool:
        target = self.target
        response, rest = self._head(kept)
        self._status = response.status
        self._judge(response.status)
        content, reusable = _body(self.sock, response, rest, self.max_body)
        self._find(content)
        return target.keepalive and reusable

    def _judge(self, status: int) -> None:
        if status not in self.target.expected:
            raise Failed(f"status {status} is not among the expected")

    def _find(self, content: bytes) -> None:
        wanted = self.target.body
        if wanted and wanted.encode() not in content:
            raise Failed(f'"{wanted}" is not in the first {len(content)} bytes of the body')

    def _head(self, kept: bool) -> tuple[ResponseHead, bytes]:
        """Send the request, and read the head of the final response. Returns it, and the bytes after it."""
        target, sock = self.target, self.sock
        connection = "keep-alive" if target.keepalive else "close"
        fields = "".join(f"{name}: {value}\r\n" for name, value in (*target.fields, *_length(target)))
        reader = HeadReader(target.method, _LIMITS, bare_lf=target.bare_lf)
        try:
            sock.sendall(f"{target.method} {target.path} HTTP/1.1\r\nHost: {target.authority}\r\n{fields}"
                         f"Connection: {connection}\r\n\r\n".encode("latin-1"))
            while True:
                data = sock.recv(_RECEIVE)
                if not data:
                    raise Failed("the connection was closed without an answer")
                response = reader.feed(data)
                if response is not None:
                    return response, reader.rest
        except (OSError, Failed):
            if kept and not reader.partial:
                raise _Stale from None
            raise


def _length(target: Target) -> tuple[tuple[str, str], ...]:
    """That there is no body, of a method that usually has one (RFC 9110 8.6)."""
    return (("Content-Length", "0"),) if target.method == "POST" else ()


def _body(sock: Any, response: ResponseHead, rest: bytes, max_body: int) -> tuple[bytes, bool]:
    """The body, or its first `max_body` bytes, and whether the connection can be used again. Raises Failed if the body ends too
    early."""
    body = BodyReader(response)
    content = body.feed(rest)
    while not body.done and len(content) < max_body:
        if body.more:
            let_others_run()
            content += body.feed(b"")
            continue
        data = sock.recv(_RECEIVE)
        if data:
            content += body.feed(data)
        elif not body.end():
            raise Failed("the connection was closed in the middle of the body")
    return content[:max_body], body.reusable
