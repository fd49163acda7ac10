"""Names of upstreams: what does not resolve is the trouble of its own route, and of nobody else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.support.backends import Backend
from tests.support.dns import NameServer
from tests.support.system import System
from tests.support.waiting import free_port, wait_for


@pytest.fixture
def server() -> Iterator[NameServer]:
    server = NameServer()
    yield server
    server.close()


@pytest.fixture
def named(new_system: Callable[..., System], server: NameServer) -> System:
    """A system of one worker that asks that name server."""
    return new_system(workers=1, dns__servers="{}:{}".format(*server.address), dns__timeout="4s")


def test_requests_to_dead_names_hold_up_no_other_name(named: System, server: NameServer, backend: Backend) -> None:
    server.zone["good.test", "A"] = (1, ["127.0.0.1"])
    server.zone["good.test", "AAAA"] = (1, [])
    client = named.client()
    for number in range(20):
        server.silent.update(((f"dead{number}.test", "A"), (f"dead{number}.test", "AAAA")))
        client.route(f"d{number}.test", f"http://dead{number}.test:80", apply=False)
    client.route("good.test", f"http://good.test:{backend.port}", apply=False)
    client.route("local.test", f"http://localhost:{backend.port}")
    told: list[tuple[int, str]] = []

    def ask_a_dead_one(number: int) -> None:
        answer = named.get("/", f"d{number}.test")
        told.append((answer.status, answer.headers["X-Proxyd-Reason"]))

    threads = [threading.Thread(target=ask_a_dead_one, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    slowest = 0.0
    while any(thread.is_alive() for thread in threads):
        for host in ("good.test", "local.test"):
            begun = time.monotonic()
            assert named.get("/", host).status == 200
            slowest = max(slowest, time.monotonic() - begun)
    assert told == [(502, "upstream_unresolved")] * 20
    # Behind a dead one, it would have waited for 4 s.
    assert slowest < 3.0


def test_dead_names_that_are_checked_put_no_good_route_down(named: System, server: NameServer, backend: Backend) -> None:
    server.zone["checked.test", "A"] = (1, ["127.0.0.1"])
    server.zone["checked.test", "AAAA"] = (1, [])
    client = named.client()
    for number in range(15):
        server.silent.update(((f"gone{number}.test", "A"), (f"gone{number}.test", "AAAA")))
        route = client.route(f"g{number}.test", f"http://gone{number}.test:80", apply=False)
        client.ok(f"HEALTH_SET|SID|{route}|/|500ms|400ms")
    good = client.route("checked.test", f"http://checked.test:{backend.port}", apply=False)
    # Less than the 4 s that it would wait behind a dead one, and more than a busy machine makes a check wait.
    client.ok(f"HEALTH_SET|SID|{good}|/|200ms|3s")
    client.apply()
    wait_for(lambda: named.sql("SELECT count(*) FROM v_health_now WHERE status = 'down'")[0][0] == 15, 20, "the dead ones to be found down")
    assert named.sql("SELECT count(*) FROM health_results WHERE route_id = ? AND NOT ok", good) == [(0,)]
    assert named.get("/", "checked.test").status == 200


class Named(BaseHTTPRequestHandler):
    """Answers with the address that it listens on, and keeps its connections."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = self.connection.getsockname()[0].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


def test_kept_connections_go_where_the_name_goes(named: System, server: NameServer) -> None:
    port = free_port()
    servers = [ThreadingHTTPServer((address, port), Named) for address in ("127.0.0.1", "127.0.0.2")]
    for each in servers:
        each.daemon_threads = True
        threading.Thread(target=each.serve_forever, daemon=True).start()
    try:
        server.zone["moves.test", "A"] = (1, ["127.0.0.1"])
        server.zone["moves.test", "AAAA"] = (1, [])
        client = named.client()
        client.route("moves.test", f"http://moves.test:{port}")
        assert named.get("/", "moves.test").text == "127.0.0.1"
        server.zone["moves.test", "A"] = (1, ["127.0.0.2"])
        # The old one still answers on the kept connection, which is asked all the time.
        wait_for(lambda: named.get("/", "moves.test").text == "127.0.0.2", 30, "the new address")
    finally:
        for each in servers:
            each.shutdown()
            each.server_close()
