"""Backends on UNIX sockets, and what they get as Host."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from tests.edge.conftest import make_route
from tests.edge.wire import Wire, get
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import wait_for
from tests.support.websockets import SWITCH, echo, frame, open_websocket, read_frame


class UnixBackend:
    """An HTTP server on a UNIX socket that answers with what it was asked: Host, method and target."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.connections = 0
        backend = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                backend.connections += 1
                super().setup()

            def address_string(self) -> str:
                return "unix"

            def do_GET(self) -> None:
                if self.headers.get("Upgrade") == "websocket":
                    self.connection.sendall(f"{SWITCH}\r\n".encode())
                    echo(self.connection)
                    self.close_connection = True
                    return
                length = int(self.headers.get("Content-Length", 0))
                content = f"{self.headers['Host']} {self.command} {self.path} {len(self.rfile.read(length))}".encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/html")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET

            def log_message(self, *args: object) -> None:
                """Quiet."""

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(self.path, Handler)
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass(frozen=True)
class Place:
    """A system that takes backends below a directory."""

    system: System
    directory: Path

    def client(self, name: str) -> RegistryClient:
        return self.system.client(name, name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("run")
    running = System(tmp_path_factory.mktemp("system"), workers=1, registry__unix_targets=f"{directory}/")
    yield Place(running, directory)
    running.stop()


@pytest.fixture(scope="module")
def served(place: Place) -> Iterator[UnixBackend]:
    running = UnixBackend(place.directory / "app.sock")
    yield running
    running.stop()


def asked(system: System, host: str, path: str = "/", body: str = "") -> str:
    with Wire(system.proxy_port) as wire:
        head = get(host, path, f"Content-Length: {len(body)}", method="POST") if body else get(host, path)
        response = wire.send(head + body.encode()).response()
    assert response.status == 200, response
    return response.body.decode()


@pytest.mark.parametrize(("url", "options", "expected"), [
    ("unix:SOCKET", {}, "HOST GET /a?b"),
    ("unix://SOCKET:/base/", {}, "HOST GET /base/a?b"),
    ("http://unix:SOCKET:/base", {"preserve_host": "false"}, "localhost GET /base/a?b"),
    ("unix:SOCKET", {"upstream_host": "app.internal:81"}, "app.internal:81 GET /a?b"),
])
def test_a_request_reaches_a_unix_socket(place: Place, served: UnixBackend, url: str, options: dict[str, str], expected: str) -> None:
    host = make_route(place.system, url.replace("SOCKET", served.path), **options)
    assert asked(place.system, host, "/a?b") == f"{expected.replace('HOST', host)} 0"


def test_connections_to_a_socket_are_kept_and_carry_bodies(place: Place, served: UnixBackend) -> None:
    host = make_route(place.system, f"unix:{served.path}")
    before = served.connections
    for _ in range(3):
        assert asked(place.system, host, body="x" * 200_000) == f"{host} POST / 200000"
    assert served.connections == before + 1


def test_a_websocket_goes_through_a_socket(place: Place, served: UnixBackend) -> None:
    host = make_route(place.system, f"ws://unix:{served.path}")
    with open_websocket(place.system.proxy_port, host) as wire:
        wire.send(frame(1, b"hello"))
        assert read_frame(wire) == (1, b"hello")


def test_checks_and_tests_reach_a_socket_and_say_its_name(place: Place, served: UnixBackend) -> None:
    client = place.client("checked")
    route = client.route("checked.test", f"unix:{served.path}:/base", apply=False)
    client.ok(f"HEALTH_SET|SID|{route}|/healthz|100ms|1s")
    client.ok(f"OPTIONS_SET|SID|{route}|health_expected_body|app.internal GET /healthz")
    client.ok(f"OPTIONS_SET|SID|{route}|upstream_host|app.internal")
    client.apply()

    def status() -> dict[str, object]:
        found = client.json(f"ROUTE_STATUS|SID|{route}")
        assert found["backend"] == f"unix:{served.path}:/base"
        return dict(found["health"])

    wait_for(lambda: status()["status"] == "healthy", what="a good check over the socket")
    tested = client.json(f"BACKEND_TEST|SID|unix:{served.path}:/base")
    assert (tested["reachable"], tested["status_code"]) == (True, 200)
    assert client.command("MAINT_ENTER|SID|ALL|") == "ACK" and client.line() == "MAINT_OK|ALL"
    assert client.command("MAINT_EXIT|SID|ALL") == "ACK" and client.line() == "MAINT_OK|ALL"


def test_a_maintenance_page_may_be_on_a_socket(place: Place, served: UnixBackend) -> None:
    client = place.client("closed")
    client.route("closed.test", "http://127.0.0.1:9")
    assert client.command(f"MAINT_ENTER|SID|ALL|http://unix:{served.path}:/page.html?x") == "ACK"
    assert client.line() == "MAINT_OK|ALL"
    with Wire(place.system.proxy_port) as wire:
        page = wire.send(get("closed.test", "/", "Accept: text/html")).response()
        style = wire.send(get("closed.test", "/style.css", "Accept: text/css")).response()
    assert (page.status, page.body) == (503, b"localhost GET /page.html?x 0")
    assert style.body == b"closed.test GET /style.css 0"


def test_a_socket_that_is_not_there_is_told_with_its_name(place: Place) -> None:
    host = make_route(place.system, f"unix:{place.directory}/none.sock")
    with Wire(place.system.proxy_port) as wire:
        response = wire.send(get(host)).response()
    assert (response.status, response.get("x-proxyd-reason")) == (502, "upstream_unreachable")
    wait_for(lambda: f"unix:{place.directory}/none.sock: No such file or directory" in place.system.log(), what="the line in the log")
    wait_for(lambda: f"upstream=unix:{place.directory}/none.sock" in place.system.access_log(), what="the line in the access log")


def test_a_socket_whose_queue_is_full_is_waited_for(place: Place) -> None:
    path = f"{place.directory}/full.sock"
    host = make_route(place.system, f"unix:{path}", connect_timeout="5s")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(path)
        listener.listen(0)
        first.connect(path)
        with Wire(place.system.proxy_port) as wire:
            wire.send(get(host))
            listener.settimeout(5)
            listener.accept()[0].close()
            with listener.accept()[0] as sock:
                sock.recv(65536)
                sock.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")
                assert wire.response().status == 204


@pytest.mark.parametrize(("url", "part"), [
    ("unix:/var/other.sock", "unix:/var/other.sock is neither in [registry] unix_targets nor below"),
    ("unix:DIR/../x.sock", "names no UNIX socket"),
    ("unix:DIRx/a.sock", "is neither in [registry] unix_targets nor below"),
    ("unix:relative.sock", "is not an http, https, h2c, ws or wss url"),
    ("https://unix:DIR/app.sock", "there is no TLS"),
    ("unix:DIR/a.sock:/p?q", "has a query"),
    ("unix:/" + "a" * 107, "at most 107"),
])
def test_what_names_no_socket_of_the_setting_is_refused(place: Place, url: str, part: str) -> None:
    client = place.client("refused")
    url = url.replace("DIR", str(place.directory))
    answer = client.command(f"ROUTE_ADD|SID|refused.test|/|{url}|0")
    assert answer.startswith("ERROR|") and part in answer
    assert client.command(f"BACKEND_TEST|SID|{url}").startswith("BACKEND_FAIL|")
    if "?" not in url:
        assert client.command(f"MAINT_ENTER|SID|ALL|{url}").startswith("ERROR|")

