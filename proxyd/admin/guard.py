"""Who may do what: the tokens, the page's login sessions, and the checks against other sites' pages.

There are two tokens, of those who look on and of those who act. Reading needs either once there is a viewer token; without
one it needs none (the listener is loopback by default). It always needs a Host that is ours: a page elsewhere whose name was
rebound to 127.0.0.1 must not read. Actions need the admin token, or a login made with it plus the CSRF token of the page.
"""

from __future__ import annotations

import contextlib
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
#: A field of what a host that does not lead passes on: who it is, and who asked there.
PASSED_ON = "X-Proxyd-Passed-On"
SESSION_SECONDS = 12 * 3600
_MAX_FAILURES = 10
_MAX_ENDED = 4096
_MAX_TOKEN = 4096
_FOREIGN_SITES = ("cross-site", "same-site")
#: Who a token makes somebody. What an operator may do, a viewer may not; what a viewer may read, an operator may as well.
OPERATOR, VIEWER = "operator", "viewer"
_SETTINGS = {OPERATOR: "token_file", VIEWER: "viewer_token_file"}
_NEEDED = {"WWW-Authenticate": 'Bearer realm="proxyd admin"'}


class Guard:
    """All checks of one admin server. Its sessions end with it, and with the token they were made with.

    `told` is called with the address and the reason of each wrong token, for the audit trail; not for those beyond the
    bound, with which anybody could fill a disk.
    """

    def __init__(self, settings: Settings, told: Callable[[str, str], None]) -> None:
        self._told = told
        self._files = {OPERATOR: settings.admin.token_file, VIEWER: settings.admin.viewer_token_file}
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

    def login(self, request: Request, token: str) -> tuple[str, str]:
        """A session for a right token: the cookie's value, and whose it is. Raises RequestRefused."""
        self.check_origin(request)
        role = self._check_token(request, token)
        return self._signer("session", role).sign(secrets.token_urlsafe(12)).decode(), role

    def logout(self, request: Request) -> None:
        """End the session of the request's cookie."""
        cookie = request.cookie(COOKIE)
        if self._role_of(cookie):
            self._ended[cookie] = clock.now() + SESSION_SECONDS
            while len(self._ended) > _MAX_ENDED:
                self._ended.popitem(last=False)

    def csrf(self, cookie: str, role: str) -> str:
        """The CSRF token of a session."""
        return self._signer("csrf", role).get_signature(cookie).decode()

    def logged_in(self, request: Request) -> str:
        """Whose session the request's cookie is of, empty where it is of none."""
        return self._role_of(request.cookie(COOKIE))

    @property
    def reading_needs_login(self) -> bool:
        """Whether those that have neither token may not even look."""
        return bool(self._files[VIEWER])

    @property
    def can_log_in(self) -> bool:
        """Whether there is a token to log in with."""
        return any(self._files.values())

    def may_read(self, request: Request) -> bool:
        """Whether what may be read is for this request. Counts no wrong tokens."""
        return not self.reading_needs_login or bool(self.logged_in(request) or self._role_by(_bearer(request)))

    def check_read(self, request: Request) -> None:
        """Let a request that reads pass. Raises RequestRefused."""
        if not self.reading_needs_login or self.logged_in(request):
            return
        if not request.header("Authorization"):
            raise RequestRefused(401, "token_needed", "reading needs the viewer token or the admin token: send Authorization: Bearer "
                                                      "TOKEN, or log in on the status page", _NEEDED)
        self._check_token(request, _bearer(request))

    def check_action(self, request: Request) -> str:
        """Let an action pass, and say by whom it is done, for the audit trail. Raises RequestRefused."""
        self.check_origin(request)
        self._token(OPERATOR)
        if request.header("Authorization"):
            role = self._check_token(request, _bearer(request))
        else:
            cookie = request.cookie(COOKIE)
            role = self._role_of(cookie)
            if not role:
                raise RequestRefused(401, "token_needed", "actions need the admin token: send Authorization: Bearer TOKEN", _NEEDED)
            if not hmac.compare_digest(request.header("X-CSRF-Token").encode(), self.csrf(cookie, role).encode()):
                raise RequestRefused(403, "bad_csrf_token", "the X-CSRF-Token is missing or not that of this session; reload the page")
        if role != OPERATOR:
            raise RequestRefused(403, "viewer", "the viewer token is for looking; actions need the admin token")
        passed = "".join(char for char in request.header(PASSED_ON)[:200] if char.isprintable())
        return (f"{'admin token' if request.header('Authorization') else 'status page'} from {request.address}"
                f"{f' for host {passed}' if passed else ''}")

    def _check_token(self, request: Request, token: str) -> str:
        """Whose token it is."""
        # The token first: whoever shares an address with somebody that guesses must not be locked out with him.
        role = self._role_by(token)
        if role:
            return role
        for known, path in self._files.items():
            if path or not self.can_log_in:
                self._token(known)
        now = time.monotonic()
        wait = self._failures.wait(request.address, now)
        if wait:
            raise RequestRefused(429, "too_many_failures", f"too many wrong tokens from {request.address}; try again in {wait} s",
                          {"Retry-After": str(wait)})
        self._failures.count(request.address, now)
        log.warning("a wrong admin token came from %s", request.address)
        self._told(request.address, "wrong admin token")
        wanted = "the admin token or the viewer token" if self.reading_needs_login else "the admin token"
        raise RequestRefused(401, "wrong_token", f"that is not {wanted}",
                      {"WWW-Authenticate": 'Bearer realm="proxyd admin", error="invalid_token"'})

    def _role_by(self, token: str) -> str:
        """Whose token it is, empty for none's. One that is in both files is the operator's."""
        digest = hashlib.sha256(token.encode()).digest()
        for role in (OPERATOR, VIEWER):
            try:
                known = hashlib.sha256(self._token(role)).digest()
            except RequestRefused:
                continue
            if hmac.compare_digest(digest, known):
                return role
        return ""

    def token(self) -> str:
        """The admin token, for another host's admin HTTP. Raises RequestRefused."""
        return self._token(OPERATOR).decode("latin-1")

    def _token(self, role: str) -> bytes:
        """The first line of a token file as it is now. Raises RequestRefused."""
        path, setting = self._files[role], f"[admin] {_SETTINGS[role]}"
        if not path:
            raise RequestRefused(403, "no_token_set", "actions are off: set [admin] token_file to a file that holds a token")
        try:
            with Path(path).open("rb") as file:
                token = file.readline(_MAX_TOKEN).strip()
        except OSError as error:
            raise RequestRefused(403, "no_token_set", f"can't read the {setting} {path}: {error.strerror}") from None
        if not token:
            raise RequestRefused(403, "no_token_set", f"the first line of the {setting} {path} is empty")
        return token

    def _role_of(self, cookie: str) -> str:
        """Whose session a cookie is of, empty for none."""
        if not cookie or cookie in self._ended:
            return ""
        for role in (OPERATOR, VIEWER):
            with contextlib.suppress(BadSignature, RequestRefused):
                self._signer("session", role).unsign(cookie, max_age=SESSION_SECONDS)
                return role
        return ""

    def _signer(self, purpose: str, role: str) -> _Signer:
        """Signs with the token too, so that a new token ends all sessions made with the old one; `purpose` keeps a cookie from passing as
        a CSRF token."""
        key = self._key + hashlib.sha256(self._token(role)).digest()
        return _Signer(key, salt=f"proxyd admin {purpose} {role}", key_derivation="hmac", digest_method=hashlib.sha256)


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
