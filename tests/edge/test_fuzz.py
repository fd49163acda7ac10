"""Made-up traffic through a running proxy: what goes in in any pieces comes out as meant, and what is damaged never as something
else. Bounded runs of hypothesis."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxyd.base.paths import climbs, normalize_path, request_path
from tests.edge.conftest import make_route
from tests.edge.wire import Recorder, Wire, get, read_message
from tests.support.backends import RawBackend
from tests.support.system import System

_numbers = itertools.count()
BOUNDED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def host(edge: System, recorder: Recorder) -> str:
    return make_route(edge, recorder.url)


# -- requests

NAMES = st.sampled_from(["X-A", "x-b", "Accept", "Cookie", "Content-Type", "X_C"])
VALUES = st.text(st.sampled_from("aZ09 \t;:,\"=/\xe4"), max_size=12).map(lambda text: text.strip(" \t"))
FIELDS = st.lists(st.tuples(NAMES, VALUES), max_size=4)
CHUNKS = st.lists(st.binary(min_size=1, max_size=60), max_size=4)
EXTENSIONS = st.sampled_from(["", ";a", ";a=b", ';a="b;c"', "; a = b"])
TRAILERS = st.lists(st.tuples(st.sampled_from(["X-Sum", "x-t"]), VALUES), max_size=2)


@dataclass
class Sent:
    """A request, and what its backend must make of it."""

    method: str
    fields: list[tuple[str, str]]
    chunks: list[bytes]
    framing: str
    extension: str
    trailers: list[tuple[str, str]]

    def wire(self, host: str, path: str) -> bytes:
        """Its bytes."""
        lines = [f"{self.method} {path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in self.fields)]
        body = b"".join(self.chunks)
        if self.framing == "length":
            lines.append(f"Content-Length: {len(body)}")
        elif self.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
            body = b"".join(f"{len(chunk):X}{self.extension}\r\n".encode() + chunk + b"\r\n" for chunk in self.chunks)
            body += "".join(["0\r\n", *(f"{name}: {value}\r\n" for name, value in self.trailers), "\r\n"]).encode("latin-1")
        else:
            body = b""
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


REQUESTS = st.builds(Sent, st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "M-SEARCH"]), FIELDS, CHUNKS,
                     st.sampled_from(["none", "length", "chunked"]), EXTENSIONS, TRAILERS)


#: A place in a stream, in thousandths: its length is not the same each time.
SHARES = st.integers(0, 1000)


def cut(data: st.DataObject, stream: bytes) -> list[bytes]:
    """The stream in pieces."""
    cuts = sorted(len(stream) * share // 1000 for share in data.draw(st.lists(SHARES, max_size=6), label="cuts"))
    return [stream[start:end] for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


@settings(BOUNDED, max_examples=100)
@given(sent=st.lists(REQUESTS, min_size=1, max_size=5), data=st.data())
def test_pipelined_requests_in_any_pieces_arrive_one_by_one_as_they_were_meant(
        sent: list[Sent], data: st.DataObject, edge: System, recorder: Recorder, host: str) -> None:
    mark = next(_numbers)
    paths = [f"/{mark}/{number}" for number in range(len(sent))]
    stream = b"".join(one.wire(host, path) for one, path in zip(sent, paths, strict=True))
    recorder.forget()
    with Wire(edge.proxy_port) as wire:
        for piece in cut(data, stream):
            wire.send(piece)
        assert [wire.response().status for _ in sent] == [200] * len(sent)
    got = {request.line.split()[1]: request for request in recorder.requests()}
    assert list(got) and set(got) == set(paths)
    for one, path in zip(sent, paths, strict=True):
        request = got[path]
        assert request.line == f"{one.method} {path} HTTP/1.1"
        assert request.complete
        assert request.body == (b"".join(one.chunks) if one.framing != "none" else b"")
        assert request.trailers == (one.trailers if one.framing == "chunked" else [])
        kept = [(name, value) for name, value in one.fields if "_" not in name]
        assert [field for field in request.fields if field[0] in dict(kept)] == kept


DAMAGE = st.sampled_from([b"", b"\0", b"\r", b"\n", b"\r\n", b" ", b"\t", b":", b",", b"0", b"1", b"f", b"\xff", b"Content-Length: 3\r\n",
                          b"Transfer-Encoding: chunked\r\n", b"GET /evil HTTP/1.1\r\nHost: x\r\n\r\n"])


@settings(BOUNDED, max_examples=120)
@given(sent=st.lists(REQUESTS, min_size=1, max_size=2), damage=DAMAGE, removed=st.integers(0, 2), share=SHARES)
def test_whatever_is_damaged_on_its_way_a_backend_reads_in_one_way_or_never(
        sent: list[Sent], damage: bytes, removed: int, share: int, edge: System, recorder: Recorder, host: str) -> None:
    mark = next(_numbers)
    stream = b"".join(one.wire(host, f"/{mark}/{number}") for number, one in enumerate(sent))
    at = len(stream) * share // 1000
    recorder.forget()
    with Wire(edge.proxy_port, 0.5) as wire:
        wire.send(stream[:at] + damage + stream[at + removed :] + get(host, f"/{mark}/end", "Connection: close"))
        statuses = []
        while wire.data or wire.more():
            try:
                statuses.append(wire.response().status)
            except (AssertionError, TimeoutError):
                break
    # Raises NotStrict for anything that could be read in two ways.
    complete = [request for request in recorder.requests() if request.complete]
    assert len(complete) >= statuses.count(200)
    for request in complete:
        assert request.get("host") is not None and "_" not in "".join(name for name, _ in request.fields)


# -- answers


class Answering:
    """A backend that gives each request the pieces the test has set."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.raw = RawBackend(self._serve)

    def _serve(self, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while self.raw.receive_head(sock):
            # The client may be done with these, and the test have set others, before this thread goes on.
            pieces = self.pieces
            for piece in pieces:
                sock.sendall(piece)
            if pieces and pieces[-1] == b"":
                return


@pytest.fixture(scope="module")
def answering(edge: System) -> Iterator[Answering]:
    running = Answering()
    running.host = make_route(edge, running.raw.url)  # type: ignore[attr-defined]
    yield running
    running.raw.stop()


ANSWER_FIELDS = st.lists(st.tuples(st.sampled_from(["X-A", "Set-Cookie", "ETag", "x-b"]), VALUES), max_size=4)
STATUSES = st.sampled_from([200, 201, 204, 206, 301, 304, 400, 404, 500, 503, 599])


def answer_bytes(status: int, fields: list[tuple[str, str]], sent: Sent, method: str) -> tuple[bytes, bytes]:
    """An answer's bytes, and its body as the client must read it."""
    lines = [f"HTTP/1.1 {status} Some Reason", *(f"{name}: {value}" for name, value in fields)]
    if status in (204, 304):
        return "\r\n".join([*lines, "", ""]).encode("latin-1"), b""
    message = sent.wire("x", "/")
    framing, _, body = message.partition(b"\r\n\r\n")
    lines += [line for line in framing.decode("latin-1").split("\r\n") if line.startswith(("Content-Length", "Transfer-Encoding"))]
    if sent.framing == "none":
        lines.append("Connection: close")
        body = b"".join(sent.chunks)
    head = "\r\n".join([*lines, "", ""]).encode("latin-1")
    return (head, b"") if method == "HEAD" else (head + body, b"".join(sent.chunks))


@settings(BOUNDED, max_examples=100)
@given(status=STATUSES, fields=ANSWER_FIELDS, sent=REQUESTS, method=st.sampled_from(["GET", "HEAD", "POST"]), data=st.data())
def test_an_answer_in_any_pieces_is_the_answer_that_the_client_reads(
        status: int, fields: list[tuple[str, str]], sent: Sent, method: str, data: st.DataObject, edge: System,
        answering: Answering) -> None:
    stream, body = answer_bytes(status, fields, sent, method)
    ends = sent.framing == "none" and status not in (204, 304)
    answering.pieces = [piece for piece in cut(data, stream) if piece] + ([b""] if ends else [])
    with Wire(edge.proxy_port) as wire:
        # Twice, since what is left over of the first would be read as the second.
        for _ in range(2):
            response = wire.send(get(answering.host, "/", method=method)).response(method)  # type: ignore[attr-defined]
            assert (response.status, response.body, response.complete) == (status, body, True)
            assert [field for field in response.fields if field[0] in dict(fields)] == fields
            if sent.framing == "chunked" and body:
                assert response.trailers == sent.trailers
    assert "Traceback" not in edge.log()


@settings(BOUNDED, max_examples=100)
@given(fields=ANSWER_FIELDS, sent=REQUESTS, damage=DAMAGE, removed=st.integers(0, 2), share=SHARES)
def test_a_damaged_answer_is_502_or_cut_or_has_one_meaning(
        fields: list[tuple[str, str]], sent: Sent, damage: bytes, removed: int, share: int, edge: System,
        answering: Answering) -> None:
    stream, _ = answer_bytes(200, fields, sent, "GET")
    at = len(stream) * share // 1000
    answering.pieces = [stream[:at] + damage + stream[at + removed :], b""]
    with Wire(edge.proxy_port) as wire:
        wire.send(get(answering.host, "/", "Connection: close"))  # type: ignore[attr-defined]
        told = wire.rest()
    if told:
        # Strictly read: one message, and nothing behind it.
        message, rest = read_message(told, "GET")
        assert rest == b""
        assert 200 <= message.status < 600
    assert "Traceback" not in edge.log()


# -- targets

SEGMENTS = st.sampled_from(["a", "api", "%61pi", ".", "..", "%2e%2e", "%2E", "", "api..", "a%2Fb", "..;"])
TARGETS = st.lists(SEGMENTS, max_size=6).map(lambda parts: "/" + "/".join(parts))


@pytest.fixture(scope="module")
def based(edge: System, recorder: Recorder) -> dict[str, str]:
    """Domains of routes that take a prefix off, put one before, and both."""
    return {"base": make_route(edge, f"{recorder.url}/base"), "strip": make_route(edge, recorder.url, path="/api", strip_prefix="true"),
            "both": make_route(edge, f"{recorder.url}/base", path="/api", strip_prefix="true")}


def covered(kind: str, path: str) -> bool:
    """Whether the route of that kind covers a path."""
    return kind == "base" or path == "/api" or path.startswith("/api/")


@settings(BOUNDED, max_examples=120)
@given(target=TARGETS, kind=st.sampled_from(["base", "strip", "both"]))
def test_no_target_climbs_out_of_the_backend_s_path(
        target: str, kind: str, edge: System, recorder: Recorder, based: dict[str, str]) -> None:
    recorder.forget()
    with Wire(edge.proxy_port) as wire:
        status = wire.send(get(based[kind], target + "?q=/../x")).response().status
    inside, readings = request_path(target)
    matched = covered(kind, inside)
    meant = inside if kind == "base" else inside.removeprefix("/api") or "/"
    ambiguous = matched and (climbs(meant) or not all(covered(kind, reading) for reading in readings))
    assert status == (400 if ambiguous else 200 if matched else 404)
    if status != 200:
        assert recorder.requests() == []
        return
    (request,) = recorder.requests()
    arrived = request.line.split()[1]
    assert arrived.endswith("?q=/../x")
    assert normalize_path(arrived) == normalize_path(("" if kind == "strip" else "/base") + meant)


def test_a_hundred_clients_at_once_get_each_their_own(edge: System, recorder: Recorder, host: str) -> None:
    failures: list[object] = []

    def ask(number: int) -> None:
        with Wire(edge.proxy_port) as wire:
            for turn in range(10):
                body = f"{number}-{turn}".encode() * (turn + 1)
                wire.send(get(host, f"/each/{number}/{turn}", f"Content-Length: {len(body)}", method="POST") + body)
                if wire.response().status != 200:
                    failures.append((number, turn))

    recorder.forget()
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    got = {request.line.split()[1]: request.body for request in recorder.requests()}
    assert got == {f"/each/{number}/{turn}": f"{number}-{turn}".encode() * (turn + 1) for number in range(100) for turn in range(10)}
