"""Bounds on what a client may do: sizes, counts, times, and how many slow ones there may be."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import patience, wait_for


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A proxyd with small bounds."""
    running = System(
        tmp_path_factory.mktemp("tight"), workers=1, proxy__header_timeout="700ms", proxy__body_timeout="2s",
        proxy__max_request_line=300, proxy__max_header_count=20, proxy__max_header_size="2k", proxy__max_body_size="100k",
        proxy__requests_per_connection=3,
        proxy__keepalive_timeout="600ms")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def host(tight: System, recorder: Recorder) -> str:
    return make_route(tight, recorder.url)


def refusal(system: System, sent: bytes) -> tuple[int, str | None]:
    """Status and reason of the one answer to `sent`, behind which the connection is closed."""
    with Wire(system.proxy_port) as wire:
        response = wire.send(sent).response()
        assert response.get("connection") == "close"
        assert wire.ended()
        return response.status, response.get("x-proxyd-reason")


def test_a_request_line_up_to_its_bound_passes_and_a_longer_one_is_414(tight: System, host: str) -> None:
    fits = "/" + "x" * (300 - len("GET / HTTP/1.1"))
    assert tight.get(fits, host).status == 200
    assert refusal(tight, get(host, fits + "x")) == (414, "request_line_too_long")


@pytest.mark.parametrize("length", [1_500, 10_000, 1_000_000])
def test_a_request_line_of_any_length_is_414(length: int, tight: System, host: str) -> None:
    assert refusal(tight, get(host, "/" + "x" * length))[0] == 414


def test_a_request_line_without_end_is_414_before_it_is_all_read(tight: System) -> None:
    assert refusal(tight, b"GET /" + b"x" * 5_000)[0] == 414


def test_too_many_fields_are_431(tight: System, host: str) -> None:
    with Wire(tight.proxy_port) as wire:
        assert wire.send(get(host, "/", *["X-A: b"] * 19)).response().status == 200
    assert refusal(tight, get(host, "/", *["X-A: b"] * 20)) == (431, "too_many_fields")


def test_a_header_too_large_is_431_whether_it_ends_or_not(tight: System, host: str) -> None:
    assert refusal(tight, get(host, "/", "X-A: " + "b" * 3000))[0] == 431
    assert refusal(tight, get(host, "/", *[f"X-{n}: " + "b" * 190 for n in range(12)]))[0] == 431
    assert refusal(tight, f"GET / HTTP/1.1\r\nHost: {host}\r\nX-A: {'b' * 5000}".encode())[0] == 431


def test_a_body_said_to_be_too_large_is_413_before_any_of_it_is_read(tight: System, recorder: Recorder, host: str) -> None:
    before = len(recorder.requests())
    head = get(host, "/large", "Content-Length: 102401", method="POST")
    assert refusal(tight, head) == (413, "body_too_large")
    assert refusal(tight, get(host, "/large", "Content-Length: 102401", "Expect: 100-continue", method="POST")) == (413, "body_too_large")
    assert len(recorder.requests()) == before
    with Wire(tight.proxy_port) as wire:
        assert wire.send(get(host, "/", "Content-Length: 102400", method="POST") + b"x" * 102400).response().status == 200


def test_a_chunked_body_is_cut_at_its_bound(tight: System, recorder: Recorder, host: str) -> None:
    chunk = b"2000\r\n" + b"x" * 8192 + b"\r\n"
    with Wire(tight.proxy_port) as wire:
        response = wire.send(get(host, "/chunked", "Transfer-Encoding: chunked", method="POST") + chunk * 30 + b"0\r\n\r\n").response()
        assert (response.status, response.get("connection")) == (413, "close")
    (got,) = wait_for(lambda: [request for request in recorder.requests() if request.line.startswith("POST /chunked")])
    assert not got.complete, "what was cut must not look whole"
    assert len(got.body) <= 102400


def test_a_route_can_set_its_own_bound(tight: System, recorder: Recorder) -> None:
    small = make_route(tight, recorder.url, max_body_size="10")
    assert refusal(tight, get(small, "/", "Content-Length: 11", method="POST")) == (413, "body_too_large")


def test_an_incomplete_header_is_answered_408_in_time(tight: System, host: str) -> None:
    begun = time.monotonic()
    assert refusal(tight, f"GET / HTTP/1.1\r\nHost: {host}\r\n".encode()) == (408, "header_timeout")
    assert 0.5 < time.monotonic() - begun < patience(3)


def test_trickling_does_not_prolong_the_time_for_a_header(tight: System, host: str) -> None:
    begun = time.monotonic()
    with Wire(tight.proxy_port) as wire:
        wire.send(f"GET / HTTP/1.1\r\nHost: {host}\r\n")
        wire.sock.settimeout(0.1)
        while time.monotonic() - begun < patience(3):
            wire.send("X-A: b\r\n")
            try:
                if wire.more():
                    break
            except TimeoutError:
                continue
        assert wire.data.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begun < patience(3)


def test_a_connection_on_which_nothing_comes_is_closed_without_a_word(tight: System, host: str) -> None:
    with Wire(tight.proxy_port) as wire:
        assert wire.ended(3)
    with Wire(tight.proxy_port) as wire:
        assert wire.send(get(host)).response().status == 200
        assert wire.ended(3), "idle after a request"


@pytest.mark.parametrize("framing", ["Content-Length: 100", "Content-Length: 90000", "Transfer-Encoding: chunked"])
def test_a_body_that_stops_coming_is_answered_408(framing: str, tight: System, recorder: Recorder, host: str) -> None:
    with Wire(tight.proxy_port) as wire:
        wire.send(get(host, "/stalled", framing, method="POST") + b"4\r\nabcd\r\n")
        response = wire.response()
        assert (response.status, response.get("x-proxyd-reason"), response.get("connection")) == (408, "body_timeout", "close")
        assert wire.ended()
    assert not [request for request in recorder.requests() if "/stalled" in request.line and request.complete]


def test_a_client_that_stops_reading_is_cut(tight: System) -> None:
    large = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 50000000\r\n\r\n" + b"x" * 50_000_000)
    stopped = make_route(tight, large.url)
    with Wire(tight.proxy_port) as wire:
        wire.send(get(stopped))
        wait_for(lambda: "response_write" in tight.access_log(), 5, "the cut in the access log")
    large.stop()


@pytest.mark.parametrize("secured", [False, True], ids=["plain", "TLS"])
def test_a_client_that_reads_slowly_but_steadily_is_not_cut(secured: bool, tight: System, secure: Secure) -> None:
    size = 4_500_000
    large = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)
    slow = secure.route(large.url) if secured else make_route(tight, large.url)
    sock = socket.socket()
    # Or the kernel takes in most of it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    sock.settimeout(10)
    sock.connect(("127.0.0.1", secure.port if secured else tight.proxy_port))
    if secured:
        sock = secure.authority.trusting().wrap_socket(sock, server_hostname=slow)
    with sock:
        sock.sendall(get(slow, "/", "Connection: close"))
        got, began = b"", time.monotonic()
        # To the end, since what the kernel holds can be read after a cut, too.
        while piece := sock.recv(65536):
            got += piece
            time.sleep(max(0.0, began + len(got) / 1_500_000 - time.monotonic()))
        assert len(got.partition(b"\r\n\r\n")[2]) == size, "cut"
    large.stop()


def test_a_backend_that_takes_a_body_slowly_but_steadily_gets_it_all(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        left = 4_000_000 - len(backend.receive_head(sock).partition(b"\r\n\r\n")[2])
        while left > 0:
            time.sleep(0.065)
            left -= len(sock.recv(100_000))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    backend = raw_backend(serve)
    host = make_route(edge, backend.url, timeout="2s")
    began = time.monotonic()
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get(host, "/", "Content-Length: 4000000", method="POST") + b"x" * 4_000_000).response().status == 200
    assert time.monotonic() - began > 2.2


def test_a_connection_ends_after_its_share_of_requests(tight: System, host: str) -> None:
    with Wire(tight.proxy_port) as wire:
        wire.send(get(host) * 5)
        assert [wire.response().get("connection") for _ in range(3)] == [None, None, "close"]
        assert wire.ended()


@contextlib.contextmanager
def many_files() -> Iterator[None]:
    """Room for thousands of sockets, here and in what is started here."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else 65536, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def latencies(system: System, host: str) -> list[float]:
    """The seconds that each of some requests took, from the shortest to the longest."""
    taken = []
    for _ in range(100):
        begun = time.perf_counter()
        assert system.get("/", host).status == 200
        taken.append(time.perf_counter() - begun)
    return sorted(taken)


@pytest.mark.slow
def test_two_thousand_trickling_clients_leave_latency_as_it_was_and_do_not_last(new_system: Callable[..., System]) -> None:
    recorder = Recorder()
    with many_files():
        system = new_system(workers=2, proxy__header_timeout="5s", proxy__body_timeout="2s")
        host = make_route(system, recorder.url)
        before = latencies(system, host)
        half = [f"GET / HTTP/1.1\r\nHost: {host}\r\n", f"POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 60000\r\n\r\n"]
        began = time.monotonic()
        slow = [Wire(system.proxy_port, 15).send(half[number % 2]) for number in range(2000)]
        ending = threading.Event()

        def trickle() -> None:
            while not ending.wait(1):
                for number, wire in enumerate(slow):
                    wire.send("x" if number % 2 else f"X-{number}: 1\r\n")

        thread = threading.Thread(target=trickle)
        thread.start()
        during = latencies(system, host)
        assert time.monotonic() - began < patience(5), "measured too late: they are being cut already"
        ending.set()
        thread.join()
        for share in (50, 90):
            quick, slowed = before[share], during[share]
            assert slowed < quick * 3 + 0.005, f"{share}%: {quick * 1000:.2f} ms before, {slowed * 1000:.2f} ms during"
        # What trickled did not last longer than what stalls: each has its 408, or is cut.
        for wire in slow:
            assert wire.response().status == 408
            wire.close()
        recorder.stop()
