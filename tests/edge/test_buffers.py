"""request_buffer and response_buffer: a backend meets whole requests, and is free as soon as it has answered."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Recorder, Wire, get, read_message
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import patience, wait_for

RawBackends = Callable[[Callable[[socket.socket], None]], RawBackend]
LARGE = 24_000_000


@pytest.fixture(scope="module")
def buffering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd with room for 32 MB, whose clients may not trickle for long."""
    running = System(tmp_path_factory.mktemp("buffering"), workers=1, proxy__min_rate_window="3s", proxy__buffer_total="32m")
    yield running
    running.stop()


def body(wire: Wire) -> bytes:
    """The body of an answer behind which the connection is closed, read quickly now."""
    wire.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    data = bytearray(wire.data)
    while piece := wire.sock.recv(1 << 20):
        data += piece
    return bytes(data).partition(b"\r\n\r\n")[2]


class Threads:
    """A backend with a number of threads, each of which serves one connection after another, as WSGI servers do."""

    def __init__(self, count: int, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        self.answer = answer
        self.served = 0
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def _work(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                data = b""
                while not (data and read_message(data)[0].complete):
                    piece = sock.recv(1 << 20)
                    if not piece:
                        break
                    data += piece
                else:
                    sock.sendall(self.answer.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
                    self.served += 1

    def stop(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_slow_uploads_do_not_hold_the_threads_of_a_backend(buffering: System) -> None:
    backend = Threads(4)
    host = make_route(buffering, backend.url, request_buffer="1m")
    slow = [Wire(buffering.proxy_port).send(get(host, "/slow", "Content-Length: 70000", method="POST") + b"x") for _ in range(20)]
    begun = time.monotonic()
    for _ in range(10):
        assert buffering.get("/quick", host, "POST", b"x" * 70_000).status == 200
    assert time.monotonic() - begun < patience(2.5), "held by slow ones"
    for wire in slow:
        response = wire.response()
        assert (response.status, response.get("x-proxyd-reason")) == (408, "request_too_slow")
        wire.close()
    wait_for(lambda: backend.served == 10)
    backend.stop()


@pytest.mark.parametrize("size", [10, 70_000, 3_000_000])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_backend_gets_the_whole_body_with_its_length(size: int, chunked: bool, buffering: System, recorder: Recorder) -> None:
    host = make_route(buffering, recorder.url, request_buffer="4m")
    recorder.forget()
    sent = bytes(range(250)) * (size // 250) + b"." * (size % 250)
    half = size // 2
    with Wire(buffering.proxy_port) as wire:
        if chunked:
            wire.send(get(host, "/", "Transfer-Encoding: chunked", method="POST"))
            wire.send(b"%x\r\n%b\r\n" % (half, sent[:half]))
        else:
            wire.send(get(host, "/", f"Content-Length: {size}", method="POST") + sent[:half])
        # The backend must not hear of it, however long one waits.
        time.sleep(0.2)
        assert recorder.requests() == []
        wire.send(b"%x\r\n%b\r\n0\r\n\r\n" % (size - half, sent[half:]) if chunked else sent[half:])
        assert wire.response().status == 200
    (request,) = recorder.requests()
    assert request.body == sent and request.get("content-length") == str(size) and request.get("transfer-encoding") is None


def test_trailers_stay_behind_a_chunked_body(buffering: System, recorder: Recorder) -> None:
    host = make_route(buffering, recorder.url, request_buffer="on")
    recorder.forget()
    with Wire(buffering.proxy_port) as wire:
        wire.send(get(host, "/", "Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\nX-Sum: 6\r\n\r\n")
        assert wire.response().status == 200
    (request,) = recorder.requests()
    assert (request.body, request.trailers) == (b"abc", [("X-Sum", "6")])


def test_the_rest_of_a_body_that_does_not_fit_is_streamed(buffering: System, recorder: Recorder) -> None:
    host = make_route(buffering, recorder.url, request_buffer="100k")
    recorder.forget()
    with Wire(buffering.proxy_port) as wire:
        wire.send(get(host, "/", "Content-Length: 300000", method="POST") + b"a" * 200_000)
        wait_for(lambda: recorder.streams and len(recorder.streams[-1]) > 200_000)
        assert wire.send(b"b" * 100_000).response().status == 200
    assert recorder.requests()[-1].body == b"a" * 200_000 + b"b" * 100_000


def test_the_bound_on_bodies_holds_while_one_is_kept(buffering: System, recorder: Recorder) -> None:
    host = make_route(buffering, recorder.url, request_buffer="on", max_body_size="100k")
    recorder.forget()
    chunk = b"2000\r\n" + b"x" * 8192 + b"\r\n"
    with Wire(buffering.proxy_port) as wire:
        response = wire.send(get(host, "/", "Transfer-Encoding: chunked", method="POST") + chunk * 30 + b"0\r\n\r\n").response()
    assert (response.status, response.get("x-proxyd-reason")) == (413, "body_too_large")
    assert recorder.requests() == []


def test_a_kept_body_is_sent_again(buffering: System, raw_backend: RawBackends) -> None:
    seen: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        data = b""
        while not (data and read_message(data)[0].complete):
            data += sock.recv(1 << 20)
        seen.append(read_message(data)[0].body)
        status = b"503 No" if len(seen) == 1 else b"200 OK"
        sock.sendall(b"HTTP/1.1 %b\r\nContent-Length: 0\r\n\r\n" % status)

    host = make_route(buffering, raw_backend(serve).url, request_buffer="1m", retry="true", retry_backoff="none")
    sent = b"0123456789" * 50_000
    assert buffering.get("/", host, "PUT", sent).status == 200
    assert seen == [sent, sent]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_backend_is_free_as_soon_as_it_has_answered(chunked: bool, buffering: System) -> None:
    large = b"x" * LARGE
    backend = Threads(1, b"HTTP/1.1 200 OK\r\n" + (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (LARGE, large) if chunked else
        b"Content-Length: %d\r\n\r\n%b" % (LARGE, large)))
    host = make_route(buffering, backend.url, response_buffer="30m", max_in_flight="1")
    with Wire(buffering.proxy_port, receive_buffer=65536) as wire:
        wire.send(get(host, "/large", "Connection: close"))
        wait_for(lambda: backend.served == 1, 5, "the backend to be free while nobody reads")
        backend.answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        wait_for(lambda: buffering.get("/", host).body == b"ok", 5, "the place of the first request to be free")
        # Chunks have their sizes between them.
        assert body(wire).count(b"x") == LARGE
    backend.stop()


def test_a_connection_goes_back_to_the_pool_while_the_client_reads(buffering: System, raw_backend: RawBackends) -> None:
    back = threading.Event()

    def serve(sock: socket.socket) -> None:
        was_large = False
        while request := backend.receive_head(sock):
            if was_large:
                break
            was_large = b"/large" in request
            size = LARGE if was_large else 2
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
        if was_large:
            # It was used again; or there was no room for it, because the other connection was there before.
            back.set()

    backend = raw_backend(serve)
    host = make_route(buffering, backend.url, response_buffer="30m", pool_size="1")
    with Wire(buffering.proxy_port, receive_buffer=65536) as wire:
        wire.send(get(host, "/large", "Connection: close"))
        wait_for(lambda: buffering.get("/", host).status and back.is_set(), 5)
        assert len(body(wire)) == LARGE


def test_what_does_not_fit_streams_with_back_pressure(buffering: System, raw_backend: RawBackends) -> None:
    sent = [0]

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000000\r\n\r\n")
        for _ in range(600):
            sock.sendall(b"x" * 100_000)
            sent[0] += 100_000

    backend = raw_backend(serve)
    host = make_route(buffering, backend.url, response_buffer="1m")
    with Wire(buffering.proxy_port, receive_buffer=65536) as wire:
        wire.send(get(host, "/", "Connection: close"))
        wait_for(lambda: sent[0] > 1_000_000)
        # Kernel buffers take some megabytes beside ours, and then no more.
        seen = -1
        while seen != sent[0]:
            seen = sent[0]
            time.sleep(0.1)
        assert seen < 40_000_000
        assert len(body(wire)) == 60_000_000


def test_an_answer_that_ends_early_is_cut_behind_what_came(buffering: System, raw_backend: RawBackends) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 500_000)

    backend = raw_backend(serve)
    host = make_route(buffering, backend.url, response_buffer="30m")
    with Wire(buffering.proxy_port) as wire:
        message = wire.send(get(host, "/early")).response()
        assert not message.complete and wire.ended()
    wait_for(lambda: "upstream_truncated" in buffering.access_log())


def test_events_and_small_answers_come_at_once(buffering: System, raw_backend: RawBackends) -> None:
    go = threading.Event()

    def serve(sock: socket.socket) -> None:
        kind = b"text/event-stream" if b"/events" in backend.receive_head(sock) else b"text/plain"
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n" % kind)
        go.wait(10)
        sock.sendall(b"3\r\ntwo\r\n0\r\n\r\n")

    backend = raw_backend(serve)
    host = make_route(buffering, backend.url, response_buffer="on")
    for path in ("/events", "/plain"):
        go.clear()
        with Wire(buffering.proxy_port) as wire:
            wire.send(get(host, path)).until(b"one")
            go.set()
            assert wire.response().body == b"onetwo"


def unbuffered(system: System) -> int:
    """How many bodies were not buffered for want of room."""
    return sum(int(number) for number in re.findall(r"^proxyd_unbuffered_total\{.*\} (\d+)", system.admin("/metrics").text, re.M))


def test_without_room_bodies_stream(buffering: System, recorder: Recorder) -> None:
    large = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 70000000\r\n\r\n" + b"x" * 70_000_000)
    host = make_route(buffering, large.url, response_buffer="100m")
    small = make_route(buffering, recorder.url, request_buffer="100m")
    recorder.forget()
    before = unbuffered(buffering)
    with Wire(buffering.proxy_port, receive_buffer=65536) as wire:
        wire.send(get(host, "/", "Connection: close"))
        wait_for(lambda: "buffer_total (32m) is used up" in buffering.log())
        assert buffering.get("/", small, "POST", b"y" * 2_000_000).status == 200
        assert len(body(wire)) == 70_000_000
    assert recorder.requests()[-1].body == b"y" * 2_000_000
    wait_for(lambda: unbuffered(buffering) >= before + 2)
    large.stop()


def test_an_answer_read_ahead_has_its_bound(buffering: System, raw_backend: RawBackends) -> None:
    def serve(sock: socket.socket) -> None:
        known = b"/known" in backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\n" + (b"Content-Length: 300000\r\n\r\n" if known else b"\r\n") + b"x" * 300_000)

    backend = raw_backend(serve)
    host = make_route(buffering, backend.url, response_buffer="on", max_response_body="100k")
    assert buffering.get("/known", host).headers["X-Proxyd-Reason"] == "response_too_large"
    with Wire(buffering.proxy_port) as wire:
        assert not wire.send(get(host, "/unknown")).response().complete
