"""Who may be connected to the admin HTTP: a slow or greedy client keeps neither others nor the probes outside.

A connection whose request has not arrived yet makes room for a new one, the longest waiting first. If all are being answered, the new one
gets one of a few slots that are kept for PROBES, and only those are answered there.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent

#: What is always answered.
PROBES = frozenset(("/livez", "/readyz", "/metrics"))
#: Connections beyond the others, for PROBES alone.
PROBE_SLOTS = 32


class RequestReader:
    """Reads the requests of a connection. Each must arrive as a whole, head and body, within `seconds` of its first byte.

    It stands for the file that pywsgi reads from. `waiting`: whether the client is waited for.
    """

    def __init__(self, file: Any, seconds: float) -> None:
        self._file = file
        self._seconds = seconds
        self._until = 0.0
        self._late = False
        self.waiting = True

    @property
    def closed(self) -> bool:
        """Whether nothing more can be read. After a request that was late nobody knows where the next one begins."""
        return self._late or bool(self._file.closed)

    def begin(self) -> None:
        """Wait for the first byte of the next request. Raises OSError."""
        self.waiting = True
        self._file.peek(1)
        self._until = time.monotonic() + self._seconds
        self.waiting = False

    def readline(self, size: int = -1) -> bytes:
        """As a file's. Raises OSError, TimeoutError if the request is late."""
        return self._read(self._file.readline, size)

    def read(self, size: int = -1) -> bytes:
        """As a file's. Raises OSError, TimeoutError if the request is late."""
        return self._read(self._file.read, size)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _read(self, function: Callable[[int], bytes], size: int) -> bytes:
        self.waiting = True
        try:
            with gevent.Timeout(max(0.0, self._until - time.monotonic()), TimeoutError("the request did not arrive in time")):
                return function(size)
        except TimeoutError:
            self._late = True
            raise
        finally:
            self.waiting = False


class Guest:
    """One connection. `probes_only`: it has a slot that is kept for PROBES."""

    def __init__(self, sock: Any, address: str, reader: RequestReader) -> None:
        self.address = address
        self.probes_only = False
        self.reader = reader
        self._sock = sock

    def end(self) -> None:
        """End it. Must not wait."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


class Crowd:
    """All connections of the admin HTTP, the oldest first: at most `most`, and `most_of_one` from one address."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._guests: dict[Guest, None] = {}
        self._probing: dict[Guest, None] = {}
        self._by_address: Counter[str] = Counter()

    def enter(self, guest: Guest) -> None:
        """Let a connection in, and end another one if that is necessary. No address: a UNIX socket, from which all may come."""
        address = guest.address
        if (address and self._by_address[address] >= self._most_of_one and not self._end_one(address)) or (
                len(self._guests) >= self._most and not self._end_one("")):
            guest.probes_only = True
            if len(self._probing) >= PROBE_SLOTS:
                oldest = next(iter(self._probing))
                del self._probing[oldest]
                oldest.end()
            self._probing[guest] = None
            return
        self._guests[guest] = None
        self._by_address[address] += 1

    def leave(self, guest: Guest) -> None:
        """The connection has ended."""
        self._probing.pop(guest, None)
        self._forget(guest)

    def _end_one(self, address: str) -> bool:
        """End the oldest connection (of an address) that waits for its client. Returns whether there was one."""
        for guest in self._guests:
            if guest.reader.waiting and (not address or guest.address == address):
                self._forget(guest)
                guest.end()
                return True
        return False

    def _forget(self, guest: Guest) -> None:
        if guest in self._guests:
            del self._guests[guest]
            self._by_address[guest.address] -= 1
            if not self._by_address[guest.address]:
                del self._by_address[guest.address]
