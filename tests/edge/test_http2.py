"""The HTTP/2 way in: nothing that HTTP/1.1 could read otherwise goes upstream, and early, late and missing ends are what they are."""

from __future__ import annotations

import queue
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import Secure
from tests.edge.wire import Recorder
from tests.support.backends import RawBackend, SilentBackend
from tests.support.http2 import Http2Answer
from tests.support.waiting import patience, wait_for

Make = Callable[..., RawBackend]
OK = "HTTP/1.1 200 OK\r\n"


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    running = Recorder()
    yield running
    running.stop()


# -- what HTTP/1.1 could read in another way


def pseudo(method: str = "GET", path: str = "/p", authority: str | None = "HOST") -> list[tuple[str, str]]:
    """The pseudo-header fields of a request."""
    fields = [(":method", method), (":scheme", "https"), (":path", path)]
    return fields if authority is None else [*fields, (":authority", authority)]


SMUGGLED = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"
#: Name, pseudo-header fields, other fields, body: what may reach no backend, or at most as an unfinished request.
NEVER = [
    ("line break in a value", pseudo(), [("x", "y\r\nInjected: 1")], b""),
    ("line feed in a value", pseudo(), [("x", "y\nInjected: 1")], b""),
    ("carriage return in a value", pseudo(), [("x", "y\rInjected: 1")], b""),
    ("NUL in a value", pseudo(), [("x", "y\0z")], b""),
    ("control character in a value", pseudo(), [("x", "y\x01z")], b""),
    ("space around a value", pseudo(), [("x", " y")], b""),
    ("line break in a name", pseudo(), [("x: y\r\nz", "y")], b""),
    ("space in a name", pseudo(), [("x y", "y")], b""),
    ("capitals in a name", pseudo(), [("X-Up", "y")], b""),
    ("no name", pseudo(), [("", "y")], b""),
    ("Transfer-Encoding", pseudo("POST"), [("transfer-encoding", "chunked")], SMUGGLED),
    ("Connection", pseudo(), [("connection", "close, x-forwarded-for")], b""),
    ("Keep-Alive", pseudo(), [("keep-alive", "5")], b""),
    ("Proxy-Connection", pseudo(), [("proxy-connection", "close")], b""),
    ("Upgrade", pseudo(), [("upgrade", "websocket")], b""),
    ("TE that is not trailers", pseudo(), [("te", "gzip")], b""),
    ("length shorter than the body", pseudo("POST"), [("content-length", "2")], b"hello"),
    ("length longer than the body", pseudo("POST"), [("content-length", "10")], b"hello"),
    ("length without a body", pseudo("POST"), [("content-length", "5")], b""),
    ("lengths that differ", pseudo("POST"), [("content-length", "5"), ("content-length", "6")], b"hello"),
    ("list of lengths", pseudo("POST"), [("content-length", "5,5")], b"hello"),
    ("negative length", pseudo("POST"), [("content-length", "-5")], b"hello"),
    ("signed length", pseudo("POST"), [("content-length", "+5")], b"hello"),
    ("another Host", pseudo(), [("host", "other.test")], b""),
    ("two Hosts", pseudo(authority=None), [("host", "HOST"), ("host", "HOST")], b""),
    ("no host at all", pseudo(authority=None), [], b""),
    ("user in the authority", pseudo(authority="user@HOST"), [], b""),
    ("list in the authority", pseudo(authority="HOST, other.test"), [], b""),
    ("line break in the authority", pseudo(authority="HOST\r\nX: y"), [], b""),
    ("port beyond 65535", pseudo(authority="HOST:99999"), [], b""),
    ("two paths", [*pseudo(), (":path", "/q")], [], b""),
    ("pseudo-header behind a field", pseudo(), [("x", "y"), (":path", "/q")], b""),
    ("unknown pseudo-header", [*pseudo(), (":odd", "x")], [], b""),
    ("request line in the method", pseudo("GET /x HTTP/1.1\r\nA: b"), [], b""),
    ("space in the path", pseudo(path="/a HTTP/1.1"), [], b""),
    ("line break in the path", pseudo(path="/a HTTP/1.1\r\nHost: x\r\n\r\nGET /b"), [], b""),
    ("fragment in the path", pseudo(path="/a#b"), [], b""),
    ("letters beyond ASCII in the path", pseudo(path="/\xe9"), [], b""),
    ("no path", pseudo(path=""), [], b""),
    ("path without slash", pseudo(path="a"), [], b""),
    ("absolute form", pseudo(path="https://other.test/"), [], b""),
    ("odd expectation", pseudo("POST"), [("expect", "200-ok")], b"hello"),
]


@pytest.mark.parametrize(("fields", "others", "body"), [case[1:] for case in NEVER], ids=[case[0] for case in NEVER])
def test_no_backend_gets_a_request_that_http1_could_read_otherwise(
        fields: list[tuple[str, str]], others: list[tuple[str, str]], body: bytes, secure: Secure, recorder: Recorder) -> None:
    host = secure.route(recorder.url)
    client = secure.client(host, validate=False)

    def named(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        return [(name, value.replace("HOST", host)) for name, value in pairs]

    answer = Http2Answer()
    try:
        stream = client.open("", "", named(others), end=not body, pseudo=named(fields))
        if body:
            client.send(stream, body.replace(b"HOST", host.encode()))
        client.answer(stream, answer)
    except OSError:
        answer.reset = True
    assert answer.reset or answer.status in (400, 417), answer
    client.close()
    # Whatever else was on its way is there once a request of our own is.
    assert secure.system.get("/last", host).status == 200
    assert [request.line for request in recorder.requests() if request.complete] == ["GET /last HTTP/1.1"]


def test_fields_names_and_paths_arrive_as_they_were_sent(secure: Secure, recorder: Recorder) -> None:
    client = secure.client(secure.route(recorder.url, raw_path="true"), validate=False)
    fields = [("x-a", "gr\xfc\xdfe"), ("x-b", "\u20ac"), ("x-forwarded-for", "6.6.6.6"), ("forwarded", "for=6.6.6.6"),
              ("x_real_ip", "6.6.6.6"), ("content_length", "9"), ("http2-settings", "AAMAAABk"), ("te", "trailers"),
              ("cookie", "a=1"), ("cookie", "b=2")]
    assert client.ask("PUT", "//a/../b%2F?x=%20", headers=fields).status == 200
    (got,) = recorder.requests()
    assert got.line == "PUT //a/../b%2F?x=%20 HTTP/1.1"
    assert got.get("x-a") == "gr\xfc\xdfe".encode().decode("latin-1"), "the very bytes"
    assert got.get("x-b") == "\u20ac".encode().decode("latin-1")
    assert (got.get("cookie"), got.get("te"), got.get("x-forwarded-for")) == ("a=1; b=2", "trailers", "127.0.0.1")
    assert (got.get("via") or "").startswith("2.0 ")
    wait_for(lambda: "PUT //a/../b%2F?x=%20 HTTP/2.0" in secure.system.access_log())
    assert not [name for name, value in got.fields if "_" in name or name.lower() == "http2-settings" or "6.6.6.6" in value]


# -- bodies


def test_a_body_of_unknown_length_streams_in_the_pieces_in_which_it_comes(secure: Secure, recorder: Recorder) -> None:
    client = secure.client(secure.route(recorder.url))
    stream = client.open("POST", "/up", end=False)
    sent = b""
    for number in range(4):
        client.send(stream, b"piece %d;" % number, end=False)
        sent += b"piece %d;" % number
        wait_for(lambda: recorder.streams and f"piece {number};".encode() in recorder.streams[0], 2, f"piece {number}")  # noqa: B023
    client.trailers(stream, [("x-sum", "4")])
    assert client.answer(stream).status == 200
    (got,) = recorder.requests()
    assert (got.body, got.complete) == (sent, True)


@pytest.mark.parametrize("declared", [True, False])
def test_a_body_beyond_the_bound_is_413_and_never_whole_at_the_backend(declared: bool, secure: Secure, recorder: Recorder) -> None:
    client = secure.client(secure.route(recorder.url))
    answer = client.ask("POST", "/", b"x" * 5_000_000, [("content-length", "5000000")] if declared else [])
    assert (answer.status, answer.header("x-proxyd-reason")) == (413, "body_too_large")
    assert not [request for request in recorder.requests() if request.complete]
    assert client.ask("POST", "/", b"x" * 150_000).status == 200, "the connection goes on"


@pytest.mark.parametrize("fields", [[("content-length", "100")], [("content-length", "100000")], []],
                         ids=["small", "large", "no length"])
def test_a_body_that_stops_coming_is_answered_408_in_time(fields: list[tuple[str, str]], secure: Secure, recorder: Recorder) -> None:
    client = secure.client(secure.route(recorder.url))
    began = time.monotonic()
    stream = client.open("POST", "/stalled", fields, end=False)
    client.send(stream, b"some", end=False)
    answer = client.answer(stream)
    assert (answer.status, answer.header("x-proxyd-reason")) == (408, "body_timeout")
    assert time.monotonic() - began < patience(5)
    assert not [request for request in recorder.requests() if request.complete]


def test_a_request_that_does_not_say_whether_it_has_a_body_is_answered_408_in_time(secure: Secure, recorder: Recorder) -> None:
    client = secure.client(secure.route(recorder.url))
    answer = client.answer(client.open("POST", "/", end=False))
    assert (answer.status, answer.header("x-proxyd-reason")) == (408, "body_timeout")
    assert recorder.requests() == []


def test_a_client_that_takes_nothing_does_not_hold_the_backend(secure: Secure, raw_backend: Make) -> None:
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        try:
            sock.sendall(f"{OK}Content-Length: 50000000\r\n\r\n".encode() + b"x" * 50_000_000)
        except OSError:
            ended.set()

    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url))
    # No window is given back, since nothing is read.
    stream = client.open("GET", "/")
    assert ended.wait(patience(5))
    assert client.answer(stream).reset, "what it has is not the whole"


def test_an_early_answer_reaches_a_client_that_is_still_sending(secure: Secure, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100000\r\nConnection: close\r\n\r\n" + b"no" * 50_000)
        sock.shutdown(socket.SHUT_WR)
        done.wait(5)

    done = threading.Event()
    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url))
    stream = client.open("POST", "/", [("content-length", "150000")], end=False)
    answer = Http2Answer()
    client.send(stream, b"x" * 70_000, answer, end=False)
    client.answer(stream, answer)
    done.set()
    assert (answer.status, len(answer.body)) == (403, 100_000)


# -- answers


def test_an_event_stream_begins_before_its_first_event_and_stays_live(secure: Secure, raw_backend: Make) -> None:
    events: queue.Queue[bytes] = queue.Queue()

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(f"{OK}Content-Type: text/event-stream\r\n\r\n".encode())
        while event := events.get(timeout=10):
            sock.sendall(event)

    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url))
    stream = client.open("GET", "/")
    answer = client.answer(stream, until=lambda known: known.status)
    assert (answer.status, answer.body) == (200, b"")
    for number in range(3):
        events.put(b"data: %d\n\n" % number)
        client.answer(stream, answer, until=lambda known: known.body.endswith(b"data: %d\n\n" % number))  # noqa: B023
    events.put(b"")
    assert client.answer(stream, answer).body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"
    assert not answer.reset


def test_hints_trailers_and_letters_beyond_ascii_come_through(secure: Secure) -> None:
    recorder = Recorder((f"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n{OK}Transfer-Encoding: chunked\r\nX-A: grüße\r\n\r\n"
                         "5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n").encode())
    client = secure.client(secure.route(recorder.url))
    answer = client.ask("GET", "/", headers=[("te", "trailers")])
    assert answer.hints == [(":status", "103"), ("link", "</a.css>")]
    assert (answer.status, answer.body, answer.trailers, answer.header("x-a")) == (200, b"hello", [("grpc-status", "0")], "grüße")
    recorder.stop()


@pytest.mark.parametrize("answer", [
    f"{OK}Content-Length: 10\r\n\r\nhello", f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n"], ids=["length", "no last chunk", "bad chunk"])
@pytest.mark.parametrize("compression", [False, True])
def test_a_body_that_ends_early_resets_the_stream_and_the_connection_goes_on(
        answer: str, compression: bool, secure: Secure, raw_backend: Make) -> None:
    begun = threading.Semaphore(0)

    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        head, _, body = answer.replace("\r\n\r\n", "\r\nContent-Type: text/plain\r\n\r\n", 1).partition("hello")
        sock.sendall(f"{head}hello".encode())
        begun.acquire(timeout=30)
        sock.sendall(body.encode())

    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url, compression=compression, compression_min_size=1))
    for _ in range(2):
        stream = client.open("GET", "/", [("accept-encoding", "gzip")])
        got = client.answer(stream, until=lambda known: known.status)
        begun.release()
        got = client.answer(stream, got)
        assert got.reset, got
    assert "Traceback" not in secure.system.log()


def test_a_client_that_closes_its_connection_closes_the_upstream_at_once(secure: Secure, silent: SilentBackend) -> None:
    client = secure.client(secure.route(silent.url))
    client.open("GET", "/")
    assert silent.asked.wait(patience(5))
    client.close()
    assert silent.closed.wait(patience(2))


def test_bad_answers_are_502_and_leave_no_trace_in_the_next(secure: Secure, raw_backend: Make) -> None:
    answers = [f"{OK}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", "hello\r\n\r\n", f"{OK}X: a\nb\r\n\r\n",
               f"{OK}Content-Length: 2\r\n\r\nok{OK}Content-Length: 6\r\n\r\nhidden"]

    def serve(sock: socket.socket) -> None:
        while head := backend.receive_head(sock):
            sock.sendall(answers[int(head.split()[1][1:])].encode())

    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url))
    got = [client.ask("GET", f"/{number}") for number in (0, 1, 2, 3, 3)]
    assert [one.status for one in got] == [502, 502, 502, 200, 200]
    assert [one.body for one in got[3:]] == [b"ok", b"ok"]




def unread(port: int, peer: int) -> int:
    """Bytes that the kernel holds for the program at `port`, sent from the port `peer` and not read yet (proc(5), net/tcp)."""
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = line.split()
        if (local.endswith(f":{port:04X}"), remote.endswith(f":{peer:04X}")) == (True, True):
            return int(queues.partition(":")[2], 16)
    raise AssertionError(f"no connection from port {peer} to {port}")


def test_frames_about_a_body_that_is_read_do_not_come_between_those_of_an_answer_that_waits_for_its_client(
        secure: Secure, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        threading.Thread(target=read, args=(sock,), daemon=True).start()
        sock.sendall(f"{OK}Transfer-Encoding: chunked\r\n\r\n".encode())
        # Until all that lies between the client, which reads nothing, and us is full.
        while select.select([], [sock], [], 0.05)[1]:
            sock.sendall(b"4000\r\n" + piece + b"\r\n")
            sent.append(piece)
        full.set()
        sock.sendall(b"0\r\n\r\n")
        done.wait(10)

    def read(sock: socket.socket) -> None:
        while sock.recv(65536):
            pass

    piece, sent = bytes(range(256)) * 64, list[bytes]()
    full, done = threading.Event(), threading.Event()
    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url), receive_buffer=32768)
    client.widen(1 << 28)
    stream = client.open("POST", "/", [("content-length", "100000")], end=False)
    answer = client.answer(stream, until=lambda known: known.status)
    assert full.wait(patience(10))
    client.send(stream, b"x" * 10_000, answer, end=False)
    # Whoever has read them gives the client room for more, at once.
    wait_for(lambda: unread(secure.port, client.socket.getsockname()[1]) == 0, what="the worker to read the piece")
    client.send(stream, b"x" * 90_000, answer)
    client.answer(stream, answer)
    done.set()
    assert (answer.status, answer.reset, len(answer.body)) == (200, False, len(sent) * len(piece))
    assert answer.body == b"".join(sent)


def test_a_large_body_that_the_backend_sends_back_as_it_comes(secure: Secure, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        head, _, rest = backend.receive_head(sock).partition(b"\r\n\r\n")
        sock.sendall(f"{OK}Content-Length: 190000\r\n\r\n".encode() + rest)
        left = 190_000 - len(rest)
        while left:
            piece = sock.recv(65536)
            sock.sendall(piece)
            left -= len(piece)

    backend = raw_backend(serve)
    client = secure.client(secure.route(backend.url))
    body = bytes(range(256)) * 742 + b"x" * 48
    for _ in range(3):
        answer = client.ask("POST", "/", body, [("content-length", "190000")])
        assert (answer.status, answer.body == body, answer.reset) == (200, True, False)
