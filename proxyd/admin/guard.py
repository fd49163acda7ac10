"""Who may do what: the admin token, the page's login sessions, and the checks against other sites' pages.

Reading needs no token (the listener is loopback by default), but a Host that is ours: a page elsewhere whose name was
rebound to 127.0.0.1 must not read. Actions need the token, or a login made with it plus the CSRF token of the page.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import secrets
import socket
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from itsdangerous import BadSignature, TimestampSigner

from proxyd.admin.http import Request, RequestRefused
from proxyd.base import clock
from proxyd.base.attempts import FailedAttempts
from proxyd.base.text import split_address
from proxyd.config.settings import Settings

log = logging.getLogger("proxyd.admin")

COOKIE = "proxyd_admin"
SESSION_SECONDS = 12 * 3600
_MAX_FAILURES = 10
_MAX_ENDED = 4096
_MAX_TOKEN = 4096
_FOREIGN_SITES = ("cross-site", "same-site")


class Guard:
    """All checks of one admin server. Its sessions end with it, and with the token they were made with.

    `told` is called with the address and the reason of each wrong token, for the audit trail; not for those beyond the
    bound, with which anybody could fill a disk.
    """

    def __init__(self, settings: Settings, told: Callable[[str, str], None]) -> None:
        self._told = told
        self._token_file = settings.admin.token_file
        self._bind = settings.admin.bind
        self._key = secrets.token_bytes(32)
        self._failures = FailedAttempts(_MAX_FAILURES)
        self._ended: OrderedDict[str, float] = OrderedDict()

    def check_host(self, request: Request) -> None:
        """Refuse a Host that is not ours (DNS rebinding). A request without Host comes from no browser."""
        host = request.header("Host")
        if not host or self._bind.startswith("unix:"):
            return
        name = _host_name(host)
        if not self._is_ours(name):
            raise RequestRefused(421, "wrong_host", f'the admin HTTP does not answer to the host "{name[:100]}"; '
                                             "use localhost, or the host in [admin] bind")

    def _is_ours(self, name: str) -> bool:
        if name == "localhost" or name.endswith(".localhost"):
            return True
        bound = split_address(self._bind)[0].lower()
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return name == bound or (_is_wildcard(bound) and name == socket.gethostname().lower())
        # With a wildcard any literal address is right: only names can be rebound.
        return address.is_loopback or name == bound or _is_wildcard(bound)

    def check_origin(self, request: Request) -> None:
        """Refuse a request that another site's page had a browser send."""
        if request.header("Sec-Fetch-Site") in _FOREIGN_SITES:
            raise RequestRefused(403, "foreign_origin", "the request comes from another site's page")
        origin = request.header("Origin")
        if origin and urlsplit(origin).netloc.lower() != request.header("Host").lower():
            raise RequestRefused(403, "foreign_origin", f'the request comes from a page of "{origin[:100]}"')

    def login(self, request: Request, token: str) -> str:
        """A session for a right token: the cookie's value. Raises RequestRefused."""
        self.check_origin(request)
        self._check_token(request, token)
        return self._signer("session").sign(secrets.token_urlsafe(12)).decode()

    def logout(self, request: Request) -> None:
        """End the session of the request's cookie."""
        cookie = request.cookie(COOKIE)
        if self._valid(cookie):
            self._ended[cookie] = clock.now() + SESSION_SECONDS
            while len(self._ended) > _MAX_ENDED:
                self._ended.popitem(last=False)

    def csrf(self, cookie: str) -> str:
        """The CSRF token of a session."""
        return self._signer("csrf").get_signature(cookie).decode()

    def logged_in(self, request: Request) -> bool:
        """Whether the request's cookie is that of a session."""
        return self._valid(request.cookie(COOKIE))

    def knows(self, request: Request) -> bool:
        """Whether the request comes with the token or a session: it may then read what is secret."""
        if self.logged_in(request):
            return True
        if not request.header("Authorization"):
            return False
        self._check_token(request, _bearer(request))
        return True

    def check_action(self, request: Request) -> str:
        """Let an action pass, and say by whom it is done, for the audit trail. Raises RequestRefused."""
        self.check_origin(request)
        self._token()
        if request.header("Authorization"):
            self._check_token(request, _bearer(request))
            return f"admin token from {request.address}"
        cookie = request.cookie(COOKIE)
        if not self._valid(cookie):
            raise RequestRefused(401, "token_needed", "actions need the admin token: send Authorization: Bearer TOKEN",
                          {"WWW-Authenticate": 'Bearer realm="proxyd admin"'})
        if not hmac.compare_digest(request.header("X-CSRF-Token").encode(), self.csrf(cookie).encode()):
            raise RequestRefused(403, "bad_csrf_token", "the X-CSRF-Token is missing or not that of this session; reload the page")
        return f"status page from {request.address}"

    def _check_token(self, request: Request, token: str) -> None:
        # The token first: whoever shares an address with somebody that guesses must not be locked out with him.
        if hmac.compare_digest(hashlib.sha256(token.encode()).digest(), hashlib.sha256(self._token()).digest()):
            return
        now = time.monotonic()
        wait = self._failures.wait(request.address, now)
        if wait:
            raise RequestRefused(429, "too_many_failures", f"too many wrong tokens from {request.address}; try again in {wait} s",
                          {"Retry-After": str(wait)})
        self._failures.count(request.address, now)
        log.warning("a wrong admin token came from %s", request.address)
        self._told(request.address, "wrong admin token")
        raise RequestRefused(401, "wrong_token", "that is not the admin token",
                      {"WWW-Authenticate": 'Bearer realm="proxyd admin", error="invalid_token"'})

    def _token(self) -> bytes:
        """The first line of the token file as it is now. Raises RequestRefused."""
        if not self._token_file:
            raise RequestRefused(403, "no_token_set", "actions are off: set [admin] token_file to a file that holds a token")
        try:
            with Path(self._token_file).open("rb") as file:
                token = file.readline(_MAX_TOKEN).strip()
        except OSError as error:
            raise RequestRefused(403, "no_token_set",
                          f"can't read the [admin] token_file {self._token_file}: {error.strerror}") from None
        if not token:
            raise RequestRefused(403, "no_token_set", f"the first line of the [admin] token_file {self._token_file} is empty")
        return token

    def _valid(self, cookie: str) -> bool:
        try:
            self._signer("session").unsign(cookie, max_age=SESSION_SECONDS)
        except (BadSignature, RequestRefused):
            return False
        return cookie not in self._ended

    def _signer(self, purpose: str) -> _Signer:
        """Signs with the token too, so that a new token ends all sessions; `purpose` keeps a cookie from passing as a CSRF token."""
        key = self._key + hashlib.sha256(self._token()).digest()
        return _Signer(key, salt=f"proxyd admin {purpose}", key_derivation="hmac", digest_method=hashlib.sha256)


class _Signer(TimestampSigner):
    """Its cookies age by a clock that nobody sets. Only this process reads them."""

    def get_timestamp(self) -> int:
        return int(clock.now())


def _bearer(request: Request) -> str:
    scheme, _, token = request.header("Authorization").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def _host_name(host: str) -> str:
    """The name in a Host field: port, brackets and a final dot dropped."""
    name = host.strip().lower()
    name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
    return name.rstrip(".")


def _is_wildcard(host: str) -> bool:
    return host in ("", "0.0.0.0", "::")
