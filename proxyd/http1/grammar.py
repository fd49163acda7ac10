"""The grammar requests and responses share (RFC 9112 2 to 6, RFC 9110 5): head end, field lines, framing fields.

The field block is read by one regular expression over the decoded head, and a count proves that its matches
cover every byte of it; only a head that fails the proof is looked at line by line, to say what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from proxyd.http1.errors import ProtocolError, shown
from proxyd.http1.fieldnames import may_be_nominated

TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
# The value begins after white space, so that a line can be read in one way alone, and is given up without trying others.
_FIELD_LINE = re.compile(rf"^({TOKEN}):[ \t]*((?:[^\r \t][^\r]*)?)\r\n", re.MULTILINE)
_TOKEN_ONLY = re.compile(TOKEN)
_CONTROLS = bytes(sorted(set(range(0x20)) - {0x09, 0x0A, 0x0D} | {0x7F}))
_LINE_FEED_ALONE = re.compile(rb"(?<!\r)\n")
#: The line of a field, without its end.
field_line = ": ".join

# Enough for any size there is, and below 2**63 for whoever reads it into a signed 64-bit integer.
_LENGTH_DIGITS = 18
# RFC 9112 2.2 asks for tolerance of an empty line some old clients add after a POST body.
_LEADING_EMPTY_LINES = 2

_KNOWN_CODINGS = frozenset({"chunked", "compress", "deflate", "gzip", "x-compress", "x-gzip"})


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bounds of a message head: bytes of the first line, of one field line and of the head; number of fields."""

    request_line: int = 8190
    field_count: int = 100
    field_size: int = 8190
    head_size: int = 65536


REQUEST_LIMITS = HeadLimits()
# Backends are known to us, and their policies and cookies outgrow what a client may send.
RESPONSE_LIMITS = HeadLimits(request_line=8190, field_count=200, field_size=32768, head_size=131072)


@dataclass(frozen=True, slots=True)
class ConnectionOptions:
    """A Connection header: `options` all of them in lower case; `fields` those that name a field to remove."""

    options: frozenset[str]
    fields: frozenset[str]


NO_OPTIONS: frozenset[str] = frozenset()
_NO_CONNECTION = ConnectionOptions(NO_OPTIONS, NO_OPTIONS)
# These steer the connection itself; the fields of the same name are hop-by-hop anyway.
_STEERING = frozenset({"close", "keep-alive", "upgrade", "te", "http2-settings", "proxy-connection"})
_CONNECTION_ENTRIES = 256
_connections: dict[str, ConnectionOptions] = {}


def leading_empty_lines(buf: bytes | bytearray) -> int:
    """The bytes of empty lines to pass over before a request line (RFC 9112 2.2): 0 or a few CRLFs, bounded."""
    at = 0
    while at < 2 * _LEADING_EMPTY_LINES and buf[at : at + 2] == b"\r\n":
        at += 2
    return at


def find_head_end(buf: bytes | bytearray, start: int = 0) -> int:
    """Where the head that begins at `buf[0]` ends: the index just past its CRLFCRLF, or -1 if more is needed.

    `start` is how much of `buf` earlier calls have already searched, so that a head which trickles in is not
    searched again from its beginning. A line feed without its carriage return can't become part of a valid
    head: the index past it is returned at once, and parsing `buf[:index]` says what is wrong.
    """
    at = start - 3 if start > 3 else 0
    if buf[:1] == b"\r":
        at = max(at, leading_empty_lines(buf))
    end = buf.find(b"\r\n\r\n", at)
    if end >= 0:
        return end + 4
    alone = _LINE_FEED_ALONE.search(buf, at)
    return alone.end() if alone else -1


def parse_fields(head: bytes, text: str, at: int, limits: HeadLimits, status: int) -> list[tuple[str, str]]:
    """The field lines of `text` (the head decoded as latin-1) from index `at` on, in order, values OWS-stripped.

    Raises ProtocolError with `status` for anything but well-formed lines ended by one empty line, and 431 in
    place of 400 for a limit passed.
    """
    fields: list[tuple[str, str]] = _FIELD_LINE.findall(text, at)
    count = len(fields)
    # Each match ends at a line feed and begins just after one. When there are as many matches as line feeds, less
    # the final empty line's, no match holds two and nothing lies between them.
    if count != text.count("\n", at) - 1 or len(head.translate(None, _CONTROLS)) != len(head):
        raise _fault(text, at, status)
    if count > limits.field_count:
        detail = f"the message has {count} header fields; the limit is {limits.field_count}"
        raise ProtocolError(431 if status == 400 else status, "too_many_fields", detail)
    if len(text) - at > limits.field_size:
        _check_sizes(fields, limits, status)
    if " \r\n" in text or "\t\r\n" in text:
        return [(name, value.rstrip(" \t")) for name, value in fields]
    return fields


def _check_sizes(fields: list[tuple[str, str]], limits: HeadLimits, status: int) -> None:
    for name, value in fields:
        if len(name) + len(value) + 2 > limits.field_size:
            detail = f"the header field {shown(name)} is longer than {limits.field_size} bytes"
            raise ProtocolError(431 if status == 400 else status, "field_too_large", detail)


def head_too_large(head: bytes, limits: HeadLimits, status: int) -> ProtocolError:
    """The error for a head, or the beginning of one, that is longer than its limit: 414 where its first line alone is too long."""
    start = leading_empty_lines(head)
    if status == 400 and head.find(b"\r\n", start, start + limits.request_line + 2) < 0:
        return ProtocolError(414, "request_line_too_long", f"the request line is longer than {limits.request_line} bytes")
    detail = f"the head is longer than {limits.head_size} bytes"
    return ProtocolError(431 if status == 400 else status, "head_too_large", detail)


def check_head_size(head: bytes, limits: HeadLimits, status: int) -> None:
    """Refuse a head longer than its limit, or one that does not end in an empty line, before reading any of it."""
    if len(head) > limits.head_size:
        raise head_too_large(head, limits, status)
    if head[-4:] != b"\r\n\r\n":
        if _LINE_FEED_ALONE.search(head):
            raise ProtocolError(status, "bare_lf", "a line of the head ends in LF without CR")
        raise ProtocolError(status, "incomplete_head", "the head does not end in an empty line")


def _fault(text: str, at: int, status: int) -> ProtocolError:
    """Why the field lines of `text` from `at` on were refused; called only when it is known that they are bad."""
    found = fault_in_characters(text, status)
    if found:
        return found
    for line in text[at:-4].split("\r\n"):
        if _FIELD_LINE.fullmatch(line + "\r\n"):
            continue
        if line[:1] in (" ", "\t"):
            return ProtocolError(status, "obs_fold", "a header field is folded over several lines")
        name, colon, _ = line.partition(":")
        if not colon:
            return ProtocolError(status, "bad_field_line", f"the header line {shown(line)} has no colon")
        if not name:
            return ProtocolError(status, "empty_field_name", "a header field has no name")
        if name[-1] in " \t":
            return ProtocolError(status, "space_before_colon", f"white space before the colon of {shown(name)}")
        return ProtocolError(status, "bad_field_name", f"the header field name {shown(name)} is not a token")
    return ProtocolError(status, "bad_field_line", "the header fields are not well formed")


def fault_in_characters(text: str, status: int) -> ProtocolError | None:
    """The error for a character that may stand nowhere in a head, if `text` has one."""
    if "\0" in text:
        return ProtocolError(status, "nul_byte", "the head contains a NUL byte")
    without_crlf = text.replace("\r\n", "")
    if "\n" in without_crlf:
        return ProtocolError(status, "bare_lf", "a line of the head ends in LF without CR")
    if "\r" in without_crlf:
        return ProtocolError(status, "bare_cr", "the head contains a CR that is not followed by LF")
    if text.encode("latin-1").translate(None, _CONTROLS) != text.encode("latin-1"):
        return ProtocolError(status, "control_character", "the head contains a control character")
    return None


def parse_content_length(value: str, status: int) -> int:
    """Content-Length in bytes (RFC 9110 8.6). A list is refused even when its members agree."""
    # isdigit alone would take the superscripts of latin-1.
    if not (value.isascii() and value.isdigit()):
        code = "duplicate_content_length" if "," in value else "bad_content_length"
        raise ProtocolError(status, code, f"Content-Length {shown(value)} is not one decimal number")
    if len(value) > _LENGTH_DIGITS:
        detail = f"Content-Length {shown(value)} has more than {_LENGTH_DIGITS} digits"
        raise ProtocolError(413 if status == 400 else status, "content_length_too_large", detail)
    return int(value)


def check_transfer_encoding(value: str, status: int) -> None:
    """Refuse any Transfer-Encoding but `chunked` (RFC 9112 6.1): 501 for codings that exist, else `status`."""
    if value == "chunked" or value.lower() == "chunked":
        return
    codings = [coding.strip(" \t").lower() for coding in value.split(",")]
    framed = codings[-1] == "chunked" and codings.count("chunked") == 1
    if status == 400 and framed and _KNOWN_CODINGS.issuperset(codings):
        detail = f"Transfer-Encoding {shown(value)}: only chunked is implemented"
        raise ProtocolError(501, "unsupported_transfer_coding", detail)
    raise ProtocolError(status, "bad_transfer_encoding", f"Transfer-Encoding {shown(value)} is not just chunked")


def parse_connection(value: str, status: int) -> ConnectionOptions:
    """A Connection value (several lines joined by commas) as its options (RFC 9110 7.6.1).

    Raises ProtocolError for a member that is not a token, and for one that would remove a field by which the
    message is framed, routed or authorised.
    """
    known = _connections.get(value)
    if known is not None:
        return known
    found: set[str] = set()
    for member in value.split(","):
        option = member.strip(" \t").lower()
        if not option:
            continue
        if not _TOKEN_ONLY.fullmatch(option):
            raise ProtocolError(status, "bad_connection", f"the Connection option {shown(option)} is not a token")
        if not may_be_nominated(option):
            detail = f"the Connection header would remove the field {shown(option)}"
            raise ProtocolError(status, "forbidden_connection_option", detail)
        found.add(option)
    if not found:
        return _NO_CONNECTION
    options = ConnectionOptions(frozenset(found), frozenset(found - _STEERING))
    if len(value) <= 64:
        if len(_connections) >= _CONNECTION_ENTRIES:
            _connections.clear()
        _connections[value] = options
    return options


def without_nominated(
    headers: Sequence[tuple[str, str]], skip: Sequence[int], nominated: frozenset[str]
) -> list[int]:
    """`skip`, plus the indexes of the fields a Connection header names, in ascending order."""
    named = {index for index, (name, _) in enumerate(headers) if name.lower() in nominated}
    return sorted(named.union(skip))


def end_to_end(headers: Sequence[tuple[str, str]], skip: Sequence[int]) -> list[tuple[str, str]]:
    """A new list of `headers` without those at the ascending indexes `skip`."""
    kept = list(headers)
    for index in reversed(skip):
        del kept[index]
    return kept


def field_lines(fields: Sequence[tuple[str, str]]) -> str:
    """The lines of fields, each with its end."""
    return "\r\n".join((*map(field_line, fields), ""))
