"""How a worker tells the master of the requests to a place, while somebody watches: a file says which places, datagrams carry lines.

While nobody watches there is neither file nor socket, and a worker looks whether there is a file ten times a second. The socket is
local, and a datagram that finds it full is dropped: nobody's request waits for who watches.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterable, Iterator

NAME = "proxyd.tail"
_SOCKET = f"{NAME}.socket"
#: Bytes of a line. A longer one is left out.
MAX_LINE = 16384
#: Bytes of a UNIX socket's path that any kernel takes.
_MAX_PATH = 100

#: First domain and path of routes.
Place = tuple[str, str]


class Teller:
    """A worker's side. `places`: those that are watched, mostly none."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, NAME)
        self._seen: tuple[int, int, int] | None = None
        self._socket: socket.socket | None = None
        self._dropped = 0
        self.places: frozenset[Place] = frozenset()

    def look(self) -> None:
        """Look whether somebody watches, and what."""
        try:
            state = os.stat(self._path)
        except OSError:
            if self._seen is not None:
                self._seen = None
                self._silent()
            return
        seen = state.st_ino, state.st_mtime_ns, state.st_size
        if seen == self._seen:
            return
        self._seen = seen
        self._silent()
        with contextlib.suppress(OSError, ValueError, TypeError), open(self._path, encoding="utf-8") as file:
            places = frozenset((str(domain), str(path)) for domain, path in json.load(file))
            self._socket = _dial(self._directory)
            self.places = places

    def tell(self, line: dict[str, object]) -> None:
        """Send a line. What can't be sent at once is dropped, and the next line that can says how many were."""
        if self._socket is None:
            return
        if self._dropped:
            line["missed"] = self._dropped
        data = json.dumps(line, separators=(",", ":")).encode()
        try:
            if len(data) > MAX_LINE:
                raise BlockingIOError
            self._socket.send(data)
        except BlockingIOError:
            self._dropped += 1
        except OSError:
            # Who watched is gone, and could not say so.
            self._silent()
        else:
            self._dropped = 0

    def _silent(self) -> None:
        self.places = frozenset()
        self._dropped = 0
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class Listener:
    """The master's side: the socket, and the file that names the places. Raises OSError."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._path = os.path.join(directory, NAME)
        tidy(directory)
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            with _short(directory) as short:
                self.socket.bind(short)
        except OSError:
            self.socket.close()
            raise

    def watch(self, places: Iterable[Place]) -> None:
        """Have workers tell of these places alone."""
        new = f"{self._path}.new"
        with open(new, "w", encoding="utf-8") as file:
            json.dump(sorted(places), file)
        os.rename(new, self._path)

    def close(self) -> None:
        """Nobody watches any more."""
        tidy(self._directory)
        self.socket.close()


def tidy(directory: str) -> None:
    """Remove what a listener left behind that was killed."""
    for name in (NAME, _SOCKET):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(directory, name))


@contextlib.contextmanager
def _short(directory: str) -> Iterator[str]:
    """The path of the socket, by way of a descriptor if it is too long for the kernel."""
    path = os.path.join(directory, _SOCKET)
    if len(os.fsencode(path)) <= _MAX_PATH:
        yield path
        return
    handle = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{handle}/{_SOCKET}"
    finally:
        os.close(handle)


def _dial(directory: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    made.setblocking(False)
    try:
        with _short(directory) as short:
            made.connect(short)
    except OSError:
        made.close()
        raise
    return made
