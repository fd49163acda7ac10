"""Listening sockets of the master, with errors that say what to do."""

from __future__ import annotations

import errno
import os
import socket as constants
import stat
from typing import Any

from gevent import socket

from proxyd.base.text import split_address

_BACKLOG = 4096


class ListenError(Exception):
    """An address can't be listened on; the message says what to do."""


def listen(address: str, backlog: int) -> Any:
    """A listening gevent socket on a normal-form address; a UNIX socket is for owner and group. Raises ListenError."""
    try:
        sock = _unix(address.removeprefix("unix:")) if address.startswith("unix:") else _tcp(*split_address(address))
        sock.listen(min(backlog, _BACKLOG))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ListenError(f"{address} is in use by another program: stop it, or choose another address") from None
        if error.errno == errno.EACCES:
            raise ListenError(f"no permission to listen on {address}: choose a port above 1023, or grant the capability") from None
        raise ListenError(f"can't listen on {address}: {error.strerror or error}") from None
    return sock


def _tcp(host: str, port: int) -> Any:
    sock = socket.socket(constants.AF_INET6 if ":" in host else constants.AF_INET, constants.SOCK_STREAM)
    try:
        sock.setsockopt(constants.SOL_SOCKET, constants.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError:
        sock.close()
        raise
    return sock


def _unix(path: str) -> Any:
    _remove_stale(path)
    sock = socket.socket(constants.AF_UNIX, constants.SOCK_STREAM)
    # By the mask, not by chmod: at no moment may others connect.
    mask = os.umask(0o117)
    try:
        sock.bind(path)
    except OSError:
        sock.close()
        raise
    finally:
        os.umask(mask)
    return sock


def _remove_stale(path: str) -> None:
    """Remove the socket file a dead process left; one that answers stays, and so does what is no socket: binding fails."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(constants.AF_UNIX, constants.SOCK_STREAM) as probe:
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
