"""A worker's time is shared: a peer that sends without a pause does not keep the others waiting.

On a machine of its own the others wait 1 to 7 ms (half of them) and 50 ms at most; without slices they wait for seconds.
The bounds leave room for a machine that runs other tests meanwhile.
"""

from __future__ import annotations

import http.client
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from tests.support.backends import Backend, RawBackend
from tests.support.floods import KINDS
from tests.support.system import ROOT, System
from tests.support.waiting import patience

SECONDS = 4.0
WORDS = b"".join(b"%x lorem ipsum %x dolor %x " % (n * 2654435761 % 2**32, n, n * n) for n in range(20000))


class Hog(RawBackend):
    """A backend that swallows bodies and frames, and answers with a million one-byte chunks or with a lot of text."""

    def __init__(self) -> None:
        super().__init__(self._answer)

    def _answer(self, sock: socket.socket) -> None:
        head = self.receive_head(sock)
        if b"/small" in head:
            sock.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1_000_000 + b"0\r\n\r\n")
        elif b"/text" in head:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % (20 * len(WORDS)))
            for _ in range(20):
                sock.sendall(WORDS)
        else:
            if b"websocket" in head:
                sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                             b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
            while sock.recv(1 << 20):
                pass


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One worker for all floods, with the routes that they use and one that honest people use."""
    hog, backend = Hog(), Backend()
    system = System(tmp_path_factory.mktemp("crowded"), workers=1, log__access="off", proxy__worker_timeout="3s")
    client = system.client()
    sink, sock, gzip, brotli = (client.route(f"{name}.test", hog.url, apply=False) for name in ("sink", "socket", "gzip", "br"))
    client.route("good.test", backend.url, apply=False)
    client.options(sock, websocket="true")
    client.options(gzip, compression="true", compression_algorithms="gzip", compression_level="9")
    client.options(brotli, compression="true", compression_algorithms="br", compression_level="11")
    assert sink
    yield system
    system.stop()
    hog.stop()
    backend.stop()


REGISTRY = ("empty lines", "wrong lines", "commands")


@pytest.mark.parametrize("kind", sorted({*KINDS} - {*REGISTRY}))
def test_others_are_served_while_one_sends_without_a_pause(crowded: System, kind: str) -> None:
    worker, = crowded.worker_pids()
    process = subprocess.Popen([sys.executable, "-m", "tests.support.floods", kind, str(crowded.proxy_port), str(SECONDS)], cwd=ROOT)
    connection = http.client.HTTPConnection("127.0.0.1", crowded.proxy_port, timeout=10)
    waits, taken = [], []
    try:
        until = time.monotonic() + SECONDS
        while time.monotonic() < until:
            begun = time.monotonic()
            connection.request("GET", "/", headers={"Host": "good.test"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 200
            waits.append(time.monotonic() - begun)
            taken.append(psutil.Process(worker).num_fds())
            # The flood is what loads the worker, not this.
            time.sleep(0.005)
    finally:
        connection.close()
        process.kill()
        process.wait()
    # What has been taken gets its turn: many are open for a moment, when the worker has had none itself, but not for longer.
    assert statistics.median(taken) < 200
    waits.sort()
    assert waits[len(waits) // 2] < patience(0.03)
    # The longest one may be a moment in which the whole worker, or this process, got no turn.
    assert waits[(len(waits) - 1) * 99 // 100 - 1] < patience(0.3) and waits[-1] < patience(2.0)
    assert crowded.worker_pids() == [worker]


@pytest.mark.parametrize(("kind", "where"), [
    ("connections", "registry"), ("connections", "admin"), *((kind, "registry") for kind in REGISTRY)])
def test_the_master_answers_while_one_sends_without_a_pause(crowded: System, kind: str, where: str) -> None:
    client, master = crowded.client("patient"), psutil.Process(crowded.master_pid())
    port = crowded.registry_port if where == "registry" else crowded.admin_port
    process = subprocess.Popen([sys.executable, "-m", "tests.support.floods", kind, str(port), "3"], cwd=ROOT)
    waits = []
    try:
        until = time.monotonic() + 2.5
        while time.monotonic() < until:
            begun = time.monotonic()
            assert client.command("PING|SID") == "PONG"
            waits.append(time.monotonic() - begun)
            assert master.num_fds() < 500
            time.sleep(0.005)
    finally:
        process.kill()
        process.wait()
        client.close()
    # One may be a moment in which the whole master, or this process, got no turn.
    waits.sort()
    assert waits[-2] < patience(1.0) and waits[-1] < patience(2.0)
