"""The answers that the proxy makes itself, all of them: problem+json (RFC 9457) or a small HTML page, by Accept, a page that is
ready made, or a status of gRPC. Each names its reason code and request id."""

from __future__ import annotations

import html
import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from proxyd.base.reasons import CLOSED
from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.grpc import is_grpc, status_fields
from proxyd.proxy.core.headers import http_date
from proxyd.proxy.core.refusal import Page, Refusal
from proxyd.proxy.core.setfields import replace_fields, without_set
from proxyd.store.sql.snapshot import Pairs

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{status} {phrase}</title><style>
:root{{color-scheme:light dark}}body{{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:15vh auto;padding:0 1rem}}
h1{{font-size:1.5rem}}small{{opacity:.7}}code{{font-size:.9em}}
</style></head><body><main><h1>{status} {phrase}</h1><p>{detail}</p>
<p><small>Reason <code>{code}</code>, request <code>{request_id}</code></small></p></main></body></html>
"""


def reason_phrase(status: int) -> str:
    """The standard phrase of a status, empty for an unknown one."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def wants_html(accept: str | None) -> bool:
    """Whether an Accept value prefers HTML to JSON: browsers name text/html, programs do not."""
    if not accept or "text/html" not in accept:
        return False
    return accept.find("text/html") <= accept.find("json") or "json" not in accept


def problem(status: int, code: str, detail: str, request_id: str, **more: object) -> Page:
    """A refusal as problem+json, with further members where there are any."""
    members = {"type": f"urn:proxyd:{code}", "title": reason_phrase(status), "status": status, "detail": detail, "code": code, **more,
               "request_id": request_id}
    return Page("application/problem+json", (json.dumps(members) + "\n").encode())


def _page(ex: Exchange, refusal: Refusal) -> Page:
    """The refusal in the form that the client prefers: HTML or problem+json."""
    if not wants_html(ex.head.get("accept")):
        return problem(refusal.status, refusal.code, refusal.detail, ex.request_id)
    page = _PAGE.format(status=refusal.status, phrase=html.escape(reason_phrase(refusal.status)), detail=html.escape(refusal.detail),
                        code=html.escape(refusal.code), request_id=html.escape(ex.request_id))
    return Page("text/html; charset=utf-8", page.encode())


def answer(ex: Exchange, refusal: Refusal) -> None:
    """Answer an exchange with a refusal, and count it. The response must not have begun. Raises ClientGone."""
    counters = ex.counters
    if refusal.counter and counters is not None:
        setattr(counters, refusal.counter, getattr(counters, refusal.counter) + 1)
    ex.failure = refusal.code
    if refusal.status == CLOSED:
        ex.end_unanswered(CLOSED)
        ex.client.abort()
        return
    headers = (("X-Proxyd-Reason", refusal.code), *refusal.headers) if refusal.code else refusal.headers
    if is_grpc(ex.head):
        _send_grpc(ex, refusal, headers)
        return
    _send(ex, refusal.status, refusal.page or _page(ex, refusal), headers)


def _send(ex: Exchange, status: int, page: Page, headers: tuple[tuple[str, str], ...]) -> None:
    if ex.response_started:
        raise ClientGone
    ex.begin_response(status)
    body = page.body
    fields = [("Date", http_date(int(time.time()))), ("Content-Type", page.content_type), ("Cache-Control", "no-store"), *headers,
              *ex.set_headers, ("X-Request-ID", ex.request_id)]
    if ex.method == "HEAD":
        fields.append(("Content-Length", str(len(body))))
        ex.client.start(status, reason_phrase(status), fields, -2, b"", True)
        return
    ex.client.start(status, reason_phrase(status), fields, len(body), body, True)
    ex.bytes_sent += len(body)


def respond(ex: Exchange, status: int, page: Page, fields: Pairs, new: Pairs) -> None:
    """Answer an exchange in place of a backend, with the fields `new` that the route sets. Raises ClientGone."""
    ex.begin_response(status)
    none = status in (204, 304)
    body = b"" if none or ex.method == "HEAD" else page.body
    kind = [] if none else [("Content-Type", page.content_type)]
    sent = replace_fields([("Date", http_date(int(time.time()))), *kind, *fields], new)
    sent += [*without_set(ex.set_headers, new), ("X-Request-ID", ex.request_id)]
    if not none and ex.method == "HEAD":
        sent.append(("Content-Length", str(len(page.body))))
    ex.client.start(status, reason_phrase(status), sent, len(body) if body else -2 if none or ex.method == "HEAD" else 0, body, True)
    ex.bytes_sent += len(body)


def pass_answer(ex: Exchange, status: int, reason: str, fields: Pairs | list[tuple[str, str]], body: bytes) -> None:
    """Answer an exchange with what another service than the backend has said. Raises ClientGone."""
    ex.begin_response(status)
    none = status in (204, 304) or ex.method == "HEAD"
    sent = [*fields, *ex.set_headers, ("X-Request-ID", ex.request_id)]
    if ex.method == "HEAD" and status not in (204, 304):
        sent.append(("Content-Length", str(len(body))))
    ex.client.start(status, reason, sent, -2 if none else len(body), b"" if none else body, True)
    ex.bytes_sent += 0 if none else len(body)


def _send_grpc(ex: Exchange, refusal: Refusal, headers: tuple[tuple[str, str], ...]) -> None:
    """Answer a call of gRPC: with a head alone, that says all (Trailers-Only). The log has the status that HTTP would have."""
    if ex.response_started:
        raise ClientGone
    ex.begin_response(refusal.status)
    detail = f"{refusal.code}: {refusal.detail}" if refusal.code else refusal.detail
    fields = [("Content-Type", "application/grpc"), *status_fields(refusal.status, detail), ("Date", http_date(int(time.time()))), *headers,
              *ex.set_headers, ("X-Request-ID", ex.request_id)]
    ex.client.start(200, "OK", fields, -1 if ex.client.version == 20 else 0, b"", True)
