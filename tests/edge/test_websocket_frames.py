"""What Autobahn's fuzzing client does, frame by frame, against a server over wsproto: with the proxy between them every byte of the
answer is the one that comes without it.

Autobahn's own suite (PyPI's autobahntestsuite) runs on Python 2 alone; its sections are the names of the cases here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import BytesMessage, CloseConnection, Event, Message, Ping, Pong, TextMessage
from wsproto.extensions import PerMessageDeflate

from tests.edge.conftest import make_route
from tests.edge.wire import Wire, read_message
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.websockets import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, close, echo_server, frame, handshake, open_websocket

BYE = close()
UTF8 = "Hello-µ@ßöäüàá-UTF-8!! κόσμε \U0001f600".encode()


@dataclass(frozen=True)
class Case:
    """`sent` goes out as it is or, `chopped`, in pieces of that size; `code` is that of the server's close frame."""

    name: str
    sent: bytes
    code: int = 1000
    chopped: int = 0


def pieces(opcode: int, *payloads: bytes) -> bytes:
    """A message in fragments."""
    last = len(payloads) - 1
    return b"".join(frame(CONTINUATION if at else opcode, payload, fin=at == last) for at, payload in enumerate(payloads))


SIZES = (0, 1, 125, 126, 127, 128, 65535, 65536)
CASES = [
    *(Case(f"1 text of {size} bytes", frame(TEXT, b"*" * size) + BYE) for size in SIZES),
    *(Case(f"1 binary of {size} bytes", frame(BINARY, b"\xfe" * size) + BYE) for size in SIZES),
    *(Case(f"1 text of 65536 bytes in pieces of {size}", frame(TEXT, b"*" * 65536) + BYE, chopped=size) for size in (997, 10_000)),
    Case("1 longer length than needed", b"\x82\xfe\x00\x05\0\0\0\0hello" + BYE, 1002),
    Case("1 length beyond 63 bits", b"\x82\xff" + b"\xff" * 8 + b"\0\0\0\0" + BYE, 1002),
    Case("2 ping without payload", frame(PING) + BYE),
    Case("2 ping", frame(PING, b"Hello, world!") + BYE),
    Case("2 ping of bytes", frame(PING, bytes(range(0, 250, 2))) + BYE),
    Case("2 ping in single bytes", frame(PING, b"\xfe" * 125) + BYE, chopped=1),
    Case("2 ping too long", frame(PING, b"\xfe" * 126) + BYE, 1002),
    Case("2 pong without being asked", frame(PONG) + frame(PONG, b"unasked") + frame(PING, b"x") + BYE),
    Case("2 ten pings", b"".join(frame(PING, b"payload-%d" % number) for number in range(10)) + BYE),
    Case("2 ten pings in single bytes", b"".join(frame(PING, b"payload-%d" % number) for number in range(10)) + BYE, chopped=1),
    *(Case(f"3 reserved bits {bits}", frame(TEXT, b"a") + frame(TEXT, b"b", reserved=bits) + frame(PING) + BYE, 1002)
      for bits in range(1, 8)),
    Case("3 reserved bit of a ping", frame(PING, b"b", reserved=4) + BYE, 1002),
    Case("3 reserved bit of a close", frame(CLOSE, b"\x03\xe8", reserved=4), 1002),
    *(Case(f"4 opcode {opcode}", frame(TEXT, b"a") + frame(opcode, b"b") + frame(PING) + BYE, 1002)
      for opcode in (*range(3, 8), *range(11, 16))),
    Case("5 ping in fragments", pieces(PING, b"a", b"b") + BYE, 1002),
    Case("5 pong in fragments", pieces(PONG, b"a", b"b") + BYE, 1002),
    Case("5 text in fragments", pieces(TEXT, b"fragment1", b"fragment2") + BYE),
    Case("5 text in fragments and single bytes", pieces(TEXT, b"fragment1", b"fragment2") + BYE, chopped=1),
    Case("5 text in empty fragments", pieces(TEXT, b"", b"", b"") + BYE),
    Case("5 ping between fragments", frame(TEXT, b"a", fin=False) + frame(PING, b"x") + frame(CONTINUATION, b"b") + BYE),
    Case("5 pings between fragments, in single bytes",
         frame(TEXT, b"a", fin=False) + frame(PING, b"x") + frame(CONTINUATION, b"b", fin=False) + frame(PING, b"y")
         + frame(CONTINUATION, b"c") + BYE, chopped=1),
    Case("5 continuation of nothing", frame(CONTINUATION, b"a") + frame(TEXT, b"b") + BYE, 1002),
    Case("5 unfinished continuation of nothing", frame(CONTINUATION, b"a", fin=False) + frame(TEXT, b"b") + BYE, 1002),
    Case("5 text within a text", frame(TEXT, b"a", fin=False) + frame(TEXT, b"b") + BYE, 1002),
    Case("5 close between fragments", frame(TEXT, b"a", fin=False) + BYE),
    Case("6 UTF-8", frame(TEXT, UTF8) + BYE),
    Case("6 UTF-8, a byte a fragment", pieces(TEXT, *[bytes([byte]) for byte in UTF8]) + BYE),
    *(Case(f"6 no UTF-8 {bad!r}", frame(TEXT, b"a" + bad) + BYE, 1007)
      for bad in (b"\x80", b"\xbf\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf8\x88\x80\x80",
                  b"\xff", b"\xce\xba\xe1")),
    Case("6 no UTF-8 in the second fragment", pieces(TEXT, UTF8, b"\xff") + BYE, 1007),
    Case("6 no UTF-8 told at once", frame(TEXT, UTF8 + b"\xf4\x90", fin=False), 1007),
    Case("6 binary that is no UTF-8", frame(BINARY, b"\xff\xfe\x80") + BYE),
    Case("7 close without payload", close(None), 1005),
    Case("7 close with a payload of one byte", frame(CLOSE, b"\x03"), 1002),
    Case("7 close with the longest reason", close(1000, b"*" * 123)),
    Case("7 close too long", close(1000, b"*" * 124), 1002),
    Case("7 close with a reason that is no UTF-8", close(1000, b"\xce\xba\xe1"), 1007),
    Case("7 frames behind a close", BYE + frame(TEXT, b"late") + frame(PING) + BYE),
    *(Case(f"7 close code {code}", close(code), code)
      for code in (1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999)),
    *(Case(f"7 close code {code}", close(code), 1002) for code in (0, 999, 1004, 1005, 1006, 1016, 1100, 2000, 2999, 65535)),
    Case("8 frame without a mask", frame(TEXT, b"a", masked=False) + BYE, 1002),
    Case("9 text of 1 MiB", frame(TEXT, b"*" * (1 << 20)) + BYE),
    Case("9 binary of 4 MiB", frame(BINARY, b"\xfe" * (4 << 20)) + BYE),
    Case("9 binary of 1 MiB in fragments of 4 KiB", pieces(BINARY, *[b"\xfe" * 4096] * 256) + BYE),
    Case("9 binary of 1 MiB in pieces of 1461", frame(BINARY, b"\xfe" * (1 << 20)) + BYE, chopped=1461),
    Case("9 a thousand messages", b"".join(frame(TEXT, b"message %d" % number) for number in range(1000)) + BYE),
    Case("12 compressed bit where nothing was agreed", frame(TEXT, b"a", reserved=4) + BYE, 1002),
]


@pytest.fixture(scope="module")
def server() -> Iterator[RawBackend]:
    running = echo_server(RawBackend)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def host(edge: System, server: RawBackend) -> str:
    return make_route(edge, server.url, websocket=True)


def answer(port: int, host: str, case: Case, *fields: str) -> bytes:
    """All that the server says to what is sent, until it ends the connection."""
    with open_websocket(port, host, *fields) as wire:
        step = case.chopped or len(case.sent)
        for at in range(0, len(case.sent), step):
            wire.send(case.sent[at : at + step])
        return wire.rest()


def whole(connection: Connection) -> list[Event]:
    """The events of a connection, messages whole."""
    found: list[Event] = []
    for event in connection.events():
        last = found[-1] if found else None
        if isinstance(event, Message) and isinstance(last, type(event)) and not last.message_finished:
            found[-1] = type(event)(data=last.data + event.data, message_finished=event.message_finished)
        else:
            found.append(event)
    return found


def read(data: bytes) -> list[Event]:
    """What a client over wsproto reads."""
    connection = Connection(ConnectionType.CLIENT)
    connection.receive_data(data)
    return whole(connection)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_byte_is_the_one_that_comes_without_the_proxy(case: Case, edge: System, server: RawBackend, host: str) -> None:
    direct = answer(server.port, host, case)
    *_, end = read(direct)
    assert isinstance(end, CloseConnection) and end.code == case.code, "the case is not what it says"
    assert answer(edge.proxy_port, host, case) == direct


def test_messages_pings_and_the_end_are_read_by_wsproto_as_they_were_meant(edge: System, host: str) -> None:
    client = Connection(ConnectionType.CLIENT)
    sent = [TextMessage(data="grüße"), Ping(payload=b"p"), BytesMessage(data=bytearray(b"\0\xff")), Ping(payload=b""),
            CloseConnection(code=4321, reason="bye")]
    case = Case("wsproto", b"".join(client.send(event) for event in sent))
    told = read(answer(edge.proxy_port, host, case))
    assert told == [TextMessage(data="grüße"), Pong(payload=b"p"), BytesMessage(data=bytearray(b"\0\xff")), Pong(payload=b""),
                    CloseConnection(code=4321, reason="bye")]


@pytest.mark.parametrize("offer", [
    "permessage-deflate", "permessage-deflate; client_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10", "x-unknown; a=1, permessage-deflate", "x-unknown"])
def test_compression_is_agreed_between_the_ends_and_passes(offer: str, edge: System, server: RawBackend, host: str) -> None:
    messages = ["short", "grüße " * 1000, "x", "grüße " * 1000, ""]
    outcomes = []
    for port in (server.port, edge.proxy_port):
        with Wire(port) as wire:
            wire.send(handshake(host, f"Sec-WebSocket-Extensions: {offer}")).until(b"\r\n\r\n")
            head, wire.data = read_message(wire.data, "GET")
            agreed = head.get("sec-websocket-extensions")
            extensions = [PerMessageDeflate()] if agreed else []
            for extension in extensions:
                extension.finalize(agreed or "")
            client = Connection(ConnectionType.CLIENT, list(extensions))
            for message in messages:
                wire.send(client.send(TextMessage(data=message)))
            wire.send(client.send(CloseConnection(code=1000)))
            outcomes.append((agreed, wire.rest()))
            client.receive_data(wire.data)
            assert [event.data for event in whole(client) if isinstance(event, TextMessage)] == messages
    assert outcomes[0] == outcomes[1]
    assert (outcomes[0][0] is None) is (offer == "x-unknown")
    if outcomes[0][0]:
        assert len(outcomes[0][1]) < 1000
