"""One request or response read by us, by h11 and by llhttp, brought into one shape so that they can be compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import h11
import httptools

from proxyd.http1 import (
    REQUEST_LIMITS,
    BodyReader,
    ChunkedDecoder,
    HeadLimits,
    HeadReader,
    ProtocolError,
    RequestHead,
    find_head_end,
    parse_request_head,
)


@dataclass(frozen=True)
class Reading:
    """What a reader made of the bytes: `start` is (method, target) or (status,), `rest` what it left unread."""

    start: tuple[object, ...]
    fields: tuple[tuple[str, str], ...]
    body: bytes
    rest: bytes


class Refused(Exception):
    """The reader said that the bytes are no message."""


class Incomplete(Exception):
    """The reader waits for more bytes."""


def _fields(fields: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Lower-cased names, sorted, without those that we leave out of requests.

    Two differences mean nothing: llhttp leaves trailing white space to its caller, h11 lower-cases Transfer-Encoding.
    """
    found = []
    for name, value in fields:
        lowered = name.lower()
        if "_" not in lowered:
            value = value.rstrip(" \t")
            found.append((lowered, value.lower() if lowered == "transfer-encoding" else value))
    return tuple(sorted(found))


def read_request(head: bytes, limits: HeadLimits = REQUEST_LIMITS) -> RequestHead:
    """A head that is read three times: by the third, its fields are remembered. That must make no difference."""
    shown, read = "", None
    for _ in range(3):
        try:
            read = parse_request_head(head, limits)
            told = str([getattr(read, name) for name in RequestHead.__slots__ if name != "_lines"])
        except ProtocolError as error:
            read, told = None, f"{error.status} {error.code} {error.detail}"
        assert told == (shown or told)
        shown = told
    return read or parse_request_head(head, limits)


def our_request(data: bytes) -> Reading:
    end = find_head_end(data)
    if end < 0:
        raise Incomplete
    try:
        head = read_request(data[:end])
        body, rest = _our_body(head.chunked, max(head.content_length, 0), data[end:])
    except ProtocolError as error:
        raise Refused(error.code) from error
    return Reading((head.method, head.target), _fields(head.headers), body, rest)


def our_response(data: bytes, method: str) -> Reading:
    heads = HeadReader(method)
    try:
        head = heads.feed(data)
        if head is None:
            raise Incomplete
        reader = BodyReader(head)
        body = fed(reader, heads.rest)
        if not reader.end():
            raise Incomplete
    except ProtocolError as error:
        raise Refused(error.code) from error
    return Reading((head.status,), _fields(head.headers), body, reader.leftover)


def fed(reader: ChunkedDecoder | BodyReader, data: bytes) -> bytes:
    """The payload of a piece, all its turns taken."""
    payload = reader.feed(data)
    while reader.more:
        payload += reader.resume() if isinstance(reader, ChunkedDecoder) else reader.feed(b"")
    return payload


def _our_body(chunked: bool, length: int, data: bytes) -> tuple[bytes, bytes]:
    if not chunked:
        if len(data) < length:
            raise Incomplete
        return data[:length], data[length:]
    decoder = ChunkedDecoder()
    body = fed(decoder, data)
    if not decoder.done:
        raise Incomplete
    return body, decoder.leftover


def h11_request(data: bytes) -> Reading:
    return _h11(h11.Connection(h11.SERVER), data, h11.Request)


def h11_response(data: bytes, method: str) -> Reading:
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    return _h11(connection, data, h11.Response)


def _h11(connection: h11.Connection, data: bytes, wanted: type[h11.Request] | type[h11.Response]) -> Reading:
    start: tuple[object, ...] = ()
    fields: list[tuple[str, str]] = []
    body = b""
    try:
        connection.receive_data(data)
        for closed in (False, True):
            while (event := connection.next_event()) not in (h11.NEED_DATA, h11.PAUSED):
                if isinstance(event, wanted):
                    fields = [(name.decode(), value.decode("latin-1")) for name, value in event.headers]
                    if isinstance(event, h11.Request):
                        start = (event.method.decode(), event.target.decode("latin-1"))
                    else:
                        start = (event.status_code,)
                elif isinstance(event, h11.Data):
                    body += bytes(event.data)
                elif isinstance(event, h11.EndOfMessage):
                    rest = b"" if closed else bytes(connection.trailing_data[0])
                    return Reading(start, _fields(fields), body, rest)
                elif isinstance(event, h11.ConnectionClosed):
                    raise Incomplete
            if closed or wanted is h11.Request:
                break
            connection.receive_data(b"")  # a body that ends with the connection
    except h11.RemoteProtocolError as error:
        if "without sending complete" in str(error) or "incomplete" in str(error):
            raise Incomplete from error
        raise Refused(str(error)) from error
    raise Incomplete


class _Collector:
    """Callbacks of llhttp; only the first message counts."""

    def __init__(self) -> None:
        self.messages = 0
        self.url = b""
        self.fields: list[tuple[str, str]] = []
        self.body = b""
        self.in_head = True

    def on_url(self, url: bytes) -> None:
        if not self.messages:
            self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.messages and self.in_head:
            self.fields.append((name.decode("latin-1"), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        self.in_head = False

    def on_body(self, body: bytes) -> None:
        if not self.messages:
            self.body += body

    def on_message_complete(self) -> None:
        self.messages += 1


def llhttp_request(data: bytes) -> Reading:
    """`rest` can't be had from llhttp: fed byte by byte, it tells when the message was over."""
    collector = _Collector()
    parser = httptools.HttpRequestParser(collector)
    method = b""
    for at in range(len(data)):
        try:
            parser.feed_data(data[at : at + 1])
        except httptools.HttpParserUpgrade:
            return _from_llhttp((parser.get_method().decode(), collector.url.decode("latin-1")), collector, data[at + 1 :])
        except httptools.HttpParserError as error:
            raise Refused(str(error)) from error
        if collector.messages:
            method = parser.get_method()
            return _from_llhttp((method.decode(), collector.url.decode("latin-1")), collector, data[at + 1 :])
    raise Incomplete


def _from_llhttp(start: tuple[object, ...], collector: _Collector, rest: bytes) -> Reading:
    return Reading(start, _fields(collector.fields), collector.body, rest)
