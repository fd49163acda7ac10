"""The fields of a request, an answer and their trailers (RFC 9113 8.2 and 8.3): what they must be before anybody asks what they mean."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NoReturn

from proxyd.http2.errors import PROTOCOL_ERROR, StreamFault
from proxyd.http2.events import Field

_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_STATUS = re.compile(rb"[1-5][0-9][0-9]")

_PLAIN, _FORBIDDEN, _TE, _COOKIE, _HOST, _PRIORITY, _PSEUDO = range(7)
_SEED: dict[bytes, int] = {
    b"connection": _FORBIDDEN, b"keep-alive": _FORBIDDEN, b"proxy-connection": _FORBIDDEN, b"transfer-encoding": _FORBIDDEN,
    b"upgrade": _FORBIDDEN, b"te": _TE, b"cookie": _COOKIE, b"host": _HOST, b"priority": _PRIORITY,
    b":method": _PSEUDO, b":scheme": _PSEUDO, b":authority": _PSEUDO, b":path": _PSEUDO, b":protocol": _PSEUDO,
}  # fmt: skip
_kinds = dict(_SEED)
_KINDS_KEPT = 1024


@dataclass(slots=True)
class RequestFields:
    """A well-formed request. `fields`: those that are not pseudo-header fields, cookies joined; `hosts`: the values of Host;
    `priority`: the value of that field; `protocol`: of an extended CONNECT (RFC 8441)."""

    method: bytes
    scheme: bytes
    authority: bytes
    path: bytes
    protocol: bytes
    fields: list[Field]
    hosts: list[bytes]
    priority: bytes


def read_request(fields: list[Field]) -> RequestFields:
    """The parts of a request. Raises StreamFault for a malformed one (RFC 9113 8.1.1)."""
    pseudo: dict[bytes, bytes] = {}
    kept: list[Field] = []
    cookies: list[bytes] = []
    hosts: list[bytes] = []
    priority = b""
    cookie_at = 0
    _check_values([value for _, value in fields])
    for field in fields:
        name, value = field
        kind = _kinds.get(name)
        if kind is None:
            kind = _learn(name)
        if not kind:
            kept.append(field)
        elif kind == _PSEUDO:
            if kept or cookies or hosts or priority or name in pseudo:
                _refuse("a pseudo-header field comes twice, or behind other fields")
            pseudo[name] = value
        elif kind == _COOKIE:
            if not cookies:
                cookie_at = len(kept)
            cookies.append(value)
        elif kind == _HOST:
            hosts.append(value)
        elif kind == _TE:
            if value.lower() != b"trailers":
                _refuse("TE can only be trailers")
            kept.append(field)
        elif kind == _PRIORITY:
            priority = value
            kept.append(field)
        else:
            _refuse("a field of HTTP/1.1's connections")
    if cookies:
        kept.insert(cookie_at, (b"cookie", b"; ".join(cookies)))
    get = pseudo.get
    request = RequestFields(get(b":method", b""), get(b":scheme", b""), get(b":authority", b""), get(b":path", b""),
                            get(b":protocol", b""), kept, hosts, priority)
    _check_pseudo(request, pseudo)
    return request


def read_trailers(fields: list[Field]) -> list[Field]:
    """The fields behind a body. Raises StreamFault for malformed ones."""
    _check_plain(fields, "a field that can't be a trailer")
    return fields


def read_answer(fields: list[Field]) -> tuple[int, list[Field]]:
    """The status of an answer and its other fields. Raises StreamFault for a malformed one (RFC 9113 8.3.2)."""
    if not fields or fields[0][0] != b":status" or not _STATUS.fullmatch(fields[0][1]):
        _refuse("an answer does not begin with :status")
    status = int(fields[0][1])
    if status == 101:
        _refuse("status 101, which HTTP/2 does not have")
    kept = fields[1:]
    _check_plain(kept, "a field that an answer can't have there")
    return status, kept


def _check_plain(fields: list[Field], wrong: str) -> None:
    """Check fields among which no pseudo-field and none of HTTP/1.1's connections may be; `wrong` is said of these."""
    _check_values([value for _, value in fields])
    for name, _ in fields:
        kind = _kinds.get(name)
        if kind is None:
            kind = _learn(name)
        if kind in (_PSEUDO, _FORBIDDEN):
            _refuse(wrong)


def _check_values(values: list[bytes]) -> None:
    """Refuse values with line breaks and NUL, and with blanks around them (RFC 9113 8.2.1)."""
    if not values:
        return
    text = b"\n%b\n" % b"\n".join(values)
    if text.count(b"\n") != len(values) + 1 or b"\r" in text or b"\0" in text:
        _refuse("a field's value contains a line break or NUL")
    if b"\n " in text or b" \n" in text or b"\n\t" in text or b"\t\n" in text:
        _refuse("a field's value begins or ends with a blank")


def _check_pseudo(request: RequestFields, pseudo: dict[bytes, bytes]) -> None:
    """RFC 9113 8.3.1 and 8.5, RFC 8441 4."""
    if not request.method:
        _refuse("no :method")
    if request.method == b"CONNECT":
        if b":protocol" in pseudo:
            if not (request.protocol and request.scheme and request.path and request.authority):
                _refuse("an extended CONNECT without :scheme, :path or :authority")
        elif request.scheme or request.path or not request.authority:
            _refuse("CONNECT has :scheme or :path, or no :authority")
        return
    if b":protocol" in pseudo:
        _refuse(":protocol belongs to CONNECT")
    if not request.scheme or not request.path:
        _refuse("no :scheme, or no :path")
    if request.path[0] != 0x2F and request.path != b"*":
        _refuse(":path does not begin with a slash")
    if b":authority" in pseudo and not request.authority:
        _refuse(":authority is empty")


def _learn(name: bytes) -> int:
    """The kind of a field that is not known yet. Raises StreamFault for what can't be a name."""
    if not _NAME.fullmatch(name):
        _refuse("a field's name is not a token in lower case")
    if len(name) <= 64:
        if len(_kinds) >= _KINDS_KEPT:
            _kinds.clear()
            _kinds.update(_SEED)
        _kinds[name] = _PLAIN
    return _PLAIN


def _refuse(detail: str) -> NoReturn:
    raise StreamFault(PROTOCOL_ERROR, detail)
