"""Connections to upstreams: a LIFO pool of idle ones per upstream and worker, and how new ones are opened."""

from __future__ import annotations

import errno
import ssl
from functools import lru_cache
from typing import TYPE_CHECKING

import gevent
from gevent import socket as gevent_socket
from gevent import ssl as gevent_ssl

from proxyd.net.dial import dial
from proxyd.net.stream import Stream, TlsStream, no_delay, plain_stream

if TYPE_CHECKING:
    from proxyd.proxy.core.upstreams import Upstream

#: Idle connections older than this are not used again: most servers close theirs after 60 to 75 s.
IDLE_SECONDS = 50.0


class UpstreamError(Exception):
    """An attempt failed. `cause` is the retry class (connection_refused, reset, timeout, other); `status` and `code` what
    the client is told; `unsent`: the upstream can't have seen the request."""

    def __init__(self, cause: str, status: int, code: str, detail: str, unsent: bool = False) -> None:
        super().__init__(detail)
        self.cause = cause
        self.status = status
        self.code = code
        self.detail = detail
        self.unsent = unsent


def idle_connection(upstream: Upstream, now: float) -> Stream | None:
    """The most recently used idle connection that still is one, or None.

    One with anything to read is dropped: an end, or bytes that nobody asked for, which a next request must not
    take for its answer.
    """
    idle = upstream.state.idle
    while idle:
        stream: Stream = idle.pop()
        if now - stream.idle_since < IDLE_SECONDS and stream.quiet():
            return stream
        stream.close()
    return None


def release(upstream: Upstream, stream: Stream, now: float) -> None:
    """Keep a connection whose last response was complete, if there is room."""
    idle = upstream.state.idle
    if len(idle) >= upstream.options.pool_size or not upstream.enabled:
        stream.close()
        return
    stream.idle_since = now
    stream.served += 1
    idle.append(stream)


def prune(upstream: Upstream, now: float) -> None:
    """Close the connections that have been idle for too long (the oldest are first)."""
    idle = upstream.state.idle
    while idle and now - idle[0].idle_since > IDLE_SECONDS:
        idle.pop(0).close()


def close_idle(upstream: Upstream) -> None:
    """Close all idle connections: the route is gone."""
    idle = upstream.state.idle
    while idle:
        idle.pop().close()


def connect(upstream: Upstream, limit: float, expired: str) -> Stream:
    """Open a connection, TLS included, within `limit` seconds. Raises UpstreamError, with the code `expired` once they are over."""
    where = f"{upstream.host}:{upstream.port}"
    opened: gevent_socket.socket | None = None
    try:
        with gevent.Timeout(limit):
            opened = dial(upstream.host, upstream.port)
            no_delay(opened)
            if upstream.scheme != "https":
                return plain_stream(opened)
            wrapped = _context(upstream.options.tls_verify).wrap_socket(opened, server_hostname=upstream.host)
            return TlsStream(wrapped)
    except gevent.Timeout:
        _close(opened)
        detail = f"no connection to the upstream within {limit:g} s"
        raise UpstreamError("timeout", 504, expired, detail, True) from None
    except ssl.SSLError as error:
        _close(opened)
        detail = f"TLS with the upstream failed: {error.reason or error}"
        raise UpstreamError("other", 502, "upstream_tls", detail, True) from None
    except gevent_socket.gaierror as error:
        raise UpstreamError("connection_refused", 502, "upstream_unresolved",
                            f"the upstream's name can't be resolved: {error.strerror}", True) from None
    except OSError as error:
        _close(opened)
        code = "upstream_refused" if error.errno == errno.ECONNREFUSED else "upstream_unreachable"
        reason = error.strerror or str(error)
        raise UpstreamError("connection_refused", 502, code, f"can't connect to the upstream {where}: {reason}", True) from None


def _close(sock: gevent_socket.socket | None) -> None:
    if sock is not None:
        sock.close()


@lru_cache(maxsize=2)
def _context(verify: bool) -> gevent_ssl.SSLContext:
    context = gevent_ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
