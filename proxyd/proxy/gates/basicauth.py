"""Logins by name and password (`basic_auth`, RFC 7617), against a file of users that `[users]` names.

A password is checked in a native thread, because that takes a tenth of a second by design. A login that was right is remembered for a
minute under a keyed hash. Wrong ones are counted by address (IPv6: /64) over all workers of the host.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

import gevent
from gevent.threadpool import ThreadPool

from proxyd.base.attempts import subject
from proxyd.config.userfile import MAX_FILE, MAX_PASSWORD, Users, parse_users, verify
from proxyd.proxy.core.refusal import Refusal, refuse
from proxyd.proxy.gates.followed import FollowedFile

if TYPE_CHECKING:
    from proxyd.proxy.core.exchange import Exchange
    from proxyd.proxy.core.upstreams import Pool
    from proxyd.proxy.gates.ratelimit import RateLimiter

_REMEMBERED_SECONDS, _MOST_REMEMBERED = 60.0, 10_000
_THREADS = 2
#: Most logins that are being checked or wait for that in a worker, and of one address.
_MOST_CHECKED, _MOST_OF_ONE = 64, 8
_CHALLENGE = (("WWW-Authenticate", 'Basic realm="login", charset="UTF-8"'),)
_ASK = refuse("login_required", "this service asks for a name and a password", _CHALLENGE)
_WRONG = refuse("login_required", "the name or the password is wrong", _CHALLENGE)
_NO_FILE = refuse("auth_unavailable", "the users of this service can't be read", (("Retry-After", "5"),))
_BUSY = refuse("auth_unavailable", "too many logins are being checked", (("Retry-After", "1"),))
_CROWD = refuse("login_limited", "too many logins from this address are being checked", (("Retry-After", "1"),))


def users_file(path: str) -> FollowedFile[Users]:
    """A file of users."""
    return FollowedFile(path, "file of users", MAX_FILE, parse_users)


class Logins:
    """The users that this worker knows, and the logins that it remembers. `files`: those to follow."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._by_name = {name: users_file(path) for name, path in users.items()}
        self.files = tuple(self._by_name.values())
        self._secret = secrets.token_bytes(32)
        self._known: OrderedDict[bytes, float] = OrderedDict()
        self._checked: dict[bytes, gevent.Greenlet] = {}
        self._crowds: dict[str, int] = {}
        self._pool: ThreadPool | None = None

    def refusal(self, limiter: RateLimiter, ex: Exchange, name: str) -> Refusal | None:
        """Why a request may not pass, or None; then the exchange has its user."""
        file = self._by_name.get(name)
        users = file.value if file is not None else None
        if users is None:
            return _NO_FILE
        login = _login(ex.head.get("authorization") or "")
        if login is None:
            return _ASK
        user, password = login
        stored = users.get(user)
        key = self._key(name, user, password, stored or "")
        now = time.monotonic()
        if self._known.get(key, 0.0) <= now:
            wait = limiter.logins_wait(ex.client_ip)
            if wait:
                return refuse("login_limited", "too many wrong logins from this address", (("Retry-After", str(math.ceil(wait))),))
            # Somebody unknown costs as much as somebody known, so that the time does not tell who is in the file.
            found = self._check(limiter, ex, key, stored or next(iter(users.values()), ""), password, stored is not None)
            if found is not None:
                return found
        # Header fields are bytes: beyond ASCII the name is in UTF-8.
        ex.user = user.encode().decode("latin-1")
        ex.granted += (("Remote-User", ex.user),)
        return None

    def _check(self, limiter: RateLimiter, ex: Exchange, key: bytes, stored: str, password: str, known: bool) -> Refusal | None:
        checking = self._checked.get(key)
        if checking is None:
            whose = subject(ex.client_ip)
            if len(self._checked) >= _MOST_CHECKED:
                return _BUSY
            if self._crowds.get(whose, 0) >= _MOST_OF_ONE:
                return _CROWD
            # It goes on if this request ends, and serves others with the same login.
            checking = self._checked[key] = gevent.spawn(self._run, limiter, ex.client_ip, whose, key, stored, password, known)
        checking.join()
        return None if checking.value else _WRONG

    def _run(self, limiter: RateLimiter, address: str, whose: str, key: bytes, stored: str, password: str, known: bool) -> bool:
        if self._pool is None:
            self._pool = ThreadPool(_THREADS)
        self._crowds[whose] = self._crowds.get(whose, 0) + 1
        try:
            right = bool(stored) and self._pool.apply(verify, (stored, password)) and known
        finally:
            self._checked.pop(key, None)
            self._crowds[whose] -= 1
            if not self._crowds[whose]:
                del self._crowds[whose]
        if not right:
            limiter.login_failed(address)
            return False
        self._known[key] = time.monotonic() + _REMEMBERED_SECONDS
        self._known.move_to_end(key)
        if len(self._known) > _MOST_REMEMBERED:
            self._known.popitem(last=False)
        return True

    def _key(self, *parts: str) -> bytes:
        """What a login is remembered by. The stored hash is in it: with a new password, the old one is forgotten."""
        made = hashlib.blake2b(key=self._secret, digest_size=32)
        for part in parts:
            data = part.encode()
            made.update(len(data).to_bytes(8, "big") + data)
        return made.digest()


def _login(field: str) -> tuple[str, str] | None:
    """Name and password of an Authorization field (RFC 7617 2), or None."""
    scheme, _, token = field.partition(" ")
    if scheme.lower() != "basic" or len(token) > 4 * MAX_PASSWORD:
        return None
    try:
        user, colon, password = base64.b64decode(token.strip(), validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return (user, password) if colon and user and password and len(password.encode()) <= MAX_PASSWORD else None


class HasLogins(Protocol):
    """What this gate needs of a worker."""

    logins: Logins
    limiter: RateLimiter


def basic_auth(parts: HasLogins, ex: Exchange, pool: Pool) -> Refusal | None:
    """401 for a client without a login of the route's users."""
    name = pool.members[0].options.basic_auth
    return parts.logins.refusal(parts.limiter, ex, name) if name else None
