"""Every header field that the proxy adds, changes or drops, except for framing.

RFC 9110 7.6 (Connection, Via). Those about the client (Forwarded, X-Forwarded-*) are made in `origin`.
"""

from __future__ import annotations

import re
from email.utils import formatdate
from functools import lru_cache
from typing import TYPE_CHECKING

from proxyd.base.paths import climbs
from proxyd.http1 import PROTOCOLS, ProtocolError
from proxyd.http1.grammar import field_lines
from proxyd.proxy.core.origin import TOLD, forwarded, told_fields
from proxyd.proxy.core.putback import told_prefix, without_prefix
from proxyd.proxy.core.setfields import filled, replace_fields

if TYPE_CHECKING:
    from proxyd.base.rewrites import Rewrite
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

_REQUEST_ID = re.compile(r"[A-Za-z0-9._~+/=@:-]{1,128}")
#: Dot segments and repeated slashes: what is matched without them is forwarded without them.
_UNCLEAN = re.compile(r"/(?:\.|%2e|/)", re.IGNORECASE)


@lru_cache(maxsize=4)
def http_date(second: int) -> str:
    """A Date value (RFC 9110 5.6.7) for an instant in Unix seconds."""
    return formatdate(second, usegmt=True)


def kept_request_id(ex: Exchange) -> str:
    """The request id that the client sent, if it can be passed on and logged. Otherwise an empty text."""
    for name, value in ex.head.edge:
        if name == "x-request-id" and _REQUEST_ID.fullmatch(value):
            return value
    return ""


def loops(ex: Exchange, via: str) -> bool:
    """Whether the request has passed this proxy before: its Via contains our own name."""
    return any(name == "via" and via in value and any(via in hop.split() for hop in value.split(",")) for name, value in ex.head.edge)


def max_forwards(ex: Exchange) -> bool:
    """Count Max-Forwards down (RFC 9110 7.6.2). Returns whether the request may go on. A value that is no number stays unchanged."""
    head = ex.head
    fields = list(head.headers)
    for index, (name, value) in enumerate(fields):
        if name.lower() == "max-forwards" and value.isascii() and value.isdigit() and len(value) < 10:
            if not int(value):
                return False
            fields[index] = (name, str(int(value) - 1))
    head.replace(fields, head.skip)
    return True


def request_head(ex: Exchange, upstream: Upstream, upgrade: str = "") -> bytes:
    """The head of the request for the upstream. `upgrade`: the protocol to upgrade to (RFC 9110 7.8), or empty."""
    head = ex.head
    client = ex.client
    host = ex.head.host if upstream.keeps_host and head.host else upstream.host_field
    lines = head.passed_on() if ex.trace is None and not upstream.request_headers else _changed_fields(ex, upstream)
    text = f"{head.method} {request_target(ex, upstream)} HTTP/1.1\r\nHost: {host}\r\n{lines}"
    if ex.body is not None:
        text += f"Content-Length: {len(ex.body)}\r\n"
    elif ex.kept is not None and ex.kept.length >= 0:
        text += f"Content-Length: {ex.kept.length}\r\n"
    elif head.chunked:
        text += "Transfer-Encoding: chunked\r\n"
    elif head.content_length >= 0:
        text += f"Content-Length: {head.content_length}\r\n"
    if upgrade:
        text += f"Connection: Upgrade\r\nUpgrade: {upgrade}\r\n"
    elif head.te_trailers:
        text += "TE: trailers\r\nConnection: TE\r\n"
    if head.edge:
        text += _edge_fields(ex, upstream)
    else:
        own = _own_fields(client.forwarded, client.peer, head.host, client.secure)
        text += f"{own}Via: {PROTOCOLS[head.version]} {client.via}\r\n"
    if upstream.strip and (prefix := told_prefix(ex, upstream)):
        text += f"X-Forwarded-Prefix: {prefix}\r\n"
    return f"{text}X-Request-ID: {ex.request_id}\r\n\r\n".encode("latin-1")


def _changed_fields(ex: Exchange, upstream: Upstream) -> str:
    """The lines of the fields that are passed on, with what the trace and the route change of them."""
    fields = ex.head.end_to_end()
    if ex.trace is not None:
        fields = [field for field in fields if field[0].lower() != "traceparent"]
        fields.append(("traceparent", ex.trace.told))
    if upstream.request_headers:
        fields = replace_fields(fields, filled(upstream.request_headers, ex, upstream))
        # The client's own of these names are among the fields that are taken away.
        fields += ex.granted
    return field_lines(fields)


def _edge_fields(ex: Exchange, upstream: Upstream) -> str:
    """The forwarding fields for a request that already has some. They are extended if the peer is trusted, and replaced if not."""
    head, client = ex.head, ex.client
    via = ", ".join([*(value for name, value in head.edge if name == "via"), f"{PROTOCOLS[head.version]} {client.via}"])
    told = (told_fields(client, head, ex.origin) if ex.origin is not None
            else _own_fields(client.forwarded, client.peer, head.host, client.secure))
    text = f"{told}Via: {via}\r\n"
    if client.trusted:
        ours = "x-forwarded-prefix" if told_prefix(ex, upstream) else ""
        text += "".join([f"{name.title()}: {value}\r\n" for name, value in head.edge
                         if name.startswith("x-forwarded-") and name not in TOLD and name != ours])
    return text


@lru_cache(maxsize=4096)
def _own_fields(about: str, peer: str, host: str | None, secure: bool) -> str:
    """The forwarding fields about a client of whom no trusted proxy tells anything. `about`: those that are the same for all of its
    requests."""
    return f"{about}X-Forwarded-Host: {host or ''}\r\n{forwarded(peer, host or '', secure)}"


def _joined(instead: str, stripped: str, path: str) -> str:
    """What takes the place of a prefix, and the rest of a path. What names the prefix without a slash gets none behind it."""
    return f"{instead}{stripped}" if not instead or stripped != "/" or path.endswith("/") else instead


def _rewritten(rewrite: Rewrite, path: str, query: str) -> tuple[str, str]:
    """A path and a query as an expression rewrites them. The client's query comes behind that of the template."""
    made = rewrite.apply(path)
    if made is None:
        return path, query
    path, _, own = made.partition("?")
    if _UNCLEAN.search(path):
        raise ProtocolError(400, "ambiguous_path", "the option rewrite makes a path with dot segments or repeated slashes of this one")
    return path, f"{own}&{query}" if own and query else own or query


def request_target(ex: Exchange, upstream: Upstream) -> str:
    """The target for the upstream: the backend url's path, then the client's target without strip_prefix, or rewritten.

    Dot segments are resolved and slashes merged as for matching, so that the backend gets what was matched. The option raw_path
    leaves them, unless a prefix is removed or added, because they must not lead out of the prefix. Raises ProtocolError 400 for a path
    that an expression makes such a one of, and for one that a backend may read so.
    """
    target = ex.head.path
    plain = upstream.plain
    if (plain and (upstream.options.raw_path or target == ex.path)) or target == "*":
        return target
    path, mark, query = target.partition("?")
    if _UNCLEAN.search(path):
        path = ex.path
    if plain:
        return f"{path}{mark}{query}"
    prefix = upstream.strip
    if prefix:
        stripped = without_prefix(path, prefix)
        stripped = without_prefix(ex.path, prefix) if stripped is None else stripped
        if stripped is not None:
            _check_depth(stripped, upstream)
            return f"{upstream.base_path}{_joined(upstream.instead, stripped, path)}{mark}{query}"
    elif upstream.options.rewrite is not None:
        path, query = _rewritten(upstream.options.rewrite, path, query)
        mark = "?" if query else mark
    _check_depth(path, upstream)
    return f"{upstream.base_path}{path}{mark}{query}"


def _check_depth(path: str, upstream: Upstream) -> None:
    """Raises ProtocolError 400 for a path that a backend may read as one outside of what it is put behind: the path of the backend url, or
    what a prefix became."""
    if upstream.options.ambiguous_path == "refuse" and climbs(path):
        raise ProtocolError(400, "ambiguous_path", "a backend may read this path as one that leads out of its place at the backend")
