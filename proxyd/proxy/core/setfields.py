"""The header fields that a route sets itself, in requests to its backend and in answers (REQUEST_HEADERS_SET, HEADERS_SET)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from proxyd.base import variables
from proxyd.base.variables import SetFields
from proxyd.store.sql.snapshot import Pairs

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Upstream

#: The value that only takes a field away. An empty one does the same: empty fields are never sent.
REMOVED = "-"


def prepared(declared: Pairs) -> SetFields:
    """The fields as a route declares them, ready to be filled for each request. An empty value becomes REMOVED."""
    return tuple((name, variables.parse(value) or REMOVED) for name, value in declared)


def filled(fields: SetFields, ex: Exchange, upstream: Upstream) -> Pairs:
    """The fields for one request. Those that come out empty have the value REMOVED."""
    return tuple([(name, value if isinstance(value, str) else _fill(value, ex, upstream)) for name, value in fields])


def _fill(parts: variables.Parts, ex: Exchange, upstream: Upstream) -> str:
    """The text with the variables put in; REMOVED if it is empty, or so long that a backend would refuse the whole message."""
    path, _, query = ex.head.path.partition("?")
    values = {
        "client_ip": ex.client_ip, "host": ex.host, "method": ex.method, "path": path, "query": query, "request_id": ex.request_id,
        "route": upstream.route_id, "scheme": "https" if ex.secure else "http", "uri": ex.head.path, "user": ex.user}
    certificate = ex.client.certificate
    values["tls.client.subject"] = certificate.subject if certificate is not None else ""
    values["tls.client.fingerprint"] = certificate.fingerprint if certificate is not None else ""
    text = "".join([values[part] if index % 2 else part for index, part in enumerate(parts)]).strip(" \t")
    return text if text and len(text) <= variables.MAX_FILLED else REMOVED


def replace_fields(headers: list[tuple[str, str]], new: Pairs) -> list[tuple[str, str]]:
    """The header fields, in which the fields `new` replace all fields of the same names. The value REMOVED only takes them away."""
    names = {name.lower() for name, _ in new}
    kept = [field for field in headers if field[0].lower() not in names]
    kept += [field for field in new if field[1] != REMOVED]
    return kept


def without_set(own: list[tuple[str, str]], new: Pairs) -> list[tuple[str, str]]:
    """Our own response headers without those that the route sets itself (`new`). A cookie goes beside others."""
    names = {name.lower() for name, value in new if value != REMOVED} - {"set-cookie"}
    return [field for field in own if field[0].lower() not in names]
