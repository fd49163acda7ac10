"""WSGI applications to compare with."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

import requests

_BODY = b"x" * 1024
_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "content-encoding", "content-length"}
_session = requests.Session()
_session.trust_env = False
_session.mount("http://", requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=1024))


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """1 KiB of nothing."""
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "1024")])
    return [_BODY]


def naive(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """A proxy as one would write it with requests."""
    headers = {name[5:].replace("_", "-"): value for name, value in environ.items() if name.startswith("HTTP_")}
    # Of unknown length to requests, which sends it chunked.
    body = environ["wsgi.input"] if environ.get("CONTENT_LENGTH") else None
    answer = _session.request(
        environ["REQUEST_METHOD"],
        os.environ["BENCH_UPSTREAM"] + environ["RAW_URI"],
        headers=headers,
        data=body,
        stream=True,
        allow_redirects=False,
    )
    fields = [(name, value) for name, value in answer.headers.items() if name.lower() not in _HOP]
    start_response(f"{answer.status_code} {answer.reason}", fields)
    return answer.iter_content(65536)
