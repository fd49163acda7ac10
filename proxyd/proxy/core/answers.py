"""Answers of our own: problem+json (RFC 9457) or a small HTML page, by Accept; each names its reason code and request id."""

from __future__ import annotations

import html
import json
import time
from http import HTTPStatus
from typing import TYPE_CHECKING

from proxyd.proxy.core.clientside import ClientGone
from proxyd.proxy.core.headers import http_date

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


def body_of(status: int, code: str, detail: str, request_id: str, accept: str | None) -> tuple[str, bytes]:
    """Content type and body of an error answer."""
    phrase = reason_phrase(status)
    if wants_html(accept):
        page = _PAGE.format(status=status, phrase=html.escape(phrase), detail=html.escape(detail), code=html.escape(code),
                            request_id=html.escape(request_id))
        return "text/html; charset=utf-8", page.encode()
    problem = {"type": f"urn:proxyd:{code}", "title": phrase, "status": status, "detail": detail, "code": code,
               "request_id": request_id}
    return "application/problem+json", (json.dumps(problem) + "\n").encode()


def respond(ex: Exchange, status: int, code: str, detail: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
    """Answer an exchange with an error of ours. Raises ClientGone. The response must not have been started."""
    content_type, body = body_of(status, code, detail, ex.request_id, ex.head.get("accept"))
    ex.failure = code
    send(ex, status, content_type, body, (("X-Proxyd-Reason", code), *headers))


def send(ex: Exchange, status: int, content_type: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
    """Answer an exchange with a body of ours. Raises ClientGone."""
    if ex.response_started:
        raise ClientGone
    ex.status = status
    ex.response_started = True
    fields = [("Date", http_date(int(time.time()))), ("Content-Type", content_type), ("Cache-Control", "no-store"), *headers,
              *ex.set_headers, ("X-Request-ID", ex.request_id)]
    if ex.method == "HEAD":
        fields.append(("Content-Length", str(len(body))))
        ex.client.start(status, reason_phrase(status), fields, -2, b"", True)
        return
    ex.client.start(status, reason_phrase(status), fields, len(body), body, True)
    ex.bytes_sent += len(body)
