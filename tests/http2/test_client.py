"""The client's side: it is understood by another implementation, and what a server may not send ends a stream or the connection."""

from __future__ import annotations

import h2.config
import h2.connection
import h2.events
import pytest

from proxyd.http2.client import ClientConnection
from proxyd.http2.connection import Bounds
from proxyd.http2.encoder import Encoder
from proxyd.http2.errors import CANCEL, ENHANCE_YOUR_CALM, PROTOCOL_ERROR, REFUSED_STREAM, STREAM_CLOSED, ConnectionFault, StreamFault
from proxyd.http2.events import Answer, Body, Ended, Event, Leaving, Pong, Trailers
from proxyd.http2.fields import read_answer
from proxyd.http2.frames import END_HEADERS, HEADERS, MAX_CONCURRENT_STREAMS, PING, frame_header, goaway, headers, ping, reset, settings

GET = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/p"), ("X-One", "1")]
POST = [(":method", "POST"), *GET[1:]]
OK = [(":status", "200")]


def client(bounds: Bounds | None = None) -> ClientConnection:
    """A connection whose server has greeted."""
    engine = ClientConnection(bounds or Bounds(), 0.0)
    assert feed(engine, settings(())) == []
    return engine


def feed(engine: ClientConnection, data: bytes) -> list[Event]:
    """The events of some bytes."""
    engine.feed(data, 0.0)
    found = []
    while (event := engine.next_event()) is not None:
        found.append(event)
    return found


def block(fields: list[tuple[str, str]]) -> bytes:
    """A header block by an encoder without a history."""
    return Encoder().encode(fields)


def data(stream: int, body: bytes, end: bool = False) -> bytes:
    """A DATA frame."""
    return frame_header(len(body), 0, 1 if end else 0, stream) + body


def as_bytes(fields: list[tuple[str, str]]) -> dict[bytes, bytes]:
    """Fields as they are received."""
    return {name.lower().encode(): value.encode() for name, value in fields}


class Server:
    """h2 as the server of an engine."""

    def __init__(self) -> None:
        self.engine = ClientConnection(Bounds(), 0.0)
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        self.h2.initiate_connection()
        self.pass_on()

    def pass_on(self) -> tuple[list[h2.events.Event], list[Event]]:
        """Carry bytes both ways, until there are none."""
        theirs: list[h2.events.Event] = []
        ours: list[Event] = []
        while True:
            sent, answered = self.engine.sender.take(1 << 20), self.h2.data_to_send()
            if not sent and not answered:
                return theirs, ours
            theirs += self.h2.receive_data(sent)
            ours += feed(self.engine, answered)


def test_another_implementation_understands_requests_and_is_understood() -> None:
    pair = Server()
    first, second = pair.engine.begin(GET, True), pair.engine.begin(POST, False)
    assert pair.engine.sender.body(second, b"hello", False)
    pair.engine.sender.head(second, 0, [("X-Sum", "5")], True)
    theirs, _ = pair.pass_on()
    requests = [event for event in theirs if isinstance(event, h2.events.RequestReceived)]
    assert [(event.stream_id, dict(event.headers)) for event in requests] == [
        (1, as_bytes(GET)), (3, as_bytes(POST))]
    assert [event.data for event in theirs if isinstance(event, h2.events.DataReceived)] == [b"hello"]
    assert [dict(event.headers) for event in theirs if isinstance(event, h2.events.TrailersReceived)] == [{b"x-sum": b"5"}]
    pair.h2.send_headers(1, [(":status", "103"), ("link", "</a>")])
    pair.h2.send_headers(1, OK)
    pair.h2.send_data(1, b"body")
    pair.h2.send_headers(1, [("x-end", "1")], end_stream=True)
    pair.h2.send_headers(3, [(":status", "204")], end_stream=True)
    _, ours = pair.pass_on()
    assert ours == [
        Answer(first, [(b":status", b"103"), (b"link", b"</a>")], 82, False), Answer(first, [(b":status", b"200")], 42, False),
        Body(first, b"body", False), Trailers(first, [(b"x-end", b"1")]), Answer(second, [(b":status", b"204")], 42, True)]
    assert not pair.engine.streams.open
    assert pair.engine.room() == 100


def test_the_servers_bound_of_streams_holds_and_ours_where_it_is_less() -> None:
    engine = client()
    engine.begin(GET, True)
    assert engine.room() == 99
    feed(engine, settings(((MAX_CONCURRENT_STREAMS, 2),)))
    assert engine.room() == 1
    feed(engine, settings(((MAX_CONCURRENT_STREAMS, 100_000),)))
    assert engine.room() == 99


def test_a_server_that_leaves_says_which_streams_it_has_not_looked_at() -> None:
    engine = client()
    engine.begin(GET, True)
    engine.begin(GET, True)
    assert feed(engine, goaway(1, 0, "bye")) == [Leaving(1, 0, "bye")]
    assert engine.room() == 0
    assert len(engine.streams.open) == 2, "those that it has looked at go on"


def test_a_refused_stream_and_an_answered_ping_are_told() -> None:
    engine = client()
    stream = engine.begin(GET, True)
    assert feed(engine, reset(1, REFUSED_STREAM)) == [Ended(stream, REFUSED_STREAM, "")]
    engine.sender.take(1 << 20)
    engine.ping(b"abcdefgh")
    assert engine.sender.take(1 << 20) == ping(b"abcdefgh")
    assert feed(engine, ping(b"abcdefgh", 1)) == [Pong()]


@pytest.mark.parametrize("frames", [
    data(1, b"early"),
    headers(1, block([(":status", "100")]), True),
    headers(1, block(OK), False) + headers(1, block([("x", "y")]), False),
], ids=["body before head", "informational end", "second head"])
def test_a_malformed_answer_ends_its_stream_alone(frames: bytes) -> None:
    engine = client()
    engine.begin(GET, True)
    other = engine.begin(GET, True)
    event = feed(engine, frames)[-1]
    assert isinstance(event, Ended)
    assert (event.code, bool(event.detail)) == (PROTOCOL_ERROR, True)
    assert engine.sender.take(1 << 20).endswith(reset(1, PROTOCOL_ERROR))
    assert list(engine.streams.open.values()) == [other]


@pytest.mark.parametrize(("frames", "code"), [
    (headers(3, block(OK), True), PROTOCOL_ERROR),
    (headers(2, block(OK), True), PROTOCOL_ERROR),
    (frame_header(4, 5, END_HEADERS, 1) + b"\0\0\0\2", PROTOCOL_ERROR),
    (headers(1, block(OK), True) + headers(1, block(OK), True), STREAM_CLOSED),
    ((frame_header(8, PING, 0, 0) + bytes(8)) * 1000, ENHANCE_YOUR_CALM),
    (headers(1, block(OK), False) + data(1, b"") * 1000, ENHANCE_YOUR_CALM),
], ids=["stream not begun", "stream of its own", "push", "closed", "pings", "empty data"])
def test_a_server_that_breaks_the_protocol_loses_the_connection(frames: bytes, code: int) -> None:
    engine = client()
    engine.begin(GET, True)
    with pytest.raises(ConnectionFault) as caught:
        feed(engine, frames)
    assert caught.value.code == code


def test_heads_of_a_stream_that_was_given_up_have_a_bound() -> None:
    """They come from a server that goes on with informational answers for ever; some may be on their way."""
    engine = client()
    stream = engine.begin([(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")], True)
    engine.reset(stream, CANCEL)
    late = frame_header(4, HEADERS, END_HEADERS, stream.id) + b"\x08\x02\x31\x30"
    assert feed(engine, late * 100) == []
    with pytest.raises(ConnectionFault) as caught:
        feed(engine, late * 1000)
    assert caught.value.code == ENHANCE_YOUR_CALM


def test_what_does_not_begin_with_settings_is_not_http2() -> None:
    engine = ClientConnection(Bounds(), 0.0)
    with pytest.raises(ConnectionFault):
        feed(engine, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    assert not engine.settled


@pytest.mark.parametrize("fields", [
    [], [(b"x", b"y")], [(b":status", b"20")], [(b":status", b"abc")], [(b":status", b"101")], [(b":status", b"200"), (b":status", b"200")],
    [(b":status", b"200"), (b"connection", b"close")], [(b":status", b"200"), (b"X", b"y")], [(b":status", b"200"), (b"x", b"y\r\nz: 1")],
    [(b":status", b"200"), (b"x", b" y")], [(b":status", b"200"), (b":path", b"/")],
])
def test_malformed_heads_of_answers(fields: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(StreamFault):
        read_answer(fields)


def test_the_head_of_an_answer() -> None:
    assert read_answer([(b":status", b"404"), (b"x-a", b"1"), (b"x-a", b"2")]) == (404, [(b"x-a", b"1"), (b"x-a", b"2")])
