"""WebSockets: the handshake as it is, bytes both ways, every bound, and what ends an open one and what does not."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from tests.edge.conftest import Secure, make_route
from tests.edge.wire import Wire, get
from tests.support.backends import Backend, RawBackend, SilentBackend
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import patience, wait_for
from tests.support.websockets import (
    ACCEPT,
    CLOSE,
    KEY,
    PING,
    PONG,
    SWITCH,
    TEXT,
    Switching,
    close,
    echo,
    frame,
    handshake,
    open_websocket,
    read_frame,
)

Make = Callable[..., RawBackend]
GOING_AWAY = (CLOSE, (1001).to_bytes(2, "big"))
HELLO = frame(TEXT, b"hello")


def registered(system: System, name: str, url: str, **options: object) -> tuple[RegistryClient, str]:
    """A client with a route of `name`.test to `url` with WebSockets on."""
    client = system.client(name, name)
    route_id = client.route(f"{name}.test", url, apply=False)
    client.options(route_id, websocket="true", **options)
    return client, route_id


def closed_row(system: System, route_id: str) -> tuple[str, int, int, str]:
    """Client, bytes to it, bytes from it and reason of the one WebSocket that a route had."""
    rows = wait_for(lambda: system.sql(
        "SELECT client, bytes_sent, bytes_received, reason FROM websocket_connections WHERE route_id = ?", route_id))
    assert len(rows) == 1
    return rows[0]


def refusal(port: int, host: str) -> tuple[int, str | None]:
    """Status and reason of a handshake that is answered otherwise."""
    with Wire(port) as wire:
        response = wire.send(handshake(host)).response()
        return response.status, response.get("x-proxyd-reason")


# -- the handshake


@pytest.mark.parametrize("offered", ["websocket, other/1", "h2c, WebSocket", "other,websocket"])
def test_upgrade_is_a_list(offered: str, edge: System, raw_backend: Make) -> None:
    host = make_route(edge, Switching(raw_backend, echo).url, websocket=True)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/", "Connection: Upgrade", f"Upgrade: {offered}", f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13"))
        response = wire.response()
    assert (response.status, response.get("upgrade")) == (101, "websocket")


def test_the_handshake_reaches_the_backend_as_the_client_sent_it(edge: System, raw_backend: Make) -> None:
    backend = Switching(raw_backend, echo, "Sec-WebSocket-Protocol: super\r\nSec-WebSocket-Extensions: x-a; b=\"c\"\r\nSet-Cookie: d=e\r\n")
    host = make_route(edge, backend.url, websocket=True)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/chat?room=1%2F2", "Connection: keep-alive, Upgrade", "Upgrade: WebSocket", f"sec-websocket-KEY: {KEY}",
                      "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: chat, super", "Sec-WebSocket-Protocol: third",
                      'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a; b="c"', "Origin: https://a.test",
                      "Cookie: f=g"))
        response = wire.response()
    (sent,) = backend.backend.received
    lines = sent.decode().split("\r\n")
    assert lines[0] == "GET /chat?room=1%2F2 HTTP/1.1"
    for line in ("Connection: Upgrade", "Upgrade: websocket", f"sec-websocket-KEY: {KEY}", "Sec-WebSocket-Version: 13",
                 "Sec-WebSocket-Protocol: chat, super", "Sec-WebSocket-Protocol: third", "Origin: https://a.test", "Cookie: f=g",
                 'Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-a; b="c"', "X-Forwarded-For: 127.0.0.1"):
        assert lines.count(line) == 1, line
    assert (response.status, response.get("upgrade"), response.get("connection")) == (101, "websocket", "Upgrade")
    assert (response.get("sec-websocket-accept"), response.get("sec-websocket-protocol")) == (ACCEPT, "super")
    assert (response.get("sec-websocket-extensions"), response.get("set-cookie")) == ('x-a; b="c"', "d=e")
    assert response.get("x-request-id")


def test_headers_that_the_route_declares_are_on_the_handshake_too(edge: System, raw_backend: Make) -> None:
    client, route_id = registered(edge, "wsheaders", Switching(raw_backend, echo, "Server: old\r\n").url)
    client.ok(f"HEADERS_SET|SID|{route_id}|Server|mine")
    client.apply()
    with Wire(edge.proxy_port) as wire:
        response = wire.send(handshake("wsheaders.test")).response()
        assert (response.status, response.get("server")) == (101, "mine")


def test_bytes_sent_with_the_handshake_and_with_its_answer_get_there(edge: System, raw_backend: Make) -> None:
    host = make_route(edge, Switching(raw_backend, echo, behind=b"\x81\x02hi").url, websocket=True)
    with Wire(edge.proxy_port) as wire:
        wire.send(handshake(host) + HELLO).until(HELLO)
        assert wire.data.endswith(b"\r\n\r\n\x81\x02hi" + HELLO)


def test_off_is_a_400_that_says_so(edge: System, raw_backend: Make) -> None:
    backend = Switching(raw_backend, echo)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(handshake(host)).response()
        assert (response.status, response.get("x-proxyd-reason")) == (400, "websocket_off")
        assert b"option websocket" in response.body
        assert wire.send(handshake(host)).response().status == 400, "the connection goes on"
    assert not backend.backend.received


def test_a_ws_backend_needs_no_option(edge: System, raw_backend: Make) -> None:
    host = make_route(edge, Switching(raw_backend, echo).url.replace("http:", "ws:"))
    with open_websocket(edge.proxy_port, host) as wire:
        assert HELLO in wire.send(HELLO).until(HELLO)


def test_wss_on_both_sides(secure: Secure, raw_backend: Make) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(secure.authority.issue("backend.pem", "127.0.0.1"))
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        with context.wrap_socket(sock, server_side=True) as secured:
            secured.recv(65536)
            secured.sendall(f"{SWITCH}\r\n".encode())
            echo(secured)
            ended.set()

    host = secure.route(raw_backend(serve).url.replace("http:", "wss:"), tls_verify="false", websocket_idle_timeout="3s")
    with secure.connect(host) as secured:
        wire = Wire.__new__(Wire)
        wire.sock, wire.data = secured, b""
        wire.send(handshake(host)).until(b"\r\n\r\n")
        _, _, wire.data = wire.data.partition(b"\r\n\r\n")
        # No more at once than the buffers take: one thread at a time may use a TLS socket.
        for size in (0, 1, 30_000, 100_000) * 5:
            payload = os.urandom(size)
            wire.send(frame(2, payload, masked=False))
            assert read_frame(wire) == (2, payload)
        assert read_frame(wire) == GOING_AWAY
        assert read_frame(wire)[0] == -1
    assert ended.wait(patience(5))


@pytest.mark.parametrize(("answer", "status", "reason"), [
    ("HTTP/1.1 403 Forbidden\r\nContent-Length: 3\r\n\r\nno!", 403, None),
    ("HTTP/1.1 426 Upgrade Required\r\nSec-WebSocket-Version: 8\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno!\r\n0\r\n\r\n", 426, None),
    ("HTTP/1.1 200 OK\r\n\r\nno!", 200, None),
    ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", 502, "bad_upgrade"),
    ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n", 502, "bad_upgrade"),
    ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5\r\n\r\nhello", 502,
     "body_not_allowed"),
    ("HTTP/1.1 101 Switching\nProtocols\r\n\r\n", 502, "bare_lf"),
    ("HTTP/1.1 101 Switching Protocols\r\n" + "X-A: b\r\n" * 300 + "\r\n", 502, "too_many_fields"),
    (f"HTTP/1.1 101 Switching Protocols\r\nX-A: {'b' * 100_000}", 502, "head_too_large"),
    ("", 502, "upstream_closed"),
])
def test_an_answer_that_does_not_switch_is_passed_on_or_502(
        answer: str, status: int, reason: str | None, edge: System, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(answer.encode())

    backend = raw_backend(serve)
    host = make_route(edge, backend.url, websocket=True)
    with Wire(edge.proxy_port) as wire:
        # A second request behind the first must not get to a backend that might take it for WebSocket bytes, or the other way round.
        response = wire.send(handshake(host) + get(host, "/second")).response()
        assert (response.status, response.get("x-proxyd-reason")) == (status, reason)
        if status != 502:
            assert (response.body, response.get("connection")) == (b"no!", "close")
            assert wire.ended()
    assert not [head for head in backend.received if b"/second" in head and b"pgrade" in head]


def test_a_backend_that_does_not_answer_the_handshake_is_504(edge: System, raw_backend: Make) -> None:
    gone = threading.Event()
    host = make_route(edge, raw_backend(lambda sock: gone.wait(5) and None).url, websocket=True, timeout="200ms")
    assert refusal(edge.proxy_port, host) == (504, "timeout")
    gone.set()


def test_a_client_that_goes_in_the_handshake_ends_it_at_the_backend(edge: System, silent: SilentBackend) -> None:
    host = make_route(edge, silent.url, websocket=True)
    with Wire(edge.proxy_port) as wire:
        wire.send(handshake(host))
        assert silent.asked.wait(patience(5))
    assert silent.closed.wait(patience(2))


def test_http10_and_other_protocols_are_plain_requests(edge: System, backend: Backend) -> None:
    host = make_route(edge, backend.url, websocket=True)
    for request in (get(host, "/", "Connection: Upgrade", "Upgrade: websocket", version="1.0"),
                    get(host, "/", "Connection: Upgrade", "Upgrade: foo/2"), get(host, "/", "Connection: Upgrade", "Upgrade: h2c")):
        with Wire(edge.proxy_port) as wire:
            assert wire.send(request).response().status == 200
    assert not [fields for _, _, fields, _ in backend.requests if "Upgrade" in fields or "Connection" in fields]


# -- bytes both ways, and ends


def test_megabytes_go_both_ways_at_once(edge: System, raw_backend: Make) -> None:
    down, up = os.urandom(8_000_000), os.urandom(8_000_000)
    got = bytearray()

    def talk(sock: socket.socket) -> None:
        threading.Thread(target=sock.sendall, args=(down,), daemon=True).start()
        while len(got) < len(up):
            got.extend(sock.recv(65536))

    client, route_id = registered(edge, "wslarge", Switching(raw_backend, talk).url)
    with open_websocket(edge.proxy_port, "wslarge.test") as wire:
        threading.Thread(target=wire.send, args=(up,), daemon=True).start()
        while len(wire.data) < len(down) and wire.more():
            pass
        assert wire.data == down
        wait_for(lambda: len(got) == len(up))
        assert bytes(got) == up
    assert closed_row(edge, route_id)[1:3] == (len(down), len(up))


def test_an_end_of_the_client_is_passed_on_while_the_backend_still_sends(edge: System, raw_backend: Make) -> None:
    def talk(sock: socket.socket) -> None:
        got = b""
        while data := sock.recv(65536):
            got += data
        sock.sendall(b"all of it: " + got)

    client, route_id = registered(edge, "wshalf", Switching(raw_backend, talk).url)
    with open_websocket(edge.proxy_port, "wshalf.test") as wire:
        wire.send(HELLO).sock.shutdown(socket.SHUT_WR)
        assert wire.rest() == b"all of it: " + HELLO
    assert closed_row(edge, route_id) == ("127.0.0.1", len(b"all of it: ") + len(HELLO), len(HELLO), "closed")


def test_an_end_of_the_backend_is_passed_on_while_the_client_still_sends(edge: System, raw_backend: Make) -> None:
    got: list[bytes] = []

    def talk(sock: socket.socket) -> None:
        sock.sendall(b"bye")
        sock.shutdown(socket.SHUT_WR)
        while data := sock.recv(65536):
            got.append(data)

    host = make_route(edge, Switching(raw_backend, talk).url, websocket=True)
    with open_websocket(edge.proxy_port, host) as wire:
        assert wire.rest() == b"bye"
        wire.send(HELLO)
        wait_for(lambda: b"".join(got) == HELLO)


def test_a_reset_of_the_client_ends_the_backend(edge: System, raw_backend: Make) -> None:
    ended = threading.Event()

    def talk(sock: socket.socket) -> None:
        try:
            while sock.recv(65536):
                pass
        finally:
            ended.set()

    client, route_id = registered(edge, "wsreset", Switching(raw_backend, talk).url)
    open_websocket(edge.proxy_port, "wsreset.test").send(HELLO).reset()
    assert ended.wait(patience(2))
    assert closed_row(edge, route_id)[2:] == (len(HELLO), "client_reset")


def test_a_reset_of_the_backend_ends_the_client(edge: System, raw_backend: Make) -> None:
    def talk(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    client, route_id = registered(edge, "wsbackreset", Switching(raw_backend, talk).url)
    with open_websocket(edge.proxy_port, "wsbackreset.test") as wire:
        assert wire.send(HELLO).ended(2)
    assert closed_row(edge, route_id)[3] == "upstream_reset"


# -- bounds


class Heard:
    """A backend's side of a WebSocket that keeps all it reads and says `every` so many seconds."""

    def __init__(self, make: Make, every: float = 0.0, said: bytes = b"") -> None:
        self.data = b""
        self.ended = threading.Event()
        self._every, self._said = every, said
        self.url = Switching(make, self._talk).url

    def _talk(self, sock: socket.socket) -> None:
        if self._every:
            sock.settimeout(self._every)
        try:
            while True:
                try:
                    data = sock.recv(65536)
                except TimeoutError:
                    sock.sendall(self._said)
                    continue
                if not data:
                    break
                self.data += data
        finally:
            self.ended.set()

    def frames(self) -> list[tuple[int, bytes]]:
        """What was read, as frames."""
        wire = Wire.__new__(Wire)
        wire.data = self.data
        wire.sock = socket.socketpair()[0]
        wire.sock.shutdown(socket.SHUT_RD)
        found = []
        while (one := read_frame(wire))[0] >= 0:
            found.append(one)
        return found


def test_a_silent_websocket_is_ended_with_1001_on_both_sides(edge: System, raw_backend: Make) -> None:
    backend = Heard(raw_backend)
    client, route_id = registered(edge, "wsidle", backend.url, websocket_idle_timeout="2s")
    with open_websocket(edge.proxy_port, "wsidle.test", path="/wsidle") as wire:
        begun = time.monotonic()
        wire.send(HELLO)
        assert read_frame(wire) == GOING_AWAY
        assert 2.0 <= time.monotonic() - begun < patience(4)
        assert wire.ended()
    assert backend.ended.wait(patience(3))
    assert backend.frames() == [(TEXT, b"hello"), GOING_AWAY]
    assert closed_row(edge, route_id)[3] == "idle_timeout"
    assert "idle_timeout" in wait_for(lambda: [line for line in edge.access_log().splitlines() if "/wsidle" in line])[0]


@pytest.mark.parametrize("who", ["client", "backend"])
def test_any_byte_of_either_side_keeps_it_open(who: str, edge: System, raw_backend: Make) -> None:
    backend = Heard(raw_backend, 0.1 if who == "backend" else 0.0, b"\x81\x02hi")
    host = make_route(edge, backend.url, websocket=True, websocket_idle_timeout="2500ms")
    with open_websocket(edge.proxy_port, host) as wire:
        begun = time.monotonic()
        wire.sock.settimeout(0.1)
        while time.monotonic() - begun < 3.7:
            if who == "client":
                wire.send(HELLO[:1] if time.monotonic() - begun < 1.8 else HELLO)
            try:
                assert wire.more()
            except TimeoutError:
                continue
        assert not backend.ended.is_set()


def test_the_longest_life_ends_even_a_busy_one_with_1001(edge: System, raw_backend: Make) -> None:
    backend = Heard(raw_backend, 0.01, b"\x81\x02hi")
    client, route_id = registered(edge, "wslong", backend.url, websocket_max_duration="2s")
    with open_websocket(edge.proxy_port, "wslong.test") as wire:
        begun = time.monotonic()
        seen = []
        while (one := read_frame(wire))[0] >= 0:
            seen.append(one)
            wire.send(HELLO)
        assert 1.8 < time.monotonic() - begun < patience(4)
        assert seen.pop() == GOING_AWAY
        assert len(seen) > 5 and set(seen) == {(TEXT, b"hi")}
    assert backend.ended.wait(patience(3))
    frames = backend.frames()
    assert frames.pop() == GOING_AWAY
    assert set(frames) == {(TEXT, b"hello")}
    assert closed_row(edge, route_id)[3] == "max_duration"


def test_no_close_frame_is_put_into_the_middle_of_another(edge: System, raw_backend: Make) -> None:
    backend = Heard(raw_backend)
    host = make_route(edge, backend.url, websocket=True, websocket_idle_timeout="2s")
    with open_websocket(edge.proxy_port, host) as wire:
        wire.send(HELLO[:-2])
        assert read_frame(wire) == GOING_AWAY
    assert backend.ended.wait(patience(3))
    assert backend.data == HELLO[:-2]


def test_a_peer_that_reads_nothing_does_not_outlive_its_bound(edge: System, raw_backend: Make) -> None:
    def flood(sock: socket.socket) -> None:
        try:
            while True:
                sock.sendall(b"\x82\x7e\xff\xff" + bytes(65535))
        except OSError:
            ended.set()

    ended = threading.Event()
    client, route_id = registered(edge, "wsfull", Switching(raw_backend, flood).url, websocket_max_duration="300ms")
    with open_websocket(edge.proxy_port, "wsfull.test"):
        assert ended.wait(patience(6))
        assert closed_row(edge, route_id)[3] == "max_duration"


def _owner(system: System, wire: Wire) -> int:
    """The worker that holds a client's connection."""
    port = wire.sock.getsockname()[1]
    return next(pid for pid in system.worker_pids()
                if any(one.raddr and one.raddr.port == port for one in psutil.Process(pid).net_connections("tcp4")))


def _opened(system: System, host: str) -> Wire | None:
    """A WebSocket, or None where the bound is reached."""
    wire = Wire(system.proxy_port).send(handshake(host))
    response = wire.response()
    if response.status == 101:
        return wire
    wire.close()
    assert (response.status, response.get("x-proxyd-reason"), response.get("retry-after")) == (503, "websocket_limit", "5")
    return None


def test_the_bound_on_open_websockets_holds_over_all_workers_and_those_of_a_killed_one_are_free(
        new_system: Callable[..., System], raw_backend: Make) -> None:
    system = new_system(workers=2)
    host = "wsmany.test"
    client, route_id = registered(system, "wsmany", Switching(raw_backend, echo).url, websocket_max_connections=6)
    wires = [open_websocket(system.proxy_port, host) for _ in range(6)]

    def both_hold_some() -> bool:
        if len({_owner(system, wire) for wire in wires}) > 1:
            return True
        wires.pop(0).close()
        wires.append(wait_for(lambda: _opened(system, host)))
        return False

    wait_for(both_hold_some)
    assert [_opened(system, host) for _ in range(9)] == [None] * 9
    wires.pop().close()
    wires.append(wait_for(lambda: _opened(system, host)))
    assert _opened(system, host) is None
    victim = _owner(system, wires[0])
    lost = [wire for wire in wires if _owner(system, wire) == victim]
    os.kill(victim, signal.SIGKILL)
    assert all(wire.ended() for wire in lost)
    again = [wait_for(lambda: _opened(system, host)) for _ in lost]
    assert _opened(system, host) is None
    for wire in again:
        assert wire is not None and HELLO in wire.send(HELLO).until(HELLO)
    wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["websocket_active"] == 6)
    for wire in (*wires, *again):
        assert wire is not None
        wire.close()


def test_handshakes_under_way_count_too(edge: System, raw_backend: Make) -> None:
    asked, answer = threading.Semaphore(0), threading.Event()

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        asked.release()
        answer.wait(5)
        sock.sendall(f"{SWITCH}\r\n".encode())
        echo(sock)

    backend = raw_backend(serve)
    host = make_route(edge, backend.url, websocket=True, websocket_max_connections=2)
    first = [Wire(edge.proxy_port).send(handshake(host)) for _ in range(2)]
    assert asked.acquire(timeout=5) and asked.acquire(timeout=5)
    assert _opened(edge, host) is None
    answer.set()
    assert [wire.response().status for wire in first] == [101, 101]
    for wire in first:
        wire.close()
    wait_for(lambda: _opened(edge, host)).close()


def test_failed_and_refused_handshakes_do_not_count(edge: System, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        if b"/no" in backend.receive_head(sock):
            sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif b"/cut" not in backend.received[-1]:
            sock.sendall(f"{SWITCH}\r\n".encode())
            echo(sock)

    backend = raw_backend(serve)
    host = make_route(edge, backend.url, websocket=True, websocket_max_connections=1)
    for path, status in (("/no", 403), ("/cut", 502)) * 2:
        with Wire(edge.proxy_port) as wire:
            assert wire.send(handshake(host, path=path)).response().status == status
    last = _opened(edge, host)
    assert last is not None
    last.close()


def test_another_replica_takes_what_a_full_one_can_not(edge: System, raw_backend: Make) -> None:
    backends = [Switching(raw_backend, echo) for _ in range(2)]
    for number, backend in enumerate(backends):
        client = edge.client("wspool", f"i{number}")
        client.options(client.route("wspool.test", backend.url, apply=False), websocket="true", websocket_max_connections=2)
    wires = [open_websocket(edge.proxy_port, "wspool.test") for _ in range(4)]
    assert [backend.backend.connections for backend in backends] == [2, 2]
    assert _opened(edge, "wspool.test") is None
    for wire in wires:
        wire.close()


# -- what else happens meanwhile


def test_drain_maintenance_and_a_route_that_goes_let_open_ones_live(edge: System, raw_backend: Make) -> None:
    client, route_id = registered(edge, "wslive", Switching(raw_backend, echo).url)
    with open_websocket(edge.proxy_port, "wslive.test") as wire:
        def alive() -> bool:
            return read_frame(wire.send(frame(TEXT, b"hello", masked=False))) == (TEXT, b"hello")

        assert alive()
        assert client.command("MAINT_ENTER|SID|ALL|") == "ACK"
        assert client.line().startswith("MAINT_OK")
        assert refusal(edge.proxy_port, "wslive.test")[0] == 503
        assert alive()
        assert client.command("MAINT_EXIT|SID|ALL") == "ACK"
        client.line()
        client.ok("DRAIN_START|SID|1")
        wait_for(lambda: refusal(edge.proxy_port, "wslive.test") == (503, "draining"), 5)
        assert alive()
        client.ok(f"ROUTE_REMOVE|SID|{route_id}")
        client.apply()
        assert refusal(edge.proxy_port, "wslive.test")[0] == 404
        assert alive()
    sent = wait_for(lambda: edge.sql("SELECT bytes_sent, reason FROM websocket_connections WHERE route_id = ? AND bytes_sent", route_id))
    assert sent == [(4 * len(b"\x81\x05hello"), "closed")]


def test_stats_and_rows_tell_of_open_and_ended_ones(edge: System, raw_backend: Make) -> None:
    client, route_id = registered(edge, "wsstats", Switching(raw_backend, echo).url)
    with open_websocket(edge.proxy_port, "wsstats.test") as wire:
        wire.send(HELLO).until(HELLO)
        wait_for(lambda: client.json(f"STATS_GET|SID|{route_id}")["websocket_active"] == 1)
        wait_for(lambda: 'proxyd_websockets_open{domain="wsstats.test",service="wsstats"} 1.0' in edge.admin("/metrics").text)
        assert edge.sql("SELECT SUM(websocket_active) FROM route_in_flight WHERE route_id = ?", route_id) == [(1,)]
    assert closed_row(edge, route_id) == ("127.0.0.1", len(HELLO), len(HELLO), "closed")
    stats = wait_for(lambda: (found := client.json(f"STATS_GET|SID|{route_id}"))["websocket_active"] == 0 and found["status_codes"]
                     and found)
    assert stats["status_codes"] == {"101": 1}
    assert stats["p99_latency_ms"] == 0, "how long one was open is no latency"
    ((opened, closed),) = edge.sql("SELECT opened_at, closed_at FROM websocket_connections WHERE route_id = ?", route_id)
    assert "2020" < opened <= closed


@pytest.mark.slow
def test_a_stopping_worker_lets_them_live_for_graceful_timeout_and_says_1001_then(
        new_system: Callable[..., System], raw_backend: Make) -> None:
    system = new_system(workers=1, proxy__graceful_timeout="3s")
    backend = Heard(raw_backend)
    client, route_id = registered(system, "wsstop", backend.url)
    with open_websocket(system.proxy_port, "wsstop.test") as wire:
        system.signal(signal.SIGTERM)
        wire.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            wire.more()
        wire.sock.settimeout(patience(6))
        wire.send(HELLO)
        assert read_frame(wire) == GOING_AWAY
        assert wire.ended()
    assert backend.ended.wait(patience(3))
    assert backend.frames() == [(TEXT, b"hello"), GOING_AWAY]
    wait_for(lambda: system.process is not None and system.process.poll() is not None)
    assert closed_row(system, route_id)[3] == "worker_stopping"


# -- pings of our own


def test_both_sides_get_pings_while_they_are_silent(edge: System, raw_backend: Make) -> None:
    def talk(sock: socket.socket) -> None:
        while piece := sock.recv(65536):
            came.append(piece)
            if piece[0] == 0x80 | PING:
                sock.sendall(frame(PONG, masked=False))

    came: list[bytes] = []
    client, route_id = registered(edge, "pinged", Switching(raw_backend, talk).url, websocket_ping="800ms", websocket_idle_timeout="30s")
    client.apply()
    with open_websocket(edge.proxy_port, "pinged.test") as wire:
        pings = 0
        while pings < 2:
            opcode, payload = read_frame(wire)
            assert (opcode, payload) in ((PING, b""), (PONG, b""))
            if opcode == PING:
                pings += 1
                wire.send(frame(PONG))
        # Masked, as frames to a server are.
        wait_for(lambda: sum(piece[:2] == bytes([0x80 | PING, 0x80]) for piece in came) >= 2, what="pings at the backend")
        wire.send(close())
        wait_for(lambda: any(piece[0] == 0x80 | CLOSE for piece in came), what="the close frame")


@pytest.mark.parametrize("silent", ["client", "backend"])
def test_a_side_that_does_not_answer_pings_is_gone(silent: str, edge: System, raw_backend: Make) -> None:
    def talk(sock: socket.socket) -> None:
        while piece := sock.recv(65536):
            if silent == "client" and piece[0] == 0x80 | PING:
                sock.sendall(frame(PONG, masked=False))

    name = f"deaf{silent}"
    client, route_id = registered(edge, name, Switching(raw_backend, talk).url, websocket_ping="200ms")
    client.apply()
    with open_websocket(edge.proxy_port, f"{name}.test") as wire:
        while (got := read_frame(wire))[0] in (PING, PONG):
            if silent == "backend":
                wire.send(frame(PONG))
        assert got == GOING_AWAY
    assert closed_row(edge, route_id)[3] == "ping_timeout"


def test_pings_stand_between_frames(edge: System, raw_backend: Make) -> None:
    def talk(sock: socket.socket) -> None:
        message = frame(TEXT, b"x" * 40, masked=False)
        sock.recv(1)
        while not ended.wait(0.7):
            sock.sendall(message[:20])
            ended.wait(0.4)
            sock.sendall(message[20:])

    ended = threading.Event()
    client, _ = registered(edge, "between", Switching(raw_backend, talk).url, websocket_ping="500ms")
    client.apply()
    with open_websocket(edge.proxy_port, "between.test") as wire:
        wire.send(HELLO)
        seen: list[int] = []
        while seen.count(PING) < 3 or TEXT not in seen:
            opcode, payload = read_frame(wire)
            assert (opcode, payload) in ((PING, b""), (TEXT, b"x" * 40))
            seen.append(opcode)
            wire.send(frame(PONG))
    ended.set()
