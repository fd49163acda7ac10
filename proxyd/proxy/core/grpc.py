"""gRPC, as far as a proxy must know it: whose answers are statuses of gRPC, what they are, and how long a call may take.

The messages themselves are bodies like others. See the protocol's description (PROTOCOL-HTTP2.md of gRPC), and its codes.
"""

from __future__ import annotations

import contextlib
import re
from math import inf
from typing import TYPE_CHECKING

from proxyd.base.reasons import reason_of
from proxyd.http2.errors import CANCEL, ENHANCE_YOUR_CALM
from proxyd.proxy.core.clientside import ClientGone

if TYPE_CHECKING:
    from proxyd.http1 import RequestHead
    from proxyd.proxy.core.exchange import Exchange

_CONTENT_TYPE = re.compile(r"application/grpc(?:[+;\s]|\Z)", re.IGNORECASE)
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])", re.ASCII)
_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}

_CANCELLED, _UNKNOWN, _DEADLINE_EXCEEDED, _PERMISSION_DENIED, _RESOURCE_EXHAUSTED = 1, 2, 4, 7, 8
_UNIMPLEMENTED, _INTERNAL, _UNAVAILABLE, _UNAUTHENTICATED = 12, 13, 14, 16
#: What the statuses of our refusals are called in gRPC.
_STATUSES = {
    400: _INTERNAL, 401: _UNAUTHENTICATED, 403: _PERMISSION_DENIED, 404: _UNIMPLEMENTED, 405: _UNIMPLEMENTED, 408: _DEADLINE_EXCEEDED,
    413: _RESOURCE_EXHAUSTED, 414: _RESOURCE_EXHAUSTED, 417: _INTERNAL, 421: _UNIMPLEMENTED, 429: _RESOURCE_EXHAUSTED,
    431: _RESOURCE_EXHAUSTED, 499: _CANCELLED, 500: _INTERNAL, 501: _UNIMPLEMENTED, 502: _UNAVAILABLE, 503: _UNAVAILABLE,
    504: _DEADLINE_EXCEEDED, 505: _UNIMPLEMENTED, 508: _UNAVAILABLE,
}
#: The same of HTTP/2's errors, where they say more than that the stream has ended.
_ERRORS = {CANCEL: _CANCELLED, ENHANCE_YOUR_CALM: _RESOURCE_EXHAUSTED}
_ENCODED = re.compile(r"[^ -$&-~]")


def is_grpc(head: RequestHead) -> bool:
    """Whether a request is a call of gRPC (not of gRPC-Web, which is HTTP like any other)."""
    kind = head.get("content-type")
    return kind is not None and _CONTENT_TYPE.match(kind) is not None


def time_limit(head: RequestHead) -> float:
    """The seconds that the client gives a call (the field grpc-timeout). inf if it says nothing."""
    found = _TIMEOUT.fullmatch(head.get("grpc-timeout") or "")
    return int(found[1]) * _UNITS[found[2]] if found is not None else inf


def status_fields(status: int, detail: str) -> list[tuple[str, str]]:
    """What tells a client of gRPC the outcome that HTTP calls `status`."""
    return _fields(_STATUSES.get(status, _UNKNOWN), detail)


def _fields(status: int, detail: str) -> list[tuple[str, str]]:
    text = _ENCODED.sub(lambda found: "".join(f"%{byte:02X}" for byte in found[0].encode()), detail)
    return [("grpc-status", str(status)), ("grpc-message", text)]


def end_cut(ex: Exchange, code: str, detail: str, error: int) -> bool:
    """End an answer that the upstream has not ended, with trailers that say why. `error`: HTTP/2's, by which the upstream ended it, or 0.
    Returns False for what is no call of gRPC: then the connection must be cut, so that nobody takes the part for a whole."""
    if ex.client.version != 20 or not is_grpc(ex.head):
        return False
    with contextlib.suppress(ClientGone):
        ex.client.finish(_fields(_ERRORS.get(error) or _STATUSES.get(reason_of(code).status, _UNKNOWN), f"{code}: {detail}"))
    return True
