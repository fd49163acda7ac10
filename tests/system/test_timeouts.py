"""Each timeout, proven by a backend that stalls at that very point; the answer names which one it was."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.backends import Backend, MakeRaw, RawBackend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for

SHORT = 0.3
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n"


def served(system: System, name: str, url: str, **options: object) -> tuple[RegistryClient, str]:
    """Register `name`.test with options."""
    client = system.client(name)
    route_id = client.route(f"{name}.test", url, apply=not options)
    if options:
        client.options(route_id, **options)
    return client, route_id


def stalling(raw_backend: MakeRaw, release: threading.Event, *pieces: bytes) -> RawBackend:
    """A backend that reads a request's head, sends the pieces, and then says nothing until `release`."""
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        for piece in pieces:
            sock.sendall(piece)
        release.wait(10)

    backend = raw_backend(serve)
    return backend


@pytest.fixture
def release() -> Iterator[threading.Event]:
    """Set in the end, so that no backend's thread outlives its test."""
    event = threading.Event()
    yield event
    event.set()


def test_connect_timeout_bounds_the_opening_of_a_connection(system: System, full_port: int) -> None:
    served(system, "connect", f"http://127.0.0.1:{full_port}", connect_timeout="300ms")
    begun = time.monotonic()
    answer = system.get("/", "connect.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "connect_timeout")
    assert SHORT <= time.monotonic() - begun < patience(SHORT + 1)


def test_timeout_bounds_the_wait_for_the_response_header(system: System, raw_backend: MakeRaw, release: threading.Event) -> None:
    backend = stalling(raw_backend, release)
    served(system, "header", backend.url, timeout="300ms")
    begun = time.monotonic()
    answer = system.get("/", "header.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "timeout")
    assert SHORT <= time.monotonic() - begun < patience(SHORT + 1)
    assert answer.json()["detail"] == "the upstream did not answer in time (timeout)"


def test_timeout_holds_in_the_middle_of_a_response_header_too(system: System, raw_backend: MakeRaw, release: threading.Event) -> None:
    backend = stalling(raw_backend, release, HEAD[:20])
    served(system, "half", backend.url, timeout="300ms")
    answer = system.get("/", "half.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "timeout")


def test_timeout_holds_for_an_upstream_that_does_not_take_the_body(system: System, raw_backend: MakeRaw, release: threading.Event) -> None:
    backend = stalling(raw_backend, release)
    served(system, "body", backend.url, timeout="300ms")
    with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nHost: body.test\r\nContent-Length: 50000000\r\n\r\n")

        def send() -> None:
            with contextlib.suppress(OSError):
                sock.sendall(b"x" * 50_000_000)

        threading.Thread(target=send, daemon=True).start()
        answer = sock.recv(65536).decode()
    assert answer.startswith("HTTP/1.1 504 ")
    assert "X-Proxyd-Reason: request_send\r\n" in answer


def test_read_timeout_bounds_the_silence_within_a_body_and_cuts_it(system: System, raw_backend: MakeRaw, release: threading.Event) -> None:
    backend = stalling(raw_backend, release, HEAD + b"12345")
    served(system, "stalled", backend.url, read_timeout="300ms", timeout="5s")
    before, begun = len(system.log()), time.monotonic()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        system.get("/", "stalled.test")
    assert SHORT <= time.monotonic() - begun < patience(SHORT + 1)
    wait_for(lambda: "read_timeout" in system.log()[before:], what="the word of it in the log")


def test_read_timeout_is_for_each_silence_not_for_the_whole_body(system: System, raw_backend: MakeRaw) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(HEAD)
        for _ in range(10):
            time.sleep(0.25)
            sock.sendall(b"x")

    backend = raw_backend(serve)
    # Less than the whole body takes, and more than a backend waits for its turn on a busy machine.
    served(system, "trickle", backend.url, read_timeout="2s")
    assert system.get("/", "trickle.test").body == b"x" * 10


def test_a_silence_behind_many_pieces_is_cut_after_its_own_time(system: System, raw_backend: MakeRaw, release: threading.Event) -> None:
    last: list[float] = []

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(HEAD)
        for _ in range(8):
            time.sleep(0.06)
            sock.sendall(b"x")
        last.append(time.monotonic())
        release.wait(20)

    backend = raw_backend(serve)
    # Longer than a busy machine makes one of the pieces wait.
    silence = 2.0
    served(system, "hushed", backend.url, read_timeout=f"{silence}s")
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        system.get("/", "hushed.test")
    assert silence - 0.05 <= time.monotonic() - last[0] < patience(silence + 1)


def test_total_timeout_bounds_all_of_it(system: System, raw_backend: MakeRaw, release: threading.Event, full_port: int) -> None:
    backend = stalling(raw_backend, release)
    served(system, "total", backend.url, total_timeout="300ms")
    begun = time.monotonic()
    answer = system.get("/", "total.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "total_timeout")
    assert SHORT <= time.monotonic() - begun < patience(SHORT + 1)


def test_total_timeout_bounds_a_connect_that_may_last_longer(system: System, full_port: int) -> None:
    served(system, "totalconnect", f"http://127.0.0.1:{full_port}", total_timeout="300ms")
    answer = system.get("/", "totalconnect.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "total_timeout")


def test_total_timeout_cuts_a_body_that_trickles_on_and_on(system: System, raw_backend: MakeRaw) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        for _ in range(400):
            time.sleep(0.05)
            sock.sendall(b"x")

    backend = raw_backend(serve)
    # Time for the head to get through on a busy machine: else the answer would be a whole one, a 504.
    served(system, "endless", backend.url, total_timeout="2s")
    begun = time.monotonic()
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        system.get("/", "endless.test")
    assert time.monotonic() - begun < patience(3.5)


def test_total_timeout_includes_the_retries(system: System, raw_backend: MakeRaw, release: threading.Event) -> None:
    backend = stalling(raw_backend, release)
    served(system, "totalretry", backend.url, total_timeout="4500ms", timeout="1800ms", retry="true", retry_max_attempts=9,
           retry_backoff="none")
    begun = time.monotonic()
    answer = system.get("/", "totalretry.test")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "total_timeout")
    assert time.monotonic() - begun < patience(5.5)
    # The third is begun almost a second before the end, on a machine that is not busy.
    assert len(backend.received) == 3


@pytest.mark.parametrize("length", [1000, 1_000_000])
def test_total_timeout_bounds_a_client_that_sends_its_body_slowly_and_blames_nobody_else(
        system: System, raw_backend: MakeRaw, release: threading.Event, length: int) -> None:
    backend = stalling(raw_backend, release)
    client, route_id = served(system, f"slowly{length}", backend.url, total_timeout="400ms", circuit_breaker="true", circuit_threshold=1)
    with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as sock:
        sock.sendall(f"PUT / HTTP/1.1\r\nHost: slowly{length}.test\r\nContent-Length: {length}\r\n\r\nbegun".encode())
        begun = time.monotonic()
        answer = sock.recv(65536).decode()
        assert time.monotonic() - begun < patience(1.5)
    assert answer.startswith("HTTP/1.1 408 ")
    assert "X-Proxyd-Reason: total_timeout\r\n" in answer
    assert client.json(f"CIRCUIT_BREAKER_STATUS|SID|{route_id}")["state"] == "closed"


def test_total_timeout_bounds_the_opening_of_a_websocket_too(system: System, full_port: int) -> None:
    served(system, "tunnel", f"ws://127.0.0.1:{full_port}", total_timeout="300ms")
    begun = time.monotonic()
    answer = system.get("/", "tunnel.test", Upgrade="websocket", Connection="Upgrade", Sec_WebSocket_Version="13",
                        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==")
    assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (504, "total_timeout")
    assert time.monotonic() - begun < patience(SHORT + 1)


def test_a_client_that_is_slow_with_its_body_does_not_hold_up_the_trial_of_a_circuit(system: System, backend: Backend) -> None:
    client, route_id = served(system, "trial", backend.url, circuit_breaker="true", circuit_threshold=1, circuit_timeout="200ms")
    backend.failing = 503
    assert system.get("/", "trial.test").status == 503
    backend.failing = 0
    with socket.create_connection(("127.0.0.1", system.proxy_port), timeout=10) as sock:
        sock.sendall(b"PUT / HTTP/1.1\r\nHost: trial.test\r\nContent-Length: 10\r\n\r\nbegun")
        wait_for(lambda: system.get("/", "trial.test").status == 200, 2, "the circuit to close")
        sock.sendall(b" half")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_timeout_changed_by_apply_holds_for_the_next_request(system: System, backend: Backend) -> None:
    client, route_id = served(system, "live", backend.url)
    assert system.get("/slow?s=0.4", "live.test").status == 200
    client.options(route_id, timeout="150ms")
    assert [system.get("/slow?s=0.4", "live.test").status for _ in range(3)] == [504] * 3
    client.options(route_id, timeout="5s")
    assert [system.get("/slow?s=0.4", "live.test").status for _ in range(3)] == [200] * 3


@pytest.mark.parametrize(("option", "path"), [("timeout", "/slow?s=0.4"), ("total_timeout", "/slow?s=0.4")])
def test_each_bound_can_be_taken_away_again(system: System, backend: Backend, option: str, path: str) -> None:
    name = option.replace("_", "-")
    client, route_id = served(system, name, backend.url, **{option: "150ms"})
    assert system.get(path, f"{name}.test").headers["X-Proxyd-Reason"] == option
    client.ok(f"OPTIONS_REMOVE|SID|{route_id}|{option}")
    client.apply()
    assert system.get(path, f"{name}.test").status == 200


def test_connect_and_read_timeouts_changed_by_apply_hold_for_the_next_request(
        system: System, raw_backend: MakeRaw, release: threading.Event, full_port: int) -> None:
    backend = stalling(raw_backend, release, HEAD + b"12345")
    for option, url in (("connect_timeout", f"http://127.0.0.1:{full_port}"), ("read_timeout", backend.url)):
        name = f"live-{option[:4]}"
        client, route_id = served(system, name, url, **{option: "30s"})
        client.options(route_id, **{option: "100ms"})
        begun = time.monotonic()
        with contextlib.suppress(http.client.IncompleteRead, ConnectionResetError):
            assert system.get("/", f"{name}.test").status == 504
        assert time.monotonic() - begun < patience(2)


def test_the_access_log_and_stats_know_the_timeouts(system: System, backend: Backend) -> None:
    client, route_id = served(system, "logged", backend.url, timeout="100ms")
    system.get("/slow?s=0.3&mark=logged", "logged.test")
    wait_for(lambda: any("mark=logged" in line and "timeout" in line and " 504 " in line for line in system.access_log().splitlines()))
    wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["status_codes"].get("504") == 1)
