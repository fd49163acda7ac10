"""What waits besides plain requests: WebSockets and HTTP/2 streams; and the story of one instance restarted under 200 requests/s."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

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


def test_one_instance_that_is_killed_and_started_again_under_200_requests_a_second_fails_none(system: System) -> None:
    port = free_port()
    text = ("from http.server import *\n"
            "class Handler(BaseHTTPRequestHandler):\n"
            "    protocol_version = 'HTTP/1.1'\n"
            "    def do_GET(self):\n"
            "        self.send_response(200)\n        self.send_header('Content-Length', '0')\n        self.end_headers()\n"
            "    def log_message(self, *_): pass\n"
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
