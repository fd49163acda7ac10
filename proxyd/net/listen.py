"""Listening sockets of the master, with errors that say what to do."""

from __future__ import annotations

import errno
import logging
import os
import socket as constants
import stat
import time
from typing import Any

from gevent import socket
from gevent.baseserver import BaseServer
from gevent.server import StreamServer

from proxyd.base.text import split_address
from proxyd.base.trouble import Trouble
from proxyd.net.descriptors import none_left
from proxyd.net.stream import no_delay

_BACKLOG = 4096
#: Connections taken in one turn of the event loop. gevent takes a hundred and runs what they need for 5 ms, so that who connects and closes
#: without a pause would fill the process with connections whose turn never comes, until honest ones have to make room.
ACCEPTED_AT_ONCE = 16
#: Seconds until a server without a descriptor for the next connection looks again.
_SHORT_PAUSE = 0.05
#: A shortage is over when there was none for so many seconds: each descriptor that is free for a moment ends no shortage.
_OVER_SECONDS = 5.0

log = logging.getLogger("proxyd.net")


class ListenError(Exception):
    """An address can't be listened on; the message says what to do."""


class Patient(BaseServer):  # type: ignore[misc]
    """For one of gevent's servers, named before it: without a descriptor for the next connection, it says so once and waits. gevent
    would print a traceback each time."""

    max_accept = ACCEPTED_AT_ONCE
    _short: Trouble | None = None
    _short_at = 0.0
    _again: Any = None

    def do_read(self) -> Any:
        """The next connection and its address. None if there is none, or no descriptor for it."""
        try:
            accepted = super().do_read()
        except OSError as error:
            if not none_left(error):
                raise
            if self._short is None:
                self._short = Trouble(log, f"connections to {self.address} wait")
            self._short_at = time.monotonic()
            self._short.goes_on("this process has too many files open")
            self.stop_accepting()
            self._again = self.loop.timer(_SHORT_PAUSE)
            self._again.start(self._go_on)
            return None
        if accepted and self._short is not None and time.monotonic() - self._short_at > _OVER_SECONDS:
            self._short.is_over()
        return accepted

    def _go_on(self) -> None:
        if self.started:
            self.start_accepting()


class PatientServer(Patient, StreamServer):  # type: ignore[misc]
    """A server of streams."""


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
        # What is accepted has it from here. Without it, the body of an answer waits until the client has acknowledged its head, 40 ms.
        no_delay(sock)
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
