"""Requests of HTTP/2 in the form of HTTP/1.1, so that the same strict rules hold for them (RFC 9113 8.3, RFC 8441)."""

from __future__ import annotations

import base64
import os

from proxyd.http1 import HeadLimits, ProtocolError, RequestHead, parse_request_head
from proxyd.http1.errors import shown
from proxyd.http2.events import Field
from proxyd.http2.fields import RequestFields

_DEFAULT_PORTS = {b"http": b":80", b"https": b":443"}


def too_large(fields: list[Field], limits: HeadLimits) -> ProtocolError:
    """The error for a header whose fields are more than the limit, so that not all of them were kept."""
    if not any(name == b":path" for name, _ in fields):
        return ProtocolError(414, "request_line_too_long", f"the request line is longer than {limits.request_line} bytes")
    return ProtocolError(431, "head_too_large", f"the head is longer than {limits.head_size} bytes")


def request_head(request: RequestFields, limits: HeadLimits) -> RequestHead:
    """A request's head. Whether it has a body of unknown length is not known here. Raises ProtocolError."""
    method, target, fields = request.method, request.path, request.fields
    if request.scheme and request.scheme not in _DEFAULT_PORTS:
        raise ProtocolError(400, "bad_target", f"the scheme {shown(request.scheme.decode('latin-1'))} is neither http nor https")
    if method == b"CONNECT":
        if request.protocol:
            method, fields = b"GET", _handshake(request)
        else:
            target = request.authority
    if not target.isascii():
        # HTTP/1 takes raw UTF-8 from the command lines of people. HTTP/2 is written by libraries, which encode (RFC 9113 8.3.1).
        raise ProtocolError(400, "bad_target", f"the path {shown(target.decode('latin-1'))} has characters beyond ASCII")
    lines = [b"%b %b HTTP/1.1" % (method, target)]
    if request.authority:
        lines.append(b"host: " + request.authority)
        for host in request.hosts:
            _must_agree(request, host)
    else:
        lines += [b"host: " + host for host in request.hosts]
    lines += [b"%b: %b" % field for field in fields]
    lines.append(b"\r\n")
    head = parse_request_head(b"\r\n".join(lines), limits)
    head.version = 20
    if request.protocol:
        head.upgrade = "websocket"
    return head


def _must_agree(request: RequestFields, host: bytes) -> None:
    """Refuse a Host that names another host than :authority (RFC 9113 8.3.1)."""
    port = _DEFAULT_PORTS.get(request.scheme, b"")
    if host.lower().removesuffix(port) != request.authority.lower().removesuffix(port):
        raise ProtocolError(400, "host_mismatch", f"the request is for {shown(request.authority.decode('latin-1'))}, "
                            f"the Host field says {shown(host.decode('latin-1'))}")


def _handshake(request: RequestFields) -> list[Field]:
    """The fields of a WebSocket's handshake: HTTP/1.1 has a key in it, which ends here (RFC 8441 5)."""
    if request.protocol.lower() != b"websocket":
        raise ProtocolError(501, "unsupported_protocol", f"the protocol {shown(request.protocol.decode('latin-1'))} is not spoken here")
    kept = [field for field in request.fields if field[0] != b"sec-websocket-key"]
    return [*kept, (b"sec-websocket-key", base64.b64encode(os.urandom(16)))]
