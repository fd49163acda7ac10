"""One health check: connect, ask, judge the answer; one time limit over all of it.

Our own few lines on the project's response reader rather than requests: a thousand checks a second must fit one core
beside everything else the master does, and requests alone would fill it.
"""

from __future__ import annotations

import errno
import os
import ssl
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import gevent
from gevent import socket
from gevent import ssl as gevent_ssl

from proxyd import __version__
from proxyd.http1 import ChunkedDecoder, HeadLimits, ProtocolError, find_head_end, parse_response_head
from proxyd.http1.response import CHUNKED, LENGTH, NONE

_LIMITS = HeadLimits(8192, 200, 65536, 65536)
_RECEIVE = 65536


@dataclass(frozen=True, slots=True)
class Target:
    """What is checked, and how; equal targets share one check. `path` is empty for a check that only connects."""

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


def probe(target: Target, max_body: int) -> Result:
    """Check once. Never raises: what goes wrong is the result."""
    started = time.monotonic()
    status: list[int] = []
    error = ""
    opened: list[Any] = []
    try:
        with gevent.Timeout(target.timeout):
            _check(target, max_body, status, opened)
    except gevent.Timeout:
        error = f"no {'complete answer' if opened else 'connection'} within {target.timeout:g} s"
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
    finally:
        for sock in opened:
            sock.close()
    return Result(not error, status[0] if status else None, time.monotonic() - started, error)


def _check(target: Target, max_body: int, status: list[int], opened: list[Any]) -> None:
    sock = _connect(target.host, target.port)
    opened.append(sock)
    if target.scheme == "https":
        sock = _context(target.tls_verify).wrap_socket(sock, server_hostname=target.host)
        opened[0] = sock
    if not target.path:
        return
    sock.sendall(f"GET {target.path} HTTP/1.1\r\nHost: {target.authority}\r\nUser-Agent: proxyd-health/{__version__}\r\n"
                 "Accept: */*\r\nConnection: close\r\n\r\n".encode("latin-1"))
    buffer = b""
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
            break
    status.append(response.status)
    if response.status not in target.expected:
        raise _Failed(f"status {response.status} is not among the expected")
    if target.body or response.body_kind != NONE:
        content = _body(sock, response, buffer, max_body) if response.body_kind != NONE else b""
        if target.body and target.body.encode() not in content:
            raise _Failed(f'"{target.body}" is not in the first {len(content)} bytes of the body')


def _body(sock: Any, response: Any, data: bytes, max_body: int) -> bytes:
    """The body, or its first `max_body` bytes. Raises _Failed for one that ends too soon."""
    decoder = ChunkedDecoder(status=502) if response.body_kind == CHUNKED else None
    length = response.content_length if response.body_kind == LENGTH else -1
    content = b""
    while True:
        if data:
            content += decoder.feed(data) if decoder is not None else data
        complete = decoder.done if decoder is not None else 0 <= length <= len(content)
        if complete or len(content) >= max_body:
            return content[:max_body]
        data = sock.recv(_RECEIVE)
        if not data:
            if decoder is not None or length >= 0:
                raise _Failed("the connection was closed in the middle of the body")
            return content


def _connect(host: str, port: int) -> Any:
    """A connected socket to the first address that answers. Raises OSError."""
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.connect(address)
        except OSError as error:
            failure = error
            sock.close()
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(errno.EHOSTUNREACH, "no address")


@lru_cache(maxsize=2)
def _context(verify: bool) -> Any:
    # Not create_default_context: in a process that isn't monkey-patched that makes a context that blocks everybody.
    context = gevent_ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_default_certs()
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
