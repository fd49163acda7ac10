"""Event streams, long polls and anything else that comes bit by bit: each bit is with the client before the next is sent."""

from __future__ import annotations

import queue
import socket
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard

from tests.edge.conftest import make_route
from tests.edge.wire import Wire, get, read_message
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import wait_for


class Source:
    """A backend that sends what the test puts into it, when the test does so."""

    def __init__(self, make: Callable[..., RawBackend], head: str) -> None:
        self.pieces: queue.Queue[bytes] = queue.Queue()
        self._head = head
        self.backend = make(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        self.backend.receive_head(sock)
        sock.sendall(f"HTTP/1.1 200 OK\r\n{self._head}\r\n\r\n".encode())
        while piece := self.pieces.get(timeout=10):
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if "chunked" in self._head else piece)
        if "chunked" in self._head:
            sock.sendall(b"0\r\n\r\n")

    def say(self, piece: bytes) -> None:
        """Send a piece; an empty one ends the response."""
        self.pieces.put(piece)


def payload(wire: Wire) -> bytes:
    """What of the body has come so far."""
    return read_message(wire.data, "GET")[0].body if b"\r\n\r\n" in wire.data else b""


EVENTS = [b"data: %d\n\n" % number for number in range(5)]


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Connection: close", "Content-Length: 45"])
def test_every_event_comes_before_the_next_is_made(framing: str, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    source = Source(raw_backend, f"Content-Type: text/event-stream\r\n{framing}")
    host = make_route(edge, source.backend.url)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host)).until(b"\r\n\r\n")
        assert payload(wire) == b"", "the header comes before the first event"
        told = b""
        for event in EVENTS:
            source.say(event)
            told += event
            wire.until(event)
            assert payload(wire) == told
        source.say(b"")
        assert wire.response().body == told


DECODERS: dict[str, Callable[[], Callable[[bytes], bytes]]] = {
    "gzip": lambda: zlib.decompressobj(31).decompress,
    "br": lambda: brotli.Decompressor().process,
    "zstd": lambda: zstandard.ZstdDecompressor().decompressobj().decompress,
}


@pytest.mark.parametrize("coding", list(DECODERS))
@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Connection: close"])
def test_compressed_events_stay_live(coding: str, framing: str, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    source = Source(raw_backend, f"Content-Type: text/event-stream\r\n{framing}")
    host = make_route(edge, source.backend.url, compression=True)
    decode = DECODERS[coding]()
    with Wire(edge.proxy_port) as wire:
        head = wire.send(get(host, "/", f"Accept-Encoding: {coding}")).until(b"\r\n\r\n")
        assert f"Content-Encoding: {coding}\r\n".encode() in head
        decoded, fed = b"", 0
        for event in EVENTS:
            source.say(event)
            while not decoded.endswith(event):
                assert wire.more()
                body = payload(wire)
                decoded += decode(body[fed:])
                fed = len(body)
        assert decoded == b"".join(EVENTS)
        source.say(b"")
        assert wire.response().complete


def test_a_long_poll_waits_and_answers_at_once(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    answers: queue.Queue[bytes] = queue.Queue()

    def serve(sock: socket.socket) -> None:
        while backend.receive_head(sock):
            sock.sendall(answers.get(timeout=10))

    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host))
        wait_for(lambda: backend.received)
        answers.put(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnews")
        assert wire.response().body == b"news"


def test_a_silent_stream_is_cut_after_read_timeout(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    source = Source(raw_backend, "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked")
    host = make_route(edge, source.backend.url, read_timeout="300ms")
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host))
        source.say(b"data: 1\n\n")
        assert wire.reset_by_peer(3)
    source.say(b"")


def test_a_hundred_streams_at_once_are_all_live(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    subscribers: list[socket.socket] = []
    done: queue.Queue[object] = queue.Queue()

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        subscribers.append(sock)
        done.get(timeout=20)

    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    clients = [Wire(edge.proxy_port).send(get(host)) for _ in range(100)]
    wait_for(lambda: len(subscribers) == 100)
    for event in EVENTS[:3]:
        for subscriber in subscribers:
            subscriber.sendall(event)
        for client in clients:
            assert event in client.until(event)
    for client in clients:
        client.close()
        done.put(None)
