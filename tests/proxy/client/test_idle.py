"""What an idle connection of a client still holds of its last request: nothing, whether or not Python looks for cycles."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gevent
import pytest
from gevent import socket

from proxyd.config.settings import Settings
from proxyd.http1 import RequestHead
from proxyd.http2.frames import PREFACE, headers, settings
from proxyd.net.stream import plain_stream
from proxyd.proxy.client.connection import ClientConnection
from proxyd.proxy.client.http2 import Http2Connection
from proxyd.proxy.client.http2stream import Http2Stream
from proxyd.proxy.core.exchange import Exchange
from proxyd.proxy.runtime import Runtime

TARGET = "/of-this-test"
HTTP1 = f"GET {TARGET} HTTP/1.1\r\nHost: h\r\n\r\n".encode()
HTTP2 = PREFACE + settings(()) + headers(1, b"\x82\x87\x04%c%b\x01\x01h" % (len(TARGET), TARGET.encode()), True)


@pytest.fixture
def runtime(tmp_path: Path) -> Runtime:
    defaults = Settings()
    return Runtime(replace(defaults, database=replace(defaults.database, url=f"sqlite:///{tmp_path}/proxyd.db")))


@pytest.fixture
def no_search_for_cycles() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def held() -> list[object]:
    """What there is of the request."""
    found = [one for one in gc.get_objects() if isinstance(one, Exchange | RequestHead | Http2Stream)]
    return [one for one in found if TARGET in (
        one.target if isinstance(one, RequestHead) else one.head.target if one.head is not None else "")]


@pytest.mark.parametrize(("made", "asked"), [(ClientConnection, HTTP1), (Http2Connection, HTTP2)], ids=["HTTP/1.1", "HTTP/2"])
@pytest.mark.usefixtures("no_search_for_cycles")
def test_an_idle_connection_holds_nothing_of_its_last_request(runtime: Runtime, made: Callable[..., ClientConnection | Http2Connection],
                                                             asked: bytes) -> None:
    ours, theirs = socket.socketpair()
    connection = made(plain_stream(ours), "192.0.2.1", runtime)
    seen: list[int] = []

    def answer(ex: Exchange) -> None:
        seen.append(len(held()))
        ex.client.start(200, "OK", (), 4, b"body", True)

    serving = gevent.spawn(connection.serve, answer)
    with theirs, gevent.Timeout(20):
        theirs.sendall(asked)
        got = b""
        while not got.endswith(b"body"):
            got += theirs.recv(65536)
        while held():
            gevent.sleep(0.01)
        assert seen[0] >= 2
        assert not serving.ready()
        # It goes on.
        if made is ClientConnection:
            theirs.sendall(asked)
            assert theirs.recv(65536).endswith(b"body")
    serving.join(20)
    assert serving.ready()
