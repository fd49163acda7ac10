"""Connections to upstreams: a LIFO pool of idle ones for each upstream of a worker, and the opening of new ones."""

from __future__ import annotations

import contextlib
import errno
import re
import ssl
import time
from typing import TYPE_CHECKING

import gevent
from gevent import socket as gevent_socket

from proxyd.net.dial import dial, resolver
from proxyd.net.handshake import EITHER, HTTP1, backend_context, fault
from proxyd.net.proxyprotocol import header
from proxyd.net.resolver import ResolveError
from proxyd.net.stream import DirectStream, Stream, no_delay, plain_stream
from proxyd.net.targets import TargetDenied
from proxyd.net.tlsstream import TlsStream

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

#: The share of what an upstream's Keep-Alive field grants that is used: its clock began before ours, and its end is on the way.
_GRANTED = 0.8
_KEEP_ALIVE = re.compile(r"(?:^|[,\s])timeout\s*=\s*\"?(\d{1,9})\b", re.ASCII | re.IGNORECASE)


#: So many idle connections to an upstream are kept in any case.
_SURE = 64


class _Room:
    """The idle upstream connections of this worker: how many there are, and how many there may be beyond the sure ones."""

    __slots__ = ("held", "most")

    def __init__(self) -> None:
        self.held = 0
        self.most = 0


_room = _Room()


def use_descriptors(limit: int) -> None:
    """Let a quarter of the open files that this process may have be idle connections to upstreams."""
    _room.most = limit // 4


class UpstreamError(Exception):
    """A failed attempt. `cause`: the class for retries (connection_refused, reset, timeout, other). `status` and `code`: for the
    client. `unsent`: the upstream can't have seen the request."""

    def __init__(self, cause: str, status: int, code: str, detail: str, unsent: bool = False) -> None:
        super().__init__(detail)
        self.cause = cause
        self.status = status
        self.code = code
        self.detail = detail
        self.unsent = unsent


def idle_connection(upstream: Upstream, now: float) -> Stream | None:
    """The most recently used idle connection that is still usable, or None.

    A connection with something to read is closed: that is its end, or unrequested bytes, which the next request must not take for
    its answer.
    """
    idle = upstream.state.idle
    while idle:
        stream: Stream = idle.pop()
        _room.held -= 1
        if now < stream.idle_until and stream.quiet():
            return stream
        stream.close()
    return None


def release(upstream: Upstream, stream: Stream, now: float) -> None:
    """Keep a connection whose last response was complete. It is closed if there is no room, if it is too old, if the upstream's name no
    longer has its address, or if no route leads there any more."""
    state, options = upstream.state, upstream.options
    idle = state.idle
    limit = stream.idle_limit
    until = now + (limit if limit < options.pool_idle_timeout else options.pool_idle_timeout)
    if options.pool_max_age:
        until = min(until, stream.opened_at + options.pool_max_age)
    kept = len(idle)
    # Connections are opened when none is idle. So there are as many as were in use at once, and those that are not needed any more
    # lie at the bottom until their time has passed.
    if (kept >= options.pool_size or (kept >= _SURE and _room.held >= _room.most) or until <= now or not upstream.enabled
            or state.retired or (state.addresses is not None and stream.address not in state.addresses)):
        stream.close()
        return
    _room.held += 1
    stream.idle_until = until
    stream.served += 1
    idle.append(stream)


def let_go(ex: Exchange, upstream: Upstream, stream: Stream, reusable: bool) -> None:
    """The exchange needs its upstream connection no more: keep it for the next one, or close it."""
    ex.upstream_stream = None
    upload = ex.upload
    if upload is not None:
        reusable = reusable and upload.done
        upload.stop()
        if ex.client.has_body():
            ex.client.close_after()
        elif ex.kept is not None:
            # All of the body is kept, so that another attempt can send it.
            ex.upload = None
    if reusable:
        release(upstream, stream, time.monotonic())
    else:
        stream.close()


def heed_keep_alive(stream: Stream, field: str | None) -> None:
    """Take over how long an upstream says that it keeps an idle connection (the Keep-Alive field, RFC 2068 19.7.1.1)."""
    found = _KEEP_ALIVE.search(field) if field else None
    if found is not None:
        stream.idle_limit = int(found[1]) * _GRANTED


def prune(upstream: Upstream, now: float) -> None:
    """Close idle connections whose time has passed, and those to an address that the upstream's name no longer has."""
    state = upstream.state
    if state.links is not None:
        state.links.prune(state.addresses)
    kept: list[Stream] = []
    gone: list[Stream] = []
    for stream in state.idle:
        held = state.addresses is None or stream.address in state.addresses
        (kept if held and now < stream.idle_until else gone).append(stream)
    if gone:
        state.idle[:] = kept
        _room.held -= len(gone)
        for stream in gone:
            stream.close()


def follow_name(upstream: Upstream) -> None:
    """Update the addresses of the upstream's name. Never waits: if a query is needed, its answer is stored later."""
    if not upstream.port:
        return
    try:
        found = resolver().known(upstream.host)
    except ResolveError:
        # Old connections are better than none.
        return
    if found is None:
        gevent.spawn(_ask, upstream)
    elif found != (upstream.host,):
        upstream.state.addresses = frozenset(found)


def _ask(upstream: Upstream) -> None:
    with contextlib.suppress(ResolveError):
        upstream.state.addresses = frozenset(resolver().addresses(upstream.host))


def drop(upstream: Upstream, stream: Stream) -> None:
    """Close one of the idle connections, to make room."""
    upstream.state.idle.remove(stream)
    _room.held -= 1
    stream.close()


def retire(upstream: Upstream) -> None:
    """No route leads there any more, or not in this way: close the idle connections, and those in use when they are released."""
    state = upstream.state
    state.retired = True
    if state.links is not None:
        state.links.retire()
    while state.idle:
        _room.held -= 1
        state.idle.pop().close()


def connect(upstream: Upstream, limit: float, expired: str, http2: bool = False, client: str = "") -> DirectStream:
    """Open a connection, TLS included, within `limit` seconds. Raises UpstreamError, with the code `expired` once they are over. `http2`:
    offer that too, where TLS can. `client`: the address for which it is opened, empty if it is for many (option send_proxy)."""
    where = f"{upstream.host}:{upstream.port}" if upstream.port else upstream.authority
    opened: gevent_socket.socket | Stream | None = None
    try:
        with gevent.Timeout(limit):
            opened = dialled = dial(upstream.host, upstream.port)
            no_delay(dialled)
            address = dialled.getpeername()[0] if upstream.port else ""
            if upstream.options.send_proxy != "off":
                dialled.sendall(header(upstream.options.send_proxy, client, (address, upstream.port) if upstream.port else None))
            stream: DirectStream
            if upstream.scheme != "https":
                stream = plain_stream(dialled)
            else:
                context = backend_context(upstream.tls, EITHER if http2 else HTTP1)
                opened = stream = secured = TlsStream(dialled)
                secured.shake(context, upstream.tls.server_name or upstream.host)
            stream.address = address
            if upstream.state.addresses is not None and address not in upstream.state.addresses:
                # The name was resolved again after the last update.
                upstream.state.addresses |= {address}
            return stream
    except gevent.Timeout:
        _close(opened)
        detail = f"no connection to the upstream within {limit:g} s"
        raise UpstreamError("timeout", 504, expired, detail, True) from None
    except ssl.SSLError as error:
        _close(opened)
        detail = f"TLS with the upstream failed: {fault(error)}"
        raise UpstreamError("other", 502, "upstream_tls", detail, True) from None
    except TargetDenied as error:
        raise UpstreamError("other", 502, "upstream_denied", f"the upstream {where} is not allowed: {error.strerror}", True) from None
    except gevent_socket.gaierror as error:
        raise UpstreamError("connection_refused", 502, "upstream_unresolved",
                            f"the upstream's name can't be resolved: {error.strerror}", True) from None
    except OSError as error:
        _close(opened)
        code = "upstream_refused" if error.errno == errno.ECONNREFUSED else "upstream_unreachable"
        reason = error.strerror or str(error)
        raise UpstreamError("connection_refused", 502, code, f"can't connect to the upstream {where}: {reason}", True) from None


def _close(sock: gevent_socket.socket | Stream | None) -> None:
    if sock is not None:
        sock.close()
