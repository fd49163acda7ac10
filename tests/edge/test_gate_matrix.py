"""Every gate alone, and all of them together, over HTTP/1, HTTP/2 and WebSockets of both: who may pass does, and who may not is refused
with the gate's reason. What each gate does in detail is in its own tests."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import pytest

from proxyd.proxy.gates import GATES
from tests.edge.wire import Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.certificates import Authority
from tests.support.frames import FrameClient
from tests.support.registry import RegistryClient
from tests.support.system import System
from tests.support.waiting import free_port
from tests.support.websockets import handshake

INSIDE, OUTSIDE = "X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 203.0.113.1"
LOGIN = "Authorization: Basic " + base64.b64encode(b"ann:horse").decode()
KEY = "X-Key: sesame"
GATE = """
from proxyd.base.gateapi import GateAnswer

def key(request):
    return None if request.get("x-key") == "sesame" else GateAnswer(403, "no key")
"""
WAYS = ("http1", "http2", "websocket", "websocket2")


@dataclass
class Case:
    """A gate alone: the options of a route, the commands that follow (`ID` is the route), what passes, what is refused, and how."""

    gate: str
    options: dict[str, str]
    passes: tuple[str, ...]
    refused: tuple[str, ...]
    status: int
    reason: str | None
    commands: tuple[str, ...] = ()


CASES = (
    Case("cors", {"cors_origins": "https://a.test"}, ("Origin: https://a.test",), (), 0, None),
    Case("addresses", {"allow": "192.0.2.0/24"}, (INSIDE,), (OUTSIDE,), 403, "address_denied"),
    Case("maintenance", {}, (INSIDE,), (OUTSIDE,), 503, "maintenance", ("MAINT_ENTER|SID|ID|",)),
    Case("rate_limit", {}, (OUTSIDE,), (OUTSIDE,), 429, "rate_limited", ("RATELIMIT_SET|SID|ID|1|1h", "CONFIG_APPLY|SID")),
    Case("basic_auth", {"basic_auth": "staff"}, (LOGIN,), (LOGIN[:-4] + "AAAA",), 401, "login_required"),
    Case("forward_auth", {"forward_auth": "SERVICE"}, ("Cookie: good=1",), ("Cookie: bad=1",), 302, "auth_refused"),
    Case("user_limit", {"basic_auth": "staff", "rate_limit_key": "user"}, (LOGIN,), (LOGIN,), 429, "rate_limited",
         ("RATELIMIT_SET|SID|ID|1|1h", "CONFIG_APPLY|SID")),
    Case("plugged", {"gates": "key"}, (KEY,), ("X-Key: no",), 403, "gate_refused"),
    Case("own_answer", {"respond_text": "closed"}, (), ("X-A: 1",), 410, None),
)
#: Gates that are not about all requests, with tests of their own below.
APART = {"preflight", "body_size", "client_certificate"}


def test_no_gate_is_left_out() -> None:
    assert {case.gate for case in CASES} | APART == {gate.__name__ for gate in GATES}


class Matrix:
    """The system, and ways to ask it."""

    def __init__(self, directory: Path) -> None:
        (directory / "keyed.py").write_text(GATE)
        info = directory / "keyed-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: keyed\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[proxyd.gates]\nkey = keyed:key\n")
        users = directory / "staff.users"
        users.write_text(f"ann:{bcrypt.hashpw(b'horse', bcrypt.gensalt(4)).decode()}\n")
        self.authority = Authority(directory)
        self.port = free_port()
        self.service = RawBackend(self._decide)
        self.backend = RawBackend(self._serve)
        self._count = 0
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(directory), os.environ.get("PYTHONPATH")))))
            self.system = System(
                directory / "system", workers=1, tls__bind=f"127.0.0.1:{self.port}", proxy__trusted_proxies="127.0.0.1",
                tls__certificates=self.authority.issue("m.pem", "*.m.test"), users__staff=users, maintenance__bypass="192.0.2.0/24",
                tls__client_ca=self.authority.file)

    def stop(self) -> None:
        self.system.stop()
        self.service.stop()
        self.backend.stop()

    def _decide(self, sock: Any) -> None:
        """Who has the cookie may pass; the others are sent to a page."""
        head = self.service.receive_head(sock)
        answer = b"200 OK" if b"good=1" in head else b"302 Found\r\nLocation: https://login.test/"
        sock.sendall(b"HTTP/1.1 " + answer + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    def _serve(self, sock: Any) -> None:
        """A backend that switches to WebSocket if it is asked to."""
        head = self.backend.receive_head(sock)
        key = next((line.split(b":")[1].strip() for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key:")), b"")
        if key:
            token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
            sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                         b"Sec-WebSocket-Accept: " + token + b"\r\n\r\n")
            sock.recv(1)
        else:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    def route(self, options: dict[str, str], commands: tuple[str, ...] = (), backend: str = "") -> str:
        """A route with a name of its own; returns the name."""
        self._count += 1
        name = f"m{self._count}"
        client: RegistryClient = self.system.client(name, name)
        route_id = client.route(f"{name}.m.test", backend or self.backend.url, apply=False)
        for key, value in {"websocket": "true", **options}.items():
            client.ok(f"OPTIONS_SET|SID|{route_id}|{key}|{value.replace('SERVICE', self.service.url)}")
        client.apply()
        for command in commands:
            answer = client.command(command.replace("ID|", f"{route_id}|").replace(f"S{route_id}|", "SID|"))
            if answer == "ACK":
                client.line()
        return f"{name}.m.test"

    def ask(self, way: str, host: str, *fields: str) -> tuple[int, str | None, str | None]:
        """Status, reason, and who may read the answer."""
        if way in ("http1", "websocket"):
            with Wire(self.system.proxy_port) as wire:
                answer = wire.send(get(host, "/", *fields) if way == "http1" else handshake(host, *fields)).response()
                return answer.status, answer.get("x-proxyd-reason"), answer.get("access-control-allow-origin")
        pairs = [(name.lower(), value.strip()) for name, _, value in (field.partition(":") for field in fields)]
        with FrameClient(self.port, self.authority.trusting(), host) as client:
            if way == "http2":
                stream = client.ask("/", more=pairs)
            else:
                client.until(lambda: client.settings)
                stream = client.new()
                head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "https"), (":authority", host), (":path", "/"),
                        ("sec-websocket-version", "13"), *pairs]
                client.send(client.head(stream, head, end=False))
            client.until(lambda: stream in client.got and client.got[stream].status)
            got = client.got[stream]
            return got.status, got.header("x-proxyd-reason"), got.header("access-control-allow-origin")

    def passed(self, way: str) -> int:
        """The status of a request that has passed."""
        return 101 if way == "websocket" else 200


@pytest.fixture(scope="module")
def matrix(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matrix]:
    running = Matrix(tmp_path_factory.mktemp("matrix"))
    yield running
    running.stop()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.gate)
def test_each_gate_alone(matrix: Matrix, case: Case, way: str) -> None:
    host = matrix.route(case.options, case.commands, "respond:410" if case.gate == "own_answer" else "")
    if case.passes:
        assert matrix.ask(way, host, *case.passes)[:2] == (matrix.passed(way), None)
    if case.refused:
        assert matrix.ask(way, host, *case.refused)[:2] == (case.status, case.reason)


@pytest.mark.parametrize("way", WAYS)
def test_all_together_refuse_in_their_order_and_each_answer_is_readable(matrix: Matrix, way: str) -> None:
    host = matrix.route(
        {"allow": "192.0.2.0/24", "cors_origins": "https://a.test", "basic_auth": "staff", "gates": "key", "max_body_size": "10"},
        ("RATELIMIT_SET|SID|ID|3|1h", "CONFIG_APPLY|SID"))
    steps = [((), 403, "address_denied"), ((INSIDE,), 401, "login_required"), ((INSIDE, LOGIN), 403, "gate_refused"),
             ((INSIDE, LOGIN, KEY), matrix.passed(way), None), ((INSIDE, LOGIN, KEY), 429, "rate_limited"),
             ((OUTSIDE, LOGIN, KEY), 403, "address_denied")]
    for fields, status, reason in steps:
        assert matrix.ask(way, host, "Origin: https://a.test", *fields) == (status, reason, "https://a.test"), fields


@pytest.mark.parametrize("way", ["http1", "http2"])
def test_preflights_and_bodies(matrix: Matrix, way: str) -> None:
    host = matrix.route({"cors_origins": "https://a.test", "max_body_size": "10", "basic_auth": "staff"})
    asked = [("origin", "https://a.test"), ("access-control-request-method", "PUT")]
    other = [("origin", "https://b.test"), asked[1]]
    if way == "http1":
        with Wire(matrix.system.proxy_port) as wire:
            found = [wire.send(get(host, "/", *(f"{name}: {value}" for name, value in fields), method="OPTIONS")).response().status
                     for fields in (asked, other)]
            body = wire.send(get(host, "/", "Content-Length: 11", method="POST")).response().status
    else:
        with FrameClient(matrix.port, matrix.authority.trusting(), host) as client:
            found = [client.answer(client.ask("/", "OPTIONS", fields)).status for fields in (asked, other)]
            body = client.answer(client.ask("/", "POST", [("content-length", "11")], end=False)).status
    assert (found, body) == ([200, 403], 413)


@pytest.mark.parametrize("way", ["http1", "websocket"])
def test_a_client_without_a_certificate_is_refused(matrix: Matrix, way: str) -> None:
    # Over TLS such a client does not get as far as a gate.
    host = matrix.route({"client_certificate": "required"})
    assert matrix.ask(way, host)[:2] == (403, "client_certificate")


def test_a_backend_sees_nothing_of_what_is_refused(matrix: Matrix) -> None:
    backend = Recorder()
    host = matrix.route({"basic_auth": "staff", "gates": "key"}, backend=backend.url)
    assert {matrix.ask(way, host)[0] for way in WAYS} == {401}
    assert backend.requests() == []
    backend.stop()
