"""One health check: connect, ask, judge the answer; one time limit over all of it.

Our own few lines on the project's response reader rather than requests: a thousand checks a second must fit one core
beside everything else the master does, and requests alone would fill it.
"""

from __future__ import annotations

import errno
import os
import ssl
import time
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import gevent
from gevent import socket
from gevent import ssl as gevent_ssl

from proxyd import __version__
from proxyd.http1 import ChunkedDecoder, HeadLimits, ProtocolError, find_head_end, parse_response_head
from proxyd.http1.response import CHUNKED, LENGTH, NONE, ResponseHead
from proxyd.net.dial import dial

_LIMITS = HeadLimits(8192, 200, 65536, 65536)
_RECEIVE = 65536


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked, and how; equal targets share one check. `path` is empty for a check that only connects; `keepalive`:
    the connection stays open for the next check."""

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
    tls_verify: bool
    keepalive: bool = False

    @property
    def url(self) -> str:
        """The target as people write it."""
        return f"{self.scheme}://{self.authority}{self.path}"


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a check; `error` is empty for a good one."""

    ok: bool
    status_code: int | None
    seconds: float
    error: str


class _Failed(Exception):
    """The check failed; the message is the reason."""


class _Stale(Exception):
    """The kept connection had been closed meanwhile; nothing is known about the target."""


@dataclass(slots=True)
class Probe:
    """One check under way, or a row of them over one kept connection: `sock` is it, or None."""

    target: Target
    max_body: int
    sock: Any = None
    _status: int | None = field(default=None, init=False)

    def check(self) -> Result:
        """Check once. Never raises: what goes wrong is the result."""
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
        except _Failed as failure:
            error = str(failure)
        except ProtocolError as failure:
            error = f"not a valid HTTP answer: {failure.detail}"
        except ssl.SSLError as failure:
            error = f"TLS: {failure.reason or failure}"
        except socket.gaierror as failure:
            error = f"the name {target.host} can't be resolved: {failure.strerror}"
        except OSError as failure:
            error = os.strerror(failure.errno) if failure.errno and failure.errno in errno.errorcode else str(failure)
        except UnicodeError as failure:
            error = f"the name {target.host} can't be resolved: {failure}"
        finally:
            if not keep:
                self.close()
        return Result(not error, self._status, time.monotonic() - started, error)

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _check(self) -> bool:
        """Whether the connection can be kept."""
        if self.sock is not None:
            try:
                return self._ask(kept=True)
            except _Stale:
                self.close()
        target = self.target
        self.sock = dial(target.host, target.port)
        if target.scheme == "https":
            self.sock = _context(target.tls_verify).wrap_socket(self.sock, server_hostname=target.host)
        return self._ask(kept=False) if target.path else False

    def _ask(self, kept: bool) -> bool:
        target = self.target
        response, rest = self._head(kept)
        self._status = response.status
        if response.status not in target.expected:
            raise _Failed(f"status {response.status} is not among the expected")
        content, complete = _body(self.sock, response, rest, self.max_body) if response.body_kind != NONE else (b"", not rest)
        if target.body and target.body.encode() not in content:
            raise _Failed(f'"{target.body}" is not in the first {len(content)} bytes of the body')
        return target.keepalive and response.keep_alive and complete

    def _head(self, kept: bool) -> tuple[ResponseHead, bytes]:
        """Ask, and read to the end of the final response's head; what came behind it."""
        target, sock = self.target, self.sock
        connection = "keep-alive" if target.keepalive else "close"
        buffer = b""
        try:
            sock.sendall(f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\nUser-Agent: proxyd-health/{__version__}\r\n"
                         f"Accept: */*\r\nConnection: {connection}\r\n\r\n".encode("latin-1"))
            while True:
                while (end := find_head_end(buffer) if buffer else -1) < 0:
                    data = sock.recv(_RECEIVE)
                    if not data:
                        raise _Failed("the connection was closed without an answer")
                    buffer += data
                    if len(buffer) > _LIMITS.head_size:
                        raise _Failed(f"the answer's header is larger than {_LIMITS.head_size} bytes")
                response = parse_response_head(buffer[:end], "GET", _LIMITS)
                buffer = buffer[end:]
                if response.status >= 200:
                    return response, buffer
        except (OSError, _Failed):
            if kept and not buffer:
                raise _Stale from None
            raise


def _body(sock: Any, response: ResponseHead, data: bytes, max_body: int) -> tuple[bytes, bool]:
    """The body, or its first `max_body` bytes, and whether nothing is left behind it. Raises _Failed for one that ends too
    soon."""
    decoder = ChunkedDecoder(status=502) if response.body_kind == CHUNKED else None
    length = response.content_length if response.body_kind == LENGTH else -1
    content = b""
    while True:
        if data:
            content += decoder.feed(data) if decoder is not None else data
        if decoder is not None and decoder.done:
            return content[:max_body], not decoder.leftover
        if 0 <= length <= len(content):
            return content[:min(max_body, length)], length == len(content)
        if len(content) >= max_body:
            return content[:max_body], False
        data = sock.recv(_RECEIVE)
        if not data:
            if decoder is not None or length >= 0:
                raise _Failed("the connection was closed in the middle of the body")
            return content, False


@lru_cache(maxsize=2)
def _context(verify: bool) -> Any:
    # Not create_default_context: in a process that isn't monkey-patched that makes a context that blocks everybody.
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
