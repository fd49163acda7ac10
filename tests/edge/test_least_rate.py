"""Clients that trickle: heads, bodies and readers below the least rate are ended, others are not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import patience, wait_for


@pytest.fixture(scope="module")
def paced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd whose clients must be quick, and may be silent for long."""
    running = System(tmp_path_factory.mktemp("paced"), workers=1, proxy__min_request_rate=2000, proxy__min_response_rate="200k",
                     proxy__min_rate_window="600ms")
    yield running
    running.stop()


def trickle(wire: Wire, piece: bytes, pause: float, seconds: float) -> float:
    """Send the piece again and again until something comes back; returns the seconds it took."""
    begun = time.monotonic()
    wire.sock.settimeout(pause)
    while time.monotonic() - begun < seconds:
        wire.send(piece)
        try:
            if wire.more():
                break
        except TimeoutError:
            continue
    wire.sock.settimeout(10)
    return time.monotonic() - begun


@pytest.mark.parametrize(("begin", "piece"), [
    ("GET / HTTP/1.1\r\nHost: {host}\r\n", b"X-A: b\r\n"),
    ("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 60000\r\n\r\n", b"x"),
    ("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 70000\r\n\r\n", b"x"),
    ("POST / HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
], ids=["head", "small body", "large body", "chunked body"])
def test_a_request_that_trickles_is_408(begin: str, piece: bytes, paced: System, recorder: Recorder) -> None:
    host = make_route(paced, recorder.url)
    with Wire(paced.proxy_port) as wire:
        wire.send(begin.format(host=host))
        assert 0.4 < trickle(wire, piece, 0.1, patience(5)) < patience(4)
        response = wire.response()
        assert (response.status, response.get("x-proxyd-reason"), response.get("connection")) == (408, "request_too_slow", "close")
    wait_for(lambda: "request_too_slow" in paced.access_log())
    wait_for(lambda: 'proxyd_refusals_total{reason="request_too_slow"}' in paced.admin("/metrics").text)


def test_a_head_and_a_body_that_keep_the_rate_may_take_longer(paced: System, recorder: Recorder) -> None:
    host = make_route(paced, recorder.url)
    with Wire(paced.proxy_port) as wire:
        wire.send(f"POST / HTTP/1.1\r\nHost: {host}\r\n")
        # Several times the rate, so that a moment in which this process has no turn is paid for.
        for number in range(10):
            wire.send(f"X-{number}: {'b' * 2000}\r\n")
            time.sleep(0.1)
        wire.send("Content-Length: 40000\r\n\r\n")
        for _ in range(10):
            time.sleep(0.1)
            wire.send(b"x" * 4000)
        assert wire.response().status == 200


def test_a_client_that_waits_for_its_answer_or_its_backend_is_not_slow(paced: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        left = 20_000_000 - len(backend.receive_head(sock).partition(b"\r\n\r\n")[2])
        time.sleep(1.2)
        while left > 0:
            left -= len(sock.recv(1_000_000))
        time.sleep(1.2)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        time.sleep(1.2)
        sock.sendall(b"data: 2\n\n")

    backend = raw_backend(serve)
    with Wire(paced.proxy_port) as wire:
        wire.send(get(make_route(paced, backend.url), "/", "Content-Length: 20000000", "Connection: close", method="POST"))
        threading.Thread(target=wire.send, args=(b"x" * 20_000_000,), daemon=True).start()
        assert wire.rest().count(b"data: ") == 2


@pytest.mark.parametrize(("speed", "whole"), [(20_000, False), (2_000_000, True)])
def test_a_reader_below_the_rate_is_cut(speed: int, whole: bool, paced: System) -> None:
    size = 5_000_000
    large = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    host = make_route(paced, large.url)
    with Wire(paced.proxy_port, receive_buffer=4096) as wire:
        wire.send(get(host, f"/{speed}", "Connection: close"))
        begun = time.monotonic()
        got = 0
        line = ""
        while time.monotonic() - begun < 8 and not line:
            try:
                piece = wire.sock.recv(speed // 10)
            except ConnectionResetError:
                break
            got += len(piece)
            if not piece:
                break
            time.sleep(max(0.0, begun + got / speed - time.monotonic()))
            line = next((line for line in paced.access_log().splitlines() if f"/{speed} " in line), "")
    line = wait_for(lambda: next((line for line in paced.access_log().splitlines() if f"/{speed} " in line), ""))
    assert ("reading_too_slow" not in line) == whole, line
    large.stop()
