"""Answers of backends: what is malformed, too large or can be read in two ways becomes 502, what ends early is cut, and neither
connection is used again."""

from __future__ import annotations

import gzip
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.edge.conftest import RouteMaker, make_route
from tests.edge.wire import Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.system import System
from tests.support.waiting import patience

OK = "HTTP/1.1 200 OK\r\n"
HIDDEN = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhidden"


@dataclass(frozen=True)
class Bad:
    """An answer that must not be passed on; `code` is the reason that clients and logs are told."""

    name: str
    answer: str
    code: str = ""


BAD = [
    Bad("no status line", "hello\r\n\r\n", "bad_status_line"),
    Bad("HTTP/2", "HTTP/2 200 OK\r\n\r\n", "bad_status_line"),
    Bad("HTTP/0.9", "<html></html>\r\n\r\n", "bad_status_line"),
    Bad("status of four digits", "HTTP/1.1 2000 OK\r\n\r\n", "bad_status_line"),
    Bad("status of two digits", "HTTP/1.1 20 OK\r\n\r\n", "bad_status_line"),
    Bad("status 600", "HTTP/1.1 600 Odd\r\n\r\n", "bad_status_line"),
    Bad("status of letters", "HTTP/1.1 abc OK\r\n\r\n", "bad_status_line"),
    Bad("both lengths", f"{OK}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}", "conflicting_lengths"),
    Bad("two lengths", f"{OK}Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello{HIDDEN}", "duplicate_content_length"),
    Bad("a list of lengths", f"{OK}Content-Length: 5, 5\r\n\r\nhello{HIDDEN}", "duplicate_content_length"),
    Bad("negative length", f"{OK}Content-Length: -5\r\n\r\nhello", "bad_content_length"),
    Bad("huge length", f"{OK}Content-Length: {'9' * 30}\r\n\r\nhello", "content_length_too_large"),
    Bad("unknown coding", f"{OK}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", "bad_transfer_encoding"),
    Bad("two codings", f"{OK}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "duplicate_transfer_encoding"),
    Bad("chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "transfer_encoding_in_http10"),
    Bad("space before the colon", f"{OK}Content-Length : 5\r\n\r\nhello"),
    Bad("obs-fold", f"{OK}X-A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello"),
    Bad("bare LF", f"{OK}X-A: b\nContent-Length: 5\r\n\r\nhello", "bare_lf"),
    Bad("bare CR", f"{OK}X-A: b\rSet-Cookie: a=b\r\n\r\n", "bare_cr"),
    Bad("NUL", f"{OK}X-A: \0\r\n\r\n", "nul_byte"),
    Bad("control character", f"{OK}X-A: \x1b\r\n\r\n", "control_character"),
    Bad("too many fields", OK + "X-A: b\r\n" * 300 + "\r\n", "too_many_fields"),
    Bad("header too large", OK + "".join(f"X-{at}: {'b' * 8000}\r\n" for at in range(20)) + "\r\n"),
    Bad("header without end", OK + "X-A: " + "b" * 200_000),
    Bad("long status line", f"HTTP/1.1 200 {'O' * 20_000}\r\n\r\n", "status_line_too_long"),
    Bad("bad first chunk", f"{OK}Transfer-Encoding: chunked\r\n\r\nzz\r\nhello", "bad_chunk_size"),
    Bad("body with 204", f"HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello{HIDDEN}", "body_not_allowed"),
    Bad("body with 103", f"HTTP/1.1 103 Early Hints\r\nContent-Length: 5\r\n\r\nhello{HIDDEN}", "body_not_allowed"),
    Bad("empty line before", f"\r\n{HIDDEN}", "bad_status_line"),
    Bad("space before", f" {HIDDEN}", "bad_status_line"),
    Bad("version in small letters", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "bad_status_line"),
    Bad("two spaces", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n", "bad_status_line"),
    Bad("negative status", "HTTP/1.1 -20 OK\r\n\r\n", "bad_status_line"),
    Bad("HTTP/1.2", "HTTP/1.2 200 OK\r\n\r\n", "bad_status_line"),
    Bad("NUL in the reason", "HTTP/1.1 200 O\0K\r\n\r\n", "nul_byte"),
    Bad("length of nothing", f"{OK}Content-Length:\r\n\r\nhello", "bad_content_length"),
    Bad("length in hexadecimal", f"{OK}Content-Length: 0x5\r\n\r\nhello", "bad_content_length"),
    Bad("folded length", f"{OK}Content-Length:\r\n 5\r\n\r\nhello", "obs_fold"),
    Bad("chunked then identity", f"{OK}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", "bad_transfer_encoding"),
    Bad("gzip then chunked", f"{OK}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "bad_transfer_encoding"),
    Bad("empty coding", f"{OK}Transfer-Encoding:\r\n\r\n0\r\n\r\n", "bad_transfer_encoding"),
    Bad("name of no token", f"{OK}X A: b\r\n\r\n", "bad_field_name"),
    Bad("field without name", f"{OK}: b\r\n\r\n", "empty_field_name"),
    Bad("huge first chunk", f"{OK}Transfer-Encoding: chunked\r\n\r\n{'F' * 17}\r\nhello", "bad_chunk_size"),
    Bad("negative first chunk", f"{OK}Transfer-Encoding: chunked\r\n\r\n-5\r\nhello", "bad_chunk_size"),
    Bad("first chunk ended by LF", f"{OK}Transfer-Encoding: chunked\r\n\r\n5\nhello\n0\n\n", "bare_lf"),
    Bad("length in the trailers", f"{OK}Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", "forbidden_trailer"),
    Bad("Set-Cookie in the trailers", f"{OK}Transfer-Encoding: chunked\r\n\r\n0\r\nSet-Cookie: a=b\r\n\r\n", "forbidden_trailer"),
    Bad("Connection names Set-Cookie", f"{OK}Connection: set-cookie\r\nSet-Cookie: a=b\r\nContent-Length: 0\r\n\r\n",
        "forbidden_connection_option"),
    Bad("unasked upgrade", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "unasked_upgrade"),
    Bad("endless informational responses", "HTTP/1.1 103 Early Hints\r\n\r\n" * 50, "too_many_informational"),
    Bad("Connection names framing", f"{OK}Connection: content-length\r\nContent-Length: 5\r\n\r\nhello"),
    Bad("nothing at all", ""),
    Bad("half a header", f"{OK}Content-Le", "upstream_truncated"),
]


def answering(recorder_of: Callable[..., RawBackend], answer: str, close: bool = True) -> RawBackend:
    """A backend that gives this answer to each request head, and then ends or waits for more."""

    def serve(sock: socket.socket) -> None:
        while backend.receive_head(sock):
            sock.sendall(answer.encode("latin-1"))
            if close:
                sock.shutdown(socket.SHUT_WR)
                return

    backend = recorder_of(serve)
    return backend


@pytest.mark.parametrize("bad", BAD, ids=[bad.name for bad in BAD])
def test_a_bad_answer_becomes_502_and_its_connection_is_not_used_again(
        bad: Bad, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    host = make_route(edge, answering(raw_backend, bad.answer).url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host)).response()
        while response.status == 103:
            response = wire.response()
        assert response.status == 502
        if bad.code:
            assert response.get("x-proxyd-reason") == bad.code
        # The client's own connection is as good as before, and what stood behind the answer is nobody's.
        wire.send(get(host, "/second", "Connection: close"))
        while (response := wire.response()).status == 103:
            pass
        assert response.status == 502
        assert wire.ended()


@pytest.mark.parametrize("behind", [b"", b"\r\n", b"x" * 300_000], ids=["nothing", "an empty line", "much"])
@pytest.mark.parametrize("form", ["close", "1.0"])
def test_a_client_that_asks_for_the_end_gets_all_of_its_answer_whatever_it_sends_behind(
        form: str, behind: bytes, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    backend = answering(raw_backend, f"{OK}Content-Length: 200000\r\n\r\n{'y' * 200_000}")
    host = make_route(edge, backend.url)
    request = get(host, "/", "Connection: close") if form == "close" else f"GET / HTTP/1.0\r\nHost: {host}\r\n\r\n".encode()
    with Wire(edge.proxy_port) as wire:
        response = wire.send(request + behind).response()
        assert (response.status, len(response.body)) == (200, 200_000)
        assert wire.ended()


@pytest.mark.parametrize("behind", [HIDDEN, "x", "\r\n"], ids=["a second answer", "one byte", "an empty line"])
@pytest.mark.parametrize("first", [f"{OK}Content-Length: 5\r\n\r\nhello", f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                                   "HTTP/1.1 304 Not Modified\r\n\r\n"], ids=["length", "chunked", "304"])
def test_what_comes_behind_an_answer_never_answers_the_next_request(
        first: str, behind: str, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    backend = answering(raw_backend, first + behind, close=False)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        for _ in range(3):
            response = wire.send(get(host)).response()
            assert response.status in (200, 304)
            assert b"hidden" not in response.body
    assert backend.connections == 3


def test_what_comes_behind_an_answer_is_not_compressed_into_it(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    answer = f"{OK}Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello{HIDDEN}"
    host = make_route(edge, answering(raw_backend, answer, close=False).url, compression=True, compression_min_size=1)
    with Wire(edge.proxy_port) as wire:
        for _ in range(2):
            response = wire.send(get(host, "/", "Accept-Encoding: gzip")).response()
            assert (response.get("content-encoding"), gzip.decompress(response.body)) == ("gzip", b"hello")


def test_an_answer_to_head_that_brings_a_body_all_the_same_poisons_nothing(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    backend = answering(raw_backend, f"{OK}Content-Length: 5\r\n\r\nhello", close=False)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        for method in ("HEAD", "GET", "HEAD"):
            response = wire.send(get(host, method=method)).response(method)
            assert response.get("content-length") == "5"
            assert response.body == (b"hello" if method == "GET" else b"")


@pytest.mark.parametrize("answer", [
    f"{OK}Content-Length: 10\r\n\r\nhello",
    f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
    f"{OK}Transfer-Encoding: chunked\r\n\r\na\r\nhello",
], ids=["length", "no last chunk", "half a last chunk", "within a chunk"])
@pytest.mark.parametrize("compression", [False, True])
def test_a_body_that_ends_early_is_cut_and_never_looks_whole(
        answer: str, compression: bool, edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    answer = answer.replace("\r\n\r\n", "\r\nContent-Type: text/plain\r\n\r\n", 1)
    host = make_route(edge, answering(raw_backend, answer).url, compression=compression, compression_min_size=1)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host, "/", "Accept-Encoding: gzip"))
        assert wire.reset_by_peer(), wire.data
        assert not wire.data.endswith(b"0\r\n\r\n")


def test_a_chunk_that_turns_out_bad_late_cuts_the_client(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(f"{OK}Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".encode())
        assert seen.wait(patience(5))
        sock.sendall(b"zz\r\nhello\r\n0\r\n\r\n")
        sock.recv(1)

    seen = threading.Event()
    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(host)).until(b"hello")
        seen.set()
        assert wire.reset_by_peer(), wire.data
        assert not wire.data.endswith(b"0\r\n\r\n")


def test_a_backend_that_resets_in_the_body_cuts_the_client(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        backend.receive_head(sock)
        sock.sendall(f"{OK}Content-Length: 100000\r\n\r\nhello".encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    backend = raw_backend(serve)
    with Wire(edge.proxy_port) as wire:
        wire.send(get(make_route(edge, backend.url)))
        assert wire.reset_by_peer() or not wire.data.startswith(b"HTTP/1.1 200")


def test_a_body_without_length_ends_with_the_connection_and_reaches_old_clients_plainly(
        edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    host = make_route(edge, answering(raw_backend, "HTTP/1.0 200 OK\r\n\r\nhello").url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host)).response()
        assert (response.get("transfer-encoding"), response.body) == ("chunked", b"hello")
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host, version="1.0")).response()
        assert (response.get("transfer-encoding"), response.get("connection"), response.body) == (None, "close", b"hello")


def test_an_answer_split_into_single_bytes_is_the_same_answer(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    def serve(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while backend.receive_head(sock):
            for byte in f"{OK}Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n".encode():
                sock.sendall(bytes([byte]))

    backend = raw_backend(serve)
    host = make_route(edge, backend.url)
    with Wire(edge.proxy_port) as wire:
        for _ in range(2):
            response = wire.send(get(host)).response()
            assert (response.body, response.trailers) == (b"hello", [("X-T", "1")])
    assert backend.connections == 1


def test_a_field_of_an_answer_can_not_bring_another_one(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    answer = f"{OK}Content-Length: 0\r\nX-A: a%0d%0aSet-Cookie: b\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\n\r\n"
    host = make_route(edge, answering(raw_backend, answer).url)
    with Wire(edge.proxy_port) as wire:
        response = wire.send(get(host)).response()
    assert response.get("x-a") == "a%0d%0aSet-Cookie: b"
    assert not [name for name, _ in response.fields if name.lower() in ("set-cookie", "x-secret", "keep-alive", "connection")]


def test_early_hints_are_passed_on_to_those_who_know_them(route: RouteMaker, edge: System) -> None:
    recorder = Recorder(f"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n{OK}Content-Length: 2\r\n\r\nok".encode())
    host = route(recorder.url)
    with Wire(edge.proxy_port) as wire:
        hints = wire.send(get(host)).response()
        assert (hints.status, hints.get("link")) == (103, "</a.css>; rel=preload")
        assert wire.response().body == b"ok"
    with Wire(edge.proxy_port) as wire:
        assert wire.send(get(host, version="1.0")).response().status == 200
    recorder.stop()
