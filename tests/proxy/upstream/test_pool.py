"""How long a connection to an upstream is kept: over real sockets, through a worker."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import pytest

from proxyd.net.stream import PlainStream
from proxyd.proxy.upstream.pool import drop, heed_keep_alive, release, retire, use_descriptors
from tests.edge.wire import Wire, get
from tests.proxy.build import upstream
from tests.support.backends import RawBackend
from tests.support.system import System

RawBackends = Callable[[Callable[[socket.socket], None]], RawBackend]


def kept(raw_backend: RawBackends, fields: bytes = b"") -> RawBackend:
    """A backend that keeps its connections, and answers with those fields."""

    def serve(sock: socket.socket) -> None:
        while made.receive_head(sock):
            sock.sendall(b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 2\r\n\r\nok")

    made = raw_backend(serve)
    return made


def ask_twice(system: System, host: str, pause: float) -> None:
    assert system.get("/", host).status == 200
    # The pause is what is tested: a connection is used after it, or not.
    time.sleep(pause)
    assert system.get("/", host).status == 200


def test_a_connection_is_used_again(one_worker: System, raw_backend: RawBackends) -> None:
    backend = kept(raw_backend)
    one_worker.client("again").route("again.test", backend.url)
    ask_twice(one_worker, "again.test", 0.2)
    assert backend.connections == 1


@pytest.mark.parametrize(("name", "options"), [("idle", {"pool_idle_timeout": "100ms"}), ("age", {"pool_max_age": "100ms"})])
def test_one_that_is_idle_for_too_long_or_too_old_is_not(
        one_worker: System, raw_backend: RawBackends, name: str, options: dict[str, str]) -> None:
    backend = kept(raw_backend)
    client = one_worker.client(name)
    client.options(client.route(f"{name}.test", backend.url, apply=False), **options)
    ask_twice(one_worker, f"{name}.test", 0.3)
    assert backend.connections == 2


def test_an_upstream_says_how_long_it_keeps_its_connections(one_worker: System, raw_backend: RawBackends) -> None:
    backend = kept(raw_backend, b"Keep-Alive: timeout=1, max=100\r\n")
    one_worker.client("said").route("said.test", backend.url)
    ask_twice(one_worker, "said.test", 0.95)
    assert backend.connections == 2


@pytest.mark.parametrize(("field", "limit"), [
    ("timeout=5", 4.0), ("max=100, timeout=10", 8.0), ("Timeout = 20", 16.0), ('timeout="5"', 4.0), ("timeout=0", 0.0),
    ("max=5", float("inf")), ("xtimeout=5", float("inf")), ("timeout=", float("inf")), ("timeout=99999999999999", float("inf")),
    (None, float("inf"))])
def test_the_keep_alive_field_is_read(field: str | None, limit: float) -> None:
    near, far = socket.socketpair()
    stream = PlainStream(near)
    heed_keep_alive(stream, field)
    assert stream.idle_limit == limit
    stream.close()
    far.close()


def test_as_many_are_kept_as_were_in_use_at_once(one_worker: System, raw_backend: RawBackends) -> None:
    def serve(sock: socket.socket) -> None:
        while backend.receive_head(sock):
            time.sleep(0.1)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    backend = raw_backend(serve)
    one_worker.client("many").route("many.test", backend.url)
    wires = [Wire(one_worker.proxy_port) for _ in range(120)]
    for _ in range(4):
        for wire in wires:
            wire.send(get("many.test"))
        for wire in wires:
            assert wire.response().status == 200
    assert backend.connections <= 120
    for wire in wires:
        wire.close()


@pytest.mark.parametrize(("files", "option", "count"), [
    (1000, "auto", 100), (100, "auto", 64), (1000, "10", 10), (100, "10", 10), (1000, "0", 0)])
def test_how_many_are_kept_at_most(files: int, option: str, count: int) -> None:
    pairs = [socket.socketpair() for _ in range(100)]
    there = upstream(1, {"pool_size": option})
    use_descriptors(files)
    for ours, _ in pairs:
        release(there, PlainStream(ours), 100.0)
    assert len(there.state.idle) == count
    retire(there)
    assert all(ours.fileno() < 0 for ours, _ in pairs)
    use_descriptors(1 << 20)
    for _, theirs in pairs:
        theirs.close()


def test_what_was_closed_to_make_room_leaves_room() -> None:
    pairs = [socket.socketpair() for _ in range(200)]
    first, second = upstream(1, {"pool_size": "auto"}), upstream(2, {"pool_size": "auto"})
    use_descriptors(400)
    for ours, _ in pairs[:100]:
        release(first, PlainStream(ours), 100.0)
    for stream in list(first.state.idle):
        drop(first, stream)
    for ours, _ in pairs[100:]:
        release(second, PlainStream(ours), 100.0)
    assert (len(first.state.idle), len(second.state.idle)) == (0, 100)
    retire(second)
    use_descriptors(1 << 20)
    for _, theirs in pairs:
        theirs.close()
