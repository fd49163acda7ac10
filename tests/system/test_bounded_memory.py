"""Bodies of a gibibyte pass through a worker in bounded memory, however slow the side is that takes them."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import wait_for

GIB = 1 << 30
PIECE = memoryview(bytes(1 << 20))
CHUNK = b"%x\r\n%b\r\n" % (len(PIECE), bytes(PIECE))
LAST = b"0\r\n\r\n"
GROWTH = 32 << 20
#: What lies in the kernel's buffers of two connections may not grow with the body either.
UNDERWAY = 64 << 20
MakeBackend = Callable[..., RawBackend]


class Memory:
    """The largest resident size of the workers above that at the start."""

    def __init__(self, system: System) -> None:
        self._workers = [psutil.Process(pid) for pid in system.worker_pids()]
        self._before = [worker.memory_info().rss for worker in self._workers]
        self.growth = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(0.01):
            for worker, before in zip(self._workers, self._before, strict=True):
                self.growth = max(self.growth, worker.memory_info().rss - before)

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.growth


@pytest.fixture
def memory(system: System) -> Iterator[Memory]:
    system.get("/", "warm.test")
    watched = Memory(system)
    yield watched
    watched.stop()


def head_of(sock: socket.socket) -> tuple[bytes, bytes]:
    """A message's head, and what came behind it."""
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        assert piece, f"the connection ended after {data!r}"
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def count(sock: socket.socket, rest: bytes, size: int) -> int:
    """Bytes that come, those of `rest` included, until there are `size` of them, or the last chunk, or the end."""
    buffer, got, tail = memoryview(bytearray(1 << 20)), len(rest), rest[-5:]
    while got < size and tail != LAST:
        piece = sock.recv_into(buffer)
        if not piece:
            break
        got += piece
        tail = (tail + bytes(buffer[max(0, piece - 5):piece]))[-5:]
    return got


def framing(chunked: bool) -> tuple[bytes, memoryview | bytes, int, bytes]:
    """The header field, each piece on the wire, the number of pieces, and the end. With chunks a quarter has to do."""
    if chunked:
        return b"Transfer-Encoding: chunked", CHUNK, GIB // 4 // len(PIECE), LAST
    return b"Content-Length: %d" % GIB, PIECE, GIB // len(PIECE), b""


def connect(system: System) -> socket.socket:
    return socket.create_connection(("127.0.0.1", system.proxy_port), timeout=60)


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
def test_a_gibibyte_down(system: System, raw_backend: MakeBackend, memory: Memory, chunked: bool) -> None:
    field, piece, pieces, end = framing(chunked)
    sent = [0]

    def serve(sock: socket.socket) -> None:
        head_of(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + field + b"\r\n\r\n")
        for _ in range(pieces):
            sock.sendall(piece)
            sent[0] += len(piece)
        sock.sendall(end)

    host = f"down{chunked}.test".lower()
    system.client("down", host).route(host, raw_backend(serve).url)
    with connect(system) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHost: %b\r\nConnection: close\r\n\r\n" % host.encode())
        settled(sent)
        assert sent[0] < UNDERWAY, "a client that does not read holds the backend up"
        head, rest = head_of(sock)
        assert head.startswith(b"HTTP/1.1 200 ")
        got = count(sock, rest, 2 * GIB)
    # The proxy frames chunks as it reads them, so with chunks there is a little more or less around the body.
    assert abs(got - pieces * len(PIECE)) <= (got // 100 if chunked else 0)
    assert memory.stop() < GROWTH


@pytest.mark.slow
@pytest.mark.parametrize("chunked", [False, True])
def test_a_gibibyte_up(system: System, raw_backend: MakeBackend, memory: Memory, chunked: bool) -> None:
    field, piece, pieces, end = framing(chunked)
    size = pieces * len(PIECE)
    reads, got, sent = threading.Event(), [0], [0]

    def serve(sock: socket.socket) -> None:
        _, rest = head_of(sock)
        reads.wait(60)
        got[0] = count(sock, rest, 2 * GIB if chunked else size)
        sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    host = f"up{chunked}.test".lower()
    system.client("up", host).route(host, raw_backend(serve).url)
    with connect(system) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: %b\r\n%b\r\n\r\n" % (host.encode(), field))

        def send() -> None:
            for _ in range(pieces):
                sock.sendall(piece)
                sent[0] += len(piece)
            sock.sendall(end)

        sender = threading.Thread(target=send, daemon=True)
        sender.start()
        settled(sent)
        assert sent[0] < UNDERWAY, "a backend that does not read holds the client up"
        reads.set()
        head, _ = head_of(sock)
        sender.join(60)
    assert head.startswith(b"HTTP/1.1 204 ")
    assert 0 <= got[0] - size <= (size // 100 if chunked else 0)
    assert memory.stop() < GROWTH


def settled(sent: list[int]) -> None:
    """Wait until something was sent and no more is."""
    wait_for(lambda: sent[0], 30, "the first piece")
    before = -1
    while before != sent[0]:
        before = sent[0]
        time.sleep(0.25)
