"""Whether a backend that speaks HTTP/2 alone is there."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc  # type: ignore[import-untyped]
import pytest

from proxyd.config.options import BackendTls
from proxyd.registry.http2ask import ask_http2
from proxyd.registry.operations import _EITHER, Operations
from tests.support.certificates import Authority
from tests.support.http2backend import Http2Backend, Request
from tests.support.waiting import free_port


def serve(request: Request) -> None:
    """Answer with a status that says that it was asked."""
    request.answer(status="418" if request.path == "/up" else "500")


@pytest.fixture
def backend() -> Iterator[Http2Backend]:
    running = Http2Backend(serve)
    yield running
    running.stop()


def test_an_answer_in_the_clear_and_over_tls(backend: Http2Backend, tmp_path: Path) -> None:
    assert ask_http2(f"{backend.url}/up", BackendTls()) == 418
    secure = Http2Backend(serve, tls=Authority(tmp_path).serving("b.pem", "localhost", "h2"))
    assert ask_http2(f"{secure.url}/up", BackendTls(False)) == 418
    with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
        ask_http2(f"{secure.url}/up", BackendTls())
    secure.stop()


def test_one_that_may_speak_either_is_asked_both_ways(backend: Http2Backend) -> None:
    assert Operations._ask(f"{_EITHER}{backend.url.replace('h2c', 'http')}/up", BackendTls()) == 418
    assert Operations._ask(f"{backend.url}/up", BackendTls()) == 418


def test_a_server_of_grpc_is_asked_by_a_call_for_it_answers_nothing_else() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert ask_http2(f"h2c://127.0.0.1:{port}/", BackendTls()) == 200
    finally:
        server.stop(None).wait()


def test_no_answer_is_an_error() -> None:
    with pytest.raises(OSError, match="refused"):
        ask_http2(f"h2c://127.0.0.1:{free_port()}/", BackendTls())
