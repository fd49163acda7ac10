"""What waits besides plain requests: WebSockets and HTTP/2 streams; and the story of one instance restarted under 200 requests/s."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from hyperframe.frame import RstStreamFrame

from tests.edge.wire import Wire
from tests.support.backends import Backend, RawBackend
from tests.support.frames import FrameClient
from tests.support.system import Answer, System
from tests.support.waiting import free_port, wait_for
from tests.support.websockets import TEXT, Switching, echo, frame, handshake, read_frame

RATE, SECONDS, DOWN = 200, 2.0, 0.5


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Two workers that speak HTTP/2 in the clear, too."""
    running = System(tmp_path_factory.mktemp("streams"), proxy__http2_cleartext="yes")
    yield running
    running.stop()


def test_a_websocket_waits_for_its_backend_and_is_open_then(system: System, raw_backend: Callable[..., RawBackend]) -> None:
    client = system.client("sockets")
    route_id = client.route("sockets.test", Switching(raw_backend, echo).url, apply=False)
    client.options(route_id, websocket=True)
    client.ok("TRAFFIC_HOLD|SID|ALL|30s")
    with Wire(system.proxy_port) as wire:
        wire.send(handshake("sockets.test"))
        wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 1, what="the handshake in the queue")
        client.ok("TRAFFIC_RELEASE|SID|ALL")
        head, _, wire.data = wire.until(b"\r\n\r\n").partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 ")
        wire.send(frame(TEXT, b"hello"))
        assert read_frame(wire)[1] == b"hello"


def test_a_stream_of_http2_waits_while_the_others_of_its_connection_go_on(
        system: System, new_backend: Callable[..., Backend]) -> None:
    client = system.client("streams")
    client.route("streams.test", new_backend("open").url, "/")
    held = client.route("streams.test", new_backend("held").url, "/held")
    client.ok(f"TRAFFIC_HOLD|SID|{held}|30s")
    with FrameClient(system.proxy_port, None, "streams.test") as connection:
        waits = [connection.ask("/held") for _ in range(3)]
        for _ in range(3):
            assert connection.answer(connection.ask("/")).status == 200
        wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{held}")["queued"] == 3, what="the streams in the queue")
        client.ok(f"TRAFFIC_RELEASE|SID|{held}")
        assert [connection.answer(stream).status for stream in waits] == [200] * 3


def test_streams_go_in_the_order_in_which_they_came_and_one_that_was_reset_does_not(system: System) -> None:
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        def serve() -> None:
            """One connection after the other, in the order in which they were opened."""
            while len(came) < 19:
                sock, _ = listener.accept()
                with sock:
                    if head := sock.recv(65536):
                        came.append(head.decode().split()[1])
                        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        client = system.client("order")
        route_id = client.route("order.test", f"http://127.0.0.1:{listener.getsockname()[1]}")
        client.ok("TRAFFIC_HOLD|SID|ALL|30s")
        # All of a connection are in the queue of one worker.
        with FrameClient(system.proxy_port, None, "order.test") as connection, ThreadPoolExecutor(1) as pool:
            waits = [connection.ask(f"/{number}") for number in range(20)]
            wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 20, what="the streams in the queue")
            connection.send(RstStreamFrame(waits.pop(7), 8))
            wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{route_id}")["queued"] == 19, what="one less")
            serving = pool.submit(serve)
            client.ok("TRAFFIC_RELEASE|SID|ALL")
            assert {answer.status for answer in connection.answers(*waits)} == {200}
            serving.result(10)
    assert came == [f"/{number}" for number in range(20) if number != 7]


def test_a_large_body_of_a_stream_that_waits_keeps_no_other_one_from_going_on(
        system: System, new_backend: Callable[..., Backend]) -> None:
    client = system.client("large")
    held_backend = new_backend("held")
    client.route("large.test", new_backend("open").url, "/")
    held = client.route("large.test", held_backend.url, "/held")
    client.ok(f"TRAFFIC_HOLD|SID|{held}|30s")
    with FrameClient(system.proxy_port, None, "large.test") as connection:
        wait_for(lambda: connection.frame() is not None and connection.settings, what="the window of streams")
        # More than is kept, and less than the window of the stream.
        large = connection.ask("/held", "POST", [("content-length", str(12 * 16384))], end=False)
        for number in range(12):
            connection.data(large, b"x" * 16384, end=number == 11)
        for _ in range(3):
            assert connection.answer(connection.ask("/")).status == 200
            small = connection.ask("/small", "POST", [("content-length", "3000")], end=False)
            connection.data(small, b"y" * 3000, end=True)
            assert connection.answer(small).status == 200
        wait_for(lambda: client.json(f"ROUTE_STATUS|SID|{held}")["queued"] == 1, what="the stream in the queue")
        client.ok(f"TRAFFIC_RELEASE|SID|{held}")
        assert connection.answer(large).status == 200
    assert [len(body) for *_, body in held_backend.seen("/held")] == [12 * 16384]


def test_one_instance_that_is_killed_and_started_again_under_200_requests_a_second_fails_none(system: System) -> None:
    port = free_port()
    text = ("from http.server import *\n"
            "class Handler(BaseHTTPRequestHandler):\n"
            "    protocol_version = 'HTTP/1.1'\n"
            "    def do_GET(self):\n"
            "        self.send_response(200)\n        self.send_header('Content-Length', '0')\n        self.end_headers()\n"
            "    def log_message(self, *_): pass\n"
            # All that have waited come at once, and five is what it lets wait by default: the kernel keeps the others back for long.
            "ThreadingHTTPServer.request_queue_size = 1024\n"
            f"ThreadingHTTPServer(('127.0.0.1', {port}), Handler).serve_forever()\n")
    client = system.client("steady")
    client.options(client.route("steady.test", f"http://127.0.0.1:{port}", apply=False), hold_when_down="30s")
    programs = [subprocess.Popen([sys.executable, "-c", text])]

    def ask() -> tuple[int, float]:
        begun = time.monotonic()
        answer: Answer = system.get("/", "steady.test", timeout=40.0)
        return answer.status, time.monotonic() - begun

    def again() -> None:
        time.sleep(DOWN)
        programs.append(subprocess.Popen([sys.executable, "-c", text]))

    try:
        assert ask()[0] == 200
        with ThreadPoolExecutor(300) as pool:
            begun, asked = time.monotonic(), []
            for number in range(int(RATE * SECONDS)):
                time.sleep(max(0.0, begun + number / RATE - time.monotonic()))
                asked.append(pool.submit(ask))
                if number == RATE // 2:
                    programs[0].kill()
                    pool.submit(again)
            found = [one.result() for one in asked]
        assert Counter(status for status, _ in found) == {200: int(RATE * SECONDS)}
        assert max(seconds for _, seconds in found) > DOWN / 2, "some have waited"
    finally:
        for program in programs:
            program.kill()
            program.wait(5)
