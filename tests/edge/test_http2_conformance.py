"""RFC 9113 and RFC 7541, frame by frame over TLS: what each fault ends, with which code, and what is no fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hyperframe.frame import (
    ContinuationFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from tests.edge.conftest import Secure
from tests.support.backends import Backend
from tests.support.frames import PREFACE, FrameClient

NONE, PROTOCOL, FLOW, CLOSED, SIZE, REFUSED, COMPRESSION, CALM = 0, 1, 3, 5, 6, 7, 9, 11
Send = Callable[[FrameClient], object]


def raw(kind: int, flags: int, stream: int, payload: bytes = b"", length: int = -1) -> bytes:
    """Any frame at all."""
    return (len(payload) if length < 0 else length).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


def block(client: FrameClient, method: str = "GET", more: tuple[tuple[str, str], ...] = ()) -> bytes:
    """The header block of a usual request."""
    return client.encoder.encode(client.fields(method, "/", more))


def done(client: FrameClient) -> int:
    """A stream whose request and answer are over."""
    stream = client.ask("/")
    client.answer(stream)
    return stream


def opened(client: FrameClient) -> int:
    """A stream whose request has not ended."""
    return client.ask("/", "POST", end=False)


def half_closed(client: FrameClient) -> int:
    """A stream whose request has ended, and its answer has not."""
    return client.ask("/slow?s=0.5")


def reset(client: FrameClient) -> int:
    """A stream that the client has reset."""
    stream = half_closed(client)
    client.send(RstStreamFrame(stream, 8))
    return stream


#: Name, what is sent, and the code of the GOAWAY that ends the connection.
ENDS: list[tuple[str, Send, int]] = [
    ("DATA without a stream", lambda c: c.raw(raw(0, 0, 0, b"x")), PROTOCOL),
    ("DATA on an idle stream", lambda c: c.raw(raw(0, 0, 1, b"x")), PROTOCOL),
    ("DATA padded beyond its end", lambda c: c.raw(raw(0, 8, opened(c), b"\x05abc")), PROTOCOL),
    ("DATA on a closed stream", lambda c: c.raw(raw(0, 0, done(c), b"x")), CLOSED),
    ("DATA after a reset", lambda c: c.raw(raw(0, 0, reset(c), b"x")), CLOSED),
    ("HEADERS without a stream", lambda c: c.raw(raw(1, 5, 0, block(c))), PROTOCOL),
    ("HEADERS on an even stream", lambda c: c.raw(raw(1, 5, 2, block(c))), PROTOCOL),
    ("HEADERS on a lower stream", lambda c: c.raw(raw(1, 5, 5, block(c)) + raw(1, 5, 3, block(c))), PROTOCOL),
    ("HEADERS on a closed stream", lambda c: c.raw(raw(1, 5, done(c), block(c))), CLOSED),
    ("HEADERS padded beyond its end", lambda c: c.raw(raw(1, 13, 1, b"\xff" + block(c))), PROTOCOL),
    ("HEADERS too short for its priority", lambda c: c.raw(raw(1, 37, 1, b"\0\0\0\0")), SIZE),
    ("a frame in the middle of a header", lambda c: c.raw(raw(1, 1, 1, block(c)) + raw(6, 0, 0, bytes(8))), PROTOCOL),
    ("another header in the middle of a header", lambda c: c.raw(raw(1, 1, 1, block(c)) + raw(1, 5, 3, block(c))), PROTOCOL),
    ("an unknown frame in the middle of a header", lambda c: c.raw(raw(1, 1, 1, block(c)) + raw(0x42, 0, 1)), PROTOCOL),
    ("CONTINUATION without a header", lambda c: c.send(ContinuationFrame(1, b"")), PROTOCOL),
    ("CONTINUATION of another stream", lambda c: c.raw(raw(1, 1, 1, block(c)) + raw(9, 4, 3)), PROTOCOL),
    ("CONTINUATION after the end of a header", lambda c: c.raw(raw(1, 4, 1, block(c)) + raw(9, 4, 1)), PROTOCOL),
    ("PRIORITY without a stream", lambda c: c.raw(raw(2, 0, 0, bytes(5))), PROTOCOL),
    ("RST_STREAM without a stream", lambda c: c.raw(raw(3, 0, 0, bytes(4))), PROTOCOL),
    ("RST_STREAM on an idle stream", lambda c: c.send(RstStreamFrame(1, 8)), PROTOCOL),
    ("RST_STREAM of a wrong length", lambda c: c.raw(raw(3, 0, half_closed(c), bytes(3))), SIZE),
    ("SETTINGS on a stream", lambda c: c.raw(raw(4, 0, 1)), PROTOCOL),
    ("SETTINGS of a wrong length", lambda c: c.raw(raw(4, 0, 0, bytes(5))), SIZE),
    ("SETTINGS acknowledged with something", lambda c: c.raw(raw(4, 1, 0, bytes(6))), SIZE),
    ("ENABLE_PUSH that is neither 0 nor 1", lambda c: c.send(SettingsFrame(0, {2: 2})), PROTOCOL),
    ("INITIAL_WINDOW_SIZE too large", lambda c: c.send(SettingsFrame(0, {4: 2**31})), FLOW),
    ("MAX_FRAME_SIZE too small", lambda c: c.send(SettingsFrame(0, {5: 16383})), PROTOCOL),
    ("MAX_FRAME_SIZE too large", lambda c: c.send(SettingsFrame(0, {5: 2**24})), PROTOCOL),
    ("NO_RFC7540_PRIORITIES that is neither 0 nor 1", lambda c: c.send(SettingsFrame(0, {9: 2})), PROTOCOL),
    ("PUSH_PROMISE", lambda c: c.send(PushPromiseFrame(opened(c), 2, block(c), flags=["END_HEADERS"])), PROTOCOL),
    ("PING on a stream", lambda c: c.raw(raw(6, 0, 1, bytes(8))), PROTOCOL),
    ("PING of a wrong length", lambda c: c.raw(raw(6, 0, 0, bytes(7))), SIZE),
    ("GOAWAY on a stream", lambda c: c.raw(raw(7, 0, 1, bytes(8))), PROTOCOL),
    ("WINDOW_UPDATE of nothing on the connection", lambda c: c.raw(raw(8, 0, 0, bytes(4))), PROTOCOL),
    ("WINDOW_UPDATE of a wrong length", lambda c: c.raw(raw(8, 0, 0, bytes(3))), SIZE),
    ("WINDOW_UPDATE on an idle stream", lambda c: c.send(WindowUpdateFrame(1, 1)), PROTOCOL),
    ("a window of the connection too large", lambda c: c.send(WindowUpdateFrame(0, 2**31 - 1)), FLOW),
    ("windows too large by a setting",
     lambda c: c.send(WindowUpdateFrame(half_closed(c), 2**31 - 1 - 65535), SettingsFrame(0, {4: 65536})), FLOW),
    ("a frame too large", lambda c: c.raw(raw(0, 0, opened(c), b"", 16385)), SIZE),
    ("PRIORITY_UPDATE on a stream", lambda c: c.raw(raw(16, 0, 1, b"\0\0\0\1u=1")), PROTOCOL),
    ("HPACK: an index that is not there", lambda c: c.raw(raw(1, 5, 1, b"\xfe")), COMPRESSION),
    ("HPACK: the index 0", lambda c: c.raw(raw(1, 5, 1, b"\x80")), COMPRESSION),
    ("HPACK: a table larger than allowed", lambda c: c.raw(raw(1, 5, 1, b"\x3f\xe2\x1f\x82")), COMPRESSION),
    ("HPACK: a size behind a field", lambda c: c.raw(raw(1, 5, 1, b"\x82\x20")), COMPRESSION),
    ("HPACK: a string cut short", lambda c: c.raw(raw(1, 5, 1, b"\x00\x85a")), COMPRESSION),
    ("HPACK: too much padding", lambda c: c.raw(raw(1, 5, 1, b"\x00\x01a\x82\x1f\xff")), COMPRESSION),
    ("HPACK: padding of zeros", lambda c: c.raw(raw(1, 5, 1, b"\x00\x01a\x81\x18")), COMPRESSION),
    ("HPACK: EOS in a string", lambda c: c.raw(raw(1, 5, 1, b"\x00\x01a\x84\xff\xff\xff\xff")), COMPRESSION),
    ("HPACK: a number without end", lambda c: c.raw(raw(1, 5, 1, b"\xff" + b"\x80" * 50 + b"\x01")), COMPRESSION),
]


def connect(secure: Secure, backend: Backend) -> FrameClient:
    """A connection to a route of its own."""
    return FrameClient(secure.port, secure.authority.trusting(), secure.route(backend.url))


@pytest.mark.parametrize(("send", "code"), [case[1:] for case in ENDS], ids=[case[0] for case in ENDS])
def test_a_fault_of_the_connection_ends_it(send: Send, code: int, secure: Secure, backend: Backend) -> None:
    with connect(secure, backend) as client:
        send(client)
        assert client.goaway()[1] == code
        assert client.ended


def trailing(client: FrameClient, fields: list[tuple[str, str]], end: bool = True) -> int:
    """A stream whose body is followed by these fields."""
    stream = opened(client)
    client.data(stream, b"x")
    client.send(client.head(stream, fields, end))
    return stream


def malformed(fields: list[tuple[str, str]]) -> Send:
    """A request of these fields."""

    def send(client: FrameClient) -> int:
        stream = client.new()
        named = [(name, value.replace("HOST", client.name)) for name, value in fields]
        client.send(client.head(stream, named))
        return stream

    return send


def after(make: Callable[[FrameClient], int], frame: Callable[[FrameClient, int], bytes | Frame]) -> Send:
    """A frame on a stream of that state."""

    def send(client: FrameClient) -> int:
        stream = make(client)
        made = frame(client, stream)
        client.raw(made if isinstance(made, bytes) else made.serialize())
        return stream

    return send


M, S, A, P = (":method", "GET"), (":scheme", "https"), (":authority", "HOST"), (":path", "/")
#: Name, what is sent (it returns the stream), and the code of the RST_STREAM that ends the stream alone.
RESETS: list[tuple[str, Send, int]] = [
    ("DATA after the end of a request", after(half_closed, lambda c, s: raw(0, 0, s, b"x")), CLOSED),
    ("HEADERS after the end of a request", after(half_closed, lambda c, s: raw(1, 5, s, block(c))), CLOSED),
    ("a second header that ends nothing", lambda c: trailing(c, [("x-a", "b")], end=False), PROTOCOL),
    ("a stream that depends on itself", after(lambda c: c.new(), lambda c, s: raw(1, 37, s, s.to_bytes(4, "big") + b"\x10" + block(c))),
     PROTOCOL),
    ("PRIORITY on itself", after(half_closed, lambda c, s: PriorityFrame(s, s, 1, False)), PROTOCOL),
    ("PRIORITY of a wrong length", after(half_closed, lambda c, s: raw(2, 0, s, bytes(4))), SIZE),
    ("WINDOW_UPDATE of nothing", after(half_closed, lambda c, s: raw(8, 0, s, bytes(4))), PROTOCOL),
    ("a window too large", after(half_closed, lambda c, s: WindowUpdateFrame(s, 2**31 - 1)), FLOW),
    ("a name with capitals", malformed([M, S, A, P, ("X-Up", "y")]), PROTOCOL),
    ("a name with a colon", malformed([M, S, A, P, ("x:y", "z")]), PROTOCOL),
    ("an empty name", malformed([M, S, A, P, ("", "y")]), PROTOCOL),
    ("a line break in a value", malformed([M, S, A, P, ("x", "y\r\nz: 1")]), PROTOCOL),
    ("NUL in a value", malformed([M, S, A, P, ("x", "y\0z")]), PROTOCOL),
    ("blanks around a value", malformed([M, S, A, P, ("x", " y")]), PROTOCOL),
    ("a line break in the path", malformed([M, S, A, (":path", "/a\r\nx: y")]), PROTOCOL),
    ("an unknown pseudo-header field", malformed([M, S, A, P, (":odd", "x")]), PROTOCOL),
    ("a pseudo-header field of answers", malformed([M, S, A, P, (":status", "200")]), PROTOCOL),
    ("a pseudo-header field behind others", malformed([M, S, A, ("x", "y"), P]), PROTOCOL),
    ("no method", malformed([S, A, P]), PROTOCOL),
    ("no scheme", malformed([M, A, P]), PROTOCOL),
    ("no path", malformed([M, S, A]), PROTOCOL),
    ("an empty path", malformed([M, S, A, (":path", "")]), PROTOCOL),
    ("a path without a slash", malformed([M, S, A, (":path", "a")]), PROTOCOL),
    ("two methods", malformed([M, M, S, A, P]), PROTOCOL),
    ("two paths", malformed([M, S, A, P, P]), PROTOCOL),
    ("an empty authority", malformed([M, S, (":authority", ""), P]), PROTOCOL),
    ("CONNECT with a path", malformed([(":method", "CONNECT"), S, A, P]), PROTOCOL),
    ("CONNECT without an authority", malformed([(":method", "CONNECT")]), PROTOCOL),
    ("a protocol without CONNECT", malformed([M, S, A, P, (":protocol", "websocket")]), PROTOCOL),
    ("an extended CONNECT without a path", malformed([(":method", "CONNECT"), (":protocol", "websocket"), S, A]), PROTOCOL),
    ("Connection", malformed([M, S, A, P, ("connection", "keep-alive")]), PROTOCOL),
    ("Transfer-Encoding", malformed([M, S, A, P, ("transfer-encoding", "chunked")]), PROTOCOL),
    ("Upgrade", malformed([M, S, A, P, ("upgrade", "h2c")]), PROTOCOL),
    ("Keep-Alive", malformed([M, S, A, P, ("keep-alive", "5")]), PROTOCOL),
    ("Proxy-Connection", malformed([M, S, A, P, ("proxy-connection", "close")]), PROTOCOL),
    ("TE that is not trailers", malformed([M, S, A, P, ("te", "gzip")]), PROTOCOL),
    ("a pseudo-header field in trailers", lambda c: trailing(c, [(":path", "/")]), PROTOCOL),
    ("a length without a body", malformed([M, S, A, P, ("content-length", "5")]), PROTOCOL),
]


@pytest.mark.parametrize(("send", "code"), [case[1:] for case in RESETS], ids=[case[0] for case in RESETS])
def test_a_fault_of_a_stream_resets_it_alone(send: Callable[[FrameClient], int], code: int, secure: Secure, backend: Backend) -> None:
    with connect(secure, backend) as client:
        stream = send(client)
        client.until(lambda: stream in client.got and client.got[stream].reset >= 0)
        assert client.got[stream].reset == code
        assert client.answer(client.ask("/")).status == 200
        assert client.goaways == []


def padded(client: FrameClient) -> int:
    """A request whose frames all have padding and a priority."""
    stream = client.new()
    client.raw(raw(1, 4 | 8 | 32, stream, b"\x03" + b"\0\0\0\0\x10" + block(client, "POST") + bytes(3)))
    client.raw(raw(0, 8, stream, b"\x02ab\0\0") + raw(0, 9, stream, b"\x00"))
    return stream


def in_pieces(client: FrameClient) -> int:
    """A request whose header comes in pieces, some of them empty."""
    stream, data = client.new(), block(client)
    client.raw(raw(1, 1, stream, data[:3]) + raw(9, 0, stream) + raw(9, 0, stream, data[3:5]) + raw(9, 4, stream, data[5:]))
    return stream


def byte_by_byte(client: FrameClient) -> int:
    """A request whose bytes come one at a time."""
    stream = client.new()
    for byte in raw(1, 4, stream, block(client, "POST")) + raw(0, 9, stream, b"\x01body\0"):
        client.raw(bytes((byte,)))
    return stream


def unknown(client: FrameClient) -> int:
    """A request among frames, flags and settings that nobody knows."""
    stream = client.new()
    client.raw(raw(0x42, 255, 0, b"what"))
    client.send(SettingsFrame(0, {0xFF: 1, 0x2A2A: 7}))
    client.raw(raw(1, 5 | 0xC2, stream | 1 << 31, block(client)) + raw(0x99, 1, stream, b"ever") + raw(6, 0xFE, 1 << 31, bytes(8)))
    return stream


def on_closed(client: FrameClient) -> int:
    """A request after frames that may still come for a closed stream."""
    stream = done(client)
    client.send(WindowUpdateFrame(stream, 5), PriorityFrame(stream, 0, 1, False), RstStreamFrame(stream, 8))
    return client.ask("/")


def on_idle(client: FrameClient) -> int:
    """A request on a stream that was given a priority before, and leaves numbers out."""
    client.send(PriorityFrame(9, 3, 7, True), PriorityFrame(101, 0, 1, False))
    client.next_stream = 9
    return client.ask("/")


def settled(client: FrameClient) -> int:
    """A request behind settings of all kinds."""
    client.send(SettingsFrame(0, {1: 0, 2: 0, 3: 7, 4: 1 << 20, 5: 1 << 20, 6: 100, 9: 1}), SettingsFrame(0, {1: 1 << 20}))
    client.send(PingFrame(0, bytes(8)))
    return client.ask("/")


def small_table(client: FrameClient) -> int:
    """A request of an encoder that gives up its table."""
    done(client)
    client.encoder.header_table_size = 0
    done(client)
    client.encoder.header_table_size = 4096
    return client.ask("/")


def said_goodbye(client: FrameClient) -> int:
    """A request behind which the client says goodbye."""
    stream = client.ask("/slow?s=0.2")
    client.send(GoAwayFrame(0, 0))
    return stream


FINE: list[Callable[[FrameClient], int]] = [
    padded, in_pieces, byte_by_byte, unknown, on_closed, on_idle, settled, small_table, said_goodbye]


@pytest.mark.parametrize("ask", FINE, ids=[case.__name__ for case in FINE])
def test_what_is_no_fault_is_answered(ask: Callable[[FrameClient], int], secure: Secure, backend: Backend) -> None:
    with connect(secure, backend) as client:
        answer = client.answer(ask(client))
        assert (answer.status, answer.reset) == (200, -1)
        assert (answer.header("content-length"), client.goaways) == (str(len(answer.body)), [])


def test_pings_and_settings_are_acknowledged_and_ours_are_told(secure: Secure, backend: Backend) -> None:
    with connect(secure, backend) as client:
        client.send(PingFrame(0, b"12345678"))
        frames = [client.frame() for _ in range(4)]
        assert sorted(type(frame).__name__ for frame in frames) == ["PingFrame", "SettingsFrame", "SettingsFrame", "WindowUpdateFrame"]
        assert client.settings == {3: 100, 4: 262144, 6: 65536, 8: 1, 9: 1}


def test_streams_beyond_the_bound_are_refused_and_may_be_sent_again(secure: Secure, backend: Backend) -> None:
    with connect(secure, backend) as client:
        streams = [client.ask("/slow?s=0.3") for _ in range(103)]
        answers = client.answers(*streams)
        assert [answer.reset for answer in answers] == [-1] * 100 + [REFUSED] * 3
        assert client.answer(client.ask("/")).status == 200


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", PREFACE[:-1] + b"x", b"\x16\x03\x01 nonsense that is long enough"])
def test_what_is_no_preface_ends_the_connection(data: bytes, secure: Secure) -> None:
    with FrameClient(secure.port, secure.authority.trusting(), "any.two.test", greet=False) as client:
        client.raw(data)
        assert client.goaway()[1] == PROTOCOL


def test_another_first_frame_than_settings_ends_the_connection(secure: Secure) -> None:
    with FrameClient(secure.port, secure.authority.trusting(), "any.two.test", greet=False) as client:
        client.raw(PREFACE + PingFrame(0, bytes(8)).serialize())
        assert client.goaway()[1] == PROTOCOL


def test_a_head_without_a_body_ends_its_stream_and_an_answer_larger_than_a_frame_has_many(secure: Secure, backend: Backend) -> None:
    with connect(secure, backend) as client:
        stream = client.ask("/bytes/1000", "HEAD")
        frame = client.frame()
        while not (isinstance(frame, HeadersFrame) and frame.stream_id == stream):
            frame = client.frame()
        assert "END_STREAM" in frame.flags
        assert client.got[stream].header("content-length") == "1000"
        assert len(client.answer(client.ask("/bytes/300000")).body) == 300_000
