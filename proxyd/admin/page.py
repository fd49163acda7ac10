"""The status page: three files of this package, under a policy that lets nothing else run or load."""

from __future__ import annotations

import html
import secrets
from functools import lru_cache
from pathlib import Path

from proxyd import __version__
from proxyd.admin.context import Context
from proxyd.admin.guard import COOKIE
from proxyd.admin.http import Request, Response
from proxyd.events.types import NAMES

_POLICY = ("default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; "
           "form-action 'none'; base-uri 'none'; frame-ancestors 'none'")


@lru_cache
def _file(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def page(context: Context, request: Request) -> Response:
    """The page, with the CSRF token of a reader who is logged in."""
    nonce = secrets.token_urlsafe(16)
    csrf = context.guard.csrf(request.cookie(COOKIE)) if context.guard.logged_in(request) else ""
    text = _file("page.html")
    for name, value in (("nonce", nonce), ("csrf", csrf), ("version", __version__), ("events", " ".join(NAMES)),
                        ("actions", "on" if context.settings.admin.token_file else "off")):
        text = text.replace("{{" + name + "}}", html.escape(value))
    return Response(200, text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _POLICY.format(nonce=nonce)})


def style(context: Context, request: Request) -> Response:
    """Its style."""
    return Response(200, _file("page.css").encode(), "text/css; charset=utf-8")


def script(context: Context, request: Request) -> Response:
    """Its script."""
    return Response(200, _file("page.js").encode(), "text/javascript; charset=utf-8")
