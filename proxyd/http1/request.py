"""Request heads (RFC 9112 3, RFC 9110 7 and 10.1): one pass from bytes to what routing and forwarding need.

A client mostly sends the same fields with each of its requests. So fields that passed every check and came twice are remembered,
with what was read from them: of the next request that has them, byte for byte, only the first line is read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from proxyd.http1 import fieldnames as kinds
from proxyd.http1.errors import ProtocolError, shown
from proxyd.http1.fieldnames import special_fields
from proxyd.http1.grammar import (
    NO_OPTIONS,
    REQUEST_LIMITS,
    TOKEN,
    HeadLimits,
    check_head_size,
    check_transfer_encoding,
    end_to_end,
    fault_in_characters,
    field_lines,
    find_head_end,
    leading_empty_lines,
    parse_connection,
    parse_content_length,
    parse_fields,
    without_nominated,
)
from proxyd.http1.target import check_host, split_target

__all__ = ["PROTOCOLS", "REQUEST_LIMITS", "HeadLimits", "RequestHead", "find_head_end", "parse_request_head"]

# Targets are visible ASCII; a fragment is for the user agent alone and never sent (RFC 9112 3.2). Raw UTF-8, which some clients
# send, becomes ASCII by percent-encoding.
_REQUEST_LINE = re.compile(rf"({TOKEN}) ([!\"$-~\x80-\xff]+) HTTP/1\.([01])\r\n")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
_ANY_REQUEST_LINE = re.compile(rf"{TOKEN} (?P<target>[^ ]+) (?P<version>HTTP/[0-9]+(?:\.[0-9]+)?)")
_PROTOCOLS = re.compile(rf"{TOKEN}(?:/{TOKEN})?(?:[ \t]*,[ \t]*{TOKEN}(?:/{TOKEN})?)*")


#: How a version is written, in Via (RFC 9110 7.6.3) and in logs.
PROTOCOLS = {10: "1.0", 11: "1.1", 20: "2.0"}

#: Fields are remembered of heads up to this size, in bytes, with up to so many fields, and so many of them: 3 MiB at most.
_KNOWN_HEAD = 2048
_KNOWN_COUNT = 32
_KNOWN_ENTRIES = 256


class RequestHead:
    """A request head that passed every check. `headers`, `skip`, `edge` and `dropped` may be those of other requests too: `replace` them,
    never change them.

    method, target       as sent
    version              10 or 11; 20 where a request that came by HTTP/2 was put into this form
    headers              (name as sent, value without surrounding white space), in order; never a name with `_`
    host                 the authority of an absolute-form target, else the Host field; None only in HTTP/1.0
    path                 the target to forward in origin form; `*` for OPTIONS, the authority for CONNECT
    scheme               lower case, of an absolute-form target; else empty
    content_length       bytes, or -1 if not given
    chunked              the body is in the chunked coding
    keep_alive           the client lets the connection be used again
    upgrade              `websocket` if it is among the protocols asked for, else all of them, lower case; empty unless Connection
                         lists upgrade too
    expect_continue      the client has a body and waits for 100 before sending it
    connection           lower-cased Connection options
    te_trailers          the client takes trailers
    edge                 (lower-cased name, value) of the fields about the way so far: X-Forwarded-*, Forwarded,
                         X-Real-IP, Via, X-Request-ID; what they say is only as good as the peer
    dropped              names with underscores that were left out of `headers`
    skip                 ascending indexes into `headers` of what the forwarder writes itself or must not pass on
    """

    __slots__ = (
        "chunked",
        "connection",
        "content_length",
        "dropped",
        "edge",
        "expect_continue",
        "headers",
        "host",
        "keep_alive",
        "method",
        "path",
        "scheme",
        "skip",
        "target",
        "te_trailers",
        "upgrade",
        "version",
        "_lines",
    )

    def __init__(
        self, method: str, target: str, version: int, headers: Sequence[tuple[str, str]], skip: Sequence[int]
    ) -> None:
        self.method = method
        self.target = self.path = target
        self.version = version
        self.headers = headers
        self.skip = skip
        # What `passed_on` has made, if it was asked.
        self._lines: list[str] = []
        self.host: str | None = None
        self.scheme = self.upgrade = ""
        self.content_length = -1
        self.chunked = self.expect_continue = self.te_trailers = False
        self.keep_alive = version == 11
        self.connection = NO_OPTIONS
        self.edge: Sequence[tuple[str, str]] = ()
        self.dropped: Sequence[str] = ()

    def another(self, method: str, target: str) -> RequestHead:
        """The head of a request with the same fields and version, for a target in origin form."""
        other = RequestHead(method, target, self.version, self.headers, self.skip)
        other._lines = self._lines
        other.host = self.host
        other.upgrade = self.upgrade
        other.content_length = self.content_length
        other.chunked = self.chunked
        other.expect_continue = self.expect_continue
        other.te_trailers = self.te_trailers
        other.keep_alive = self.keep_alive
        other.connection = self.connection
        other.edge = self.edge
        other.dropped = self.dropped
        return other

    def replace(self, headers: Sequence[tuple[str, str]], skip: Sequence[int]) -> None:
        """Take other fields in place of those that were sent."""
        self.headers = headers
        self.skip = skip
        self._lines = []

    def get(self, name_lower: str) -> str | None:
        """The first value of the field of that name (lower case), or None."""
        for name, value in self.headers:
            if name.lower() == name_lower:
                return value
        return None

    def get_all(self, name_lower: str) -> list[str]:
        """Every value of the field of that name (lower case), in order."""
        return [value for name, value in self.headers if name.lower() == name_lower]

    def end_to_end(self) -> list[tuple[str, str]]:
        """A new list of the fields to pass on unchanged: without Host, framing, hop-by-hop and `edge` fields."""
        return end_to_end(self.headers, self.skip)

    def passed_on(self) -> str:
        """The lines of `end_to_end`, each with its end."""
        lines = self._lines
        if not lines:
            lines.append(field_lines(self.end_to_end()))
        return lines[0]


#: The limits that remembered fields passed, and a head with them. None for fields that have come once.
_known: dict[bytes, tuple[HeadLimits, RequestHead] | None] = {}


def forget_fields() -> None:
    """Remember no fields of requests any more. There are credentials among them: they stay no longer than until this is called."""
    _known.clear()


def parse_request_head(head: bytes, limits: HeadLimits = REQUEST_LIMITS) -> RequestHead:
    """Read `head`, the bytes up to and including the empty line, into a RequestHead.

    Raises ProtocolError 400, 413, 414, 417, 431, 501 or 505.
    """
    check_head_size(head, limits, 400)
    fields = b""
    if len(head) <= _KNOWN_HEAD:
        at = head.find(b"\r\n") + 2
        fields = head[at:]
        known = _known.get(fields)
        if known is not None and known[0] is limits and (found := _with_known_fields(head[:at], known[1], limits)) is not None:
            return found
    if head[0] == 13:
        head = head[leading_empty_lines(head) :]
    text = head.decode("latin-1")
    line = _REQUEST_LINE.match(text)
    if line is None:
        _refuse_request_line(text, limits)
    method, target, minor = line.groups()
    at = line.end()
    if at - 2 > limits.request_line:
        _refuse_request_line(text, limits)
    if not target.isascii():
        target = _percent_encoded(target, limits.request_line - (at - 2))
    headers = parse_fields(head, text, at, limits, 400)

    skip: list[int] = []
    edge: list[tuple[str, str]] = []
    dropped: list[str] = []
    request = RequestHead(method, target, 11 if minor == "1" else 10, headers, skip)
    host: str | None = None
    length: str | None = None
    coding: str | None = None
    connection: str | None = None
    upgrade = ""
    expect = ""
    for index, kind in special_fields(headers, len(head)):
        value = headers[index][1]
        skip.append(index)
        if kind == kinds.HOST:
            if host is not None:
                raise ProtocolError(400, "duplicate_host", "the request has more than one Host field")
            host = value
        elif kind == kinds.CONNECTION:
            connection = value if connection is None else f"{connection},{value}"
        elif kind == kinds.CONTENT_LENGTH:
            if length is not None:
                detail = "the request has more than one Content-Length field"
                raise ProtocolError(400, "duplicate_content_length", detail)
            length = value
        elif kind == kinds.TRANSFER_ENCODING:
            if coding is not None:
                detail = "the request has more than one Transfer-Encoding field"
                raise ProtocolError(400, "duplicate_transfer_encoding", detail)
            coding = value
        elif kind == kinds.EDGE:
            edge.append((headers[index][0].lower(), value))
        elif kind == kinds.UPGRADE:
            upgrade = f"{upgrade}, {value}" if upgrade else value
        elif kind == kinds.EXPECT:
            expect = f"{expect}, {value}" if expect else value
        elif kind == kinds.TE:
            request.te_trailers = request.te_trailers or _takes_trailers(value)
        elif kind == kinds.UNDERSCORE:
            dropped.append(headers[index][0])

    if host is not None:
        check_host(host)
        request.host = host
    elif minor == "1":
        raise ProtocolError(400, "missing_host", "an HTTP/1.1 request needs a Host field")
    if target[0] != "/" or method == "CONNECT":
        request.scheme, request.host, request.path = split_target(method, target, host)
    if length is not None or coding is not None:
        _read_framing(request, length, coding)
    if connection is not None:
        _read_connection(request, connection)
    if upgrade:
        _read_upgrade(request, upgrade)
    if expect:
        _read_expect(request, expect)
    if edge:
        request.edge = edge
    if dropped:
        request.dropped = dropped
        _leave_out_underscores(request)
    # Behind empty lines, what seemed to be the fields begins with the request line.
    if fields and at + len(fields) == len(head) and len(headers) <= _KNOWN_COUNT and not request.scheme and method != "CONNECT":
        _remember(fields, request, limits)
    return request


def _with_known_fields(first_line: bytes, known: RequestHead, limits: HeadLimits) -> RequestHead | None:
    """The head of a request with the fields of another. None if its first line is not of the usual form: then all of it is to be read."""
    line = _REQUEST_LINE.fullmatch(first_line.decode("latin-1"))
    if line is None or len(first_line) - 2 > limits.request_line:
        return None
    method, target, minor = line.groups()
    if target[0] != "/" or method == "CONNECT" or not target.isascii() or known.version != (11 if minor == "1" else 10):
        return None
    return known.another(method, target)


def _remember(fields: bytes, request: RequestHead, limits: HeadLimits) -> None:
    """The fields of a request passed every check. Once they have come again, they are known."""
    if fields in _known:
        _known[fields] = limits, request.another("", "")
        return
    if len(_known) >= _KNOWN_ENTRIES:
        _known.clear()
    _known[fields] = None


def _percent_encoded(target: str, room: int) -> str:
    """A target with raw UTF-8 in it, as a URI has it (RFC 3986 2.1). `room`: by how many bytes it may grow."""
    try:
        target.encode("latin-1").decode("utf-8")
    except UnicodeDecodeError:
        detail = f"the request target {shown(target)} has bytes that are neither ASCII nor UTF-8"
        raise ProtocolError(400, "bad_target", detail) from None
    encoded = _BEYOND_ASCII.sub(lambda found: f"%{ord(found[0]):02X}", target)
    if len(encoded) - len(target) > room:
        raise ProtocolError(414, "request_line_too_long", "the request line is too long once its target is percent-encoded")
    return encoded


def _read_framing(request: RequestHead, length: str | None, coding: str | None) -> None:
    """Content-Length and Transfer-Encoding, at least one of which is there (RFC 9112 6.1 to 6.3)."""
    if length is not None and coding is not None:
        detail = "the request has both Content-Length and Transfer-Encoding"
        raise ProtocolError(400, "conflicting_lengths", detail)
    if length is not None:
        request.content_length = parse_content_length(length, 400)
        return
    if request.version == 10:
        raise ProtocolError(400, "transfer_encoding_in_http10", "Transfer-Encoding came with HTTP/1.0")
    check_transfer_encoding(coding or "", 400)
    request.chunked = True


def _read_connection(request: RequestHead, value: str) -> None:
    connection = parse_connection(value, 400)
    options = request.connection = connection.options
    request.keep_alive = "close" not in options and (request.version == 11 or "keep-alive" in options)
    if connection.fields:
        request.skip = without_nominated(request.headers, request.skip, connection.fields)


def _read_upgrade(request: RequestHead, value: str) -> None:
    """Upgrade counts only if Connection lists it, and never in HTTP/1.0 (RFC 9110 7.8)."""
    if not _PROTOCOLS.fullmatch(value):
        raise ProtocolError(400, "bad_upgrade", f"Upgrade {shown(value)} is not a list of protocols")
    # RFC 9113 3.1 withdrew h2c; clients that still offer it do so with any request and take a plain answer.
    offered = [protocol for protocol in (item.strip(" \t") for item in value.lower().split(",")) if protocol != "h2c"]
    if request.version == 10 or "upgrade" not in request.connection or not offered:
        return
    if "websocket" in offered and (request.chunked or request.content_length > 0):
        raise ProtocolError(400, "upgrade_with_body", "a request to upgrade to websocket must not have a body")
    # The client takes any of them (RFC 9110 7.8), and this is the one that can be carried.
    request.upgrade = "websocket" if "websocket" in offered else ", ".join(offered)


def _read_expect(request: RequestHead, value: str) -> None:
    """RFC 9110 10.1.1: only 100-continue exists; HTTP/1.0 clients and empty bodies never wait for it."""
    if value.lower() != "100-continue":
        raise ProtocolError(417, "unsupported_expectation", f"the expectation {shown(value)} can't be met")
    request.expect_continue = request.version == 11 and (request.chunked or request.content_length > 0)


def _takes_trailers(value: str) -> bool:
    return "trailers" in [member.strip(" \t") for member in value.lower().split(",")]


def _leave_out_underscores(request: RequestHead) -> None:
    skipped = {request.headers[index] for index in request.skip}
    request.headers = [field for field in request.headers if "_" not in field[0]]
    request.skip = [index for index, field in enumerate(request.headers) if field in skipped]


def _refuse_request_line(text: str, limits: HeadLimits) -> NoReturn:
    """Say what is wrong with the first line of `text`, which does not match, or is too long."""
    line = text.partition("\r\n")[0]
    if len(line) > limits.request_line:
        detail = f"the request line is longer than {limits.request_line} bytes"
        raise ProtocolError(414, "request_line_too_long", detail)
    fault = fault_in_characters(text, 400)
    if fault:
        raise fault
    found = _ANY_REQUEST_LINE.fullmatch(line)
    if found is None:
        detail = f"{shown(line)} is not a method, a target and a version"
        raise ProtocolError(400, "bad_request_line", detail)
    if found["version"] not in ("HTTP/1.0", "HTTP/1.1"):
        raise ProtocolError(505, "unsupported_version", f"{shown(found['version'])} is not spoken here")
    code = "fragment_in_target" if "#" in found["target"] else "bad_target"
    raise ProtocolError(400, code, f"the request target {shown(found['target'])} has characters it can't have")
