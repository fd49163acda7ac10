"""Turns, priorities and budgets."""

from __future__ import annotations

import pytest

from proxyd.http2.budget import Budget, Ledger
from proxyd.http2.connection import Bounds, Connection
from proxyd.http2.errors import CANCEL, FLOW_CONTROL_ERROR, ConnectionFault
from proxyd.http2.events import Body, Ended, Request
from proxyd.http2.frames import END_STREAM, PADDED, PREFACE, SETTINGS_ACK, frame_header, headers, settings, window_update
from proxyd.http2.priority import parse_priority
from proxyd.http2.sender import Sender
from proxyd.http2.stream import Stream


def sender_of(*pieces: tuple[int, int, bool]) -> Sender:
    """Streams 1, 3, ... of (urgency, bytes, incremental) that all want to send more than one frame."""
    sender = Sender(lambda stream: None)
    sender.widen(1 << 20)
    for number, (urgency, size, incremental) in enumerate(pieces):
        stream = Stream(2 * number + 1, 1 << 20, 0)
        sender.prefer(stream, urgency, incremental)
        sender.body(stream, b"x" * size, True)
    return sender


def order(sender: Sender) -> list[int]:
    """The streams of the frames that are sent, in order."""
    data, found = sender.take(1 << 20), []
    while data:
        size = int.from_bytes(data[:3], "big")
        found.append(int.from_bytes(data[5:9], "big"))
        data = data[9 + size :]
    return found


def test_answers_take_turns_frame_by_frame() -> None:
    assert order(sender_of((3, 40_000, True), (3, 40_000, True))) == [1, 3, 1, 3, 1, 3]


def test_an_urgent_answer_goes_first_and_those_of_no_use_in_parts_go_one_by_one() -> None:
    assert order(sender_of((3, 40_000, True), (1, 40_000, True))) == [3, 3, 3, 1, 1, 1]
    assert order(sender_of((3, 40_000, False), (3, 40_000, False))) == [1, 1, 1, 3, 3, 3]


def test_a_window_that_shrank_below_nothing_holds_a_stream_and_a_small_answer_passes_it() -> None:
    sender = Sender(lambda stream: None)
    first, second = Stream(1, 65535, 0), Stream(3, 65535, 0)
    assert not sender.body(first, b"x" * 20_000, False)
    sender.resize_windows(0, [first, second])
    assert sender.take(1 << 20) == b""
    assert sender.body(second, b"", True)
    assert sender.take(1 << 20) == frame_header(0, 0, 1, 3)
    sender.widen_stream(first, 5)
    assert sender.take(1 << 20) == frame_header(5, 0, 0, 1) + b"xxxxx"
    sender.widen_stream(first, 1 << 20)
    assert len(sender.take(1 << 20)) == 20_000 - 5 + 2 * 9
    assert sender.drained == [first]


@pytest.mark.parametrize(("value", "parsed"), [
    (b"u=0", (0, False)), (b"u=5, i", (5, True)), (b"i", (3, True)), (b"i=?0,u=7", (7, False)), (b"u=9", (3, False)), (b"", (3, False)),
    (b"u=1;x=2, i=?1", (1, True)), (b"nu=1, hi", (3, False)),
])
def test_priorities(value: bytes, parsed: tuple[int, bool]) -> None:
    assert parse_priority(value) == parsed


def test_a_budget_comes_back_with_time_and_work() -> None:
    budget = Budget(10, 2, 100.0)
    assert all(budget.spend(1, 100.0) for _ in range(10))
    assert not budget.spend(1, 100.0)
    assert budget.spend(1, 101.5)
    budget.earn(50)
    assert all(budget.spend(1, 101.5) for _ in range(10))
    assert not budget.spend(1, 101.5)


def test_what_lasted_a_while_may_be_ended_freely_and_hundreds_at_once() -> None:
    ledger = Ledger(100.0)
    for _ in range(1000):
        ledger.reset(99.5)
    for _ in range(1000):
        ledger.reset(99.0)
    with pytest.raises(ConnectionFault):
        ledger.reset(99.5)
    with pytest.raises(ConnectionFault):
        ledger.reset()
    ledger.now = 101.0
    ledger.reset(100.9)


def connection(bounds: Bounds) -> Connection:
    """A connection that has been greeted, with two requests that have not ended."""
    engine = Connection(bounds, 0.0)
    engine.feed(PREFACE + settings(()) + SETTINGS_ACK, 0.0)
    assert engine.next_event() is None
    engine.sender.take(1 << 20)
    for stream in (1, 3):
        engine.feed(headers(stream, b"\x83\x87\x84\x01\x01a", False), 0.0)
        event = engine.next_event()
        assert isinstance(event, Request)
        assert event.fields == [(b":method", b"POST"), (b":scheme", b"https"), (b":path", b"/"), (b":authority", b"a")]
    return engine


def data(stream: int, size: int) -> bytes:
    """A DATA frame."""
    return frame_header(size, 0, 0, stream) + bytes(size)


def test_what_is_read_is_granted_again_when_half_a_window_has_gathered() -> None:
    engine = connection(Bounds(stream_window=65536, connection_window=100_000))
    stream = engine.streams.open[1]
    for _ in range(2):
        engine.feed(data(1, 16_000), 0.0)
        assert isinstance(engine.next_event(), Body)
        engine.consumed(stream, 16_000)
        assert engine.sender.take(1 << 20) == b""
    engine.consumed(stream, 768)
    assert engine.sender.take(1 << 20) == window_update(1, 32_768)
    engine.consumed(engine.streams.open[3], 17_232)
    assert engine.sender.take(1 << 20) == window_update(0, 50_000)


def test_the_end_of_a_body_that_comes_after_a_reset_is_told_to_nobody() -> None:
    engine = connection(Bounds())
    # One byte, then padding: nine bytes of it, of which the last comes late.
    frame = frame_header(11, 0, PADDED | END_STREAM, 1) + b"\x09x" + bytes(9)
    engine.feed(frame[:-1], 0.0)
    event = engine.next_event()
    assert isinstance(event, Body) and event.data == b"x"
    assert engine.next_event() is None
    engine.reset(engine.streams.open[1], CANCEL)
    engine.feed(frame[-1:], 0.0)
    assert engine.next_event() is None


def test_more_than_the_window_of_a_stream_resets_it_and_more_than_that_of_the_connection_ends_it() -> None:
    engine = connection(Bounds(stream_window=65536, connection_window=100_000))
    for _ in range(4):
        engine.feed(data(1, 16_384), 0.0)
        assert isinstance(engine.next_event(), Body)
    engine.feed(data(1, 1), 0.0)
    event = engine.next_event()
    assert isinstance(event, Ended)
    assert (event.stream.id, event.code) == (1, FLOW_CONTROL_ERROR)
    for size in (16_384, 16_384, 100_000 - 1 - 6 * 16_384):
        engine.feed(data(3, size), 0.0)
        assert isinstance(engine.next_event(), Body)
    engine.feed(data(3, 2), 0.0)
    with pytest.raises(ConnectionFault) as raised:
        engine.next_event()
    assert raised.value.code == FLOW_CONTROL_ERROR
