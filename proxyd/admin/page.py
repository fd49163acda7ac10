"""The status page and the page of a route: files of this package, under a policy that lets nothing else run or load."""

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
    """The status page, with the CSRF token and the role of a reader who is logged in."""
    return _html(context, request, "page.html")


def route_page(context: Context, request: Request, route_id: str) -> Response:
    """The page of a route: the script finds its id in the address."""
    return _html(context, request, "route.html")


def _html(context: Context, request: Request, name: str) -> Response:
    nonce = secrets.token_urlsafe(16)
    guard = context.guard
    role = guard.logged_in(request)
    csrf = guard.csrf(request.cookie(COOKIE), role) if role else ""
    text = _file(name).replace("{{access}}", _file("access.html"))
    for name, value in (("nonce", nonce), ("csrf", csrf), ("version", __version__), ("events", " ".join(NAMES)),
                        ("role", role),
                        ("login", "reading" if guard.reading_needs_login else "actions" if guard.can_log_in else "off")):
        text = text.replace("{{" + name + "}}", html.escape(value))
    return Response(200, text.encode(), "text/html; charset=utf-8", {"Content-Security-Policy": _POLICY.format(nonce=nonce)})


def style(context: Context, request: Request) -> Response:
    """The style of both pages."""
    return Response(200, _file("page.css").encode(), "text/css; charset=utf-8")


def script(context: Context, request: Request) -> Response:
    """The script of the status page."""
    return _script("page.js")


def route_script(context: Context, request: Request) -> Response:
    """The script of a route's page."""
    return _script("route.js")


def common(context: Context, request: Request) -> Response:
    """What the scripts share."""
    return _script("common.js")


def _script(name: str) -> Response:
    return Response(200, _file(name).encode(), "text/javascript; charset=utf-8")
