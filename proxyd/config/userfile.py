"""Files of users for `basic_auth`: one `name:hash` on a line, with hashes of argon2 or bcrypt.

`proxyctl passwd` and htpasswd -B write them."""

from __future__ import annotations

import re
from collections.abc import Mapping

MAX_FILE, MAX_USERS = 4 << 20, 20_000
NAME = re.compile(r"[^\s:\x00-\x1f\x7f-\x9f]{1,128}")
_BCRYPT = re.compile(r"\$2[aby]\$(?P<cost>[0-9]{2})\$[./A-Za-z0-9]{53}")
_ARGON2 = re.compile(
    r"\$argon2(?:id|i|d)\$v=19\$m=(?P<memory>[0-9]{1,9}),t=(?P<times>[0-9]{1,6}),p=[0-9]{1,3}\$[A-Za-z0-9+/]+\$[A-Za-z0-9+/]+")
#: What one check may cost: 2^16 rounds of bcrypt, a GiB and 100 passes of argon2.
_MOST_COST, _MOST_MEMORY, _MOST_TIMES = 16, 1 << 20, 100
#: Bytes of a password of which bcrypt sees something.
_BCRYPT_SEES = 72
KINDS = ("argon2", "bcrypt")
MAX_PASSWORD = 1024

Users = Mapping[str, str]


def parse_users(content: str) -> Users:
    """Hashes by user. Raises ValueError with the line of what is none. No hash is repeated in an error."""
    users: dict[str, str] = {}
    for number, raw in enumerate(content.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        if not colon or not NAME.fullmatch(name):
            raise ValueError(f"line {number} is not name:hash")
        if name in users:
            raise ValueError(f"line {number} has {name} a second time")
        _check_hash(hashed, number)
        users[name] = hashed
    if len(users) > MAX_USERS:
        raise ValueError(f"more than {MAX_USERS} users")
    return users


def _check_hash(hashed: str, number: int) -> None:
    if (found := _BCRYPT.fullmatch(hashed)) is not None:
        if not 4 <= int(found["cost"]) <= _MOST_COST:
            raise ValueError(f"line {number}: its bcrypt has a cost that is not from 4 to {_MOST_COST}")
    elif (found := _ARGON2.fullmatch(hashed)) is not None:
        if int(found["memory"]) > _MOST_MEMORY or int(found["times"]) > _MOST_TIMES:
            raise ValueError(f"line {number}: its argon2 takes more than {_MOST_MEMORY} KiB or {_MOST_TIMES} passes")
    else:
        raise ValueError(f"line {number} has no hash of argon2 or bcrypt (make one with: proxyctl passwd FILE USER)")


def verify(hashed: str, password: str) -> bool:
    """Whether a password is that of a hash. It takes as long as the hash says, so that guessing does."""
    if hashed.startswith("$2"):
        import bcrypt

        try:
            # As htpasswd and older versions of the library do: what bcrypt does not see does not count.
            return bcrypt.checkpw(password.encode()[:_BCRYPT_SEES], hashed.encode())
        except ValueError:
            return False
    from argon2 import PasswordHasher
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return PasswordHasher().verify(hashed, password)
    except (Argon2Error, InvalidHashError):
        return False


def make_hash(password: str, kind: str) -> str:
    """A new hash. Raises ValueError for a password that can't be one."""
    if not password or len(password.encode()) > MAX_PASSWORD:
        raise ValueError(f"a password has 1 to {MAX_PASSWORD} bytes")
    if kind == "bcrypt":
        import bcrypt

        if len(password.encode()) > _BCRYPT_SEES:
            raise ValueError(f"bcrypt sees only {_BCRYPT_SEES} bytes of a password: use argon2")
        return bcrypt.hashpw(password.encode(), bcrypt.gensalt()).decode()
    from argon2 import PasswordHasher

    return PasswordHasher().hash(password)
