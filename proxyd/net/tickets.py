"""Session tickets (RFC 5077, RFC 8446 4.6.1) that every worker of the host can read, so that a client resumes its session at any of them.

Python's ssl has no way to set the keys of tickets, so that each context of each worker makes its own. They are set by OpenSSL's own call
instead, on the library that Python's ssl uses. Its context is the first field of Python's: that is looked at in a process of its own
(`works`) before any worker does it, and a build of Python where it is not so goes on with keys for each worker.

The master makes a secret, and another one twice a day, in a file that its user alone reads. A new one makes tickets by the old one useless,
so that each client makes a full handshake once.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import secrets
import ssl
import subprocess
import sys
from typing import Any

log = logging.getLogger("proxyd.tls")

NAME = "proxyd.tickets"
SIZE = 32
_MODE = 0o600
#: SSL_CTRL_GET_TLSEXT_TICKET_KEYS and SSL_CTRL_SET_TLSEXT_TICKET_KEYS of OpenSSL's ssl.h.
_GET, _SET = 58, 59
#: Bytes of keys that versions of OpenSSL want: 1.0.2, and from 1.1 on.
_LENGTHS = (48, 80)
_PROBE_SECONDS = 20.0

_call: Any = None


def _control() -> Any:
    """OpenSSL's SSL_CTX_ctrl. Raises OSError, AttributeError where it is not to be had."""
    global _call
    if _call is None:
        import _ssl

        if sys.implementation.name != "cpython" or not ssl.OPENSSL_VERSION.startswith("OpenSSL "):
            raise OSError(f"not with {sys.implementation.name} and {ssl.OPENSSL_VERSION}")
        function = ctypes.PyDLL(getattr(_ssl, "__file__", None)).SSL_CTX_ctrl
        function.argtypes, function.restype = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p], ctypes.c_long
        _call = function
    return _call


def use(context: ssl.SSLContext, secret: bytes, label: bytes = b"") -> bool:
    """Encrypt the tickets of a context by a secret from now on; whether that could be done. Only for a process in which `works` holds.
    `label`: contexts with other labels can't read them."""
    try:
        control = _control()
    except (OSError, AttributeError):
        return False
    inner = ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value
    if not inner:
        return False
    length = control(inner, _SET, 0, None)
    if length not in _LENGTHS:
        return False
    keys = ctypes.create_string_buffer(hashlib.shake_256(secret + label).digest(length), length)
    back = ctypes.create_string_buffer(length)
    return control(inner, _SET, length, keys) == 1 and control(inner, _GET, length, back) == 1 and back.raw == keys.raw


def works() -> bool:
    """Whether tickets can be shared with this build of Python: tried in a process of its own, which a wrong guess about memory would
    end."""
    try:
        done = subprocess.run([sys.executable, "-m", "proxyd.net.tickets"], stdin=subprocess.DEVNULL, capture_output=True,
                              timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("nobody knows whether session tickets can be shared: %s", error)
        return False
    return done.returncode == 0


def read(path: str) -> bytes | None:
    """The secret, or None if there is none."""
    try:
        with open(path, "rb") as file:
            secret = file.read(SIZE + 1)
    except OSError:
        return None
    return secret if len(secret) == SIZE else None


def make(path: str) -> None:
    """Put a new secret in the place of what is there. Raises OSError."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
    try:
        os.fchmod(fd, _MODE)
        os.write(fd, secrets.token_bytes(SIZE))
    finally:
        os.close(fd)
    os.replace(temporary, path)


if __name__ == "__main__":
    sys.exit(0 if use(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), bytes(SIZE)) else 1)
