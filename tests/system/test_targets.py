"""What a service may point at: not our own admin and registry, and no denied network, however it is written or named."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.support.backends import Backend, RawBackend
from tests.support.dns import NameServer
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for

DENIED = "127.0.0.5"


@dataclass(frozen=True)
class Place:
    """A system that denies an address on which a listener counts who comes; a good backend has the same port elsewhere."""

    system: System
    client: RegistryClient
    backend: Backend
    listener: socket.socket

    def nobody_came(self) -> bool:
        try:
            self.listener.accept()
        except BlockingIOError:
            return True
        return False


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    server = NameServer()
    for name, addresses in (("denied.test", [DENIED]), ("mixed.test", [DENIED, "127.0.0.1"]), ("own.test", ["127.0.0.1"])):
        server.zone[name, "A"], server.zone[name, "AAAA"] = (60, addresses), (60, [])
    with socket.socket() as listener:
        backend = Backend()
        listener.bind((DENIED, backend.port))
        listener.listen()
        listener.setblocking(False)
        system = System(tmp_path_factory.mktemp("targets"), workers=1, registry__deny_targets=DENIED,
                        dns__servers="{}:{}".format(*server.address))
        yield Place(system, system.client("shop"), backend, listener)
        system.stop()
        backend.stop()
        server.close()


def test_an_address_is_refused_when_it_is_staged(place: Place) -> None:
    client, good = place.client, place.backend.url
    route = client.route("staged.test", good)
    for host in (f"{DENIED}:{place.backend.port}", f"[::ffff:{DENIED}]:80", f"127.0.0.1:{place.system.admin_port}",
                 f"127.0.0.1:{place.system.registry_port}", f"localhost:{place.system.admin_port}",
                 f"[::ffff:127.0.0.1]:{place.system.admin_port}", f"0.0.0.0:{place.system.admin_port}"):
        bulk = json.dumps([{"domains": ["bulk.test"], "path": "/", "backend_url": f"http://{host}", "priority": 0}])
        for line in (f"ROUTE_ADD|SID|a.test|/|http://{host}|0", f"ROUTE_ADD_BULK|SID|{bulk}",
                     f"ROUTE_UPDATE|SID|{route}|backend_url|http://{host}", f"HEALTH_SET|SID|{route}|tcp://{host}|1s|1s",
                     f"OPTIONS_SET|SID|ALL|health_check_path|tcp://{host}", f"MAINT_ENTER|SID|ALL|http://{host}/page"):
            answer = client.command(line)
            assert answer.startswith("ERROR|") and "no target: " in answer, (line, answer)
        answer = client.command(f"BACKEND_TEST|SID|http://{host}/")
        assert answer.startswith("BACKEND_FAIL|") and "no target: " in answer, answer
    assert {route["status"] for route in client.json("ROUTE_LIST|SID")} == {"active"}
    assert place.nobody_came()


def test_a_name_is_looked_at_when_a_connection_is_opened_and_nothing_is_sent(place: Place) -> None:
    client, port = place.client, place.backend.port
    route = client.route("denied.test", f"http://denied.test:{port}", apply=False)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|1s|500ms")
    client.route("own.test", f"http://own.test:{place.system.admin_port}", apply=False)
    client.route("mixed.test", f"http://mixed.test:{port}")
    for host in ("denied.test", "own.test"):
        answer = place.system.get("/livez", host)
        assert (answer.status, answer.headers["X-Proxyd-Reason"]) == (502, "upstream_denied"), host
    assert place.system.get("/", "mixed.test").status == 200
    assert client.json(f"BACKEND_TEST|SID|http://mixed.test:{port}/")["status_code"] == 200
    for name in (f"denied.test:{port}", f"own.test:{place.system.admin_port}"):
        answer = client.json(f"BACKEND_TEST|SID|http://{name}/")
        assert not answer["reachable"] and ("deny_targets" in answer["error"] or "proxyd's own admin HTTP" in answer["error"])
    wait_for(lambda: "deny_targets" in str(client.json(f"ROUTE_STATUS|SID|{route}")["health"]["last_error"]), what="the refused check")
    assert place.nobody_came()


def test_a_page_whose_name_is_denied_is_not_asked_for(place: Place) -> None:
    client = place.system.client("page")
    client.route("page.test", place.backend.url)
    client.ok(f"MAINT_ENTER|SID|ALL|http://denied.test:{place.backend.port}/page")
    answer = place.system.get("/", "page.test")
    assert answer.status == 503 and answer.headers["X-Proxyd-Reason"] == "maintenance"
    told = "failed, showing the built-in page"
    line = wait_for(lambda: next((line for line in place.system.log().splitlines() if told in line), ""), what="the worker's word of it")
    assert "deny_targets" in line
    begun = time.monotonic()
    assert "deny_targets" in client.line() and time.monotonic() - begun < patience(5), "to ask for it again is of no use"
    client.close()
    assert place.nobody_came()


@pytest.mark.parametrize("sent", [
    b"SSH-2.0-secret\r\n", b"HTTP/1.1 secret\r\n\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: secret\r\nsecret\r\n\r\n",
    b"secret" * 20_000, b"HTTP/1.1 200 OK\r\n" + b"X-secret: secret\r\n" * 500 + b"\r\n", b"\x15\x03\x01secret"])
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_backend_test_repeats_nothing_that_it_read(place: Place, sent: bytes, scheme: str) -> None:
    def serve(sock: socket.socket) -> None:
        sock.recv(65536)
        sock.sendall(sent)

    target = RawBackend(serve)
    try:
        answer = place.client.command(f"BACKEND_TEST|SID|{scheme}://127.0.0.1:{target.port}/")
        assert answer.startswith("BACKEND_") and "secret" not in answer and "SSH" not in answer, answer
    finally:
        target.stop()


def test_a_backend_test_ends_although_the_answer_trickles(place: Place) -> None:
    def trickle(sock: socket.socket) -> None:
        sock.recv(65536)
        with contextlib.suppress(OSError):
            for piece in [b"HTTP/1.1 200 OK\r\nX-Slow: ", *[b"x"] * 100]:
                sock.sendall(piece)
                time.sleep(0.25)

    target = RawBackend(trickle)
    try:
        begun = time.monotonic()
        assert place.client.json(f"BACKEND_TEST|SID|http://127.0.0.1:{target.port}/") == {"reachable": False, "error": "no answer in time"}
        assert time.monotonic() - begun < patience(9)
    finally:
        target.stop()
