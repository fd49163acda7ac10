"""Opening a connection to a host by name or address, or to a UNIX socket, as workers and the health checker both do."""

from __future__ import annotations

import _socket
import errno
import os
import socket as constants
from collections.abc import Sequence

import gevent
from gevent import socket
from gevent.queue import Empty, SimpleQueue

from proxyd.net import targets
from proxyd.net.descriptors import none_left, taken
from proxyd.net.resolver import Resolver

#: How long an attempt has until the next address is tried beside it (RFC 8305 5, Connection Attempt Delay), seconds.
ATTEMPT_DELAY = 0.25
#: How often a socket is asked for while no descriptor is left, and how long to wait in between, seconds.
_TRIES, _TRY_SECONDS = 50, 0.02
#: How long to wait for room in the queue of a UNIX socket, seconds.
_FULL_SECONDS = 0.005

_resolver = Resolver()


def resolver() -> Resolver:
    """The resolver of this process."""
    return _resolver


def use_resolver(made: Resolver) -> None:
    """Resolve by another one from now on: a process that has read its settings says so once."""
    global _resolver
    _resolver = made


def dial(host: str, port: int) -> socket.socket:
    """A socket connected to the first address of the host that answers (RFC 8305: each gets a head start of 250 ms).

    Raises OSError (ResolveError where the name has no address, TargetDenied where none of them is allowed: nothing is sent then). Sets
    no time limit: the caller has one, and may end this greenlet at any moment. A host that begins with a slash is the path of a UNIX
    socket; the port counts for nothing then.
    """
    if host.startswith("/"):
        return _connect_unix(host)
    addresses = targets.rules().allowed(_resolver.addresses(host), port)
    if len(addresses) == 1:
        return _connect(addresses[0], port)
    sock, address = _race(addresses, port)
    _resolver.prefer(host, address)
    return sock


def _connect(address: str, port: int) -> socket.socket:
    sock = _open(constants.AF_INET6 if ":" in address else constants.AF_INET)
    try:
        taken(sock.fileno())
        sock.connect((address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _connect_unix(path: str) -> socket.socket:
    """A connection to a UNIX socket. While its queue is full, the kernel neither waits nor says when there is room."""
    refusal = targets.rules().unix_refusal(path)
    if refusal:
        raise targets.TargetDenied(refusal)
    sock = _open(constants.AF_UNIX)
    try:
        taken(sock.fileno())
        plain = _socket.socket(fileno=_socket.dup(sock.fileno()))
        try:
            plain.setblocking(False)
            while (error := plain.connect_ex(path)) == errno.EAGAIN:
                gevent.sleep(_FULL_SECONDS)
        finally:
            plain.close()
        if error:
            raise OSError(error, os.strerror(error))
    except BaseException:
        sock.close()
        raise
    return sock


def _open(family: int) -> socket.socket:
    """A new socket. If no descriptor is left, wait a moment for the room that was asked for."""
    for _ in range(_TRIES):
        try:
            return socket.socket(family, constants.SOCK_STREAM)
        except OSError as error:
            if not none_left(error):
                raise
        gevent.sleep(_TRY_SECONDS)
    return socket.socket(family, constants.SOCK_STREAM)


def _race(addresses: Sequence[str], port: int) -> tuple[socket.socket, str]:
    """The first connection that stands, and its address; the other attempts are ended."""
    results: SimpleQueue[tuple[str, socket.socket | OSError]] = SimpleQueue()
    running: list[gevent.Greenlet[..., None]] = []

    def attempt(address: str) -> None:
        try:
            results.put((address, _connect(address, port)))
        except OSError as error:
            results.put((address, error))

    waiting = list(addresses)
    failed = 0
    failure: OSError | None = None
    try:
        while failed < len(addresses):
            if waiting:
                running.append(gevent.spawn(attempt, waiting.pop(0)))
            try:
                address, outcome = results.get(timeout=ATTEMPT_DELAY if waiting else None)
            except Empty:
                continue
            if not isinstance(outcome, OSError):
                return outcome, address
            failed += 1
            failure = outcome
    finally:
        _end(running, results)
    raise failure or OSError(errno.EHOSTUNREACH, "no address")


def _end(running: list[gevent.Greenlet[..., None]], results: SimpleQueue[tuple[str, socket.socket | OSError]]) -> None:
    """End the attempts that lost, and close what two of them reached at once."""
    gevent.killall(running, block=False)

    def close_late() -> None:
        gevent.joinall(running)
        while not results.empty():
            _, outcome = results.get_nowait()
            if not isinstance(outcome, OSError):
                outcome.close()

    gevent.spawn(close_late)
