"""gunicorn's inner parts are on the pinned version what our code takes them for. Each test fails when one is gone or does otherwise."""

from __future__ import annotations

import logging
import os
import signal
import socket as native
import ssl
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gevent
import h2.connection
import h2.events
import pytest
from gevent import socket
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventWorker

from proxyd.net import gunicorn_inner as inner
from tests.support.certificates import Authority

Serve = Callable[[dict[str, Any], Callable[..., Any]], Any]


class _Application(BaseApplication):  # type: ignore[misc]
    def load_config(self) -> None:
        """The defaults."""

    def load(self) -> None:
        """Nothing to serve."""


def test_the_signals_that_wait_for_an_arbiter_can_be_taken_out() -> None:
    arbiter = Arbiter(_Application())
    arbiter.signal(signal.SIGTERM, None)
    arbiter.signal(signal.SIGHUP, None)
    assert list(inner.queued_signals(arbiter)) == [signal.SIGTERM, signal.SIGHUP]
    assert list(inner.queued_signals(arbiter)) == []


def test_the_error_log_goes_where_the_subclass_says_in_its_form(tmp_path: Path) -> None:
    class Directed(inner.ErrorLogger):
        def error_handler(self, output: str) -> tuple[str, logging.Formatter, str]:
            return output + ".other", logging.Formatter("form: %(message)s"), "said first"

    config = Config()
    config.set("errorlog", str(tmp_path / "log"))
    logger = Directed(config)
    logger.error("later")
    assert (tmp_path / "log.other").read_text() == "form: said first\nform: later\n"
    assert not (tmp_path / "log").exists()
    # Logging is the process's own: leave it as gunicorn makes it by itself.
    Logger(Config())


@pytest.mark.parametrize(("offered", "http2"), [("h2", True), ("http/1.1", False)])
def test_a_connection_that_agreed_on_http2_is_known_by_its_socket(offered: str, http2: bool, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority.issue("own.pem", "localhost"))
    server.set_alpn_protocols(["h2", "http/1.1"])
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(authority.file)
    client.set_alpn_protocols([offered])
    near, far = native.socketpair()
    with ThreadPoolExecutor() as pool:
        asking = pool.submit(client.wrap_socket, near, server_hostname="localhost")
        with server.wrap_socket(far, server_side=True) as secured, asking.result(10):
            assert inner.speaks_http2(secured) is http2


class _Slow:
    """A socket that sends in two parts, and lets others run in between."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)
        gevent.sleep(0.01)
        self.sent.append(data)


def test_what_two_greenlets_send_is_not_mixed() -> None:
    sock = _Slow()
    inner.send_in_turn(sock)
    gevent.joinall([gevent.spawn(sock.sendall, b"a"), gevent.spawn(sock.sendall, b"b")], raise_error=True)
    assert sock.sent in ([b"a", b"a", b"b", b"b"], [b"b", b"b", b"a", b"a"])


class _Told(socket.socket):  # type: ignore[misc]
    """A socket that keeps what was sent by `sendall`."""

    told = b""

    def sendall(self, data: bytes) -> None:
        self.told += data
        super().sendall(data)


class Connection:
    """An HTTP/2 connection served by a worker of gunicorn's; `reading` is the greenlet that does."""

    def __init__(self, serve: Serve) -> None:
        config = Config()
        log = Logger(config)
        worker = GeventWorker(1, os.getppid(), [], None, 30, config, log)
        worker.wsgi = serve
        self._near, far = socket.socketpair()
        self.far = _Told(fileno=far.detach())
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        self.reading = gevent.spawn(worker.handle_http2, listener, self.far, ("127.0.0.1", 1))
        self._client = h2.connection.H2Connection()
        self._client.initiate_connection()
        self._near.settimeout(10)

    def ask(self, body: bytes = b"") -> None:
        """Send a request of stream 1."""
        self._client.send_headers(1, [(":method", "POST"), (":path", "/"), (":scheme", "http"), (":authority", "a.example")], not body)
        if body:
            self._client.send_data(1, body, end_stream=True)
        self.flush()

    def flush(self) -> None:
        self._near.sendall(self._client.data_to_send())

    def until(self, kind: type[h2.events.Event]) -> Any:
        """The next event of a kind."""
        while True:
            data = self._near.recv(65536)
            assert data, f"closed without {kind.__name__}"
            for event in self._client.receive_data(data):
                if isinstance(event, kind):
                    return event

    def close(self) -> None:
        self._near.close()
        self.reading.join(10)


@pytest.fixture
def connect() -> Iterator[Callable[[Serve], Connection]]:
    """Make a connection to an application."""
    pytest.importorskip("h2")
    made: list[Connection] = []

    def make(serve: Serve) -> Connection:
        made.append(Connection(serve))
        return made[-1]

    yield make
    for connection in made:
        connection.close()


def test_all_frames_are_sent_by_sendall(connect: Callable[[Serve], Connection]) -> None:
    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        start("200 OK", [])
        return [b"hello"]

    connection = connect(serve)
    connection.ask()
    connection.until(h2.events.StreamEnded)
    assert b"hello" in connection.far.told


def test_the_note_the_body_at_hand_and_the_window(connect: Callable[[Serve], Connection]) -> None:
    seen: list[Any] = []

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        body = environ["wsgi.input"]
        seen.extend([environ[inner.HTTP2_NOTE], inner.body_at_hand(body), body.read(1), inner.body_at_hand(body), body.read()])
        write = start("200 OK", [])
        seen.append(inner.window(write))
        write(b"x" * 1000)
        seen.append(inner.window(write))
        return []

    connection = connect(serve)
    connection.ask(b"12345")
    connection.until(h2.events.StreamEnded)
    assert seen == ["2", 0, b"1", 4, b"2345", 65535, 64535]


def test_a_stream_is_reset_on_demand_without_a_traceback(
        connect: Callable[[Serve], Connection], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logging.getLogger("gunicorn.error"), "propagate", True)

    def serve(environ: dict[str, Any], start: Callable[..., Any]) -> Any:
        start("200 OK", [("Content-Length", "100")])(b"part")
        raise inner.stream_reset()

    connection = connect(serve)
    connection.ask()
    assert connection.until(h2.events.StreamReset).stream_id == 1
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []


def test_an_idle_connection_ends_with_a_goaway(connect: Callable[[Serve], Connection]) -> None:
    connection = connect(lambda environ, start: [])
    connection.flush()
    connection.until(h2.events.SettingsAcknowledged)
    gevent.get_hub().loop.run_callback(inner.end_idle, connection.reading)
    connection.until(h2.events.ConnectionTerminated)
    connection.reading.join(10)
    assert connection.reading.dead
