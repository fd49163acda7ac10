"""Asks another service whether a request may pass (`forward_auth`), as Authelia, Authentik and oauth2-proxy speak it.

The service gets the request's fields without its body, and X-Forwarded-Method, -Proto, -Host, -Uri and -For. By a 2xx the request passes,
with fields of that answer in place of the client's own (forward_auth_headers). Any other answer is the client's: a login page, a redirect
to one. If the service is down nobody passes. It has a time limit and a circuit of its own.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import gevent

from proxyd.config.options import DEFAULT_OPTIONS, tls_of
from proxyd.config.optionvalues import AuthUrl
from proxyd.http1 import PROTOCOLS, BodyReader, HeadReader, ProtocolError, ResponseHead
from proxyd.http1.response import NONE
from proxyd.net.handshake import late_fault
from proxyd.proxy.core.answers import pass_answer
from proxyd.proxy.core.origin import forwarded_chain
from proxyd.proxy.core.refusal import ANSWERED, Refusal, refuse
from proxyd.proxy.core.setfields import REMOVED
from proxyd.proxy.core.upstreams import Upstream, UpstreamState
from proxyd.proxy.gates.pageserver import Breaker

if TYPE_CHECKING:
    from proxyd.config.options import RouteOptions
    from proxyd.http1 import HeadLimits
    from proxyd.net.stream import Stream
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool
    from proxyd.store.sql.snapshot import Pairs

log = logging.getLogger("proxyd.proxy")

_PIECE = 65536
#: The largest body of an answer that is passed on. One that lets a request pass is not looked at, but read so far.
_MAX_BODY = 1 << 20
_MAX_SERVERS = 1000
#: Fields that name the user, for the access log; and how much of that is kept.
_USERS, _MAX_USER = ("remote-user", "x-auth-request-user", "x-authentik-username", "x-webauth-user"), 128
#: Fields about the body, which the service does not get, and about what the client has of it already.
_NOT_ASKED = frozenset(("content-length", "content-type", "content-encoding", "expect", "if-match", "if-none-match", "if-modified-since",
                        "if-unmodified-since", "if-range", "range", "trailer", "max-forwards"))


class _Failed(Exception):
    """There is no answer. `stale`: on a connection that had been idle, so that a new one may have one."""

    def __init__(self, reason: str, stale: bool = False) -> None:
        super().__init__(reason)
        self.stale = stale


@dataclass(frozen=True, slots=True)
class _Answer:
    head: ResponseHead
    body: bytes


class AuthServers:
    """The services that this worker asks, each with connections and a circuit."""

    def __init__(self) -> None:
        self._servers: dict[tuple[AuthUrl, bool, float], tuple[Upstream, Breaker]] = {}

    def of(self, options: RouteOptions, url: AuthUrl) -> tuple[Upstream, Breaker]:
        """The service of a route."""
        key = (url, options.tls_verify, options.forward_auth_timeout)
        found = self._servers.get(key)
        if found is None:
            if len(self._servers) >= _MAX_SERVERS:
                self._forget()
            found = self._servers[key] = _upstream(*key), Breaker()
        return found

    def upstreams(self) -> list[Upstream]:
        """The services as upstreams, whose idle connections somebody closes in time."""
        return [upstream for upstream, _ in self._servers.values()]

    def _forget(self) -> None:
        from proxyd.proxy.upstream.pool import retire

        for upstream in self.upstreams():
            retire(upstream)
        self._servers.clear()


class HasAuth(Protocol):
    """What this gate needs of a worker."""

    auth: AuthServers
    response_limits: HeadLimits


def forward_auth(parts: HasAuth, ex: Exchange, pool: Pool) -> Refusal | None:
    """Ask the route's service. None if the request may pass; ANSWERED if the service's answer is the client's. Raises ClientGone."""
    member = pool.members[0]
    url = member.options.forward_auth
    if url is None:
        return None
    server, breaker = parts.auth.of(member.options, url)
    if not breaker.admits(time.monotonic()):
        return _down()
    limit = max(0.001, min(member.options.forward_auth_timeout, ex.total_deadline - time.monotonic()))
    try:
        with gevent.Timeout(limit, _Failed(f"no answer within {limit:g} s")):
            answer = _ask(parts, ex, server, url.target)
        if answer.head.status >= 500:
            raise _Failed(f"it answered {answer.head.status}")
    except _Failed as error:
        breaker.ended(False, time.monotonic())
        log.warning("request %s: the service of forward_auth %s failed: %s", ex.request_id, server.authority, error)
        return _down()
    breaker.ended(True, time.monotonic())
    fields = answer.head.end_to_end()
    if 200 <= answer.head.status < 300:
        ex.granted = _granted(member, fields)
        ex.user = next((value for name, value in ex.granted if name.lower() in _USERS), "")[:_MAX_USER].replace(" ", "_")
        ex.set_headers.extend(field for field in fields if field[0].lower() == "set-cookie")
        return None
    ex.failure = "auth_refused"
    pass_answer(ex, answer.head.status, answer.head.reason, [*fields, ("X-Proxyd-Reason", "auth_refused")], answer.body)
    return ANSWERED


def _down() -> Refusal:
    return refuse("auth_unavailable", "the service that decides who may pass does not answer", (("Retry-After", "5"),))


def _granted(member: Upstream, fields: list[tuple[str, str]]) -> Pairs:
    """The fields of the service's answer for the backend. A field that the route sets itself is not among them."""
    taken = {name.lower() for name, value in member.request_headers if value != REMOVED}
    found = []
    for wanted in member.options.forward_auth_headers:
        values = [value for name, value in fields if name.lower() == wanted.lower()]
        if values and wanted.lower() not in taken:
            found.append((wanted, ", ".join(values)))
    return tuple(found)


def _ask(parts: HasAuth, ex: Exchange, server: Upstream, target: str) -> _Answer:
    """The service's answer. Raises _Failed."""
    # Here, because it brings libraries that must come after gevent's patches.
    from proxyd.proxy.upstream.pool import UpstreamError, connect, idle_connection

    request = _request(ex, server, target)
    stream = idle_connection(server, time.monotonic())
    if stream is not None:
        try:
            return _exchange(parts, server, stream, request)
        except _Failed as error:
            if not error.stale:
                raise
    try:
        stream = connect(server, server.options.connect_timeout, "connect_timeout")
    except UpstreamError as error:
        raise _Failed(error.detail) from None
    return _exchange(parts, server, stream, request)


def _exchange(parts: HasAuth, server: Upstream, stream: Stream, request: bytes) -> _Answer:
    from proxyd.proxy.upstream.pool import release

    reusable = False
    heard = False
    try:
        stream.send_all(request)
        reader = HeadReader("GET", parts.response_limits)
        head: ResponseHead | None = None
        while head is None:
            data = stream.recv(_PIECE)
            if not data:
                raise _Failed("it closed the connection without an answer", stream.served > 0 and not heard)
            heard = True
            head = reader.feed(data)
        if head.body_kind == NONE:
            reusable = head.keep_alive and not reader.rest
            return _Answer(head, b"")
        body = BodyReader(head)
        pieces = [body.feed(reader.rest)]
        size = len(pieces[0])
        while not body.done:
            data = b"" if body.more else stream.recv(_PIECE)
            if not data and not body.more:
                if not body.end():
                    raise _Failed("its answer is not complete")
                break
            piece = body.feed(data)
            size += len(piece)
            if size > _MAX_BODY:
                raise _Failed(f"its answer is larger than {_MAX_BODY} bytes")
            pieces.append(piece)
        reusable = body.reusable
        return _Answer(head, b"".join(pieces))
    except OSError as error:
        raise _Failed(late_fault(error) or str(error), stream.served > 0 and not heard) from None
    except ProtocolError as error:
        raise _Failed(error.detail) from None
    finally:
        if reusable:
            release(server, stream, time.monotonic())
        else:
            stream.close()


def _request(ex: Exchange, server: Upstream, target: str) -> bytes:
    """The request to the service: always GET, since it decides about a head."""
    head, origin = ex.head, ex.origin
    fields = [(name, value) for name, value in head.end_to_end() if name.lower() not in _NOT_ASKED]
    host = origin.host if origin is not None else head.host or ""
    # The path in the form by which routes are matched: a rule of the service must not be passed by writing the path in another way.
    _, mark, query = head.path.partition("?")
    fields += [("X-Forwarded-Method", head.method), ("X-Forwarded-Proto", "https" if ex.secure else "http"), ("X-Forwarded-Host", host),
               ("X-Forwarded-Uri", f"{ex.path}{mark}{query}"), ("X-Forwarded-For", forwarded_chain(ex.client, head, origin)),
               ("X-Real-IP", ex.client_ip), *(ex.client.certificate.fields if ex.client.certificate is not None else ()),
               # By this a service that is reached through this proxy, and asks itself, is found out.
               ("Via", ", ".join([*(value for name, value in head.edge if name == "via"), f"{PROTOCOLS[head.version]} {ex.client.via}"])),
               ("X-Request-ID", ex.request_id)]
    text = "".join([f"{name}: {value}\r\n" for name, value in fields])
    return f"GET {target} HTTP/1.1\r\nHost: {server.host_field}\r\n{text}\r\n".encode("latin-1")


def _upstream(url: AuthUrl, verify: bool, timeout: float) -> Upstream:
    options = replace(DEFAULT_OPTIONS, connect_timeout=timeout, timeout=timeout, tls_verify=verify)
    backend = url.backend
    return Upstream(
        route_id="", slot=0, number=0, service="", instance="", session_id="", scheme=backend.scheme, host=backend.host, port=backend.port,
        base_path="", authority=backend.place, host_field=backend.authority, tls=tls_of(options), enabled=True, websocket=False, path="/",
        priority=0, domains=(), options=options, headers=(), rate_limits=(), maintenance_since=0.0, maintenance_page_url="",
        drain_started_at=0.0, drain_seconds=0.0, state=UpstreamState())
