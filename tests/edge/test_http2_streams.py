"""The requests of an HTTP/2 connection: side by side, cut alone, with all that HTTP/1.1's have."""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import struct
import threading
import time
from collections.abc import Callable

import pytest
from hyperframe.frame import DataFrame, PriorityFrame, RstStreamFrame, SettingsFrame, WindowUpdateFrame

from tests.edge.conftest import Secure
from tests.edge.wire import Recorder
from tests.support.backends import Backend, RawBackend, SilentBackend
from tests.support.frames import FrameClient
from tests.support.waiting import patience, wait_for

Make = Callable[..., RawBackend]
OK = "HTTP/1.1 200 OK\r\n"
CONNECT = ("CONNECT", "websocket")


def connect(secure: Secure, host: str, **options: object) -> FrameClient:
    """A connection for one of the hosts."""
    return FrameClient(secure.port, secure.authority.trusting(), host, **options)  # type: ignore[arg-type]


def test_ten_requests_are_served_side_by_side(secure: Secure, backend: Backend) -> None:
    with connect(secure, secure.route(backend.url)) as client:
        began = time.monotonic()
        answers = client.answers(*[client.ask("/slow?s=1") for _ in range(10)])
        assert [answer.status for answer in answers] == [200] * 10
        assert time.monotonic() - began < patience(4)
        assert backend.most_in_flight > 5


def test_a_page_comes_while_an_event_stream_is_open(secure: Secure, backend: Backend, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        events.receive_head(sock)
        sock.sendall(f"{OK}Content-Type: text/event-stream\r\n\r\ndata: 0\n\n".encode())
        done.wait(10)

    done = threading.Event()
    events = raw_backend(serve)
    host = secure.route(events.url)
    client = connect(secure, host)
    with client:
        stream = client.ask("/events")
        client.until(lambda: stream in client.got and client.got[stream].body)
        client.name = secure.route(backend.url)
        assert client.answer(client.ask("/page")).status == 200
        assert not client.got[stream].over
        done.set()


def test_a_reset_ends_the_work_upstream_and_leaves_the_others(secure: Secure, silent: SilentBackend, backend: Backend) -> None:
    with connect(secure, secure.route(silent.url)) as client:
        stream = client.ask("/poll")
        assert silent.asked.wait(patience(5))
        client.send(RstStreamFrame(stream, 8))
        assert silent.closed.wait(patience(2))
        client.name = secure.route(backend.url)
        assert client.answer(client.ask("/")).status == 200


def test_an_upload_of_megabytes_is_quick_and_credited_in_batches(secure: Secure, raw_backend: Make) -> None:
    def serve(sock: socket.socket) -> None:
        head, _, rest = sink.receive_head(sock).partition(b"\r\n\r\n")
        size = int(re.search(rb"content-length: (\d+)", head.lower())[1])  # type: ignore[index]
        digest = hashlib.sha256(rest)
        left = size - len(rest)
        while left and (data := sock.recv(1 << 18)):
            digest.update(data)
            left -= len(data)
        sock.sendall(f"{OK}Content-Length: 64\r\n\r\n{digest.hexdigest()}".encode())

    sink = raw_backend(serve)
    body = bytes(range(256)) * 40_000
    with connect(secure, secure.route(sink.url, max_body_size="100m")) as client:
        client.until(lambda: client.settings)
        window, room = client.settings[4], 65535
        stream = client.ask("/", "POST", [("content-length", str(len(body)))], end=False)
        at = updates = 0
        began = time.monotonic()
        while at < len(body):
            while window > 0 and room > 0 and at < len(body):
                piece = body[at : at + min(16384, window, room)]
                client.data(stream, piece, at + len(piece) == len(body))
                at, window, room = at + len(piece), window - len(piece), room - len(piece)
            if at < len(body):
                frame = client.frame()
                assert frame is not None
                if isinstance(frame, WindowUpdateFrame):
                    updates += 1
                    window += frame.window_increment if frame.stream_id else 0
                    room += 0 if frame.stream_id else frame.window_increment
        answer = client.answer(stream)
        assert answer.body.decode() == hashlib.sha256(body).hexdigest()
        assert time.monotonic() - began < patience(8)
        assert updates < len(body) / 16384 / 3


def test_a_slow_reader_gets_all_of_it_by_its_windows_and_holds_nobody(secure: Secure, backend: Backend) -> None:
    with connect(secure, secure.route(backend.url), settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1000}, credit=False) as client:
        stream = client.ask("/bytes/5000")
        client.until(lambda: stream in client.got and len(client.got[stream].body) == 1000)
        other = client.ask("/bytes/300")
        assert client.answer(other).body == b"x" * 300
        assert len(client.got[stream].body) == 1000
        for _ in range(4):
            client.send(WindowUpdateFrame(stream, window_increment=1000))
        assert len(client.answer(stream).body) == 5000


def test_a_stream_whose_client_takes_nothing_is_reset_in_time_and_logged(secure: Secure, backend: Backend) -> None:
    with connect(secure, secure.route(backend.url), settings={SettingsFrame.INITIAL_WINDOW_SIZE: 10}, credit=False) as client:
        stream = client.ask("/bytes/5000?stalled")
        assert client.answer(stream).reset == 8
        assert client.answer(client.ask("/bytes/10")).status == 200
    wait_for(lambda: re.search(r"stalled .*reason=response_write", secure.system.access_log()))


@pytest.mark.parametrize(("path", "more", "status", "reason"), [
    ("/" + "x" * 9000, [], 414, "request_line_too_long"), ("/", [(f"x-{number}", "y") for number in range(105)], 431, "too_many_fields"),
    ("/", [("x-large", "y" * 70_000)], 431, "head_too_large"), ("/" + "x" * 70_000, [], 414, "request_line_too_long"),
    ("/a#b", [], 400, "fragment_in_target"), ("/", [("host", "other.test")], 400, "host_mismatch"),
    ("/", [("expect", "nothing")], 417, "unsupported_expectation"), ("/", [("content-length", "1,1")], 400, "duplicate_content_length"),
], ids=["path", "fields", "size", "size of the path", "fragment", "host", "expectation", "length"])
def test_refusals_are_those_of_http1_and_concern_one_stream(
        path: str, more: list[tuple[str, str]], status: int, reason: str, secure: Secure, backend: Backend) -> None:
    with connect(secure, secure.route(backend.url)) as client:
        stream = client.new()
        block = client.encoder.encode(client.fields("GET", path, more))
        pieces = [block[at : at + 16384] for at in range(0, len(block), 16384)]
        flags = [5 if len(pieces) == 1 else 1, *[0] * (len(pieces) - 2), *([4] if len(pieces) > 1 else [])]
        client.raw(b"".join(len(piece).to_bytes(3, "big") + bytes((9 if number else 1, flags[number])) + stream.to_bytes(4, "big") + piece
                            for number, piece in enumerate(pieces)))
        answer = client.answer(stream)
        assert (answer.status, answer.header("x-proxyd-reason")) == (status, reason)
        assert client.answer(client.ask("/")).status == 200
    wait_for(lambda: f"reason={reason}" in secure.system.access_log())


@pytest.mark.parametrize(("length", "body"), [("2", b"hello"), ("10", b"hello"), ("100000", b"hello"), ("5", b"")],
                         ids=["less", "more", "much more", "none"])
def test_a_wrong_content_length_resets_that_stream_alone(length: str, body: bytes, secure: Secure, backend: Backend) -> None:
    recorder = Recorder()
    with connect(secure, secure.route(recorder.url)) as client:
        stream = client.ask("/wrong", "POST", [("content-length", length)], end=not body)
        if body:
            client.data(stream, body, end=True)
        assert client.answer(stream).reset == 1
        client.name = secure.route(backend.url)
        assert client.answer(client.ask("/")).status == 200
    assert not [request for request in recorder.requests() if request.complete]
    wait_for(lambda: "reason=malformed_request" in secure.system.access_log())
    recorder.stop()


def test_trailers_go_both_ways_and_hints_come(secure: Secure) -> None:
    recorder = Recorder((f"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n{OK}Transfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n"
                         "5\r\nhello\r\n0\r\nx-sum: 5\r\n\r\n").encode())
    with connect(secure, secure.route(recorder.url)) as client:
        stream = client.ask("/", "POST", [("te", "trailers")], end=False)
        client.data(stream, b"some")
        client.send(client.head(stream, [("x-checksum", "abc"), ("x_bad", "1")]))
        answer = client.answer(stream)
        assert [dict(head).get(":status") for head in answer.heads] == ["103", "200", None]
        assert (answer.body, answer.heads[2], answer.ended) == (b"hello", [("x-sum", "5")], True)
    assert len(recorder.requests()) == 1, recorder.streams
    (request,) = recorder.requests()
    assert (request.body, request.trailers, request.get("te")) == (b"some", [("x-checksum", "abc")], "trailers")
    recorder.stop()


def test_a_trailer_that_can_not_be_one_is_refused_and_the_connection_goes_on(secure: Secure, backend: Backend) -> None:
    with connect(secure, secure.route(backend.url)) as client:
        stream = client.ask("/echo", "POST", end=False)
        client.data(stream, b"some")
        client.send(client.head(stream, [("content-length", "4")]))
        answer = client.answer(stream)
        assert (answer.status, answer.header("x-proxyd-reason")) == (400, "forbidden_trailer")
        assert client.answer(client.ask("/")).status == 200


def test_100_continue_comes_when_the_body_is_wanted(secure: Secure, backend: Backend) -> None:
    with connect(secure, secure.route(backend.url)) as client:
        stream = client.ask("/echo", "POST", [("expect", "100-continue")], end=False)
        client.until(lambda: stream in client.got and client.got[stream].status == 100)
        client.data(stream, b"body", end=True)
        assert b'"body": "body"' in client.answer(stream).body


def test_field_bytes_come_as_the_backend_sent_them(secure: Secure) -> None:
    recorder = Recorder((f'{OK}Content-Disposition: attachment; filename="日.txt"\r\nServer: theirs/1\r\n'
                         "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 2\r\n\r\nok").encode())
    with connect(secure, secure.route(recorder.url)) as client:
        for _ in range(2):
            answer = client.answer(client.ask("/", more=[("cookie", "a=1"), ("cookie", "b=2"), ("x-a", "ü")]))
            assert answer.header("content-disposition") == 'attachment; filename="日.txt"'.encode().decode("latin-1")
            assert (answer.header("server"), answer.header("date")) == ("theirs/1", "Thu, 01 Jan 1970 00:00:00 GMT")
    request = recorder.requests()[0]
    assert (request.get("cookie"), request.get("x-a")) == ("a=1; b=2", "ü".encode().decode("latin-1"))
    recorder.stop()


def test_an_early_answer_stops_the_upload_and_the_connection_goes_on(secure: Secure, raw_backend: Make, backend: Backend) -> None:
    def serve(sock: socket.socket) -> None:
        early.receive_head(sock)
        sock.sendall(f"{OK}Content-Length: 5\r\nConnection: close\r\n\r\nearly".encode())
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(65536):
            pass

    early = raw_backend(serve)
    with connect(secure, secure.route(early.url)) as client:
        stream = client.ask("/", "POST", [("content-length", "150000")], end=False)
        client.data(stream, b"x" * 10_000)
        client.until(lambda: stream in client.got and client.got[stream].reset >= 0)
        assert (client.got[stream].body, client.got[stream].reset) == (b"early", 0)
        client.data(stream, b"x" * 10_000)
        client.name = secure.route(backend.url)
        assert client.answer(client.ask("/")).status == 200


def test_bodies_that_nobody_reads_do_not_hold_the_others_for_ever(secure: Secure, silent: SilentBackend, backend: Backend) -> None:
    with connect(secure, secure.route(silent.url)) as client:
        for _ in range(3):
            stream = client.ask("/", "POST", [("content-length", "150000")], end=False)
            for _ in range(3):
                client.data(stream, b"x" * 16_000)
            client.send(RstStreamFrame(stream, 8))
        client.name = secure.route(backend.url)
        stream = client.ask("/echo", "POST", end=False)
        client.data(stream, b"x" * 16_000, end=True)
        assert client.answer(stream).status == 200


def test_urgent_answers_go_first(secure: Secure, backend: Backend) -> None:
    # Head and body come at once, so that what waits for the window is there when the head is.
    recorder = Recorder(f"{OK}Content-Length: 20000\r\n\r\n{'x' * 20_000}".encode())
    with connect(secure, secure.route(backend.url), settings={SettingsFrame.INITIAL_WINDOW_SIZE: 1 << 20}, credit=False) as client:
        used = client.ask("/bytes/65535")
        client.until(lambda: used in client.got and client.got[used].over)
        # The window of the connection holds both back until both are there.
        client.name = secure.route(recorder.url)
        later, first = client.ask(more=[("priority", "u=5")]), client.ask(more=[("priority", "u=1, i")])
        client.until(lambda: {later, first} <= set(client.got))
        client.send(WindowUpdateFrame(0, window_increment=20_000))
        client.until(lambda: client.got[first].over)
        assert client.got[later].body == b""
        client.send(WindowUpdateFrame(0, window_increment=20_000), PriorityFrame(later, 0, 1, False))
        assert len(client.answer(later).body) == 20_000
    recorder.stop()


# -- WebSocket (RFC 8441)


def websocket(client: FrameClient, path: str = "/chat", protocol: str = "websocket") -> int:
    """Ask for a WebSocket."""
    stream = client.new()
    fields = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "https"), (":authority", client.name), (":path", path),
              ("sec-websocket-version", "13"), ("sec-websocket-protocol", "chat"), ("origin", "https://here.test")]
    client.send(client.head(stream, fields, end=False))
    return stream


def switching(make: Make, talk: Callable[[socket.socket], None], accept: bool = True) -> tuple[RawBackend, list[bytes]]:
    """A backend that takes a WebSocket's handshake; the heads that it got."""
    heads: list[bytes] = []

    def serve(sock: socket.socket) -> None:
        heads.append(backend.receive_head(sock))
        key = re.search(rb"(?i)sec-websocket-key: ([^\r]+)", heads[-1])[1]  # type: ignore[index]
        token = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest()).decode() if accept else "wrong"
        sock.sendall(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {token}\r\n"
                     "Sec-WebSocket-Protocol: chat\r\n\r\n".encode())
        talk(sock)

    backend = make(serve)
    return backend, heads


def echo(sock: socket.socket) -> None:
    while data := sock.recv(65536):
        sock.sendall(data)


def test_a_websocket_works_over_an_extended_connect(secure: Secure, raw_backend: Make, backend: Backend) -> None:
    made, heads = switching(raw_backend, echo)
    with connect(secure, secure.route(made.url, websocket="true")) as client:
        client.until(lambda: client.settings)
        assert client.settings[8] == 1
        stream = websocket(client)
        client.until(lambda: stream in client.got and client.got[stream].status)
        got = client.got[stream]
        assert (got.status, got.header("sec-websocket-protocol"), got.header("sec-websocket-accept")) == (200, "chat", None)
        assert not {"connection", "upgrade"} & {name for name, _ in got.heads[0]}
        head = heads[0].decode().lower()
        assert head.startswith("get /chat http/1.1\r\n") and "upgrade: websocket\r\n" in head and "origin: https://here.test" in head
        message = b"\x82\x85\0\0\0\0hello"
        client.data(stream, message)
        client.until(lambda: got.body == message)
        client.data(stream, struct.pack(">BBL", 0x88, 0x82, 0) + b"\x03\xe8", end=True)
        assert client.answer(stream).ended
        client.name = secure.route(backend.url)
        assert client.answer(client.ask("/")).status == 200


def test_a_reset_websocket_ends_at_the_backend(secure: Secure, raw_backend: Make) -> None:
    ended = threading.Event()

    def talk(sock: socket.socket) -> None:
        with sock:
            while sock.recv(65536):
                pass
        ended.set()

    made, _ = switching(raw_backend, talk)
    with connect(secure, secure.route(made.url, websocket="true")) as client:
        stream = websocket(client)
        client.until(lambda: stream in client.got and client.got[stream].status)
        client.send(RstStreamFrame(stream, 8))
        assert ended.wait(patience(5))
        assert client.alive()


def test_what_is_no_websocket_is_refused(secure: Secure, raw_backend: Make, backend: Backend) -> None:
    wrong, _ = switching(raw_backend, echo, accept=False)
    with connect(secure, secure.route(backend.url)) as client:
        answer = client.answer(websocket(client))
        assert (answer.status, answer.header("x-proxyd-reason")) == (400, "websocket_off")
        answer = client.answer(websocket(client, protocol="connect-udp"))
        assert (answer.status, answer.header("x-proxyd-reason")) == (501, "unsupported_protocol")
        client.name = secure.route(wrong.url, websocket="true")
        assert client.answer(websocket(client)).reset >= 0
        client.name = secure.route(backend.url)
        stream = client.new()
        client.send(client.head(stream, [(":method", "CONNECT"), (":authority", f"{client.name}:443")], end=False))
        assert client.answer(stream).status == 405


def test_megabytes_go_through_a_websocket_both_ways(secure: Secure, raw_backend: Make) -> None:
    made, _ = switching(raw_backend, echo)
    with connect(secure, secure.route(made.url, websocket="true")) as client:
        stream = websocket(client)
        client.until(lambda: stream in client.got and client.got[stream].status)
        frame = b"\x82\xfe\x40\x00\0\0\0\0" + bytes(16384)
        data, at = frame * 60, 0
        while at < len(data):
            client.send(DataFrame(stream, data[at : at + 16384]))
            at += 16384
            client.until(lambda: len(client.got[stream].body) >= at - 65536)  # noqa: B023
        client.until(lambda: len(client.got[stream].body) == len(data))
        assert client.got[stream].body == data
