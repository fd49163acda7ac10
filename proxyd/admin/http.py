"""Requests and answers of the admin HTTP as values; refusals are one exception, turned into bytes in one place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote

from proxyd.base.text import read_json

MAX_BODY = 64 * 1024
_MAX_PARAMETERS = 100

#: On every answer. The status page puts its own policy, with a nonce, in place of this one.
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RequestRefused(Exception):
    """The request can't be answered as asked: a status, a code for programs, and a sentence for a person."""

    def __init__(self, status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.headers = headers or {}


@dataclass(frozen=True, slots=True)
class Response:
    """An answer. `body` is bytes, or an iterable of them for a stream; `headers` add to or replace the usual ones."""

    status: int = 200
    body: bytes | Iterable[bytes] = b""
    content_type: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    cookies: tuple[str, ...] = ()


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """The value as JSON."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
    return Response(status, body, "application/json", headers or {})


def as_problem(refusal: RequestRefused) -> Response:
    """A refusal as RFC 9457 problem details."""
    problem = {"type": f"urn:proxyd:admin:{refusal.code}", "title": HTTPStatus(refusal.status).phrase, "status": refusal.status,
               "code": refusal.code, "detail": refusal.detail}
    return Response(refusal.status, json.dumps(problem, ensure_ascii=False).encode() + b"\n", "application/problem+json",
                    refusal.headers)


class Request:
    """One request, read from a WSGI environ. `address` is the peer's address, `unix` over a Unix socket."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self._environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ.get("PATH_INFO", "").encode("latin-1").decode("utf-8", "replace") or "/"
        self._query: dict[str, str] | None = None
        self.address: str = environ.get("REMOTE_ADDR") or "unix"
        #: Holds the body against the endpoint's schema, and raises RequestRefused.
        self.check_body: Callable[[dict[str, Any]], None] = lambda body: None

    @property
    def target(self) -> str:
        """Path and query as they came, but for what must be escaped."""
        query = self._environ.get("QUERY_STRING", "")
        return quote(self.path, safe="/%:@!$&'()*+,;=-._~") + (f"?{query}" if query else "")

    @property
    def query(self) -> dict[str, str]:
        """The parameters of the query. Raises RequestRefused."""
        if self._query is None:
            try:
                pairs = parse_qsl(self._environ.get("QUERY_STRING", ""), keep_blank_values=True, max_num_fields=_MAX_PARAMETERS)
            except ValueError:
                raise RequestRefused(400, "bad_query", f"the query has more than {_MAX_PARAMETERS} parameters") from None
            self._query = dict(pairs)
        return self._query

    def header(self, name: str) -> str:
        """A header field, empty where there is none."""
        value: str = self._environ.get("HTTP_" + name.upper().replace("-", "_"), "")
        return value

    def cookie(self, name: str) -> str:
        """A cookie, empty where there is none."""
        for pair in self.header("Cookie").split(";"):
            key, _, value = pair.strip().partition("=")
            if key == name:
                return value
        return ""

    def whole(self, name: str, default: int) -> int:
        """A whole number of the query, which was held against its schema."""
        return int(self.query.get(name, default))

    def body(self) -> bytes:
        """The body, of at most MAX_BODY bytes. Raises RequestRefused."""
        try:
            if int(self._environ.get("CONTENT_LENGTH") or 0) > MAX_BODY:
                raise RequestRefused(413, "body_too_large", f"the body is larger than {MAX_BODY} bytes", {"Connection": "close"})
            data: bytes = self._environ["wsgi.input"].read(MAX_BODY + 1)
        except TimeoutError:
            raise RequestRefused(408, "body_timeout", "the body did not come in time", {"Connection": "close"}) from None
        except (OSError, ValueError):
            raise RequestRefused(400, "bad_body", "the body could not be read", {"Connection": "close"}) from None
        if len(data) > MAX_BODY:
            raise RequestRefused(413, "body_too_large", f"the body is larger than {MAX_BODY} bytes", {"Connection": "close"})
        return data

    def json_object(self) -> dict[str, Any]:
        """The body as a JSON object; an empty body is an empty object. Raises RequestRefused."""
        data = self.body()
        value: Any = {}
        if data.strip():
            try:
                value = read_json(data)
            except (ValueError, RecursionError):
                value = None
        if not isinstance(value, dict):
            raise RequestRefused(400, "bad_body", 'the body is not a JSON object (like {"seconds": 60})')
        self.check_body(value)
        return value
