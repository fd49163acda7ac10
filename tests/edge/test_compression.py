"""Compression: which responses, in which coding, and what their fields say then; decoded with other libraries' readers."""

from __future__ import annotations

import gzip
import io
import socket
from collections.abc import Callable
from typing import Any

import brotli
import pytest
import zstandard

from proxyd.proxy.upstream.compress import choose_coding
from tests.edge.conftest import make_route
from tests.edge.wire import Message, Recorder, Wire, get
from tests.support.backends import RawBackend
from tests.support.system import System

TEXT = b"All work and no play makes Jack a dull boy.\n" * 200


def unzstd(data: bytes) -> bytes:
    with zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)) as reader:
        return reader.read()


DECODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "br": brotli.decompress, "zstd": unzstd}


def ask(system: System, *fields: str, answer: str = "Content-Type: text/plain", body: bytes = TEXT, status: int = 200, method: str = "GET",
        version: str = "1.1", framing: str = "", **options: Any) -> Message:
    """The answer to one request for `body` by way of a route with compression."""
    framing = framing or f"Content-Length: {len(body)}"
    sent = b"" if method == "HEAD" or status in (204, 304) else body
    recorder = Recorder(f"HTTP/1.1 {status} OK\r\n{answer}\r\n{framing}\r\n\r\n".encode() + sent)
    host = make_route(system, recorder.url, **{"compression": True, **options})
    try:
        with Wire(system.proxy_port) as wire:
            response = wire.send(get(host, "/", *fields, method=method, version=version)).response(method)
            assert not wire.data
            return response
    finally:
        recorder.stop()


@pytest.mark.parametrize(("accept", "coding"), [
    ("gzip", "gzip"), ("br", "br"), ("zstd", "zstd"), ("gzip, deflate, br, zstd", "zstd"), ("gzip, deflate, br", "br"),
    ("gzip;q=1.0, br;q=0.5", "gzip"), ("br;q=0.2, gzip;q=0.8, zstd;q=0.1", "gzip"), ("*", "zstd"), ("zstd;q=0, *", "br"),
    ("GZIP", "gzip"), ("x-gzip", "gzip"), ("gzip ; q=0.5", "gzip"),
])
def test_the_coding_that_the_client_likes_best(accept: str, coding: str, edge: System) -> None:
    response = ask(edge, f"Accept-Encoding: {accept}")
    assert response.get("content-encoding") == coding
    assert DECODERS[coding](response.body) == TEXT
    assert len(response.body) < len(TEXT) / 10
    assert (response.get("transfer-encoding"), response.get("content-length"), response.get("vary")) == ("chunked", None, "Accept-Encoding")


@pytest.mark.parametrize("accept", ["identity", "deflate", "gzip;q=0", "*;q=0", "", "gzip;q=0, br;q=0, zstd;q=0.000", "compress",
                                    "gzip;q=bad", "gzip;q=0.5, identity;q=0.9"])
def test_a_client_that_wants_none_gets_none_but_vary(accept: str, edge: System) -> None:
    response = ask(edge, f"Accept-Encoding: {accept}")
    assert (response.get("content-encoding"), response.get("content-length"), response.body) == (None, str(len(TEXT)), TEXT)
    assert response.get("vary") == "Accept-Encoding"


def test_several_accept_encoding_fields_are_one_list(edge: System) -> None:
    assert ask(edge, "Accept-Encoding: deflate", "Accept-Encoding: gzip").get("content-encoding") == "gzip"


@pytest.mark.parametrize(("accept", "coding"), [
    ("gzip;q=nan", ""), ("gzip;q=1;q=0", ""), (";;,,=", ""), ("gzip;q=5", "gzip"), ("*;q=0.1,gzip;q=0", "br"),
])
def test_odd_lists_are_read_without_harm(accept: str, coding: str) -> None:
    assert choose_coding(accept, ("br", "gzip")) == coding


@pytest.mark.parametrize(("what", "asked"), [
    ("already coded", {"answer": "Content-Type: text/plain\r\nContent-Encoding: br"}),
    ("no-transform", {"answer": "Content-Type: text/plain\r\nCache-Control: public, No-Transform"}),
    ("a picture", {"answer": "Content-Type: image/png"}),
    ("no type", {"answer": "X-A: b"}),
    ("a part", {"status": 206, "answer": f"Content-Type: text/plain\r\nContent-Range: bytes 0-{len(TEXT) - 1}/99999"}),
    ("an answer to HEAD", {"method": "HEAD"}),
    ("not modified", {"status": 304}),
    ("small", {"body": b"x" * 1023}),
    ("small for this route", {"compression_min_size": "10k"}),
    ("another type for this route", {"compression_types": "application/json"}),
    ("an old client", {"version": "1.0"}),
    ("off", {"compression": False}),
])
def test_what_is_never_compressed(what: str, asked: dict[str, object], edge: System) -> None:
    response = ask(edge, "Accept-Encoding: gzip", **asked)  # type: ignore[arg-type]
    body = asked.get("body", TEXT)
    assert isinstance(body, bytes)
    assert response.get("content-encoding") == ("br" if what == "already coded" else None)
    assert response.get("content-length") == str(len(body))
    assert response.body == (b"" if what in ("an answer to HEAD", "not modified") else body)


def test_an_answer_to_head_says_vary_as_that_to_get_does(edge: System) -> None:
    assert ask(edge, "Accept-Encoding: gzip", method="HEAD").get("vary") == "Accept-Encoding"
    assert ask(edge, "Accept-Encoding: gzip", method="HEAD", answer="Content-Type: image/png").get("vary") is None


def test_no_content_stays_none(edge: System) -> None:
    response = ask(edge, "Accept-Encoding: gzip", status=204, framing="X-A: b")
    assert (response.status, response.get("content-encoding"), response.get("transfer-encoding")) == (204, None, None)


def test_a_client_can_ask_for_no_transformation(edge: System) -> None:
    assert ask(edge, "Accept-Encoding: gzip", "Cache-Control: no-transform").get("content-encoding") is None


@pytest.mark.parametrize(("kind", "compressed"), [
    ("text/html; charset=utf-8", True), ("TEXT/CSS", True), ("application/json", True), ("application/problem+json", True),
    ("image/svg+xml", True), ("application/javascript", True), ("application/wasm", True), ("video/mp4", False), ("application/zip", False),
    ("application/octet-stream", False), ("font/woff2", False),
])
def test_which_types_are_compressed(kind: str, compressed: bool, edge: System) -> None:
    response = ask(edge, "Accept-Encoding: gzip", answer=f"Content-Type: {kind}")
    assert (response.get("content-encoding") == "gzip") is compressed


@pytest.mark.parametrize("size", [1024, 0], ids=["the least size", "unknown length"])
def test_from_which_size(size: int, edge: System) -> None:
    body, framing = (b"x" * size, "") if size else (b"5\r\nhello\r\n0\r\n\r\n", "Transfer-Encoding: chunked")
    response = ask(edge, "Accept-Encoding: gzip", body=body, framing=framing)
    assert gzip.decompress(response.body) == (b"x" * size if size else b"hello")


def test_fields_about_the_exact_bytes_are_made_weak_or_dropped(edge: System) -> None:
    answer = 'Content-Type: text/plain\r\nETag: "abc"\r\nAccept-Ranges: bytes\r\nContent-MD5: x\r\nVary: Cookie\r\nCache-Control: max-age=5'
    response = ask(edge, "Accept-Encoding: gzip", answer=answer)
    assert response.get("etag") == 'W/"abc"'
    assert (response.get("accept-ranges"), response.get("content-md5"), response.get("cache-control")) == (None, None, "max-age=5")
    assert response.all("vary") == ["Cookie", "Accept-Encoding"]
    assert ask(edge, "Accept-Encoding: gzip", answer='Content-Type: text/plain\r\nETag: W/"abc"').get("etag") == 'W/"abc"'
    assert ask(edge, answer='Content-Type: text/plain\r\nETag: "abc"').get("etag") == '"abc"'


@pytest.mark.parametrize("vary", ["Accept-Encoding", "accept-encoding, Cookie", "*"])
def test_vary_is_not_said_twice(vary: str, edge: System) -> None:
    assert ask(edge, "Accept-Encoding: gzip", answer=f"Content-Type: text/plain\r\nVary: {vary}").all("vary") == [vary]


def test_the_route_s_algorithms_in_the_route_s_order(edge: System) -> None:
    assert ask(edge, "Accept-Encoding: gzip, br, zstd", compression_algorithms="gzip,br").get("content-encoding") == "gzip"
    assert ask(edge, "Accept-Encoding: zstd", compression_algorithms="gzip,br").get("content-encoding") is None


@pytest.mark.parametrize("coding", ["gzip", "br", "zstd"])
@pytest.mark.parametrize("level", [0, 1, 9, 11])
def test_every_level_of_every_coding_can_be_read(coding: str, level: int, edge: System) -> None:
    response = ask(edge, f"Accept-Encoding: {coding}", compression_level=level)
    assert DECODERS[coding](response.body) == TEXT


@pytest.mark.parametrize(("tags", "coding", "sent"), [
    (['"a"'], "gzip", ['W/"a"']), (['W/"a"'], "gzip", ['W/"a"']), (["a"], "gzip", ["a"]), (['"a"', '"b"'], None, ['"a"', '"b"'])])
def test_a_tag_is_made_weak_if_it_is_one(tags: list[str], coding: str | None, sent: list[str], edge: System) -> None:
    fields = "".join(f"\r\nETag: {tag}" for tag in tags)
    response = ask(edge, "Accept-Encoding: gzip", answer=f"Content-Type: text/plain{fields}")
    assert (response.get("content-encoding"), response.all("etag")) == (coding, sent)


@pytest.mark.parametrize(("accept", "answer", "tag", "vary"), [
    ("gzip", 'ETag: "a"', 'W/"a"', "Accept-Encoding"), ("identity", 'ETag: "a"', '"a"', "Accept-Encoding"),
    ("gzip", 'ETag: "a"\r\nVary: Cookie, Accept-Encoding', 'W/"a"', "Cookie, Accept-Encoding"),
    ("gzip", 'ETag: "a"\r\nContent-Type: image/png', '"a"', None), ("gzip", 'ETag: "a"\r\nCache-Control: no-transform', '"a"', None),
])
def test_a_304_has_the_vary_and_the_tag_of_its_200(accept: str, answer: str, tag: str, vary: str | None, edge: System) -> None:
    response = ask(edge, f"Accept-Encoding: {accept}", 'If-None-Match: W/"a"', answer=answer, status=304, framing="X-A: b")
    assert (response.status, response.get("etag"), response.get("vary"), response.get("content-encoding")) == (304, tag, vary, None)


def test_an_error_status_is_compressed_like_any_other(edge: System) -> None:
    assert ask(edge, "Accept-Encoding: gzip", status=404).get("content-encoding") == "gzip"


def test_a_large_response_in_pieces_arrives_whole_and_the_connection_goes_on(edge: System, raw_backend: Callable[..., RawBackend]) -> None:
    body = b"".join(b"line %d\n" % number for number in range(200_000))

    def serve(sock: socket.socket) -> None:
        while backend.receive_head(sock):
            sock.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n".encode())
            for at in range(0, len(body), 70_001):
                sock.sendall(body[at : at + 70_001])

    backend = raw_backend(serve)
    host = make_route(edge, backend.url, compression=True)
    with Wire(edge.proxy_port) as wire:
        for coding in ("gzip", "br", "zstd"):
            wire.send(get(host, "/", f"Accept-Encoding: {coding}")).until(b"\r\n0\r\n\r\n")
            assert DECODERS[coding](wire.response().body) == body
    assert backend.connections == 1
