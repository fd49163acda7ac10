"""Response heads (RFC 9112 4 and 6.3): what a backend said, or a refusal that becomes 502."""

from __future__ import annotations

import re
from typing import NoReturn

from proxyd.http1 import fieldnames as kinds
from proxyd.http1.errors import ProtocolError, shown
from proxyd.http1.fieldnames import special_fields
from proxyd.http1.grammar import (
    NO_OPTIONS,
    RESPONSE_LIMITS,
    HeadLimits,
    check_head_size,
    check_transfer_encoding,
    end_to_end,
    fault_in_characters,
    parse_connection,
    parse_content_length,
    parse_fields,
    without_nominated,
)

# How the body ends.
NONE = 0  # there is none, whatever the fields say
LENGTH = 1  # after content_length bytes
CHUNKED = 2
CLOSE = 3  # when the backend closes
STREAMED = 4  # as its HTTP/2 stream does

# The space before an empty reason is missing from many servers, and nothing depends on it.
_STATUS_LINE = re.compile(r"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([^\r\n]*))?\r\n")


class ResponseHead:
    """A response head that passed every check.

    version              10 or 11; 20 where it came by HTTP/2, and was written in this form
    status, reason       as sent
    headers              (name as sent, value without surrounding white space), in order
    content_length       bytes, or -1 if not given; for HEAD and 304 what the body would have had
    chunked              Transfer-Encoding says so, even if there is no body to apply it to
    body_kind            NONE, LENGTH, CHUNKED, CLOSE or STREAMED, for the request's method
    dated                there is a Date field
    keep_alive           the connection can be used again after this body; never for CLOSE and 101
    connection           lower-cased Connection options
    upgrade              the protocols of Upgrade, lower case, if Connection lists upgrade too; else empty
    skip                 ascending indexes into `headers` of framing and hop-by-hop fields, not to be passed on, of X-Proxyd-*,
                         and of X-Request-ID, which the proxy writes itself: backends send back what they got
    """

    __slots__ = (
        "body_kind",
        "chunked",
        "connection",
        "content_length",
        "dated",
        "headers",
        "keep_alive",
        "reason",
        "skip",
        "status",
        "upgrade",
        "version",
    )

    def __init__(
        self, version: int, status: int, reason: str, headers: list[tuple[str, str]], skip: list[int]
    ) -> None:
        self.version = version
        self.status = status
        self.reason = reason
        self.headers = headers
        self.skip = skip
        self.content_length = -1
        self.chunked = self.dated = False
        self.body_kind = CLOSE
        self.keep_alive = version == 11
        self.connection = NO_OPTIONS
        self.upgrade = ""

    def get(self, name_lower: str) -> str | None:
        """The first value of the field of that name (lower case), or None."""
        for name, value in self.headers:
            if name.lower() == name_lower:
                return value
        return None

    def end_to_end(self) -> list[tuple[str, str]]:
        """A new list of the fields to pass on unchanged: without those in `skip`."""
        return end_to_end(self.headers, self.skip)


def parse_response_head(head: bytes, method: str, limits: HeadLimits = RESPONSE_LIMITS) -> ResponseHead:
    """Read `head`, the bytes up to and including the empty line, as the answer to a request of `method`.

    Raises ProtocolError 502; after it, and after any body that ends otherwise than `body_kind` says, the
    connection must not be used again.
    """
    check_head_size(head, limits, 502)
    text = head.decode("latin-1")
    line = _STATUS_LINE.match(text)
    if line is None:
        _refuse_status_line(text)
    minor, code, reason = line.groups()
    at = line.end()
    if at - 2 > limits.request_line:
        detail = f"the status line is longer than {limits.request_line} bytes"
        raise ProtocolError(502, "status_line_too_long", detail)
    headers = parse_fields(head, text, at, limits, 502)

    skip: list[int] = []
    status = int(code)
    response = ResponseHead(11 if minor == "1" else 10, status, reason or "", headers, skip)
    response.dated = "\nDate:" in text or "\ndate:" in text or "\ndate:" in text.lower()
    length: str | None = None
    coding: str | None = None
    connection: str | None = None
    upgrade = ""
    for index, kind in special_fields(headers, len(head)):
        name, value = headers[index]
        if kind == kinds.CONTENT_LENGTH:
            if length is not None:
                detail = "the response has more than one Content-Length field"
                raise ProtocolError(502, "duplicate_content_length", detail)
            length = value
        elif kind == kinds.CONNECTION:
            connection = value if connection is None else f"{connection},{value}"
        elif kind == kinds.TRANSFER_ENCODING:
            if coding is not None:
                detail = "the response has more than one Transfer-Encoding field"
                raise ProtocolError(502, "duplicate_transfer_encoding", detail)
            coding = value
        elif kind == kinds.UPGRADE:
            upgrade = f"{upgrade}, {value}" if upgrade else value
        elif kind not in (kinds.HOP, kinds.TE, kinds.OURS) and not (kind == kinds.EDGE and name.lower() == "x-request-id"):
            continue
        skip.append(index)

    if connection is not None:
        _read_connection(response, connection)
        if upgrade and "upgrade" in response.connection:
            response.upgrade = upgrade.lower()
    if length is not None or coding is not None:
        _read_framing(response, length, coding)
    _decide_body(response, method)
    return response


def _read_framing(response: ResponseHead, length: str | None, coding: str | None) -> None:
    """Content-Length and Transfer-Encoding, at least one of which is there (RFC 9112 6.1 to 6.3)."""
    if length is not None and coding is not None:
        detail = "the response has both Content-Length and Transfer-Encoding"
        raise ProtocolError(502, "conflicting_lengths", detail)
    if length is not None:
        response.content_length = parse_content_length(length, 502)
        return
    if response.version == 10:
        raise ProtocolError(502, "transfer_encoding_in_http10", "Transfer-Encoding came with HTTP/1.0")
    check_transfer_encoding(coding or "", 502)
    response.chunked = True


def _decide_body(response: ResponseHead, method: str) -> None:
    """RFC 9112 6.3, in its order."""
    status = response.status
    if status < 200 or status == 204:
        # RFC 9110 8.6 forbids the fields here, and a backend that announces a body may send it. A length of 0 is
        # what widely used frameworks add to every 204; it says the same as the status.
        # Transfer-Encoding with 204 is as common. The answer ends at the head, but a last chunk may follow.
        if response.content_length > 0 or (response.chunked and status != 204):
            raise ProtocolError(502, "body_not_allowed", f"the response announces a body with status {status}")
        response.content_length = -1
        response.body_kind = NONE
        if status == 101 or response.chunked:
            response.keep_alive = False
    elif method == "HEAD" or status == 304 or (method == "CONNECT" and status < 300):
        response.body_kind = NONE
    elif response.chunked:
        response.body_kind = CHUNKED
    elif response.content_length >= 0:
        response.body_kind = LENGTH
    else:
        response.keep_alive = False


def _read_connection(response: ResponseHead, value: str) -> None:
    connection = parse_connection(value, 502)
    options = response.connection = connection.options
    response.keep_alive = "close" not in options and (response.version == 11 or "keep-alive" in options)
    if connection.fields:
        response.skip = without_nominated(response.headers, response.skip, connection.fields)


def _refuse_status_line(text: str) -> NoReturn:
    fault = fault_in_characters(text, 502)
    if fault:
        raise fault
    line = text.partition("\r\n")[0]
    raise ProtocolError(502, "bad_status_line", f"{shown(line)} is not an HTTP/1.1 status line")
