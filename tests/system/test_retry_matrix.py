"""Every method, body, failure and option together: what is tried again on the other replica, and what never is."""

from __future__ import annotations

import http.client
import itertools
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import pytest

from tests.support.backends import Backend, RawBackend
from tests.support.system import System
from tests.support.waiting import patience

METHODS = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "POST", "PATCH")
BODIES = {"none": None, "small": b"s" * 60_000, "large": b"l" * 200_000, "chunked": [b"c" * 1000, b"d" * 1000]}
FAILURES = ("reset", "cut", "stall", "503", "500", "refused", "deaf")
IDEMPOTENT = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE")


def read_head(file: BinaryIO) -> bytes:
    """A request's head without its empty line, nothing at the end of the connection."""
    lines = []
    while (line := file.readline()) not in (b"", b"\r\n"):
        lines.append(line)
    return b"".join(lines) if line else b""


def failing(raw_backend: Callable[..., RawBackend], ended: threading.Event) -> RawBackend:
    """A backend that reads a request whole and then fails as its X-Failure says; without one it answers."""
    def serve(sock: socket.socket) -> None:
        with sock.makefile("rb") as file:
            while head := read_head(file):
                fields = dict(line.decode().strip().split(": ", 1) for line in head.split(b"\r\n")[1:] if line)
                if "Transfer-Encoding" in fields:
                    while size := int(file.readline(), 16):
                        file.read(size + 2)
                    file.readline()
                else:
                    file.read(int(fields.get("Content-Length", 0)))
                backend.received.append(head)
                failure = fields.get("X-Failure", "none")
                if failure == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    return
                if failure == "cut":
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")
                    return
                if failure == "stall":
                    ended.wait(30)
                    return
                status = failure if failure.isdigit() else "200"
                sock.sendall(f"HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n".encode())

    backend = raw_backend(serve)
    return backend


def again(retry: bool, method: str, body: str, failure: str) -> bool:
    """What the options promise: whether the other replica is asked."""
    if failure in ("refused", "deaf"):
        # No connection came about: nothing was sent, whatever it is and whatever the options say.
        return True
    return retry and failure != "500" and method in IDEMPOTENT and body in ("none", "small")


WITHOUT = {"reset": 502, "cut": 502, "stall": 504, "503": 503, "500": 500}


@pytest.mark.slow
@pytest.mark.parametrize("retry", [True, False])
def test_exactly_what_may_be_tried_again_is(new_system: Callable[..., System], new_backend: Callable[..., Backend],
                                            raw_backend: Callable[..., RawBackend], full_port: int, retry: bool) -> None:
    system = new_system(workers=1)
    ended = threading.Event()
    bad, good = failing(raw_backend, ended), new_backend("good")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        places = {"fails.test": bad.url, "refused.test": f"http://127.0.0.1:{closed.getsockname()[1]}",
                  "deaf.test": f"http://127.0.0.1:{full_port}"}
        # Long enough for a backend whose processor others use as well; the stalled ones take it whole.
        timeout = f"{patience(1.5):.1f}s"
        for number in range(2):
            client = system.client("matrix", str(number))
            for domain, url in places.items():
                client.route(domain, good.url if number else url, apply=False)
            # The first is asked first, nearly always.
            client.options("ALL", weight=1 if number else 1000, balance="round_robin", retry=retry, retry_backoff="none",
                           timeout=timeout, connect_timeout="500ms", pool_size=0, retry_on="connection_refused,reset,timeout,502,503")

        def ask(method: str, body: str, failure: str, name: str) -> str:
            host = f"{failure}.test" if failure in ("refused", "deaf") else "fails.test"
            connection = http.client.HTTPConnection("127.0.0.1", system.proxy_port, timeout=30)
            try:
                connection.request(method, f"/{name}", BODIES[body], {"Host": host, "X-Failure": failure}, encode_chunked=body == "chunked")
                response = connection.getresponse()
                response.read()
                return f"{response.status} {response.headers['X-Backend'] or ''}".strip()
            finally:
                connection.close()

        # Requests that go well, so that the budget does not decide.
        with ThreadPoolExecutor(16) as threads:
            assert set(threads.map(lambda number: ask("GET", "none", "none", f"warm{number}"), range(520))) <= {"200", "200 good"}
            cases = {f"case{number}": case for number, case in enumerate(itertools.product(METHODS, BODIES, FAILURES))
                     if not (case[0] == "HEAD" and case[1] != "none")}
            answers = dict(zip(cases, threads.map(lambda name: ask(*cases[name], name), cases), strict=True))
        ended.set()
    wrong = []
    for name, (method, body, failure) in cases.items():
        at_bad = sum(f" /{name} ".encode() in head for head in bad.received)
        at_good = len(good.seen(f"/{name}"))
        if at_good and not at_bad and failure not in ("refused", "deaf"):
            # The one in a thousand that the weight sent to the good one first.
            continue
        expected = "200 good" if again(retry, method, body, failure) else str(WITHOUT.get(failure))
        attempts = (0 if failure in ("refused", "deaf") else 1, expected == "200 good")
        if (answers[name], at_bad, at_good) != (expected, *attempts):
            wrong.append(f"{method} {body} {failure}: {answers[name]}, {at_bad} + {at_good} attempts; expected {expected}")
    assert not wrong, "\n".join(wrong)
