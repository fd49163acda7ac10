"""How HTTP/2 connections end: in two steps, so that no request is lost; and in time where nothing whole comes. Also in the clear."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.backends import Backend
from tests.support.certificates import Authority
from tests.support.frames import PREFACE, FrameClient
from tests.support.system import System
from tests.support.waiting import free_port, patience, wait_for

NONE, CALM, LAST = 0, 11, 2**31 - 1


class Short:
    """A proxyd with short times and few requests for a connection, over TLS and in the clear."""

    def __init__(self, directory: Path, **settings: object) -> None:
        self.authority = Authority(directory)
        self.port = free_port()
        self.backend = Backend()
        self.system = System(directory / "system", tls__bind=f"127.0.0.1:{self.port}", proxy__http2_cleartext="yes",
                             tls__certificates=self.authority.issue("one.pem", "app.test"), **settings)  # type: ignore[arg-type]
        self.system.client().route("app.test", self.backend.url)

    def tls(self, **options: object) -> FrameClient:
        """A connection over TLS."""
        return FrameClient(self.port, self.authority.trusting(), "app.test", **options)  # type: ignore[arg-type]

    def clear(self, **options: object) -> FrameClient:
        """A connection in the clear."""
        return FrameClient(self.system.proxy_port, None, "app.test", **options)  # type: ignore[arg-type]

    def stop(self) -> None:
        self.system.stop()
        self.backend.stop()


@pytest.fixture(scope="module")
def short(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Short]:
    running = Short(tmp_path_factory.mktemp("ends"), workers=1, proxy__header_timeout="2s", proxy__keepalive_timeout="2s",
                    proxy__requests_per_connection=5)
    yield running
    running.stop()


def test_a_client_that_begins_with_http2_is_served_in_the_clear_and_others_get_http1(short: Short) -> None:
    with short.clear() as client:
        answer = client.answer(client.ask("/echo"))
        assert answer.status == 200
        assert b'"X-Forwarded-Proto", "http"]' in answer.body
    assert short.system.get("/").status == 200
    with socket.create_connection(("127.0.0.1", short.system.proxy_port), timeout=5) as sock:
        # Not the whole preface: HTTP/1.1 has no such version.
        sock.sendall(b"PRI * HTTP/2.0\r\nHost: app.test\r\n\r\n")
        assert sock.recv(100).startswith(b"HTTP/1.1 505 ")


def test_a_connection_says_goodbye_after_its_share_of_requests_and_serves_what_is_on_its_way(short: Short) -> None:
    with short.tls(acknowledge=False) as client:
        streams = [client.ask("/slow?s=0.1") for _ in range(5)]
        client.until(lambda: client.goaways)
        assert client.goaways == [(LAST, NONE)]
        streams.append(client.ask("/"))
        assert [answer.status for answer in client.answers(*streams)] == [200] * 6
        # It knows nothing of PING, so that the second step comes by the clock.
        assert client.goaway() == (streams[-1], NONE)
        assert client.ended
    with short.tls() as client:
        for _ in range(5):
            assert client.answer(client.ask("/")).status == 200
        assert client.goaway() == (9, NONE)
        assert len(client.goaways) == 2


def test_an_idle_connection_ends_with_goodbye(short: Short) -> None:
    with short.tls() as client:
        began = time.monotonic()
        assert client.answer(client.ask("/")).status == 200
        assert client.goaway() == (1, NONE)
        assert client.ended
        assert 1.8 < time.monotonic() - began < patience(5)


def test_a_header_that_has_begun_has_its_own_time_when_that_of_idle_connections_is_over(tmp_path: Path) -> None:
    patient = Short(tmp_path, workers=1, proxy__header_timeout="4s", proxy__keepalive_timeout="2s")
    try:
        with patient.tls() as first, patient.tls() as later:
            assert later.answer(later.ask("/")).status == 200
            halves = []
            for client, stream in ((later, 3), (first, 1)):
                # These pauses are what is tested.
                time.sleep(1)
                block = client.head(stream, client.fields("GET", "/echo")).serialize()
                # The header's frame without END_HEADERS, and half of its block.
                half = 9 + (len(block) - 9) // 2
                client.raw((half - 9).to_bytes(3, "big") + b"\x01\x01" + block[5:half])
                rest = block[half:]
                halves.append((client, stream, len(rest).to_bytes(3, "big") + b"\x09\x04" + block[5:9] + rest))
            # The idle time of the first one is over 4 s after it came, that of the other one 2 s after its answer.
            for (client, stream, rest), pause in zip(halves, (1, 1.5), strict=True):
                time.sleep(pause)
                client.raw(rest)
                assert client.answer(stream).status == 200
    finally:
        patient.stop()


def preface(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE


def settings(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE + bytes.fromhex("000000040000000000")


def half_a_preface(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE[:20]


def half_a_header(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE + bytes.fromhex("000000040000000000") + bytes.fromhex("00000101000000000182")


def half_a_frame(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE + bytes.fromhex("000000040000000000") + bytes.fromhex("000040010400000001") + b"\x82"


def trickled(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE + bytes.fromhex("000000040000000000") + bytes.fromhex("00000101000000000182")
    while True:
        yield bytes.fromhex("00000109000000000184")


def trickled_after_a_request(client: FrameClient) -> Iterator[bytes]:
    yield PREFACE + bytes.fromhex("000000040000000000")
    yield client.head(1, client.fields("GET", "/slow?s=3")).serialize() + bytes.fromhex("00000101000000000382")
    while True:
        yield bytes.fromhex("00000109000000000384")


@pytest.mark.parametrize(("send", "code"), [
    (preface, NONE), (settings, NONE), (half_a_preface, NONE), (half_a_header, CALM), (half_a_frame, CALM), (trickled, CALM),
    (trickled_after_a_request, CALM)], ids=lambda value: getattr(value, "__name__", ""))
def test_what_does_not_become_a_request_in_time_ends_the_connection(
        send: Callable[[FrameClient], Iterator[bytes]], code: int, short: Short) -> None:
    began = time.monotonic()
    with short.tls(greet=False, acknowledge=False) as client:
        pieces = send(client)
        while not client.ended:
            if (piece := next(pieces, b"")):
                client.raw(piece)
            try:
                client.frame(0.1)
            except TimeoutError:
                assert time.monotonic() - began < patience(5)
        assert 1.8 < time.monotonic() - began < patience(5)
        assert client.goaways[-1][1] == code
    if code:
        wait_for(lambda: "reason=header_timeout" in short.system.access_log())


class Asking(threading.Thread):
    """Somebody who asks without end, on a new connection where the old one has said goodbye, and sends again what may be sent again."""

    def __init__(self, connect: Callable[[], FrameClient]) -> None:
        super().__init__(daemon=True)
        self.done = 0
        self.lost: list[str] = []
        self.connections = 0
        self.stopped = threading.Event()
        self._connect = connect

    def run(self) -> None:
        while not self.stopped.is_set():
            self.connections += 1
            with self._connect() as client:
                self._use(client)

    def _use(self, client: FrameClient) -> None:
        while not self.stopped.is_set() and not client.goaways:
            streams = [client.ask(f"/slow?s={0.02 * number}") for number in range(4)]
            # Where the connection ends, what has come is judged below.
            with contextlib.suppress(AssertionError):
                client.until(lambda: all(stream in client.got and client.got[stream].over for stream in streams))  # noqa: B023
            for stream in streams:
                got = client.got.get(stream)
                if got is not None and got.status == 200 and got.ended:
                    self.done += 1
                elif not (got is not None and got.reset == 7) and not (client.goaways and stream > client.goaways[-1][0]):
                    self.lost.append(f"stream {stream}: {got}, {client.goaways}")


def test_no_request_is_lost_over_reloads(tmp_path: Path) -> None:
    running = Short(tmp_path, workers=1)
    try:
        askers = [Asking(running.tls), Asking(running.tls), Asking(running.clear)]
        for asker in askers:
            asker.start()
        for _ in range(3):
            old = set(running.system.worker_pids())
            wait_for(lambda: all(asker.done > 20 for asker in askers), 15)
            running.system.signal(signal.SIGHUP)
            wait_for(lambda: not old & set(running.system.worker_pids()) and running.system.ready(), 20, "new workers")  # noqa: B023
            for asker in askers:
                asker.done = 0
        wait_for(lambda: all(asker.done > 20 for asker in askers), 15)
        for asker in askers:
            asker.stopped.set()
        for asker in askers:
            asker.join(10)
        assert [asker.lost for asker in askers] == [[], [], []]
        assert all(asker.connections >= 4 for asker in askers)
    finally:
        running.stop()
