"""A file that one process holds, by a lock that the kernel frees when the process ends, and in which it says who it is."""

from __future__ import annotations

import fcntl
import os

#: Bytes that are read of a file; there are fewer.
_MOST = 512


class LockFile:
    """The file at `path`, which this process may hold."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    @property
    def held(self) -> bool:
        """Whether this process has taken it, and not released it."""
        return self._fd >= 0

    def take(self, mode: int) -> bool:
        """Hold the file that has the name now, and no other; it is made with `mode` if there is none. False if another process holds it.
        Raises OSError."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            if isinstance(error, BlockingIOError):
                return False
            raise
        self.release()
        self._fd = fd
        return True

    def in_place(self) -> bool:
        """Whether the file that is held is still the one that others find under the name."""
        try:
            return self.held and os.path.samestat(os.stat(self.path), os.fstat(self._fd))
        except OSError:
            return False

    def text(self) -> bytes:
        """What stands in the file that is held."""
        return os.pread(self._fd, _MOST, 0)

    def write(self, text: bytes) -> None:
        """Put this into the file that is held, in place of all that stands there. Raises OSError."""
        os.pwrite(self._fd, text, 0)
        os.ftruncate(self._fd, len(text))

    def release(self) -> None:
        """Let others have it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def first_line(path: str) -> str:
    """The first line of a file that some process may hold: its pid. Empty if there is no such file."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.readline(32).strip()
    except OSError:
        return ""


def pid_in(path: str) -> int:
    """The pid that is the first line of such a file, 0 if there is none."""
    pid = first_line(path)
    return int(pid) if pid.isdecimal() else 0


def is_held(path: str) -> bool:
    """Whether a process holds the file at `path`."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
