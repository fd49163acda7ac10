"""Every known flood of HTTP/2 ends with GOAWAY and ENHANCE_YOUR_CALM, memory stays as it was, and nobody else notices.

On a machine of its own a flood ends within a quarter of a second, and the others wait 1 to 3 ms. The bounds leave room for a machine that
runs other tests meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hyperframe.frame import HeadersFrame, PingFrame, PriorityFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.frames import FrameClient
from tests.support.system import System
from tests.support.waiting import free_port, patience, wait_for

CALM = 11
Flood = Callable[[FrameClient], Iterator[bytes]]


def raw(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Any frame at all."""
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class Attacked:
    """A proxyd with one worker."""

    def __init__(self, directory: Path) -> None:
        authority = Authority(directory)
        self.context: Callable[[], ssl.SSLContext] = authority.trusting
        self.port = free_port()
        self.backend = Backend()
        self.system = System(directory / "system", workers=1, tls__bind=f"127.0.0.1:{self.port}", log__access="off",
                             tls__certificates=authority.issue("one.pem", "app.test"), proxy__http2_cleartext="yes")
        self.system.client().route("app.test", self.backend.url)
        self.worker = psutil.Process(self.system.worker_pids()[0])

    def connect(self) -> FrameClient:
        """A connection over TLS."""
        return FrameClient(self.port, self.context(), "app.test")

    def flooded(self, acknowledge: bool) -> FrameClient:
        """A connection in the clear: a thread may send while another reads, which Python's TLS sockets do not bear."""
        return FrameClient(self.system.proxy_port, None, "app.test", credit=False, acknowledge=acknowledge)


@pytest.fixture(scope="module")
def attacked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Attacked]:
    """One for all floods: none may leave anything behind."""
    running = Attacked(tmp_path_factory.mktemp("floods"))
    yield running
    running.system.stop()
    running.backend.stop()


def block(client: FrameClient, method: str = "GET", path: str = "/") -> bytes:
    """The header block of a usual request."""
    return client.encoder.encode(client.fields(method, path))


def rapid_reset(client: FrameClient) -> Iterator[bytes]:
    while True:
        stream = client.new()
        yield client.head(stream, client.fields("GET", "/slow?s=1")).serialize() + RstStreamFrame(stream, 8).serialize()


def made_you_reset(client: FrameClient) -> Iterator[bytes]:
    while True:
        stream = client.new()
        yield client.head(stream, client.fields("GET", "/slow?s=1")).serialize() + WindowUpdateFrame(stream).serialize()[:-4] + bytes(4)


def made_you_reset_by_data(client: FrameClient) -> Iterator[bytes]:
    while True:
        stream = client.new()
        yield client.head(stream, client.fields("GET", "/slow?s=1")).serialize() + raw(0, 0, stream, b"x")


def continuation(client: FrameClient) -> Iterator[bytes]:
    yield raw(1, 1, 1, block(client))
    yield from itertools.repeat(raw(9, 0, 1, b"\x00\x01a\x01b"))


def large_continuation(client: FrameClient) -> Iterator[bytes]:
    yield raw(1, 1, 1, block(client))
    yield from itertools.repeat(raw(9, 0, 1, b"\x00\x01a\x7f\x81\x7e" + b"b" * 16253))


def empty_continuation(client: FrameClient) -> Iterator[bytes]:
    yield raw(1, 1, 1)
    yield from itertools.repeat(raw(9, 0, 1))


def repeated(make: Callable[[FrameClient], bytes]) -> Flood:
    """The same bytes over and over."""

    def flood(client: FrameClient) -> Iterator[bytes]:
        yield from itertools.repeat(make(client))

    return flood


def empty_data(client: FrameClient) -> Iterator[bytes]:
    stream = client.ask("/echo", "POST", end=False)
    yield from itertools.repeat(raw(0, 0, stream))


def padding_alone(client: FrameClient) -> Iterator[bytes]:
    stream = client.ask("/echo", "POST", end=False)
    yield from itertools.repeat(raw(0, 8, stream, b"\x05" + bytes(5)))


def empty_headers(client: FrameClient) -> Iterator[bytes]:
    while True:
        yield raw(1, 5, client.new())


def malformed_headers(client: FrameClient) -> Iterator[bytes]:
    while True:
        yield raw(1, 5, client.new(), b"\x82\x87\x84\x00\x01A\x01a")


def heads_of_a_closed_stream(client: FrameClient) -> Iterator[bytes]:
    stream = client.new()
    yield raw(1, 5, stream, b"\x82\x87\x84\x00\x01A\x01a")
    yield from itertools.repeat(raw(1, 5, stream, b"\x82\x87\x84"))


def bomb(client: FrameClient) -> Iterator[bytes]:
    entry = b"\x40\x01a\x7f\x80\x1e" + b"x" * 3967
    while True:
        yield raw(1, 5, client.new(), block(client) + entry + b"\xbe" * 10_000)


def small_bombs(client: FrameClient) -> Iterator[bytes]:
    yield raw(1, 5, client.new(), b"\x82\x87\x84\x01\x08app.test" + b"\x40\x01a\x7f\x80\x1e" + b"x" * 3967)
    while True:
        yield raw(1, 5, client.new(), b"\x82\x87\x84\x01\x08app.test" + b"\xbe" * 40)


def zero_windows(client: FrameClient) -> Iterator[bytes]:
    client.send(SettingsFrame(0, {SettingsFrame.INITIAL_WINDOW_SIZE: 0}))
    for _ in range(90):
        yield client.head(client.new(), client.fields("GET", "/bytes/200000")).serialize()
    while True:
        time.sleep(0.05)
        yield b""


def toggled_windows(client: FrameClient) -> Iterator[bytes]:
    for _ in range(50):
        yield client.head(client.new(), client.fields("GET", "/bytes/200000")).serialize()
    yield from itertools.repeat(SettingsFrame(0, {4: 0}).serialize() + SettingsFrame(0, {4: 1}).serialize())


def unread_pings(client: FrameClient) -> Iterator[bytes]:
    yield from itertools.repeat(PingFrame(0, bytes(8)).serialize() * 100)


FLOODS: dict[str, Flood] = {
    "rapid reset": rapid_reset, "made you reset": made_you_reset, "made you reset by data": made_you_reset_by_data,
    "continuation": continuation, "large continuation": large_continuation, "empty continuation": empty_continuation,
    "ping": repeated(lambda client: PingFrame(0, bytes(8)).serialize()), "unread pings": unread_pings,
    "settings": repeated(lambda client: SettingsFrame(0, {3: 100}).serialize()),
    "empty settings": repeated(lambda client: SettingsFrame(0).serialize()),
    "window update": repeated(lambda client: raw(8, 0, 0, bytes((0, 0, 0, 1)))),
    "window update of a stream": repeated(lambda client: raw(8, 0, client.ask("/slow?s=1"), bytes((0, 0, 0, 1)))),
    "priority": repeated(lambda client: PriorityFrame(101, 0, 1, False).serialize()),
    "priority update": repeated(lambda client: raw(16, 0, 0, b"\0\0\0\1u=1")),
    "unknown frames": repeated(lambda client: raw(0x42, 0, 0, b"x" * 4)),
    "empty data": empty_data, "padding alone": padding_alone, "empty headers": empty_headers, "malformed headers": malformed_headers,
    "heads of a closed stream": heads_of_a_closed_stream,
    "bomb": bomb, "small bombs": small_bombs, "zero windows": zero_windows, "toggled windows": toggled_windows,
}  # fmt: skip


class Honest(threading.Thread):
    """Somebody else, whose requests are timed meanwhile."""

    def __init__(self, client: FrameClient) -> None:
        super().__init__(daemon=True)
        self.waits: list[float] = []
        self.stopped = threading.Event()
        self._client = client

    def run(self) -> None:
        while not self.stopped.wait(0.005) or len(self.waits) < 30:
            begun = time.monotonic()
            answer = self._client.answer(self._client.ask("/"))
            self.waits.append(time.monotonic() - begun if answer.status == 200 else 100.0)


def spray(client: FrameClient, flood: Flood, stop: threading.Event) -> None:
    """Send a flood until it is no longer taken, 64 KiB at a time."""
    gathered = b""
    with contextlib.suppress(OSError):
        for piece in flood(client):
            if stop.is_set():
                return
            gathered += piece
            if len(gathered) > 65536 or not piece:
                client.raw(gathered)
                gathered = b""


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_ends_with_a_goaway_and_nobody_else_notices(kind: str, attacked: Attacked) -> None:
    with attacked.connect() as other:
        assert other.answer(other.ask("/")).status == 200
        honest, stop = Honest(other), threading.Event()
        before = attacked.worker.memory_info().rss
        with attacked.flooded(acknowledge=False) as client:
            honest.start()
            began = time.monotonic()
            sprayer = threading.Thread(target=spray, args=(client, FLOODS[kind], stop), daemon=True)
            sprayer.start()
            while not client.goaways and client.frame(5.0) is not None:
                pass
            took = time.monotonic() - began
            stop.set()
        honest.stopped.set()
        sprayer.join(10)
        honest.join(10)
        waits = sorted(honest.waits)
    assert client.goaways and client.goaways[-1][1] == CALM, (client.goaways, took, client.error)
    assert took < patience(2.0)
    assert attacked.worker.memory_info().rss - before < 48 << 20
    # The flood is made in this process, and takes part of its time.
    assert len(waits) >= 30 and waits[len(waits) // 2] < patience(0.05)
    # The longest one may be a moment in which the whole worker, or this process, got no turn.
    assert waits[-2] < patience(0.7) and waits[-1] < patience(2.0)
    wait_for(lambda: attacked.backend.in_flight == 0, 10, "the end of the work upstream")
    assert attacked.system.worker_pids() == [attacked.worker.pid]
    assert "Traceback" not in attacked.system.log()


def test_a_flood_of_window_updates_for_what_was_sent_is_none(attacked: Attacked) -> None:
    """A client that tells of each byte that it has read, one by one."""
    with attacked.flooded(acknowledge=True) as client:
        stream = client.ask("/bytes/60000")
        got = client.answer(stream)
        assert len(got.body) == 60_000
        for _ in range(20):
            other = client.ask("/bytes/3000")
            client.until(lambda: other in client.got and client.got[other].over)  # noqa: B023
            client.send(*[WindowUpdateFrame(0, window_increment=100) for _ in range(30)])
        assert client.alive()
        assert isinstance(client.head(client.new(), client.fields()), HeadersFrame)
